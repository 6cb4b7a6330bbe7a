"""The forwarding tables: an immutable value that says, for any flow, which member takes it.

A configuration becomes `Row`s (what the rules want, independent of health); `compile_tables` joins them with
the health of the members into `Tables`; `diff` says what changes between two of them; `lookup` is the one
answer that every datapath must give. Tables depend only on the set of inputs, not on their order or history.
"""
