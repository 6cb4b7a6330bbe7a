"""The socket filters, run by an interpreter that knows nothing of how they were made."""

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynclb.datapath.proxy.sockfilter import MAX_INSTRUCTIONS, SILENT, Program, allow_program, instructions
from asynclb.net.address import Address, Prefix

_LD_W_ABS, _JEQ_K, _AND_K, _RET_K = 0x20, 0x15, 0x54, 0x06
_NET_OFF = -0x100000  # SKF_NET_OFF, linux/filter.h


def run(program: Program, packet: bytes) -> int:
    """Return how many bytes of the packet a classic BPF program keeps, as linux/filter.h and bpf(4) say."""
    code: list[tuple[int, ...]] = list(struct.iter_unpack("=HBBI", program))
    assert 0 < len(code) <= MAX_INSTRUCTIONS
    accumulator, counter = 0, 0
    while True:
        operation, jump_true, jump_false, k = code[counter]
        counter += 1
        if operation == _LD_W_ABS:
            offset = k - (1 << 32) - _NET_OFF
            if not 0 <= offset <= len(packet) - 4:
                return 0  # a load behind the packet's end ends the program
            accumulator = int.from_bytes(packet[offset : offset + 4], "big")
        elif operation == _AND_K:
            accumulator &= k
        elif operation == _JEQ_K:
            counter += jump_true if accumulator == k else jump_false
        elif operation == _RET_K:
            return k
        else:
            raise AssertionError(f"instruction {operation:#x} is none that the filters use")


def packet_from(source: Address) -> bytes:
    """Return a TCP segment of that source: headers as RFC 791 and RFC 8200 draw them."""
    if source.version == 4:
        return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 7, 0, 64, 6, 0, source.packed, b"\xc0\0\2\1") + bytes(20)
    return struct.pack("!IHBB16s16s", 6 << 28, 20, 6, 64, source.packed, bytes(range(16))) + bytes(20)


def prefixes(version: int) -> st.SearchStrategy[Prefix]:
    """Any prefix of a version, long ones and short ones alike."""
    if version == 4:
        return st.builds(
            lambda word, length: IPv4Network((word, length), strict=False),
            st.integers(0, 2**32 - 1),
            st.integers(0, 32),
        )
    return st.builds(
        lambda word, length: IPv6Network((word, length), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
    )


@st.composite
def allow_and_source(draw: st.DrawFn) -> tuple[list[Prefix], Address]:
    """Prefixes of both versions, and an address: any, or one at the edge of one of the prefixes."""
    allow = draw(st.lists(st.one_of(prefixes(4), prefixes(6)), max_size=12))
    version = draw(st.sampled_from([4, 6]))
    mine = [prefix for prefix in allow if prefix.version == version]
    bits = 32 if version == 4 else 128
    at_edge = draw(st.booleans())
    if mine and at_edge:
        prefix = draw(st.sampled_from(mine))
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        word = draw(st.sampled_from([first, last, first - 1, last + 1, first ^ 1 << draw(st.integers(0, bits - 1))]))
    else:
        word = draw(st.integers(0, 2**bits - 1))
    word %= 2**bits
    return allow, IPv4Address(word) if version == 4 else IPv6Address(word)


@given(allow_and_source())
def test_a_filter_keeps_exactly_the_packets_from_its_prefixes(case: tuple[list[Prefix], Address]) -> None:
    """Whole packets of allowed sources pass, and not a byte of any other."""
    allow, source = case
    packet = packet_from(source)
    program = allow_program(allow, source.version)
    kept = len(packet) if program is None else run(program, packet)
    allowed = any(source in prefix for prefix in allow if prefix.version == source.version)
    assert kept >= len(packet) if allowed else kept == 0


@given(st.lists(st.one_of(prefixes(4), prefixes(6)), max_size=40))
def test_a_filter_is_no_longer_than_its_documentation_says(allow: list[Prefix]) -> None:
    """Four instructions for an IPv4 prefix and ten for an IPv6 one are the most, and one more."""
    for version, most in ((4, 4), (6, 10)):
        count = sum(prefix.version == version for prefix in allow)
        program = allow_program(allow, version)
        assert program is None or instructions(program) <= most * count + 1


def test_nobody_is_allowed_by_prefixes_of_the_other_version() -> None:
    """An IPv6 frontend whose `allow` has IPv4 prefixes only, 0.0.0.0/0 too, is closed."""
    assert allow_program([ip_network("0.0.0.0/0")], 6) == SILENT
    assert allow_program([ip_network("::/0")], 4) == SILENT
    assert allow_program([], 4) == SILENT


@pytest.mark.parametrize("version", [4, 6])
def test_halves_of_the_world_are_the_world(version: int) -> None:
    """Prefixes that together cover everything need no filter."""
    world = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    assert allow_program(world.subnets(prefixlen_diff=3), version) is None
