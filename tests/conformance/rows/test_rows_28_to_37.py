"""Rows 28 to 37: what happens to flows when members go down, are taken out, and come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conformance.rows.bed import (
    PORT,
    TCP_PROBE,
    Answer,
    Bed,
    address_of,
    answer_to,
    frontend,
    health,
    nat_rule,
    pool,
    rule,
    vip,
)
from tests.unit.proxy.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = range(42_000, 42_060)
UNDAMPED = {"probes": {"tcp": {**TCP_PROBE, "flap_damping": False}}}


def parts(row: int, *, members: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a configuration of two probed rules, TCP 80 and UDP 53; `fields` are those of both."""
    rules = [rule(probe="tcp", **fields), rule("dns", probe="tcp", protocol="udp", frontend_port=53, **fields)]
    more = {} if members is None else {"backend_pools": {"web": members}}
    return {"frontends": {"vip": frontend(vip(row))}, "rules": rules, **UNDAMPED, **more}


def with_state(member: str, admin_state: str) -> dict[str, Any]:
    """Return the pool of every member, one of them with an admin state."""
    found = pool("be1", "be2", "be3", "be4")
    next(one for one in found["members"] if one["name"] == member)["admin_state"] = admin_state
    return found


@asynccontextmanager
async def stream_to(bed: Bed, row: int, member: str) -> AsyncIterator[tuple[Wire, Answer]]:
    """Open a connection that one member takes."""
    for source in MANY:
        async with bed.stream(vip(row), source_port=source) as (wire, answer):
            if answer.member == member:
                assert await wire.echoes()
                yield wire, answer
                return
            wire.reset()
    raise AssertionError(f"no flow comes to {member}")


async def test_row_28_one_member_down(bed: Bed) -> None:
    """New flows avoid a member whose probe fails, and its open connection goes on."""
    await bed.load(**parts(28))
    with bed.serving():
        await bed.eligible("web", *bed.members)
        async with stream_to(bed, 28, "be2") as (wire, _):
            bed.probed["be2"].down()
            await bed.eligible("web", "be1", "be3", "be4")
            assert "be2" not in await bed.visits(vip(28), range(43_000, 43_200))
            assert await wire.echoes()


async def test_row_29_all_down_drop(bed: Bed) -> None:
    """With nobody healthy a SYN is not answered at all, and open connections go on."""
    await bed.load(**parts(29))
    with bed.serving():
        await bed.eligible("web", *bed.members)
        async with stream_to(bed, 29, "be3") as (wire, _):
            for probed in bed.probed.values():
                probed.down()
            await bed.eligible("web")
            assert await bed.is_silent(vip(29))
            assert await wire.echoes()


async def test_row_30_all_down_all(bed: Bed) -> None:
    """With `no_healthy_members: all` and nobody healthy, everybody takes new flows."""
    await bed.load(**parts(30, no_healthy_members="all"))
    with bed.serving():
        await bed.eligible("web", *bed.members)
        for probed in bed.probed.values():
            probed.down()
        await bed.until(lambda state: state["rules"][0]["state"] == "all_down", "everybody is down")
        state = await bed.state()
        found = {(health(state, name)["state"], health(state, name)["reason"]) for name in bed.members}
        assert found == {("up", "Up_Probe_AllDownIsUp")}
        assert set(await bed.visits(vip(30), range(43_000, 43_200))) == set(bed.members)


async def test_row_31_udp_moves(bed: Bed) -> None:
    """A UDP flow leaves a member that goes down for another one; with nobody healthy it is not answered."""
    await bed.load(**parts(31))
    with bed.serving():
        await bed.eligible("dns", *bed.members)
        with bed.asking(vip(31), 53, source_port=44_000) as sock:
            first = (await answer_to(sock)).member
            assert (await answer_to(sock)).member == first
            bed.probed[first].down()
            await bed.eligible("dns", *(bed.members.keys() - {first}))
            assert (await answer_to(sock)).member != first
            for probed in bed.probed.values():
                probed.down()
            await bed.eligible("dns")
            sock.send(b"?")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asyncio.get_running_loop().sock_recv(sock, 1 << 16)


async def test_row_33_admin_state_up(bed: Bed) -> None:
    """A member that the operator has put up takes flows though its probe fails, with that reason."""
    bed.probed["be2"].down()
    await bed.load(**parts(33, members=with_state("be2", "up")))
    with bed.serving():
        await bed.eligible("web", *bed.members)
        assert health(await bed.state(), "be2")["reason"] == "Up_Admin"
        assert "be2" in await bed.visits(vip(33), MANY)


async def test_row_34_admin_state_down(bed: Bed) -> None:
    """A member that is put down takes nothing new, keeps its TCP connections and loses its UDP flows."""
    await bed.load(**parts(34))
    with bed.serving():
        await bed.eligible("web", *bed.members)
        async with stream_to(bed, 34, "be1") as (wire, _):
            with bed.asking(vip(34), 53, source_port=udp_port_of(bed, await udp_takers(bed, 34), "be1")) as sock:
                assert (await answer_to(sock)).member == "be1"
                await bed.load(**parts(34, members=with_state("be1", "down")))
                await bed.eligible("web", "be2", "be3", "be4")
                assert health(await bed.state(), "be1")["reason"] == "Down_Admin"
                assert "be1" not in await bed.visits(vip(34), range(43_000, 43_200))
                assert await wire.echoes()
                assert (await answer_to(sock)).member != "be1"


async def udp_takers(bed: Bed, row: int) -> dict[int, str]:
    """Return who answers datagrams from some source ports."""
    return {source: (await bed.ask(vip(row), 53, source_port=source)).member for source in range(44_000, 44_024)}


def udp_port_of(_bed: Bed, takers: dict[int, str], member: str) -> int:
    """Return a source port that one member answers."""
    return next(source for source, found in takers.items() if found == member)


async def test_row_35_scope_of_the_admin_state(bed: Bed) -> None:
    """An admin state is that of a member in one pool: other pools, and inbound NAT rules, reach the member."""
    rules = [rule(), rule("other", frontend_port=81, backend_port=PORT + 1, backend_pool="other")]
    rules = [{**one, "probe": "tcp"} for one in rules]
    await bed.load(
        frontends={"vip": frontend(vip(35))},
        backend_pools={"web": with_state("be2", "down"), "other": pool(*bed.members)},
        rules=rules,
        inbound_nat_rules=[nat_rule(frontend_port=5022, member="be2", backend_port=PORT + 2)],
    )
    with bed.serving(PORT, PORT + 1, PORT + 2):
        await bed.eligible("web", "be1", "be3", "be4")
        await bed.eligible("other", *bed.members)
        assert "be2" not in await bed.visits(vip(35), MANY)
        assert "be2" in await bed.visits(vip(35), MANY, 81)
        assert (await bed.visit(vip(35), 5022)).member == "be2"


async def test_row_37_addition_of_a_member(bed: Bed) -> None:
    """A fifth of the flows moves to a fifth member, no others move, and open connections stay."""
    four = pool("be1", "be2", "be3", "be4")
    three = pool("be1", "be2", "be3")
    frontends = {"vip": frontend(vip(37))}
    await bed.load(frontends=frontends, backend_pools={"web": three}, rules=[rule()])
    ports = range(42_000, 42_400)
    with bed.serving():
        before = await bed.visits(vip(37), ports)
        async with bed.stream(vip(37)) as (wire, _):
            await bed.load(frontends=frontends, backend_pools={"web": four}, rules=[rule()])
            assert await wire.echoes()
            after = await bed.visits(vip(37), ports)
        moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        to_the_new = [pair for pair in moved if pair[1] == "be4"]
        assert 0.18 < len(to_the_new) / len(before) < 0.32
        assert len(moved) - len(to_the_new) <= 0.04 * len(before)
        assert address_of("be4") == "10.0.2.14"
