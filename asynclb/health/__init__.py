"""Health: which members may take new flows, asked of the members themselves.

    schedule -> gate -> kind (tcp, http, udp) -> Outcome -> machine -> Transition, snapshot
     when      how many      the question                   meaning

Only `sockets`, `ready`, `tls` and the kinds do I/O; `prober` owns all state; everything else is pure.
"""

from asynclb.health.http import HttpProbe
from asynclb.health.kind import ProbeKind
from asynclb.health.outcome import Outcome, OutcomeKind
from asynclb.health.prober import Prober
from asynclb.health.record import DURATION_BOUNDS_S, Check, ProbeResults, Results
from asynclb.health.target import Target, Transition, same_question
from asynclb.health.tcp import TcpProbe
from asynclb.health.udp import UdpProbe

__all__ = [
    "DURATION_BOUNDS_S",
    "Check",
    "HttpProbe",
    "Outcome",
    "OutcomeKind",
    "ProbeKind",
    "ProbeResults",
    "Prober",
    "Results",
    "Target",
    "TcpProbe",
    "Transition",
    "UdpProbe",
    "same_question",
]
