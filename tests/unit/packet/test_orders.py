"""What a worker is told, over a real socket: it hears what was said, sockets and image included."""

import os
import socket
from collections.abc import Iterator

import pytest

from asynclb.datapath.core.parting import Ending
from asynclb.datapath.core.values import NextHop
from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.packet.engine import Change, Opened, Present, change, changed_hops
from asynclb.datapath.packet.orders import Order, answer_to, hear, hear_answer, tell
from asynclb.datapath.packet.sockets import LinkSockets

HOP = NextHop(3, b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", 9_000)
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Give the test both ends of a channel."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


def test_a_change_arrives_whole(ends: Ends) -> None:
    """Interfaces with their sockets, next hops and a large image arrive as they were."""
    ours, theirs = ends
    image = os.urandom(3 << 20)
    receiver, sender = socket.socketpair()
    with receiver, sender:
        opened = Opened(Link(7, "eth1", b"\2\0\0\0\0\7", 1_500), receiver, sender)
        tell(ours, Order.PREPARE, 5, Change(image, {1: HOP, 2: None}, (3, 4), (opened,)))
        told = hear(theirs)
        assert told is not None
        assert (told.order, told.serial) == (Order.PREPARE, 5)
        assert (told.change.image, told.change.hops, told.change.closed) == (image, {1: HOP, 2: None}, (3, 4))
        (found,) = told.change.opened
        assert (found.link, found.own) == (opened.link, True)
        with found.receiver, found.sender:
            found.receiver.send(b"through the borrowed one")
            assert sender.recv(100) == b"through the borrowed one"


def test_orders_keep_their_order_and_are_answered(ends: Ends) -> None:
    """Several orders wait in the socket; each answer has its serial; a closed end is the end."""
    ours, theirs = ends
    tell(ours, Order.PART, 1, ending=Ending(((1, 2, 80),), (5, 6)))
    tell(ours, Order.COMMIT, 2)
    first, second = hear(theirs), hear(theirs)
    assert first is not None
    assert second is not None
    assert (first.order, first.ending, second.order) == (Order.PART, Ending(((1, 2, 80),), (5, 6)), Order.COMMIT)
    with pytest.raises(BlockingIOError):
        hear(theirs)
    answer_to(theirs, 2, "too long " * 1_000)
    answer = hear_answer(ours)
    assert answer is not None
    assert answer[0] == 2
    theirs.close()
    assert hear_answer(ours) is None
    with pytest.raises(OSError, match="Broken pipe"):
        tell(ours, Order.COMMIT, 3)


def test_only_differences_are_told() -> None:
    """An interface that is opened anew is closed first; what stays is not told; each engine gets its own sockets."""
    pairs = [socket.socketpair() for _ in range(4)]
    try:
        kept, old, new = (
            LinkSockets(Link(index, f"eth{index}", bytes(6), 1_500), pairs[at], pairs[at])
            for at, index in ((0, 1), (1, 2), (2, 2))
        )
        image = b"image"
        before = Present(image, {}, {1: kept, 2: old})
        told = change(before, Present(image, {}, {1: kept, 2: new}), 1)
        assert (told.image, told.closed) == (None, (2,))
        assert [(opened.link, opened.receiver) for opened in told.opened] == [(new.link, pairs[2][1])]
        assert change(before, before, 0) == Change()
    finally:
        for pair in pairs:
            for sock in pair:
                sock.close()


def test_next_hops_that_changed() -> None:
    """Those that are new or others are told, and those that are not resolved any more."""
    other = NextHop(4, b"\2\0\0\0\0\3", b"\2\0\0\0\0\2")
    assert changed_hops({1: HOP, 2: HOP, 3: HOP}, {1: HOP, 2: other, 4: HOP}) == {2: other, 3: None, 4: HOP}
