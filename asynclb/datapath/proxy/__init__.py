"""The proxy datapath: bytes between sockets, TCP and UDP, with the client's address kept (IP_TRANSPARENT).

relay, wheel, reactor, ledger   moving bytes, time, events, counting: know nothing of rules
sockets, sockfilter             socket options and filters, each in one file
frontend, tcp, udp              an entry of the tables on a socket, and its flows
limits, plumbing                what this host allows, and what is set up in it
datapath                        applies deltas to all of that
"""

from asynclb.datapath.proxy.datapath import ProxyDatapath
from asynclb.datapath.proxy.limits import static_refusal

__all__ = ["ProxyDatapath", "static_refusal"]
