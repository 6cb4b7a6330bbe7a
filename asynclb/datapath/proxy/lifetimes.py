"""What the proxy tells of its flows that begin and end: values now, words later, in the listener's thread.

Bytes are payload. Packets of a UDP session are its datagrams; those of a TCP connection are the segments that its
client's side has sent and received, as the kernel counts them (Linux: tcpi_segs_in, tcpi_segs_out).
"""

import socket
import struct
import time
from typing import TYPE_CHECKING

from asynclb.datapath.lifetimes import Describe, End, Lifetime
from asynclb.datapath.proxy.frontend import Peer
from asynclb.datapath.proxy.relay import Ending, Relay
from asynclb.datapath.proxy.sockets import Sockname
from asynclb.net.address import endpoint

if TYPE_CHECKING:
    from asynclb.datapath.proxy.udp import UdpSession

_SEGMENTS_AT = 136  # of struct tcp_info: tcpi_segs_out, tcpi_segs_in
_SEGMENTS = struct.Struct("=II")
_ENDS = {ending: End.CLOSED if ending is Ending.FINISHED else End(str(ending)) for ending in Ending}


def name_of(client: Sockname) -> tuple[bytes, int]:
    """Return what a flow is sampled by."""
    return client[0].encode(), client[1]


def begun(client: Sockname, peer: Peer) -> Describe:
    """Return the words for a flow that begins."""
    return _described(client, peer, None, (0, 0, 0, 0), 0.0)


def tcp_over(client: Sockname, peer: Peer, relay: Relay, opened_s: float, ending: Ending) -> Describe:
    """Return the words for a connection whose sockets are about to be closed."""
    packets_out, packets_in = _segments(relay.client.sock)
    moved = (relay.client.bytes, packets_in, relay.member.bytes, packets_out)
    return _described(client, peer, _ENDS[ending], moved, relay.active_s - opened_s)


def udp_over(session: "UdpSession", ending: Ending) -> Describe:
    """Return the words for a session that ends."""
    moved = (session.bytes_in, session.packets_in, session.bytes_out, session.packets_out)
    return _described(session.client, session.peer, _ENDS[ending], moved, session.active_s - session.opened_s)


def _segments(sock: socket.socket) -> tuple[int, int]:
    """Return how many segments a connection has sent and received; a socket that is broken has not counted."""
    try:
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS_AT + _SEGMENTS.size)
    except OSError:
        return 0, 0
    sent, received = _SEGMENTS.unpack_from(found, _SEGMENTS_AT) if len(found) > _SEGMENTS_AT else (0, 0)
    return sent, received


def _described(
    client: Sockname, peer: Peer, end: End | None, moved: tuple[int, int, int, int], lasted_s: float
) -> Describe:
    at_s = time.time()

    def describe() -> tuple[Lifetime]:
        return (Lifetime(at_s, end, peer.place, endpoint(client[0], client[1]), *moved, max(0.0, lasted_s)),)

    return describe
