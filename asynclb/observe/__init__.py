"""How asynclb is seen from outside: events as lines, counters as metrics.

Laws:
  1. Everything here reads snapshots; nothing here is waited for by what forwards.
  2. Metric labels come from configuration names and enumerations only, never from the wire.
  3. Writing an event never raises and never stops the balancer, also when nobody reads the log any more.
"""
