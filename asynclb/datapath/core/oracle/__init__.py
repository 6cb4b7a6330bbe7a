"""The packet core once more, in plain Python: the reference that the C core is held to, verdict by verdict.

It reads the tables themselves, not the image, keeps flows in a dictionary, and hashes with `asynclb.tables.lookup`, so
that it shares no code and no data structure with what it judges. Slow: some 50 us a packet.
"""

from asynclb.datapath.core.oracle.oracle import Oracle

__all__ = ["Oracle"]
