"""Two small maps about the wire: our own interfaces, and the link addresses of members that frames are routed through.

What is new is added before tables that need it are published, what is old is removed afterwards.
"""

from collections.abc import Collection, Iterable, Mapping
from struct import pack

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.kernel.programs import State
from asynclb.native.libbpf import Libbpf

_PRESENT = pack("=I", 1)


class LinkMaps:
    """Keeps both maps as they should be. Owner: the datapath."""

    def __init__(self, bpf: Libbpf, state: State) -> None:
        self._bpf = bpf
        self._fds = {"interfaces": state["interfaces"], "appliances": state["appliances"]}
        self._shown: dict[str, dict[bytes, bytes]] = {name: {} for name in self._fds}

    def widen(self, links: Mapping[int, Link], targets: Collection[int], peers: Collection[int]) -> None:
        """Add and change interfaces. Raises: BpfError -> some of it may be there already.

        XDP can redirect to `targets`; tc hands frames for `peers` to the other end at once.
        """
        flags = {
            index: CONSTANTS["INTERFACE_REDIRECT"] * (index in targets)
            | CONSTANTS["INTERFACE_PEER"] * (index in peers)
            | CONSTANTS["INTERFACE_TURN"] * (not link.kind)
            for index, link in links.items()
        }
        self._add("interfaces", {pack("=I", index): _interface(link, flags[index]) for index, link in links.items()})

    def add_appliances(self, appliances: Iterable[bytes]) -> None:
        """Add link addresses of members that frames are routed through. Raises: BpfError."""
        self._add("appliances", {_word(link): _PRESENT for link in appliances})

    def narrow(self, links: Collection[int], appliances: Iterable[bytes]) -> None:
        """Remove everything else. Raises: BpfError."""
        self._keep("interfaces", {pack("=I", index) for index in links})
        self._keep("appliances", {_word(link) for link in appliances})

    def _add(self, name: str, wanted: Mapping[bytes, bytes]) -> None:
        shown = self._shown[name]
        for key, value in wanted.items():
            if shown.get(key) != value:
                self._bpf.update(self._fds[name], key, value)
                shown[key] = value

    def _keep(self, name: str, keys: Collection[bytes]) -> None:
        for key in self._shown[name].keys() - set(keys):
            self._bpf.delete(self._fds[name], key)
            del self._shown[name][key]


def _interface(link: Link, flags: int) -> bytes:
    record = layout.Interface(link.index, flags | CONSTANTS["INTERFACE_LINK"] * bool(link.address), link.mtu, 1)
    record.link[:] = link.address or bytes(6)
    return bytes(record)


def _word(link: bytes) -> bytes:
    """Return a link address as the map's key. C twin: link_word in maps.h."""
    return (1 << 48 | int.from_bytes(link, "big")).to_bytes(8, "little")
