"""Network-namespace labs: hosts, links, routes and real servers in a few lines, gone without a trace afterwards.

Used by `asynclb demo`, the tests, the examples and the benchmarks. `lab` has the idea and the laws, `registry` how a
lab disappears even when its owner is killed, `topology` the standard shape. `python -m asynclb.lab` lists and cleans.
"""

from asynclb.lab.host import Host
from asynclb.lab.lab import Lab
from asynclb.lab.namespace import LabError
from asynclb.lab.nginx import Hit, Nginx
from asynclb.lab.process import PATIENCE_S, Process, wait_until
from asynclb.lab.tools import find_tool, require_root, require_tools
from asynclb.lab.topology import STANDARD, VIP4, VIP6, Site, Topology

__all__ = [
    "PATIENCE_S",
    "STANDARD",
    "VIP4",
    "VIP6",
    "Hit",
    "Host",
    "Lab",
    "LabError",
    "Nginx",
    "Process",
    "Site",
    "Topology",
    "find_tool",
    "require_root",
    "require_tools",
    "wait_until",
]
