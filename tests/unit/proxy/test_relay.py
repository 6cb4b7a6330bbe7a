"""A connection through the proxy behaves as one connection: bytes, ends, resets, and who is slow slows the other."""

import asyncio
import errno
import hashlib
import random
from contextlib import suppress

import pytest

from tests.unit.proxy.conftest import VIP, Joined
from tests.unit.proxy.wire import Listener, Wire, connect, descriptors, free_port, resident_kib, until
from tests.unit.proxy.world import Driver, local, member, row


async def stream(wire: Wire, size: int, seed: int) -> str:
    """Send pseudo-random bytes and the end after them; return their hash."""
    rng, state = random.Random(seed), hashlib.blake2b()
    block = rng.randbytes(1 << 20)
    while size:
        part = block[: min(size, rng.randrange(1, len(block)))]
        await wire.send(part)
        state.update(part)
        size -= len(part)
    wire.fin()
    return state.hexdigest()


async def settled(fill: Wire) -> int:
    """Send until nothing more is taken for a while; return how much was."""
    total = last = fill.fill()
    quiet = 0
    while quiet < 5:
        await asyncio.sleep(0.03)
        total += fill.fill()
        quiet = quiet + 1 if total == last else 0
        last = total
    return total


async def test_bytes_arrive_unchanged_both_ways_at_once(joined: Joined) -> None:
    """A hundred megabytes to the member and fifty back, with the same hashes, counted to the byte."""
    up, down = 100_000_000, 50_000_000
    sent_up, sent_down, got_up, got_down = await asyncio.gather(
        stream(joined.client, up, 1), stream(joined.member, down, 2), joined.member.digest(), joined.client.digest()
    )
    assert (got_up, got_down) == ((up, sent_up), (down, sent_down))
    await joined.over()
    counters = joined.counters()
    assert (counters.rules["web"].bytes_in, counters.rules["web"].bytes_out) == (up, down)
    of_member = counters.members["pool", "be1"]
    assert (of_member.bytes_in, of_member.bytes_out, of_member.flows, of_member.new_flows) == (up, down, 0, 1)


async def test_the_client_ends_first_and_still_hears_the_answer(joined: Joined) -> None:
    """A client's FIN reaches the member as a FIN; what the member says after it reaches the client."""
    await joined.client.send(b"question")
    joined.client.fin()
    assert await joined.member.rest() == b"question"
    await joined.member.send(b"answer")
    assert await joined.client.exactly(6) == b"answer"
    assert joined.counters().flows == 1
    joined.member.fin()
    await joined.client.expect_fin()
    await joined.over()


async def test_the_member_ends_first_and_still_hears_the_client(joined: Joined) -> None:
    """A member's FIN reaches the client as a FIN; what the client says after it reaches the member."""
    await joined.member.send(b"greeting")
    joined.member.fin()
    assert await joined.client.rest() == b"greeting"
    await joined.client.send(b"reply")
    assert await joined.member.exactly(5) == b"reply"
    joined.client.fin()
    await joined.member.expect_fin()
    await joined.over()


async def test_both_end_at_once(joined: Joined) -> None:
    """FINs that cross each other end the connection in order at both ends."""
    joined.client.fin()
    joined.member.fin()
    await asyncio.gather(joined.client.expect_fin(), joined.member.expect_fin())
    await joined.over()


async def test_an_end_waits_behind_the_bytes_before_it(joined: Joined) -> None:
    """A FIN sent while the reader is far behind is seen after the last byte, not before."""
    sent = asyncio.create_task(stream(joined.client, 30_000_000, 3))
    await asyncio.sleep(0.2)
    assert await joined.member.digest() == (30_000_000, await sent)
    joined.member.fin()
    await joined.client.expect_fin()
    await joined.over()


async def test_an_end_behind_a_full_backlog_both_ways(joined: Joined) -> None:
    """Both ends are full both ways and half-closed; once they read, every byte and both ends arrive."""
    up, down = await asyncio.gather(settled(joined.client), settled(joined.member))
    joined.client.fin()
    joined.member.fin()
    (got_up, _), (got_down, _) = await asyncio.gather(joined.member.digest(), joined.client.digest())
    assert (got_up, got_down) == (up, down)
    await joined.over()


async def test_what_was_sent_together_with_the_end_before_the_member_accepted(driver: Driver) -> None:
    """A client that connects, asks and half-closes in one breath is answered."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        await driver.apply(row(VIP, port, [member("be1", local(2))], listener.port, transparent=False))
        with await connect(VIP, port) as client:
            await client.send(b"question")
            client.fin()
            with await listener.accept() as accepted:
                assert await accepted.rest() == b"question"
                await accepted.send(b"answer")
                accepted.fin()
                assert await client.rest() == b"answer"


@pytest.mark.parametrize("who", ["client", "member"])
async def test_a_reset_is_relayed_as_a_reset(joined: Joined, who: str) -> None:
    """Whichever end resets, the other end is reset too, and the flow is over."""
    one, other = (joined.client, joined.member) if who == "client" else (joined.member, joined.client)
    await one.send(b"x")
    assert await other.read() == b"x"
    one.reset()
    await other.expect_reset()
    await joined.over()


@pytest.mark.parametrize("who", ["client", "member"])
async def test_a_reset_is_seen_although_the_other_end_does_not_read(joined: Joined, who: str) -> None:
    """An end that has filled the other one and then resets is gone at once, not when the other reads."""
    one, other = (joined.client, joined.member) if who == "client" else (joined.member, joined.client)
    await settled(one)
    one.reset()
    await joined.over()
    await other.expect_reset()


@pytest.mark.parametrize("who", ["client", "member"])
async def test_a_reset_after_the_end_is_seen(joined: Joined, who: str) -> None:
    """An end that has half-closed and then resets takes the other end with it, though that one says nothing."""
    one, other = (joined.client, joined.member) if who == "client" else (joined.member, joined.client)
    one.fin()
    await other.expect_fin()
    one.reset()
    await joined.over()
    await until(lambda: other.error() == errno.EPIPE, "the reset is there; after a FIN it is EPIPE")


async def test_a_member_that_answers_and_resets(joined: Joined) -> None:
    """What a member said before it reset reaches the client that was waiting for it."""
    await joined.member.send(b"413 too large\n")
    joined.member.reset()
    assert await joined.client.exactly(14) == b"413 too large\n"
    await joined.client.expect_reset()
    await joined.over()


@pytest.mark.parametrize("who", ["client", "member"])
async def test_who_does_not_read_slows_the_other_down(joined: Joined, who: str) -> None:
    """A sender without end meets a full pipe: the proxy holds one read of it, and nothing grows."""
    sender = joined.client if who == "client" else joined.member
    await settled(sender)
    before = resident_kib()
    assert await settled(sender) < 1 << 20
    assert resident_kib() - before < 4096
    assert joined.counters().flows == 1


async def test_the_other_direction_flows_while_one_is_stuck(joined: Joined) -> None:
    """A client that never reads still gets its own bytes to the member."""
    await settled(joined.member)
    for _ in range(20):
        await joined.client.send(b"still here")
        assert await joined.member.exactly(10) == b"still here"


async def test_tiny_writes_stay_in_order(joined: Joined) -> None:
    """Thousands of single bytes both ways arrive in order."""
    text = bytes(i % 251 for i in range(3000))

    async def drip(wire: Wire) -> None:
        for i in range(len(text)):
            await wire.send(text[i : i + 1])
            if not i % 100:
                await asyncio.sleep(0)

    _, _, up, down = await asyncio.gather(
        drip(joined.client), drip(joined.member), joined.member.exactly(3000), joined.client.exactly(3000)
    )
    assert up == down == text


async def test_one_bulk_flow_does_not_hold_the_others_up(driver: Driver) -> None:
    """While a member floods one client, a second client's questions are answered."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        await driver.apply(row(VIP, port, [member("be1", local(2))], listener.port, transparent=False))
        with await connect(VIP, port) as bulk, await listener.accept() as flood:
            sending = asyncio.create_task(stream(flood, 200_000_000, 4))
            reading = asyncio.create_task(bulk.digest())
            with await connect(VIP, port) as client, await listener.accept() as accepted:
                for _ in range(20):
                    await client.send(b"?")
                    assert await accepted.read() == b"?"
                    await accepted.send(b"!")
                    assert await client.read() == b"!"
                assert not reading.done() or driver.proxy.counters().rules["web"].bytes_out > 200_000_000
            assert (await reading)[1] == await sending


async def serve_endings(listener: Listener) -> None:
    """Be a member that ends every connection as its first byte asks."""

    async def serve(wire: Wire) -> None:
        with wire, suppress(ConnectionResetError):
            if await wire.read(1) == b"r":
                wire.reset()
            else:
                await wire.rest()

    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(serve(await listener.accept()))


async def test_fifteen_hundred_connections_leave_nothing_open(driver: Driver) -> None:
    """After thousands of connections, ended in every way, no descriptor, flow or timer is left."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        await driver.apply(row(VIP, port, [member("be1", local(2))], listener.port, transparent=False))
        before = descriptors()
        serving = asyncio.create_task(serve_endings(listener))
        limit = asyncio.Semaphore(50)

        async def visit(number: int) -> None:
            async with limit:
                with await connect(VIP, port) as client:
                    await client.send(b"orff"[number % 4 : number % 4 + 1])
                    match number % 4:
                        case 0:
                            client.reset()
                        case 1:
                            await client.expect_reset()
                        case 2:
                            client.fin()
                            await client.expect_fin()

        await asyncio.gather(*(visit(number) for number in range(1500)))
        await until(lambda: driver.proxy.counters().flows == 0, "every flow is over")
        assert not list(driver.proxy.flows())
        await until(lambda: descriptors() == before, f"descriptors are {before} again")
        assert driver.proxy.counters().rules["web"].syn == 1500
        serving.cancel()
        await asyncio.wait([serving])
