"""The one writer: turns a configuration and the health of the members into what the datapaths execute.

    asynclb.yaml --watch, SIGHUP, API--> reload ----+
                                                    v
    prober --transitions--> health_changed --> [queue] --> controller --> compile --> diff --> execution
                                                                |
                                                                +--> Status (read-only, for everybody else)

Laws:
  1. Only the controller's task changes what is active; commands wait in one queue and are carried out in order.
  2. A reload is taken whole or changes nothing: where one datapath fails, those already changed are put back.
  3. Transitions that arrive while a compile runs are joined into the next one.
  4. What takes long (reading, parsing, compiling) runs in a thread; the event loop is never held for more than 20 ms.
"""
