"""asynclb: a transparent layer-4 load balancer for plain Linux.

`ARCHITECTURE.md` beside this file is the map: layers, laws, and where each idea lives.
"""

__version__ = "0.1.0"
