"""The packet core: what happens to one frame, written once in C for the native library and for BPF.

`layout` declares what C and Python share, `image` turns forwarding tables into the bytes that C reads, `core` owns
the memory and calls C, `oracle` is the same logic again in Python, slow and plain, that the tests hold C to.
"""

from asynclb.datapath.core.core import Core, Going, RxRing
from asynclb.datapath.core.image import build_image
from asynclb.datapath.core.plan import Leaver, Plan
from asynclb.datapath.core.values import Batch, CoreCounters, FlowView, NextHop, Reset, Result, Swept, Verdict

__all__ = [
    "Batch",
    "Core",
    "CoreCounters",
    "FlowView",
    "Going",
    "Leaver",
    "NextHop",
    "Plan",
    "Reset",
    "Result",
    "RxRing",
    "Swept",
    "Verdict",
    "build_image",
]
