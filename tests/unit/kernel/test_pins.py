"""Names that outlive a process, and what the next one reads there."""

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from asynclb.datapath.core.leaving import MemberName
from asynclb.datapath.frames.numbers import RuleName
from asynclb.datapath.kernel.pins import Pins, namespace_cookie
from asynclb.datapath.kernel.remembered import NAME, Remembered, recall, remember
from asynclb.native.libbpf import BpfError, Libbpf, MapType
from asynclb.net.flow import Protocol
from asynclb.tables.row import FrontendKey

MANY: dict[MemberName, int] = {(f"pool-{n % 9}", f"member-{n}", ip_address(0x0A000000 + n)): n for n in range(5_000)}


def test_a_name_is_replaced_at_once(bpf: Libbpf, bpffs: Path) -> None:
    """Under a name there is the old thing or the new one, and in the end nothing is left of either."""
    pins = Pins(bpf, bpffs, 7)
    for entries in (3, 5):
        fd = bpf.create_map(MapType.ARRAY, "some", 4, 8, entries)
        pins.keep(fd, "some")
        os.close(fd)
        fd = pins.open("some")
        assert bpf.map_info(fd).max_entries == entries
        os.close(fd)
    assert pins.names() == ("some",)
    pins.drop_all()
    assert pins.names() == ()
    assert not (bpffs / "asynclb").exists()


def test_another_namespaces_pins_stay(bpf: Libbpf, bpffs: Path) -> None:
    """Each network namespace has its own directory."""
    mine, others = Pins(bpf, bpffs, 1), Pins(bpf, bpffs, 2)
    fd = bpf.create_map(MapType.ARRAY, "some", 4, 8, 1)
    for pins in (mine, others):
        pins.keep(fd, "some")
    os.close(fd)
    mine.drop_all()
    assert others.names() == ("some",)


def test_a_directory_has_one_user(bpf: Libbpf, bpffs: Path) -> None:
    """Whoever holds it keeps others from taking it for abandoned."""
    mine, seen = Pins(bpf, bpffs, 1), Pins(bpf, bpffs, 1)
    assert mine.hold()
    assert not seen.hold()
    mine.release()
    assert seen.hold()
    seen.release()
    assert [pins.directory for pins in Pins(bpf, bpffs, 2).others()] == [mine.directory]


def test_nothing_to_pin_to(bpf: Libbpf) -> None:
    """Without a bpffs nothing is kept, and nothing is found."""
    pins = Pins(bpf, None, 1)
    fd = bpf.create_map(MapType.ARRAY, "some", 4, 8, 1)
    pins.keep(fd, "some")
    os.close(fd)
    assert pins.names() == ()
    with pytest.raises(BpfError):
        pins.open("some")


def test_a_namespace_has_a_number() -> None:
    """It is the same for every socket in it."""
    assert namespace_cookie() == namespace_cookie() > 0


@pytest.mark.parametrize("members", [{}, MANY], ids=["none", "five thousand"])
def test_numbers_are_remembered(bpf: Libbpf, bpffs: Path, members: dict[MemberName, int]) -> None:
    """The next process reads the names and numbers that this one wrote."""
    rules: dict[RuleName, int] = {
        ("web", FrontendKey(ip_address("203.0.113.10"), 80, Protocol.TCP)): 0,
        ("out", None): 4,
    }
    pins, what = Pins(bpf, bpffs, 7), Remembered(11, rules, members)
    os.close(remember(bpf, pins, what))
    fd = pins.open(NAME)
    assert recall(bpf, fd) == what
    os.close(fd)


def test_what_somebody_else_pinned(bpf: Libbpf) -> None:
    """A map that is not what it should be is refused, and so is one with other contents."""
    for value, data in ((8, bytes(8)), (4_096, b"\x05\0\0\0hello".ljust(4_096, b"\0"))):
        fd = bpf.create_map(MapType.ARRAY, "odd", 4, value, 1)
        bpf.update(fd, bytes(4), data)
        with pytest.raises(ValueError, match=r"another one's|not what asynclb remembers"):
            recall(bpf, fd)
        os.close(fd)
