"""The prober: targets that come, change and go, checks on time, transitions in batches."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from itertools import pairwise
from statistics import median

import pytest

from asynclb.events import Event
from asynclb.health import Outcome, OutcomeKind, Prober, Target, TcpProbe, Transition
from asynclb.health.record import KINDS
from asynclb.health.sockets import Sockets
from asynclb.lab import PATIENCE_S
from asynclb.model import Health, HealthState, Probe, ProbeProtocol, Reason, TargetId
from asynclb.net.address import Address
from tests.ports import free_port
from tests.unit.health.conftest import Street

UP, DOWN, UNKNOWN = HealthState.UP, HealthState.DOWN, HealthState.UNKNOWN
FINE = Outcome(OutcomeKind.SUCCESS, Reason.UP_PROBE_SUCCESS, "fine")
SILENT = Outcome(OutcomeKind.TIMEOUT, Reason.DOWN_PROBE_TCP_TIMEOUT, "silent")


class Members:
    """A probe kind whose members answer as the test sets; it notes who is asked when and how many at once."""

    def __init__(self, took_s: float = 0.0) -> None:
        self.took_s = took_s
        self.outcomes: dict[Address, Outcome] = {}
        self.asked: list[tuple[Address, float]] = []
        self.running: list[Address] = []
        self.most = 0
        self.overlaps = 0

    async def check(self, address: Address, _: Probe, __: Sockets) -> Outcome:
        """Answer after a while."""
        self.asked.append((address, time.monotonic()))
        self.overlaps += address in self.running
        self.running.append(address)
        self.most = max(self.most, len(self.running))
        try:
            await asyncio.sleep(self.took_s)
        finally:
            self.running.remove(address)
        return self.outcomes.get(address, FINE)


class Seen:
    """What a prober told: batches of transitions, and events."""

    def __init__(self) -> None:
        self.batches: list[tuple[Transition, ...]] = []
        self.events: list[tuple[Event, Mapping[str, object]]] = []

    def change(self, batch: tuple[Transition, ...]) -> None:
        """Take a batch."""
        self.batches.append(batch)

    def emit(self, event: Event, /, **fields: object) -> None:
        """Take an event."""
        self.events.append((event, fields))

    def names(self) -> list[Event]:
        """Return the names of the events of members in order; a busy machine may starve probes, which is one more."""
        return [event for event, _ in self.events if event is not Event.PROBE_STARVED]


def probe(**fields: object) -> Probe:
    """Return a probe with the shortest interval."""
    named: dict[str, object] = {"name": "p", "interval_s": 0.05, "timeout_s": 0.05, **fields}
    return Probe(protocol=ProbeProtocol.TCP, port=80, **named)  # type: ignore[arg-type]  # any field


def target(number: int, definition: Probe | None = None, host: int | None = None) -> Target:
    """Return target number n at 10.0.0.n."""
    definition = definition or probe()
    address = IPv4Address(0x0A000000 + (number if host is None else host))
    return Target(("web", f"web-{number}", definition.name), address, definition)


@asynccontextmanager
async def running(prober: Prober) -> AsyncIterator[asyncio.Task[None]]:
    """Run a prober for the length of a block."""
    task = asyncio.create_task(prober.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


def states(health: Health) -> dict[TargetId, HealthState]:
    """Return only the states of a snapshot."""
    return {key: found.state for key, found in health.targets.items()}


def prober_of(kind: Members, seen: Seen) -> Prober:
    """Return a prober that asks `kind` and tells `seen`."""
    return Prober({ProbeProtocol.TCP: kind}, seen.change, seen.emit)


async def test_unknown_until_the_first_answer() -> None:
    """New targets are unknown for no reason; the first answer makes them up, with one event each."""
    seen, began_s = Seen(), time.monotonic()
    prober = prober_of(Members(), seen)
    prober.set_targets([target(1), target(2)])
    assert states(prober.snapshot()) == {target(1).id: UNKNOWN, target(2).id: UNKNOWN}
    assert prober.snapshot().of("web", "web-1", "p").reason is Reason.NA
    async with running(prober):
        await until(lambda: set(states(prober.snapshot()).values()) == {UP})
        await until(lambda: sum(map(len, seen.batches)) == 2)
    assert seen.names() == [Event.MEMBER_UP] * 2
    fields = dict(seen.events[0][1])
    after_s = fields.pop("after_s")
    assert isinstance(after_s, float)
    assert 0 <= after_s < time.monotonic() - began_s
    assert fields.pop("member") in ("web-1", "web-2")
    assert fields == {"pool": "web", "probe": "p", "reason": Reason.UP_PROBE_SUCCESS, "detail": "fine"}


async def test_threshold_and_back() -> None:
    """A member goes down after three silences and comes back after two answers; each is told once."""
    members, seen = Members(), Seen()
    prober = prober_of(members, seen)
    one = target(1, probe(rise=2, fall=3))
    prober.set_targets([one])
    async with running(prober):
        await until(lambda: len(seen.batches) == 1)
        asked = len(members.asked)
        members.outcomes[one.address] = SILENT
        await until(lambda: len(seen.batches) == 2)
        assert len(members.asked) - asked == 3
        asked = len(members.asked)
        del members.outcomes[one.address]
        await until(lambda: len(seen.batches) == 3)
        assert len(members.asked) - asked == 2
    changes = [(change.old.state, change.new.state) for batch in seen.batches for change in batch]
    assert changes == [(UNKNOWN, UP), (UP, DOWN), (DOWN, UP)]
    assert seen.names() == [Event.MEMBER_UP, Event.MEMBER_DOWN, Event.MEMBER_UP]


async def test_checks_keep_their_interval() -> None:
    """At an interval of 50 ms checks start about every 50 ms, never two of one target at once."""
    members = Members(took_s=0.01)
    prober = prober_of(members, Seen())
    prober.set_targets([target(1)])
    async with running(prober):
        await until(lambda: len(members.asked) >= 8)
    starts = [at for _, at in members.asked[1:]]
    assert 0.04 < median(after - before for before, after in pairwise(starts)) < 0.08
    assert members.overlaps == 0


async def test_checks_longer_than_the_interval_do_not_overlap() -> None:
    """A member that takes three intervals to answer is asked one check at a time."""
    members = Members(took_s=0.15)
    prober = prober_of(members, Seen())
    prober.set_targets([target(1)])
    async with running(prober):
        await until(lambda: len(members.asked) >= 3)
    assert members.overlaps == 0


async def test_bound_on_checks_in_flight() -> None:
    """Twelve targets behind two places: never more than two at once, all get their turn, starvation is told once."""
    members, seen = Members(took_s=0.02), Seen()
    prober = prober_of(members, seen)
    prober.set_targets([target(i, probe(max_in_flight=2)) for i in range(12)])
    async with running(prober):
        await until(lambda: set(states(prober.snapshot()).values()) == {UP})
        await until(lambda: prober.results().probes["p"].late > 5)
    assert members.most == 2
    starved = [fields for event, fields in seen.events if event is Event.PROBE_STARVED]
    assert len(starved) == 1
    assert starved[0]["probe"] == "p"


async def test_transitions_of_one_turn_are_one_batch() -> None:
    """Members whose answers arrive in the same turn of the loop are told together."""
    released = asyncio.Event()

    class Together(Members):
        async def check(self, address: Address, _: Probe, __: Sockets) -> Outcome:
            self.asked.append((address, 0.0))
            await released.wait()
            return FINE

    seen, members = Seen(), Together()
    prober = prober_of(members, seen)
    prober.set_targets([target(i) for i in range(20)])
    async with running(prober):
        await until(lambda: len(members.asked) == 20)
        released.set()
        await until(lambda: bool(seen.batches))
        await asyncio.sleep(0)
    assert [len(batch) for batch in seen.batches] == [20]


async def test_reload_keeps_what_is_known() -> None:
    """Unchanged and retimed targets stay up; moved and otherwise asked ones are unknown; removed ones are gone."""
    prober = prober_of(Members(), Seen())
    prober.set_targets([target(i) for i in range(1, 6)])
    async with running(prober):
        await until(lambda: set(states(prober.snapshot()).values()) == {UP})
        before = prober.snapshot()
        retimed, other = probe(interval_s=0.2, fall=5), probe(path="/other")
        prober.set_targets([target(1), target(2, retimed), target(3, other), target(4, host=99), target(6)])
        after = prober.snapshot()
        names = {key[1]: state for key, state in states(after).items()}
        assert names == {"web-1": UP, "web-2": UP, "web-3": UNKNOWN, "web-4": UNKNOWN, "web-6": UNKNOWN}
        assert after.targets[target(1).id] is before.targets[target(1).id]
        assert sum(prober.results().targets[target(3).id]) >= 1  # counters only grow
        await until(lambda: set(states(prober.snapshot()).values()) == {UP})
    assert set(states(before).values()) == {UP}  # a snapshot is frozen


async def test_results_are_of_one_moment() -> None:
    """Counters that were read stay what they were, while checks go on."""
    prober = prober_of(Members(), Seen())
    prober.set_targets([target(1)])
    async with running(prober):
        await until(lambda: sum(prober.results().targets[target(1).id]) > 1)
        found = prober.results()
        count = sum(found.targets[target(1).id])
        await until(lambda: sum(prober.results().targets[target(1).id]) > count)
        assert sum(found.targets[target(1).id]) == count


async def test_removed_target_is_not_asked_again() -> None:
    """The check of a removed target is cancelled, its result thrown away, and no other follows."""
    members, seen = Members(took_s=0.1), Seen()
    prober = prober_of(members, seen)
    prober.set_targets([target(1)])
    async with running(prober):
        await until(lambda: bool(members.running))
        prober.set_targets([])
        await until(lambda: not members.running)
        asked = len(members.asked)
        await asyncio.sleep(0.12)
        assert len(members.asked) == asked
    assert seen.batches == []
    assert prober.snapshot().targets == {}


async def test_removed_while_waiting_for_a_place() -> None:
    """Targets removed while they wait give their places to those that stay."""
    members = Members(took_s=0.02)
    prober = prober_of(members, Seen())
    narrow = probe(max_in_flight=1)
    prober.set_targets([target(i, narrow) for i in range(10)])
    async with running(prober):
        await until(lambda: prober.results().probes["p"].waiting > 3)
        prober.set_targets([target(99, narrow)])
        await until(lambda: prober.snapshot().of("web", "web-99", "p").state is UP)
        await until(lambda: prober.results().probes["p"].waiting == 0)
    assert members.most == 1


async def test_snapshot_is_cached() -> None:
    """While nothing changes every snapshot is the same object, and it cannot be written to."""
    prober = prober_of(Members(), Seen())
    prober.set_targets([target(1)])
    async with running(prober):
        await until(lambda: set(states(prober.snapshot()).values()) == {UP})
        first = prober.snapshot()
        checks = len(prober.history(target(1).id))
        await until(lambda: len(prober.history(target(1).id)) > checks + 1)
        assert prober.snapshot() is first
    with pytest.raises(TypeError):
        first.targets[target(1).id] = first.targets[target(1).id]  # type: ignore[index]  # that is the point


async def test_results() -> None:
    """Results count every check by target and kind, and every duration once in its probe's histogram."""
    members = Members()
    prober = prober_of(members, Seen())
    members.outcomes[target(2).address] = SILENT
    prober.set_targets([target(1), target(2)])
    async with running(prober):
        await until(lambda: len(members.asked) >= 6)
        results = prober.results()
    counts = {key: dict(zip(KINDS, found, strict=True)) for key, found in results.targets.items()}
    assert counts[target(1).id][OutcomeKind.SUCCESS] >= 2
    assert counts[target(2).id][OutcomeKind.TIMEOUT] >= 2
    assert counts[target(2).id][OutcomeKind.SUCCESS] == 0
    assert sum(results.probes["p"].counts) == sum(sum(kinds.values()) for kinds in counts.values())
    assert prober.history(target(2).id)[-1].kind is OutcomeKind.TIMEOUT
    assert prober.history(("web", "nobody", "p")) == ()


async def test_stall_is_not_made_up_in_a_burst() -> None:
    """After the loop was held for ten intervals each target is asked once, not ten times."""
    members = Members()
    prober = prober_of(members, Seen())
    prober.set_targets([target(1)])
    async with running(prober):
        await until(lambda: len(members.asked) >= 2)
        time.sleep(0.5)
        held_until, asked = time.monotonic(), len(members.asked)
        await asyncio.sleep(0.06)
        took_s = time.monotonic() - held_until
    assert len(members.asked) - asked <= 2 + took_s / 0.05
    assert all(at >= held_until for _, at in members.asked[asked:])


async def test_many_targets_become_known_soon() -> None:
    """1,000 targets at an interval of a minute are all known within about a second."""
    prober = prober_of(Members(), Seen())
    prober.set_targets([target(i, probe(interval_s=60.0)) for i in range(1000)])
    async with running(prober):
        await until(lambda: set(states(prober.snapshot()).values()) == {UP}, within_s=2.0)


async def test_bug_in_a_kind_ends_the_prober() -> None:
    """An exception in a probe kind is not swallowed: the prober's task ends with it."""

    class Broken:
        def check(self, _: Address, __: Probe, ___: Sockets) -> Awaitable[Outcome]:
            raise ZeroDivisionError

    prober = Prober({ProbeProtocol.TCP: Broken()}, lambda _: None, Seen().emit)  # type: ignore[dict-item]  # not a kind
    prober.set_targets([target(1)])
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(prober.run(), PATIENCE_S)
    assert caught.group_contains(ZeroDivisionError)


def test_protocol_without_a_kind_is_refused() -> None:
    """Targets of a protocol that has no kind are refused before anything changes."""
    prober = Prober({}, lambda _: None, Seen().emit)
    with pytest.raises(KeyError):
        prober.set_targets([target(1)])
    assert prober.snapshot().targets == {}


async def test_real_member_dies_and_comes_back(street: Street) -> None:
    """TCP, threshold 2, real sockets: closing the listener takes the member out, opening it brings it back."""
    seen = Seen()

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    port = free_port()
    definition = Probe("p", ProbeProtocol.TCP, port, interval_s=0.05, timeout_s=PATIENCE_S, rise=2, fall=2)
    one = Target(("web", "web-1", "p"), IPv4Address("127.0.0.1"), definition)
    prober = Prober({ProbeProtocol.TCP: TcpProbe()}, seen.change, seen.emit)
    prober.set_targets([one])
    async with running(prober):
        await until(lambda: prober.snapshot().targets[one.id].state is DOWN)
        assert prober.snapshot().targets[one.id].detail == f"127.0.0.1:{port}: connection refused"
        await street.member(talk, port=port)
        await until(lambda: prober.snapshot().targets[one.id].state is UP)
        await street.close()
        await until(lambda: prober.snapshot().targets[one.id].state is DOWN)
    assert seen.names() == [Event.MEMBER_DOWN, Event.MEMBER_UP, Event.MEMBER_DOWN]
