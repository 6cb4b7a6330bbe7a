"""The common path beside that of another revision: `run.py --against REV`.

The other revision is checked out and built aside. Both are measured in turns, the other first in every second round,
because what else a machine does changes from minute to minute: a ratio is the median of the rounds' own.

    core, kernel   ns a packet: `common_path.py`, a process for each checkout and round
    requests       through the proxy, over kept-alive connections, and the processor time of one: two balancers in a lab
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import loads
import peers
from peers import Arena

from asynclb.errors import HostError
from asynclb.lab import Lab

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
BOUND = 1.05
REQUESTS = "proxy, requests over 64 connections"
REQUEST_COST = "proxy, processor time of a request"
_WARM_UP_S = 0.5
_SECONDS = 2.0
_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@dataclass(slots=True)
class Pairs:
    """What was measured of both in the same round, by measure: (before, after). Owner: `run`."""

    found: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Add a round; what only one of the two can measure is left out."""
        for name in before.keys() & after.keys():
            self.found.setdefault(name, []).append((before[name], after[name]))


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Check a revision out and build it, for the length of a block. Raises: HostError -> it cannot be."""
    with tempfile.TemporaryDirectory(prefix="asynclb-against-") as directory:
        tree = Path(directory, "tree")
        _run("git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, revision)
        try:
            _run(sys.executable, "-m", "asynclb.native.build", cwd=tree)
            yield tree
        finally:
            _run("git", "-C", ROOT, "worktree", "remove", "--force", tree)


def run(revision: str, rounds: int, say: Callable[[str], None]) -> Pairs:
    """Measure a revision and this checkout in turns."""
    pairs = Pairs()
    with checkout(revision) as tree:
        trees = (tree, ROOT)
        for number in range(rounds):
            turn = trees if number % 2 else trees[::-1]
            found = {each: _common_path(each) for each in turn}
            pairs.add(found[tree], found[ROOT])
            say(f"round {number + 1} of {rounds}: the common path of both")
        asyncio.run(_requests(trees, rounds, pairs, say))
    return pairs


def render(pairs: Pairs, revision: str) -> str:
    """Return the table."""
    lines = [
        f"### The common path, beside {revision}",
        "",
        f"Medians of interleaved rounds; more than {BOUND:g} times the cost is too much.",
        "",
        "| what | before | after | cost, after to before | |",
        "|---|--:|--:|--:|---|",
    ]
    for name, rounds in sorted(pairs.found.items()):
        before, after = (median(values) for values in zip(*rounds, strict=True))
        cost = median(one / other if name == REQUESTS else other / one for one, other in rounds)
        unit = "1/s" if name == REQUESTS else "ns"
        verdict = "within" if cost <= BOUND else "SLOWER"
        lines.append(f"| {name} | {before:,.0f} {unit} | {after:,.0f} {unit} | {cost:.3f} | {verdict} |")
    return "\n".join([*lines, ""])


def _common_path(tree: Path) -> dict[str, float]:
    return dict(json.loads(_run(sys.executable, HERE.with_name("common_path.py"), tree, cwd=tree)))


async def _requests(trees: tuple[Path, Path], rounds: int, pairs: Pairs, say: Callable[[str], None]) -> None:
    """Send requests through both in turns."""
    names = ("before", "after")
    async with Lab("against") as lab:
        client, member = lab.host("client"), lab.host("member")
        subjects = {name: peers.subject(lab, client, member, 1 + n, name) for n, name in enumerate(names)}
        program = await peers.bring_up(lab, member)
        arena = Arena(client, member, subjects, program)
        for name, tree in zip(names, trees, strict=True):
            await peers.start_asynclb(subjects[name], peers.proxy_config(subjects[name]), tree)
            await peers.verify(arena, subjects[name])
            await loads.requests(arena, subjects[name], _WARM_UP_S)
        for number in range(rounds):
            found = {}
            for name in names if number % 2 else names[::-1]:
                sample = await loads.requests(arena, subjects[name], _SECONDS)
                found[name] = {REQUESTS: sample.value, REQUEST_COST: sample.cpu_s / sample.work * 1e9}
            pairs.add(found["before"], found["after"])
            say(f"round {number + 1} of {rounds}: requests")


def _run(*words: object, cwd: Path | None = None) -> str:
    """Run a program and return what it prints. Raises: HostError -> it fails; the text has what it said."""
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=_ENVIRONMENT)
    if done.returncode:
        raise HostError(f"{' '.join(command)}: ended with {done.returncode}\n{done.stderr or done.stdout}")
    return done.stdout
