"""What the datapath says on the wire itself: where VIPs are, and that a connection has idled out."""

from collections.abc import Collection, Mapping

from asynclb.datapath.core import layout
from asynclb.datapath.core.leaving import MemberName
from asynclb.datapath.core.places import mapped
from asynclb.datapath.core.reset import reset_frames
from asynclb.datapath.frames.announce import announcement
from asynclb.datapath.frames.surroundings import Surroundings
from asynclb.datapath.kernel.send import Sender
from asynclb.net.address import Address


class Speech:
    """Owner: the datapath."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._announced: set[tuple[Address, int]] = set()

    def announce(self, addresses: Collection[Address], around: Surroundings) -> None:
        """Tell the networks that addresses which the host does not own are here now, once."""
        due = around.homes(addresses)
        for vip, index in due - self._announced:
            link = around.links.get(index)
            if link is not None:
                self._sender.send(link.name, announcement(vip, link.address))
        self._announced = due

    def reset(self, keyed: layout.KeyedFlow, members: Mapping[int, MemberName], around: Surroundings) -> None:
        """Send resets to both ends of a connection that idled out."""
        member, ours = members.get(keyed.flow.member), around.links.get(keyed.flow.ifindex)
        address = None if member is None else member[2]
        words = None if address is None else mapped(address)
        frames = reset_frames(keyed, _hop(around, address), None if ours is None else ours.address, words)
        for index, frame in frames:
            if index in around.links:
                self._sender.send(around.links[index].name, frame)

    def close(self) -> None:
        """Say nothing more."""
        self._sender.close()


def _hop(around: Surroundings, address: Address | None) -> layout.Hop | None:
    found = None if address is None else around.hops.get(address)
    if found is None:
        return None
    record = layout.Hop(found.ifindex, found.mtu)
    record.destination[:], record.source[:] = found.destination, found.source
    return record
