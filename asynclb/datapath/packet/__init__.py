"""The packet datapath: frames of every protocol through AF_PACKET rings and the native core.

ring, sockets          mapped rings, batched sends; what an interface is opened with
engine, ports          a core in an event loop, and one port per interface: what moves frames
crew                   one engine here, or several: workers, worker, orders
fanout, bpf            which worker a frame goes to, and the program that says so
neighbours, announce   where members are on the wire; telling where VIPs are (the core answers who asks)
guard                  keeps the host's own stack from what the core takes
limits, ids, report    what can be carried; numbers for names; the core's numbers under operators' names
datapath               applies deltas to all of that
"""

from asynclb.datapath.frames.limits import static_refusal
from asynclb.datapath.packet.datapath import PacketDatapath

__all__ = ["PacketDatapath", "static_refusal"]
