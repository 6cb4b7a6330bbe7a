"""The stack: every chain of calls fits the kernel's 512 bytes, also where it rounds each function's share up to 32.

Newer kernels round to 16 where there is a JIT, older ones and those without a JIT to 32. The kernel that the tests run
on says nothing of what others would, so the sum is made here, from the program as it was loaded.

Source: check_max_stack_depth in kernel/bpf/verifier.c.
"""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise

import pytest

from asynclb.datapath.core import layout
from asynclb.datapath.kernel.programs import SLACK, SMALLEST_IMAGE
from asynclb.lab import require_tools
from asynclb.native.libbpf import Libbpf, Object
from tests.unit.core.loaded import OBJECT, PROGRAMS, need_programs

LIMIT, ROUNDED = 512, 32  # MAX_BPF_STACK

_INSTRUCTION = re.compile(r"\s*(\d+): \(..\) (.*)")
_ACCESS = re.compile(r"\(r10 -(\d+)\)")
_ADDRESS = re.compile(r"r(\d) \+= -(\d+)")
_CALL = re.compile(r"call pc([+-]\d+)#")

Chain = tuple[tuple[str, int], ...]
"""Functions and the bytes that each has on the stack."""


def loaded(bpf: Libbpf, name: str) -> Object:
    """Return an object of which one program is loaded."""
    found = bpf.open_object(OBJECT.read_bytes(), "asynclb")
    settings = layout.KernelSettings.from_buffer_copy(found.initial(".rodata.settings"))
    settings.image_mask = SMALLEST_IMAGE - 1
    found.set_initial(".rodata.settings", bytes(settings))
    found.set_value_size("images", SMALLEST_IMAGE + SLACK)
    for other in PROGRAMS:
        found.choose(other, load=other == name)
    found.load()
    return found


def functions(text: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield each function of a dump with its instructions."""
    name, body = "", list[tuple[int, str]]()
    for line in text.splitlines():
        if (found := _INSTRUCTION.match(line)) is not None:
            body.append((int(found[1]), found[2]))
        elif line.endswith("):"):
            if body:
                yield name, body
            name, body = line.partition("(")[0].split()[-1], []
    yield name, body


def depth(body: list[tuple[int, str]]) -> int:
    """Return how many bytes of the stack a function uses: what it reads, writes, or takes the address of."""
    deepest = 0
    for (_, before), (_, words) in pairwise(body):
        address = _ADDRESS.match(words)
        if address is not None and before == f"r{address[1]} = r10":
            deepest = max(deepest, int(address[2]))
        deepest = max([deepest, *map(int, _ACCESS.findall(words))])
    return deepest


def worst(start: int, depths: Mapping[int, tuple[str, int]], calls: Mapping[int, set[int]]) -> tuple[int, Chain]:
    """Return the most bytes that a chain of calls takes from a function on, and the chain."""
    below = max((worst(callee, depths, calls) for callee in calls[start]), default=(0, ()))
    name, own = depths[start]
    return -(-max(own, 1) // ROUNDED) * ROUNDED + below[0], ((name, own), *below[1])


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_chain_of_calls_fits(name: str) -> None:
    """The deepest one is what a kernel would refuse the program for."""
    require_tools("bpftool")
    need_programs()
    bpf = Libbpf()
    with loaded(bpf, name) as found:
        words = ("bpftool", "prog", "dump", "xlated", "id", str(bpf.program_id(found.program(name))))
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    bodies = {body[0][0]: (label, body) for label, body in functions(text)}
    depths = {start: (label, depth(body)) for start, (label, body) in bodies.items()}
    calls: dict[int, set[int]] = defaultdict(set)
    for start, (_, body) in bodies.items():
        calls[start] = {at + int(call[1]) + 1 for at, words in body if (call := _CALL.match(words)) is not None}
    if "call bpf_tail_call#" in text:
        assert len(depths) == 1, "tail calls beside functions take a JIT, and on ARM Linux 6.0"
    else:
        assert len(depths) > 10
    taken, chain = worst(min(depths), depths, calls)
    assert taken <= LIMIT, chain
