"""Netlink by hand: what is packed is read, and the kernel of this host answers questions and refuses others."""

import socket
import struct

from asynclb.datapath.frames.netlink import asked, attribute, attributes, dumped, messages, open_netlink, packed

_GET_LINK, _GET_ROUTE = 18, 26
_IFINFO, _RTMSG = struct.Struct("=BxHiII"), struct.Struct("=8BI")
_NAME, _DESTINATION, _INTERFACE = 3, 1, 4


def test_messages_and_attributes_are_read_as_they_were_packed() -> None:
    """Lengths that are no multiple of four are filled up; flags above an attribute's kind are no part of it."""
    body = attribute(1, b"odd") + attribute(0x8000 | 2, b"even") + attribute(3, b"")
    data = packed(7, 0, body) + packed(8, 0, b"")
    assert [(kind, attributes(found)) for kind, found in messages(data)] == [
        (7, {1: b"odd", 2: b"even", 3: b""}),
        (8, {}),
    ]


def test_what_is_cut_off_ends() -> None:
    """A length of nothing, or beyond the end, neither hangs nor raises."""
    assert list(attributes(struct.pack("=HH", 0, 5) + b"xx")) == [5]
    assert attributes(struct.pack("=HH", 400, 5) + b"xx") == {5: b"xx"}
    assert [kind for kind, _ in messages(bytes(40))] == [0, 0]


def test_the_kernel_lists_interfaces_and_names_the_way_to_itself() -> None:
    """Of all links one is `lo`, and 127.0.0.1 is reached by it; questions follow each other on one socket."""
    with open_netlink() as sock:
        links = {body[_IFINFO.size :]: body for body in dumped(sock, _GET_LINK, _IFINFO.pack(0, 0, 0, 0, 0))}
        names = {attributes(rest)[_NAME]: _IFINFO.unpack_from(body)[2] for rest, body in links.items()}
        head = _RTMSG.pack(socket.AF_INET, 32, *(0,) * 7)
        answer = asked(sock, _GET_ROUTE, head + attribute(_DESTINATION, socket.inet_aton("127.0.0.1")))
    assert answer is not None
    assert attributes(answer[_RTMSG.size :])[_INTERFACE] == struct.pack("=i", names[b"lo\0"])


def test_what_the_kernel_refuses_is_nothing() -> None:
    """A route by an interface that there is not is refused, and so is a list of what there is not."""
    nowhere = attribute(_INTERFACE, struct.pack("=i", 1 << 30))
    with open_netlink() as sock:
        assert asked(sock, _GET_ROUTE, _RTMSG.pack(socket.AF_INET, 32, *(0,) * 7) + nowhere) is None
        assert list(dumped(sock, 9999, bytes(16))) == []
