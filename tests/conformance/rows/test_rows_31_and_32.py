"""Rows 28, 29, 31 and 32: what keeps flows where they are, and what moves them."""

import asyncio
import socket
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

from tests.conformance.rows.bed import TCP_PROBE, Bed, answer_to, frontend, pool, rule, vip
from tests.unit.proxy.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNDAMPED = {"probes": {"tcp": {**TCP_PROBE, "flap_damping": False}}}


THREE = ("be1", "be2", "be3")
FOUR = (*THREE, "be4")


async def takers(sockets: list[socket.socket]) -> list[str]:
    """Return who answers each of some flows."""
    return [(await answer_to(sock)).member for sock in sockets]


def parts(row: int, *members: str, on_frontend: bool | None = None, **fields: Any) -> dict[str, Any]:
    """Return a configuration with one UDP rule."""
    more = {} if on_frontend is None else {"connection_tracking": on_frontend}
    return {
        "frontends": {"vip": frontend(vip(row), **more)},
        "backend_pools": {"web": pool(*members)},
        "rules": [rule("dns", **{"protocol": "udp", "frontend_port": 53, "probe": "tcp", **fields})],
        **UNDAMPED,
    }


async def moved(bed: Bed, before: dict[str, Any], after: dict[str, Any], port: int) -> tuple[list[str], list[str]]:
    """Return who answers running flows before and after a change."""
    await bed.load(**before)
    with bed.serving(), ExitStack() as stack:
        await bed.eligible("dns", *THREE)
        sockets = [stack.enter_context(bed.asking(vip(32), 53, source_port=port + n)) for n in range(24)]
        first = await takers(sockets)
        await bed.load(**after)
        await bed.eligible("dns", *FOUR)
        return first, await takers(sockets)


async def test_row_32_udp_tracking_of_a_rule(bed: Bed) -> None:
    """With tracking, running flows stay when a member comes; without, some go to it at once."""
    for first_port, tracks in ((45_000, True), (45_200, False)):
        fields = {"connection_tracking": tracks}
        first, after = await moved(bed, parts(32, *THREE, **fields), parts(32, *FOUR, **fields), first_port)
        assert (first == after) is tracks
        assert ("be4" in after) is not tracks


async def test_row_32_the_frontend_outweighs_the_rule(bed: Bed) -> None:
    """What the frontend says holds, whatever its rules say."""
    for first_port, tracks in ((45_400, True), (45_600, False)):
        fields: dict[str, Any] = {"on_frontend": tracks, "connection_tracking": not tracks}
        first, after = await moved(bed, parts(32, *THREE, **fields), parts(32, *FOUR, **fields), first_port)
        assert (first == after) is tracks


async def test_row_31_udp_that_always_stays(bed: Bed) -> None:
    """With `persistence_on_unhealthy: always`, flows go on with a member that goes down."""
    await bed.load(**parts(32, *FOUR, persistence_on_unhealthy="always"))
    with bed.serving(), bed.asking(vip(32), 53, source_port=45_100) as sock:
        await bed.eligible("dns", *FOUR)
        first = (await answer_to(sock)).member
        bed.probed[first].down()
        await bed.eligible("dns", *(set(FOUR) - {first}))
        assert (await answer_to(sock)).member == first


NEVER = {"persistence_on_unhealthy": "never", "protocol": "tcp", "frontend_port": 80}
"""Fields that make the rule one for TCP, whose connections leave members that go down."""


async def is_reset(wire: Wire) -> bool:
    """Return whether a connection is reset when its client speaks; it must be so at once."""
    try:
        async with asyncio.timeout(5):
            await wire.echoes()
    except ConnectionResetError:
        return True
    return False


async def test_row_28_connections_that_never_stay(bed: Bed) -> None:
    """With `persistence_on_unhealthy: never`, a connection leaves a member that goes down; others go on.

    The member that it comes to does not know it and says so; the proxy, which cannot move it, says so itself.
    """
    await bed.load(**parts(28, *FOUR, **NEVER))
    with bed.serving():
        await bed.eligible("dns", *FOUR)
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(bed.stream(vip(28), source_port=46_000 + n)) for n in range(16)]
            assert all([await wire.echoes() for wire, _ in streams])
            bed.probed["be2"].down()
            await bed.eligible("dns", "be1", "be3", "be4")
            reset = [answer.member for wire, answer in streams if await is_reset(wire)]
            assert reset == [answer.member for _, answer in streams if answer.member == "be2"] != []


async def test_row_29_connections_that_never_stay_with_nobody_left(bed: Bed) -> None:
    """With nobody up, such a connection goes on nowhere, and no new one begins."""
    await bed.load(**parts(29, *FOUR, **NEVER))
    with bed.serving():
        await bed.eligible("dns", *FOUR)
        async with bed.stream(vip(29)) as (wire, _):
            assert await wire.echoes()
            for probed in bed.probed.values():
                probed.down()
            await bed.eligible("dns")
            assert await bed.is_silent(vip(29))
            with pytest.raises((TimeoutError, ConnectionResetError)):
                async with asyncio.timeout(1):
                    await wire.echoes()
