"""Deltas: what a reload changes for new flows and leaves to the open ones; a refused one changes nothing."""

import asyncio
import contextlib
import random
import socket
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from asynclb.datapath.proxy import ProxyDatapath, static_refusal
from asynclb.datapath.proxy.sockfilter import MAX_INSTRUCTIONS, allow_program, instructions
from asynclb.errors import ApplyError
from asynclb.events import Event
from asynclb.model import AdminState
from asynclb.net.flow import Protocol
from asynclb.net.flowhash import Distribution
from asynclb.tables.diff import diff
from asynclb.tables.row import Delivery, FrontendKey, Row
from asynclb.tables.tables import EMPTY_TABLES
from tests.unit.proxy.conftest import VIP, Joined
from tests.unit.proxy.wire import Deaf, Listener, Wire, connect, descriptors, expect_refusal, free_port, until
from tests.unit.proxy.world import Clock, Driver, Events, local, member, pool, row


def rule_of(joined: Joined, *, drain_s: float = 300.0, **fields: Any) -> Row:
    """Return the rule of a joined connection, with another drain period of its pool or other fields of its own."""
    found = pool([member("be1", local(2))], drain_s=drain_s)
    return row(VIP, joined.client.peer[1], found, joined.member.name[1], transparent=False, **fields)


async def is_open(joined: Joined) -> bool:
    """Return whether bytes still pass both ways."""
    await joined.client.send(b"up")
    await joined.member.send(b"down")
    return await joined.member.exactly(2) == b"up" and await joined.client.exactly(4) == b"down"


async def nobody_listens(port: int) -> bool:
    """Return whether a connection to the VIP is refused."""
    try:
        (await connect(VIP, port)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_a_taken_port_refuses_the_whole_delta(joined: Joined) -> None:
    """The refusal names the port and the remedy; no other rule of the delta listens, and the old ones still serve."""
    taken, free = free_port(VIP), free_port(VIP)
    with Listener(VIP, taken):
        before = descriptors()
        with pytest.raises(ApplyError) as refused:
            await joined.driver.apply(
                rule_of(joined),
                row(VIP, free, [member("be1", local(2))], 80, name="free", transparent=False),
                row(VIP, taken, [member("be1", local(2))], 80, name="taken", transparent=False),
            )
        (problem,) = refused.value.problems
        assert str(taken) in str(problem)
        assert f"sport = :{taken}" in problem.remedy
        assert problem.path == ("rules", "taken")
        await asyncio.sleep(0)
        assert await nobody_listens(free)
        assert descriptors() == before
    assert joined.driver.proxy.generation == 1
    assert await is_open(joined)
    (await connect(VIP, joined.client.peer[1])).close()
    await joined.driver.apply(
        rule_of(joined), row(VIP, free, [member("be1", local(2))], 80, name="free", transparent=False)
    )
    (await connect(VIP, free)).close()


async def test_every_problem_of_a_delta_is_named_at_once(driver: Driver) -> None:
    """Two taken ports and an address that is not this host's are three problems, each with its rule and remedy."""
    ports = [free_port(VIP), free_port(VIP), free_port(VIP)]
    members = [member("be1", local(2))]
    with Listener(VIP, ports[0]), Listener(VIP, ports[1]), pytest.raises(ApplyError) as refused:
        await driver.apply(
            row(VIP, ports[0], members, 80, name="one", transparent=False),
            row(VIP, ports[1], members, 80, name="two", transparent=False),
            row("192.0.2.1", ports[2], members, 80, name="three", transparent=False),
        )
    assert {problem.path[1] for problem in refused.value.problems} == {"one", "two", "three"}
    (foreign,) = (problem for problem in refused.value.problems if problem.path[1] == "three")
    assert "ip addr add 192.0.2.1" in foreign.remedy
    assert driver.proxy.generation == 0


async def test_a_taken_udp_port_is_refused_alike(driver: Driver) -> None:
    """UDP and TCP ports are told apart: the same number is free for one when the other is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((VIP, 0))
        port = int(other.getsockname()[1])
        members = [member("be1", local(2))]
        with pytest.raises(ApplyError) as refused:
            await driver.apply(row(VIP, port, members, 80, protocol=Protocol.UDP, transparent=False))
        assert f"udp {VIP} port {port}" in str(refused.value)
        await driver.apply(row(VIP, port, members, 80, transparent=False))


def test_what_no_proxy_can_carry_is_refused_with_a_remedy() -> None:
    """HA ports, floating IP, routed frontends and too long an `allow` are refused before anything is applied."""
    members = [member("be1", "10.0.0.1")]
    refusals = [
        static_refusal(row("192.0.2.1", 0, members, 0, protocol=Protocol.ALL)),
        static_refusal(row("192.0.2.1", 80, members, 80, delivery=Delivery.FLOATING)),
        static_refusal(row("192.0.2.1", 80, members, 80, delivery=Delivery.ROUTED)),
        static_refusal(
            row("192.0.2.1", 80, members, 80, allow=[f"10.{n // 128}.{n % 128 * 2}.0/24" for n in range(2000)])
        ),
    ]
    for refusal in refusals:
        assert refusal is not None
        assert refusal.why
        assert refusal.remedy
    assert static_refusal(row("192.0.2.1", 80, members, 80)) is None


def test_as_many_prefixes_as_the_remedy_says_fit() -> None:
    """A thousand IPv4 prefixes and three hundred IPv6 prefixes of any length are within a filter's length."""
    rng = random.Random(5)
    four = [ip_network((rng.getrandbits(32), rng.randrange(8, 33)), strict=False) for _ in range(1000)]
    six = [ip_network((rng.getrandbits(128), rng.randrange(16, 129)), strict=False) for _ in range(300)]
    for version, prefixes in ((4, four), (6, six)):
        program = allow_program(prefixes, version)
        assert program is not None
        assert instructions(program) <= MAX_INSTRUCTIONS


async def test_without_privileges_transparent_rules_are_refused_with_a_remedy(driver: Driver) -> None:
    """The remedy names the capability and the setting that does without it; a rule with that setting is taken."""
    refusal = driver.proxy.refusal(row(VIP, 80, [], 80))
    assert refusal is not None
    assert "CAP_NET_ADMIN" in refusal.remedy
    assert "transparent: false" in refusal.remedy
    assert driver.proxy.refusal(row(VIP, 80, [], 80, transparent=False)) is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"distribution": Distribution.SOURCE_IP}, id="another distribution"),
        pytest.param({"name": "renamed"}, id="another name of the rule"),
        pytest.param({"idle_timeout_s": 100.0}, id="another idle timeout"),
        pytest.param({"allow": ["192.0.2.0/24"]}, id="an allow list without the client"),
    ],
)
async def test_an_open_flow_survives_a_changed_rule(joined: Joined, change: dict[str, Any]) -> None:
    """Whatever changes in a rule, its open flows go on."""
    await joined.driver.apply(rule_of(joined, **change))
    assert await is_open(joined)


async def test_an_open_flow_survives_what_is_said_of_its_member(joined: Joined) -> None:
    """A failing probe, admin state down and weight 0 take no open flow away."""
    await joined.driver.apply(rule_of(joined), down=["be1"])
    assert await is_open(joined)
    for fields in ({"admin_state": AdminState.DOWN}, {"weight": 0}):
        rule = rule_of(joined)
        await joined.driver.apply(replace(rule, pool=pool([member("be1", local(2), **fields)])))
        assert await is_open(joined)


async def test_an_open_flow_survives_another_seed(joined: Joined) -> None:
    """A new seed moves new flows only."""
    await joined.driver.apply(rule_of(joined), seed=99)
    assert await is_open(joined)


async def test_a_removed_rule_stops_listening_and_drains(joined: Joined, clock: Clock) -> None:
    """A removed rule's port is closed at once; its flow goes on for the pool's drain period and is then reset."""
    await joined.driver.apply(rule_of(joined, drain_s=300))
    await joined.driver.apply()
    await clock.passes(200)
    assert await nobody_listens(joined.client.peer[1])
    assert await is_open(joined)
    assert [flow.member for flow in joined.driver.proxy.flows()] == ["be1"]
    await clock.passes(101)
    await asyncio.gather(joined.client.expect_reset(), joined.member.expect_reset())
    assert joined.counters().flows == 0
    assert [fields["connections"] for fields in joined.driver.events.of(Event.CONNECTIONS_RESET)] == [1]


async def test_a_removed_rule_that_comes_back_keeps_its_flows(joined: Joined, clock: Clock) -> None:
    """An operator who removes a rule by mistake and brings it back within the drain period loses no flow."""
    await joined.driver.apply(rule_of(joined, drain_s=30))
    await joined.driver.apply()
    await clock.passes(20)
    await joined.driver.apply(rule_of(joined, drain_s=30))
    await clock.passes(70)
    assert await is_open(joined)
    (await connect(VIP, joined.client.peer[1])).close()


async def test_a_removed_member_drains(joined: Joined, clock: Clock) -> None:
    """A member that leaves the pool keeps its flow for the drain period; then both ends are reset."""
    rule = rule_of(joined)
    await joined.driver.apply(replace(rule, pool=pool([member("be2", local(3))], drain_s=300)))
    await clock.passes(200)
    assert await is_open(joined)
    await clock.passes(101)
    await asyncio.gather(joined.client.expect_reset(), joined.member.expect_reset())
    assert joined.counters().members["pool", "be1"].flows == 0


async def test_a_removed_member_that_comes_back_keeps_its_flows(joined: Joined, clock: Clock) -> None:
    """A member that returns within the drain period has lost nothing."""
    rule = rule_of(joined)
    await joined.driver.apply(replace(rule, pool=pool([member("be2", local(3))], drain_s=30)))
    await clock.passes(20)
    await joined.driver.apply(replace(rule, pool=pool([member("be1", local(2)), member("be2", local(3))], drain_s=30)))
    await clock.passes(70)
    assert await is_open(joined)


async def test_a_draining_member_is_given_its_period(joined: Joined, clock: Clock) -> None:
    """Admin state drain takes no new flow, and resets what is open only when the period is over."""
    rule = rule_of(joined)
    draining = pool([member("be1", local(2), admin_state=AdminState.DRAIN)], drain_s=300)
    await joined.driver.apply(replace(rule, pool=draining))
    await clock.passes(200)
    assert await is_open(joined)
    await clock.passes(101)
    await asyncio.gather(joined.client.expect_reset(), joined.member.expect_reset())


async def test_a_member_at_a_new_address_is_another_member(joined: Joined, clock: Clock) -> None:
    """A member that keeps its name and changes its address drains at the old one; new flows go to the new one only."""
    port = joined.member.name[1]
    with Listener(local(3), port) as new:
        rule = rule_of(joined)
        await joined.driver.apply(replace(rule, pool=pool([member("be1", local(3))], drain_s=300)))
        for _ in range(5):
            with await connect(VIP, joined.client.peer[1]), await new.accept():
                pass
        await clock.passes(200)
        assert await is_open(joined)
        await clock.passes(101)
        await asyncio.gather(joined.client.expect_reset(), joined.member.expect_reset())


async def test_an_attempt_under_the_old_law_does_not_lead_new_flows_astray(driver: Driver) -> None:
    """A client that still tries the old addresses while members move does not make new clients go there."""
    with Listener(local(3)) as old, Deaf(local(2), old.port), Listener(local(4), old.port) as new:
        port = free_port(VIP)
        before = pool([member("be1", local(2)), member("be2", local(3))])
        rule = row(VIP, port, before, old.port, transparent=False, connect_timeout_s=0.4)
        await driver.apply(rule)
        with ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(await connect(VIP, port))
            syn = 8
            await until(lambda: driver.proxy.counters().rules["web"].syn == syn, "all were accepted")
            after = pool([member("be1", local(4)), member("be2", local(4))])
            await driver.apply(replace(rule, pool=after))
            await until(lambda: driver.proxy.counters().flows == syn, "everybody has found a member")
            while old.waiting():
                pass
            for _ in range(20):
                with await connect(VIP, port), await new.accept():
                    pass
            assert not old.waiting()


async def test_a_rule_removed_and_added_without_a_pause(joined: Joined) -> None:
    """Two deltas at once, the second giving back what the first took away, find the port free."""
    rule = rule_of(joined)
    await joined.driver.apply()
    await joined.driver.apply(rule)
    await joined.driver.apply()
    await joined.driver.apply(rule, row(VIP, rule.key.port, rule.pool, 80, protocol=Protocol.UDP, transparent=False))
    assert await is_open(joined)
    (await connect(VIP, rule.key.port)).close()


async def test_clients_in_the_queue_of_a_removed_rule_are_served(driver: Driver) -> None:
    """A client whose handshake was complete before the rule went is a flow of the old law, and is not reset."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        await driver.apply(row(VIP, port, [member("be1", local(2))], listener.port, transparent=False))
        sock = socket.create_connection((VIP, port))  # blocks: the proxy has had no turn to accept it
        with Wire(sock) as client:
            await driver.apply()
            with await listener.accept() as accepted:
                await accepted.send(b"welcome")
                assert await client.exactly(7) == b"welcome"


async def test_a_hundred_streams_see_nothing_of_fifty_deltas(driver: Driver) -> None:
    """Rules, pools, health, weights, seeds and filters change at random; none of the open streams loses a byte."""
    rng = random.Random(75)
    with ExitStack() as stack:
        port, other = free_port(VIP), free_port(VIP)
        first = stack.enter_context(Listener(local(2)))
        listeners = [first, *(stack.enter_context(Listener(local(n), first.port)) for n in (3, 4, 5))]
        servers = [asyncio.create_task(echo_forever(listener)) for listener in listeners]
        names = [f"be{n}" for n in (2, 3, 4, 5)]

        def rule() -> Row:
            chosen = rng.sample((2, 3, 4, 5), rng.randint(1, 4))
            members = [member(f"be{n}", local(n), weight=rng.randint(0, 9)) for n in chosen]
            distribution = rng.choice(list(Distribution))
            allow = rng.choice([None, ["127.0.0.0/8"], ["192.0.2.0/24"]])
            return row(
                VIP,
                port,
                members,
                first.port,
                allow=allow,
                distribution=distribution,
                transparent=False,
                tcp_reset=True,
            )

        await driver.apply(row(VIP, port, [member(n, local(int(n[2:]))) for n in names], first.port, transparent=False))
        streams = [stack.enter_context(await connect(VIP, port)) for _ in range(100)]
        for stream in streams:
            assert await stream.echoes()
        for number in range(50):
            rows = [rule()] if rng.random() < 0.9 else []
            if rng.random() < 0.5:
                rows.append(row(VIP, other, [member("be2", local(2))], first.port, name="other", transparent=False))
            await driver.apply(*rows, down=rng.sample(names, rng.randint(0, 4)), seed=rng.getrandbits(64))
            assert await streams[number].echoes(b"during")
        for stream in streams:
            assert await stream.echoes(b"after")
        for stream in streams:
            stream.close()
        await until(lambda: driver.proxy.counters().flows == 0, "every flow is over")
        for server in servers:
            server.cancel()
        await asyncio.wait(servers)


async def echo_forever(listener: Listener) -> None:
    """Be a member that sends back what comes."""

    async def serve(wire: Wire) -> None:
        with wire, contextlib.suppress(ConnectionError):
            while data := await asyncio.get_running_loop().sock_recv(wire.sock, 65536):
                await wire.send(data)

    async with asyncio.TaskGroup() as tasks:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener.sock)
            tasks.create_task(serve(Wire(sock)))


async def test_new_flows_meet_the_old_law_or_the_new_one(driver: Driver) -> None:
    """While two generations without a common member take turns, every client is served by one or the other."""
    with ExitStack() as stack:
        port = free_port(VIP)
        first = stack.enter_context(Listener(local(2)))
        listeners = [first, *(stack.enter_context(Listener(local(n), first.port)) for n in (3, 4, 5))]
        servers = [asyncio.create_task(echo_forever(listener)) for listener in listeners]
        one = row(VIP, port, pool([member("a", local(2)), member("b", local(3))]), first.port, transparent=False)
        two = replace(one, pool=pool([member("c", local(4)), member("d", local(5))]))
        await driver.apply(one)
        done = False

        async def visit() -> int:
            count = 0
            while not done:
                with await connect(VIP, port) as client:
                    assert await client.echoes(b"?")
                count += 1
            return count

        visitors = [asyncio.create_task(visit()) for _ in range(8)]
        for number in range(60):
            await driver.apply(one if number % 2 else two)
            await asyncio.sleep(0.01)
        done = True
        assert sum(await asyncio.gather(*visitors)) > 60
        members = driver.proxy.counters().members
        assert all(members["pool", name].new_flows for name in "abcd")
        for server in servers:
            server.cancel()
        await asyncio.wait(servers)


async def test_a_cancelled_apply_has_changed_nothing_or_everything(driver: Driver) -> None:
    """However soon an apply is cancelled, the port either serves under the new generation or is free again."""
    with Listener(local(2)) as listener:
        for turns in range(4):
            port = free_port(VIP)
            rule = row(VIP, port, [member("be1", local(2))], listener.port, transparent=False)
            applying = asyncio.create_task(driver.apply(rule))
            for _ in range(turns):
                await asyncio.sleep(0)
            applying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await applying
            await asyncio.sleep(0)
            served = driver.proxy.generation == driver.tables.generation and driver.tables.generation > 0
            assert await nobody_listens(port) is not served
            if served:
                await driver.apply()


async def test_counters_survive_their_rule(joined: Joined) -> None:
    """What a rule counted is still there when it is gone, and goes on growing when it is back."""
    await joined.client.send(b"12345")
    await joined.member.exactly(5)
    await joined.driver.apply()
    assert joined.counters().rules["web"].bytes_in == 5
    await joined.driver.apply(rule_of(joined))
    with await connect(VIP, joined.client.peer[1]) as client:
        await client.send(b"678")
        await until(lambda: joined.counters().rules["web"].bytes_in == 8, "both flows are counted")


async def test_close_waits_for_flows_and_resets_the_rest(joined: Joined) -> None:
    """Closing takes no new flow, waits for one that ends in time, and resets one that does not."""
    port = joined.client.peer[1]
    closing = asyncio.create_task(joined.driver.proxy.close(0.3))
    await until(
        lambda: (
            joined.driver.proxy._shared is None
            or not joined.driver.proxy._frontends[
                FrontendKey(rule_of(joined).key.address, port, Protocol.TCP)
            ].listening
        ),
        "it has stopped listening",
    )
    await expect_closed(port)
    assert await is_open(joined)
    assert await closing == 1
    await asyncio.gather(joined.client.expect_reset(), joined.member.expect_reset())


async def expect_closed(port: int) -> None:
    """Check that nobody takes connections any more."""
    with contextlib.suppress(ConnectionRefusedError):
        await expect_refusal(VIP, port)


async def test_apply_needs_an_open_proxy() -> None:
    """Applying before opening is our own mistake and says so."""
    with pytest.raises(RuntimeError, match="open"):
        await ProxyDatapath(emit=Events()).apply(diff(EMPTY_TABLES, EMPTY_TABLES))
