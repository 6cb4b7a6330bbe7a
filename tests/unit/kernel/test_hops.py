"""Next hops change under programs that read them, and never show half of one."""

import asyncio
from dataclasses import replace
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.core.values import NextHop
from asynclb.datapath.kernel.hops import Hops
from asynclb.lab import PATIENCE_S

HERE, THERE = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
OURS = bytes.fromhex("0200000000aa")
TARGETS = frozenset(range(3, 9))
HOP = NextHop(3, HERE, OURS, 1500)


def records() -> Any:
    """Return the memory of four hops."""
    return (layout.Hop * 4)()


def seen(record: layout.Hop) -> tuple[int, int, bytes, bytes, int]:
    """Return what a program would read."""
    return record.ifindex, record.mtu, bytes(record.destination), bytes(record.source), record.resolved


async def test_a_hop_that_was_not_there() -> None:
    """It is written at once: nobody can have read it."""
    memory = records()
    hops = Hops(memory)
    hops.set({1: HOP, 2: None}, TARGETS)
    assert seen(memory[1]) == (3, 1500, HERE, OURS, 1)
    assert not memory[2].resolved
    hops.close()


async def test_a_neighbour_with_another_link_address() -> None:
    """One store changes it, and it never stops leading somewhere."""
    memory = records()
    hops = Hops(memory)
    hops.set({1: HOP}, TARGETS)
    hops.set({1: replace(HOP, destination=THERE)}, TARGETS)
    assert seen(memory[1]) == (3, 1500, THERE, OURS, 1)
    hops.close()


async def test_a_hop_by_another_interface() -> None:
    """It leads through the kernel's routing until nobody can be reading it, then to its new end."""
    memory = records()
    hops = Hops(memory)
    hops.set({1: HOP}, TARGETS)
    moved = NextHop(4, THERE, HERE, 9000)
    hops.set({1: moved}, TARGETS)
    assert seen(memory[1]) == (3, 1500, HERE, OURS, 0)
    async with asyncio.timeout(PATIENCE_S):
        while not memory[1].resolved:
            assert memory[1].ifindex == 3
            await asyncio.sleep(0.001)
    assert seen(memory[1]) == (4, 9000, THERE, HERE, 1)
    hops.close()


async def test_an_interface_that_cannot_be_redirected_to() -> None:
    """A hop says so, and stops saying so as soon as that changes."""
    memory = records()
    hops = Hops(memory)
    hops.set({1: HOP}, ())
    assert (memory[1].resolved, memory[1].via_kernel) == (1, 1)
    hops.set({1: HOP}, TARGETS)
    assert (memory[1].resolved, memory[1].via_kernel) == (1, 0)
    hops.close()


async def test_the_last_word_holds() -> None:
    """What was wanted last is shown, however often it changed while readers were waited for."""
    memory = records()
    hops = Hops(memory)
    hops.set({1: HOP, 2: HOP}, TARGETS)
    for ifindex in range(4, 9):
        hops.set({1: replace(HOP, ifindex=ifindex)}, TARGETS)
    hops.set({2: None}, TARGETS)
    assert not memory[2].resolved
    async with asyncio.timeout(PATIENCE_S):
        while not memory[1].resolved:
            await asyncio.sleep(0.001)
    assert memory[1].ifindex == 8
    assert not memory[2].resolved
    hops.close()


async def test_a_hop_that_was_lost_and_comes_back() -> None:
    """It waits for those who may still read the old one."""
    memory = records()
    hops = Hops(memory)
    hops.set({1: HOP}, TARGETS)
    hops.set({1: None}, TARGETS)
    hops.set({1: replace(HOP, ifindex=7)}, TARGETS)
    assert seen(memory[1]) == (3, 1500, HERE, OURS, 0)
    async with asyncio.timeout(PATIENCE_S):
        while not memory[1].resolved:
            await asyncio.sleep(0.001)
    assert memory[1].ifindex == 7
    hops.close()
