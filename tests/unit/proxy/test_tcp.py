"""TCP frontends on the loopback, without privileges: who is let in, who takes them, and when they are ended."""

import asyncio
import socket
import struct
from contextlib import ExitStack

from asynclb.datapath.lifetimes import End, Lifetime, Listeners
from asynclb.events import Event
from asynclb.model import ProxyProtocol
from asynclb.net.drop import Drop
from asynclb.net.flowhash import Distribution
from tests.unit.proxy.conftest import VIP, Joined
from tests.unit.proxy.wire import Deaf, Listener, connect, descriptors, expect_refusal, free_port, until
from tests.unit.proxy.world import Clock, Driver, local, member, pool, row


async def test_the_flow_is_shown_and_counted(joined: Joined) -> None:
    """An open flow is in the list with its ends and bytes, and in the counters of its rule and member."""
    await joined.client.send(b"12345")
    assert await joined.member.exactly(5) == b"12345"
    await joined.member.send(b"123")
    assert await joined.client.exactly(3) == b"123"
    (flow,) = joined.driver.proxy.flows()
    assert flow.client == f"{joined.client.name[0]}:{joined.client.name[1]}"
    assert flow.target == f"{joined.member.name[0]}:{joined.member.name[1]}"
    assert (flow.rule, flow.pool, flow.member, flow.state) == ("web", "pool", "be1", "established")
    assert (flow.bytes_in, flow.bytes_out) == (5, 3)
    counters = joined.counters()
    assert (counters.rules["web"].flows, counters.rules["web"].syn, counters.flows) == (1, 1, 1)
    assert counters.members["pool", "be1"].flows == 1
    joined.client.fin()
    await joined.member.expect_fin()
    (flow,) = joined.driver.proxy.flows()
    assert flow.state == "closing"
    joined.member.fin()
    await joined.over()
    assert joined.counters().rules["web"].new_flows == 1


async def test_a_member_that_refuses_is_passed_over_before_the_client_notices(driver: Driver) -> None:
    """Every client is served although two of three members refuse connections."""
    with Listener(local(4)) as listener:
        port = free_port(VIP)
        members = [member(f"be{n}", local(n)) for n in (2, 3, 4)]
        await driver.apply(row(VIP, port, members, listener.port, transparent=False))
        for _ in range(30):
            with await connect(VIP, port) as client, await listener.accept() as accepted:
                await accepted.send(b"welcome")
                assert await client.exactly(7) == b"welcome"
        counters = driver.proxy.counters()
        assert counters.members["pool", "be4"].new_flows == 30
        assert counters.drops[Drop.MEMBERS_UNREACHABLE] == 0


async def test_a_member_that_does_not_answer_is_passed_over_after_the_connect_timeout(driver: Driver) -> None:
    """What the client sent while a dead member was tried reaches the next one."""
    with Listener(local(2)) as listener, Deaf(local(3), listener.port):
        port = free_port(VIP)
        members = [member("dead", local(3)), member("be2", local(2))]
        await driver.apply(row(VIP, port, members, listener.port, transparent=False, connect_timeout_s=0.3))

        async def visit() -> None:
            with await connect(VIP, port) as client:
                await client.send(b"early")
                assert await client.exactly(5) == b"early"

        async def echo() -> None:
            with await listener.accept() as accepted:
                await accepted.send(await accepted.exactly(5))
                await accepted.rest()

        await asyncio.gather(*(visit() for _ in range(12)), *(echo() for _ in range(12)))
        assert driver.proxy.counters().members["pool", "be2"].new_flows == 12


async def test_a_client_that_every_member_refuses_is_reset(driver: Driver) -> None:
    """With nobody listening at any member the client gets a reset, counted as members_unreachable."""
    port, closed = free_port(VIP), free_port(local(2), local(3))
    members = [member("be1", local(2)), member("be2", local(3))]
    await driver.apply(row(VIP, port, members, closed, transparent=False))
    await expect_refusal(VIP, port)
    counters = driver.proxy.counters()
    assert counters.drops[Drop.MEMBERS_UNREACHABLE] == 1
    assert (counters.flows, counters.rules["web"].new_flows) == (0, 0)


async def test_a_client_that_leaves_while_its_member_is_dialled(driver: Driver) -> None:
    """A client that resets before any member answered leaves nothing behind."""
    with Deaf(local(2)) as dead:
        port = free_port(VIP)
        rule = row(VIP, port, [member("dead", local(2))], dead.port, transparent=False, connect_timeout_s=30)
        await driver.apply(rule)
        with await connect(VIP, port) as client:
            await until(lambda: driver.proxy.counters().rules["web"].syn == 1, "the client was accepted")
            before = descriptors()
            client.reset()
        await until(lambda: descriptors() == before - 3, "the attempt is over")
        assert driver.proxy.counters().drops[Drop.MEMBERS_UNREACHABLE] == 0


async def test_a_client_that_resets_as_soon_as_its_member_has_accepted(driver: Driver) -> None:
    """A connection that a member has is a flow, also when its client's reset is seen first: told of, and reset."""
    ended: list[Lifetime] = []
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        await driver.apply(row(VIP, port, [member("be1", local(2))], listener.port, transparent=False))
        driver.proxy.tell_flows(Listeners(ends=lambda _count, describe: ended.extend(describe())))
        client = await connect(VIP, port)
        while (accepted := listener.take()) is None:
            await asyncio.sleep(0)
        client.reset()  # the proxy has had no turn since it began to dial
        with accepted:
            await accepted.expect_reset()
        await until(lambda: bool(ended), "the flow's end is told")
    assert [flow.end for flow in ended] == [End.RESET]
    counters = driver.proxy.counters()
    assert (counters.rules["web"].new_flows, counters.flows) == (1, 0)


async def test_closing_ends_attempts_too(driver: Driver) -> None:
    """When the proxy is closed a client that waits for a member is reset, and no descriptor is left."""
    with Deaf(local(2)) as dead:
        port = free_port(VIP)
        rule = row(VIP, port, [member("dead", local(2))], dead.port, transparent=False, connect_timeout_s=30)
        await driver.apply(rule)
        with await connect(VIP, port) as client:
            await until(lambda: driver.proxy.counters().rules["web"].syn == 1, "the client was accepted")
            await driver.proxy.close(0)
            await client.expect_reset()


async def test_flows_spread_over_the_members_or_stay_with_one(driver: Driver) -> None:
    """Five-tuple spreads one client's connections over all members; source affinity keeps them on one."""
    with ExitStack() as stack:
        port, other = free_port(VIP), free_port(VIP)
        first = stack.enter_context(Listener(local(2)))
        for number in (3, 4, 5):
            stack.enter_context(Listener(local(number), first.port))
        members = [member(f"be{n}", local(n)) for n in (2, 3, 4, 5)]
        sticky = pool(members, name="sticky")
        await driver.apply(
            row(VIP, port, members, first.port, transparent=False),
            row(VIP, other, sticky, first.port, name="two", transparent=False, distribution=Distribution.SOURCE_IP),
        )
        clients = [stack.enter_context(await connect(VIP, port)) for _ in range(200)]
        clients += [stack.enter_context(await connect(VIP, other)) for _ in range(50)]
        await until(lambda: driver.proxy.counters().flows == len(clients), "all flows are open")
        found = driver.proxy.counters().members
        assert all(found["pool", m.name].flows >= 25 for m in members), found
        assert [count.flows for (of, _), count in found.items() if of == "sticky"] == [50]


async def test_without_an_eligible_member_the_frontend_is_silent_and_comes_back(joined: Joined) -> None:
    """While no member is eligible a client hears nothing at all, open connections go on, and then all is well again."""
    port = joined.client.peer[1]
    rule = row(VIP, port, [member("be1", local(2))], joined.member.name[1], transparent=False)
    await joined.driver.apply(rule, down=["be1"])
    waiting = asyncio.create_task(connect(VIP, port))
    assert (await asyncio.wait([waiting], timeout=0.4))[1] == {waiting}
    assert joined.counters().drops[Drop.NO_ELIGIBLE_MEMBER] >= 1
    await joined.client.send(b"still")
    assert await joined.member.exactly(5) == b"still"
    await joined.member.send(b"here")
    assert await joined.client.exactly(4) == b"here"
    await joined.driver.apply(rule)
    (await waiting).close()
    (await connect(VIP, port)).close()


async def test_silence_leaves_no_flow_of_its_own(driver: Driver) -> None:
    """Silent and serving in quick turns: what the proxy itself did for silence never shows up as a flow."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        rule = row(VIP, port, [member("be1", local(2))], listener.port, transparent=False)
        for _ in range(3):
            await driver.apply(rule)
            await driver.apply(rule, down=["be1"])
        await driver.apply(rule)
        with await connect(VIP, port) as client, await listener.accept() as accepted:
            await accepted.send(b"x")
            assert await client.exactly(1) == b"x"
        await until(lambda: driver.proxy.counters().flows == 0, "the flow is over")
        assert driver.proxy.counters().rules["web"].new_flows == 1


async def is_served(port: int, source: str) -> bool:
    """Return whether a client is let in: it is, unless nobody answers it or it is reset."""
    try:
        with await connect(VIP, port, source=(source, 0), wait_s=0.4) as client:
            return await client.is_quiet()
    except (TimeoutError, ConnectionResetError):
        return False


async def test_who_is_not_allowed_gets_nothing_through(driver: Driver) -> None:
    """A source outside `allow` reaches no member and is counted; another one is served."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        allowed = f"{local(8)}/30"
        rule = row(VIP, port, [member("be1", local(2))], listener.port, allow=[allowed], transparent=False)
        await driver.apply(rule)
        assert not await is_served(port, local(12))
        assert not listener.waiting()
        assert driver.proxy.counters().drops[Drop.SOURCE_NOT_ALLOWED] >= 1
        with await connect(VIP, port, source=(local(9), 0)) as client, await listener.accept() as accepted:
            await accepted.send(b"x")
            assert await client.exactly(1) == b"x"


async def test_an_idle_connection_is_reset_at_both_ends(driver: Driver, clock: Clock) -> None:
    """With `tcp_reset` a connection that is silent for the timeout is reset at both ends."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        rule = row(
            VIP, port, [member("be1", local(2))], listener.port, transparent=False, idle_timeout_s=240, tcp_reset=True
        )
        await driver.apply(rule)
        with await connect(VIP, port) as client, await listener.accept() as accepted:
            await clock.passes(200)
            assert driver.proxy.counters().flows == 1
            await clock.passes(41)
            await asyncio.gather(client.expect_reset(), accepted.expect_reset())
        assert driver.proxy.counters().flows == 0


async def test_a_slow_drip_keeps_a_connection_alive(driver: Driver, clock: Clock) -> None:
    """A byte now and then, each well within the timeout and from either end only, keeps the connection."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        rule = row(VIP, port, [member("be1", local(2))], listener.port, transparent=False, idle_timeout_s=240)
        await driver.apply(rule)
        with (
            await connect(VIP, port) as talker,
            await listener.accept() as hearer,
            await connect(VIP, port) as reader,
            await listener.accept() as writer,
        ):
            for _ in range(7):
                await clock.passes(200)
                for one, other in ((talker, hearer), (writer, reader)):
                    await one.send(b".")
                    assert await other.read() == b"."


async def test_the_client_is_named_ahead_of_the_bytes(driver: Driver) -> None:
    """A PROXY v2 header goes first, byte for byte as the specification draws it, and once."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        rule = row(
            VIP, port, [member("be1", local(2))], listener.port, transparent=False, proxy_protocol=ProxyProtocol.V2
        )
        await driver.apply(rule)
        with await connect(VIP, port) as client, await listener.accept() as accepted:
            await client.send(b"hello")
            header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + socket.inet_aton(client.name[0]) + socket.inet_aton(VIP)
            header += struct.pack("!HH", client.name[1], port)
            assert await accepted.exactly(len(header) + 5) == header + b"hello"
            assert driver.proxy.counters().rules["web"].bytes_in == 5
            await accepted.send(b"answer")
            assert await client.exactly(6) == b"answer"


async def test_a_silent_client_is_known_to_the_member(driver: Driver) -> None:
    """The header reaches the member before the client has said anything: the member may speak first."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        rule = row(
            VIP, port, [member("be1", local(2))], listener.port, transparent=False, proxy_protocol=ProxyProtocol.V2
        )
        await driver.apply(rule)
        with await connect(VIP, port), await listener.accept() as accepted:
            assert len(await accepted.exactly(28)) == 28


async def test_ipv6_is_served_alike(driver: Driver) -> None:
    """A frontend, a client and a member on ::1 are joined, and named in a PROXY v2 header of 52 bytes."""
    with Listener("::1") as listener:
        port = free_port("::1")
        rule = row(
            "::1", port, [member("be1", "::1")], listener.port, transparent=False, proxy_protocol=ProxyProtocol.V2
        )
        await driver.apply(rule)
        with await connect("::1", port) as client, await listener.accept() as accepted:
            header = await accepted.exactly(52)
            one = socket.inet_pton(socket.AF_INET6, "::1")
            ports = struct.pack("!HH", client.name[1], port)
            assert header == b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + one + one + ports
            await accepted.send(b"six")
            assert await client.exactly(3) == b"six"


async def test_a_full_process_refuses_new_flows_and_keeps_the_old(joined: Joined) -> None:
    """Above the limit of descriptors a new client is reset and counted; the open flow goes on; later all is well."""
    shared = joined.driver.proxy._shared
    assert shared is not None
    port, before = joined.client.peer[1], shared.max_descriptor
    shared.max_descriptor = 3
    await expect_refusal(VIP, port)
    assert joined.counters().drops[Drop.FLOW_TABLE_FULL] == 1
    await joined.client.send(b"on")
    assert await joined.member.exactly(2) == b"on"
    shared.max_descriptor = before
    (await connect(VIP, port)).close()
    assert not joined.driver.events.of(Event.TASK_FAILED)
