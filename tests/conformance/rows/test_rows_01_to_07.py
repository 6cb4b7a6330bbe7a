"""Rows 1 to 7: what a rule does to a flow, and which flows meet the same member."""

import pytest

from tests.conformance.rows.bed import PORT, Bed, address_of, frontend, rule, shares, vip

pytestmark = pytest.mark.asyncio(loop_scope="session")
PORTS = range(42_000, 42_200)
EVERY = range(42_000, 46_000)


async def test_row_01_tcp_rule(bed: Bed) -> None:
    """A member sees the client's address and its own port; the bytes pass both ways as they are."""
    await bed.load(frontends={"vip": frontend(vip(1))}, rules=[rule()])
    with bed.serving():
        for number in (1, 2):
            async with bed.stream(vip(1), client=bed.client(number)) as (wire, answer):
                assert answer.client[0] == address_of(f"cli{number}")
                assert answer.asked[1] == PORT
                assert wire.peer == (vip(1), 80)
                assert await wire.echoes(bytes(range(256)) * 300)


async def test_row_02_udp_rule(bed: Bed) -> None:
    """A member sees the client's address, and the answer comes from the VIP's port, or the socket would not take it."""
    await bed.load(frontends={"vip": frontend(vip(2))}, rules=[rule(protocol="udp", frontend_port=53)])
    with bed.serving():
        for number in (1, 2):
            answer = await bed.ask(vip(2), 53, client=bed.client(number))
            assert (answer.client[0], answer.asked[1]) == (address_of(f"cli{number}"), PORT)


async def test_row_03_five_tuple(bed: Bed) -> None:
    """Connections from many ports spread evenly; one port comes back to one member."""
    await bed.load(frontends={"vip": frontend(vip(3))}, rules=[rule()])
    with bed.serving():
        found = await bed.visits(vip(3), EVERY)
        assert set(found) == set(bed.members)
        assert all(0.2 < share < 0.3 for share in shares(found).values()), shares(found)
        again = await bed.visits(vip(3), PORTS[:40])
        assert again == found[:40]


async def test_row_04_source_ip(bed: Bed) -> None:
    """With `source_ip` a client meets one member on every port and protocol of a frontend."""
    rules = [
        rule(
            f"{protocol}-{port}",
            protocol=protocol,
            frontend_port=port,
            distribution="source_ip",
            backend_port=PORT + port,
        )
        for protocol in ("tcp", "udp")
        for port in (80, 81)
    ]
    await bed.load(frontends={"vip": frontend(vip(4))}, rules=rules)
    with bed.serving(PORT + 80, PORT + 81):
        found = set(await bed.visits(vip(4), PORTS)) | set(await bed.visits(vip(4), PORTS, 81))
        found |= {(await bed.ask(vip(4), port, source_port=source)).member for port in (80, 81) for source in PORTS[:5]}
    assert len(found) == 1


async def test_row_05_source_ip_protocol(bed: Bed) -> None:
    """With `source_ip_protocol` TCP keeps to one member and UDP to one; for some the two differ."""
    names = [f"vip{number}" for number in range(8)]
    fields = {"distribution": "source_ip_protocol"}
    rules = [
        rule(f"{name}-{protocol}", frontend=name, protocol=protocol, backend_port=PORT + index, **fields)
        for index, name in enumerate(names)
        for protocol in ("tcp", "udp")
    ]
    vips = [vip(5, more=number) if number < 2 else f"203.0.114.{number}" for number in range(8)]
    await bed.load(frontends={name: frontend(one) for name, one in zip(names, vips, strict=True)}, rules=rules)
    pairs = []
    with bed.serving(*(PORT + index for index in range(8))):
        for number, one in enumerate(vips):
            client = bed.client(1 + number % 2)
            by_tcp = set(await bed.visits(one, PORTS[:12], client=client))
            by_udp = {(await bed.ask(one, source_port=source, client=client)).member for source in PORTS[:12]}
            assert (len(by_tcp), len(by_udp)) == (1, 1)
            pairs.append((by_tcp, by_udp))
    assert any(by_tcp != by_udp for by_tcp, by_udp in pairs)


async def test_row_06_mode_switch(bed: Bed) -> None:
    """A stream survives a change of the distribution, and new flows follow the new one at once."""
    await bed.load(frontends={"vip": frontend(vip(6))}, rules=[rule()])
    with bed.serving():
        async with bed.stream(vip(6)) as (wire, _):
            assert await wire.echoes()
            await bed.load(frontends={"vip": frontend(vip(6))}, rules=[rule(distribution="source_ip")])
            assert await wire.echoes()
            assert len(set(await bed.visits(vip(6), PORTS[:40]))) == 1
            await bed.load(frontends={"vip": frontend(vip(6))}, rules=[rule()])
            assert await wire.echoes()
            assert len(set(await bed.visits(vip(6), PORTS[100:140]))) == len(bed.members)


async def test_row_07_many_frontends(bed: Bed) -> None:
    """The same port of two frontends leads to different ports of the members."""
    frontends = {"vip": frontend(vip(7)), "two": frontend(vip(7, more=1))}
    await bed.load(frontends=frontends, rules=[rule(), rule("second", frontend="two", backend_port=PORT + 1)])
    with bed.serving(PORT, PORT + 1):
        assert (await bed.visit(vip(7))).asked[1] == PORT
        assert (await bed.visit(vip(7, more=1))).asked[1] == PORT + 1
