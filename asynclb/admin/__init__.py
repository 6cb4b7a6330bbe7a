"""The admin API: what is active, for people, programs and Prometheus; and the commands that change it.

    GET    /healthz        the process is alive and its controller is not stuck
    GET    /readyz         new flows are welcome: the tables are applied and the process is not stopping
    GET    /metrics        Prometheus text, or OpenMetrics by the Accept header
    GET    /api/openapi.json, and everything that it describes:
           /api/v1/state, rules, pools, flows, clients, counters, drops, tables, generations, explain
    PATCH  /api/v1/pools/POOL/members/MEMBER   an operator's word on a member; also POST .../drain, DELETE .../override
    POST   /api/v1/reload  read the configuration again; 422 with every problem when it is refused
    POST   /api/v1/plan    what a configuration would change

A route is declared once (`route`): how it is checked, answered and described. `documents` are the answers.

Who may ask: `/healthz`, `/readyz` and `/metrics` are open to everybody who reaches the socket (orchestrators and
Prometheus carry no secrets of ours). With a `token_file` everything under `/api/` needs `Authorization: Bearer`.
Without one, reading is open and writing is for the loopback and the UNIX socket only. Whoever calls it by a name that
is neither localhost nor in `admin.hosts` is told 421, but for `/healthz` and `/readyz`: a web page may have rebound its
name to this address.

Answers are made from snapshots; what is long is rendered in a thread, so that asking never delays forwarding.
"""
