"""libbpf: objects, maps, batches and pins, and errors that say what to do."""

import errno
import os
from pathlib import Path

import pytest

from asynclb.native.libbpf import Batch, BpfError, Libbpf, LibbpfMissingError, MapType
from tests.unit.kernel.conftest import compiled


def number(value: int, size: int = 4) -> bytes:
    """Return a number as a map has it."""
    return value.to_bytes(size, "little")


def test_a_library_that_is_not_there() -> None:
    """The error names the package to install."""
    with pytest.raises(LibbpfMissingError, match=r"libbpf\.so\.77 cannot be loaded") as caught:
        Libbpf("libbpf.so.77")
    assert "apt install libbpf1" in caught.value.remedy


def test_a_library_that_is_another() -> None:
    """What lacks libbpf's functions is not used."""
    with pytest.raises(LibbpfMissingError, match="too old"):
        Libbpf("libc.so.6")


def test_an_error_says_call_cause_and_remedy() -> None:
    """One text for the operator: what failed, why, and what helps."""
    error = BpfError("attach to interface 7 (xdp)", errno.EBUSY)
    assert str(error) == (
        "attach to interface 7 (xdp): Device or resource busy; "
        "another program is attached there; detach it, or attach to tc"
    )
    assert error.errno == errno.EBUSY


def test_an_object_is_loaded_with_settings(bpf: Libbpf, small_object: bytes) -> None:
    """Settings are written before the verifier sees them, programs run, and maps are theirs."""
    with bpf.open_object(small_object, "small") as opened:
        assert opened.initial(".rodata.settings") == number(41)
        opened.set_initial(".rodata.settings", number(6))
        opened.set_entries("numbers", 2)
        opened.load()
        assert bpf.map_info(opened.map("numbers")).max_entries == 2
        assert bpf.test_run(opened.program("adds"), bytes(64), repeat=3).code == 7
        assert bpf.lookup(opened.map("numbers"), number(0), 8) == number(3, 8)
        assert bpf.test_run(opened.program("passes"), bytes(64)).code == 2


def test_maps_go_from_one_object_to_the_next(bpf: Libbpf, small_object: bytes) -> None:
    """A reused map keeps its contents; one of another shape is refused by name."""
    with bpf.open_object(small_object, "first") as first, bpf.open_object(small_object, "second") as second:
        first.load()
        bpf.update(first.map("numbers"), number(0), number(70, 8))
        second.reuse("numbers", first.map("numbers"))
        second.load()
        bpf.test_run(second.program("adds"), bytes(64))
        assert bpf.lookup(first.map("numbers"), number(0), 8) == number(71, 8)


def test_what_the_verifier_says(bpf: Libbpf, tmp_path: Path) -> None:
    """A program that is refused: the error ends with the verifier's own words."""
    bad = compiled(tmp_path, name="wild", returns="*(volatile long long *)(context + 1)")
    with bpf.open_object(bad, "bad") as opened, pytest.raises(BpfError, match="load programs") as caught:
        opened.load()
    assert "invalid bpf_context access" in str(caught.value)


@pytest.mark.parametrize("what", ["map", "program"])
def test_a_name_that_the_object_does_not_have(bpf: Libbpf, small_object: bytes, what: str) -> None:
    """It is an error with the name, not a crash."""
    with bpf.open_object(small_object, "small") as opened:
        opened.load()
        with pytest.raises(BpfError, match="'nothing'"):
            getattr(opened, what)("nothing")


def test_no_object_at_all(bpf: Libbpf) -> None:
    """Bytes that are no ELF file are refused."""
    with pytest.raises(BpfError, match="open object 'none'"):
        bpf.open_object(b"nothing of the kind", "none")


def test_entries_come_in_batches(bpf: Libbpf) -> None:
    """Every entry is seen once, in batches that are no larger than asked for."""
    fd = bpf.create_map(MapType.LRU_HASH, "flows", 4, 8, 5_000)
    for key in range(1_000):
        bpf.update(fd, number(key), number(key * 2, 8))
    batch, seen, more = Batch(4, 8, 128), [], True
    while more:
        more = bpf.lookup_batch(fd, batch)
        assert batch.count <= 128
        seen += [int.from_bytes(batch.key(index), "little") for index in range(batch.count)]
    assert sorted(seen) == list(range(1_000))
    os.close(fd)


def test_deleting_what_is_gone(bpf: Libbpf) -> None:
    """It is no error, and said."""
    fd = bpf.create_map(MapType.HASH, "few", 4, 8, 4)
    bpf.update(fd, number(1), number(1, 8))
    assert bpf.delete(fd, number(1))
    assert not bpf.delete(fd, number(1))
    assert bpf.lookup(fd, number(1), 8) is None
    os.close(fd)


def test_a_map_that_is_full(bpf: Libbpf) -> None:
    """The kernel's refusal reaches the caller."""
    fd = bpf.create_map(MapType.HASH, "tiny", 4, 8, 1)
    bpf.update(fd, number(1), number(1, 8))
    with pytest.raises(BpfError, match="update a map"):
        bpf.update(fd, number(2), number(2, 8))
    os.close(fd)


def test_an_interface_that_is_not_there(bpf: Libbpf, small_object: bytes) -> None:
    """Attaching says which interface is gone."""
    from asynclb.native.libbpf import Attach

    with bpf.open_object(small_object, "small") as opened:
        opened.load()
        with pytest.raises(BpfError, match="attach to interface 99999"):
            bpf.create_link(opened.program("adds"), 99_999, Attach.TCX_INGRESS)
