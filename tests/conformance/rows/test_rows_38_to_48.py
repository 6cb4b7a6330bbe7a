"""Rows 38 to 48: idle timeouts and resets, fragments, members that are clients, inbound NAT rules."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asynclb.lab import PATIENCE_S
from tests.conformance.rows.bed import (
    PORT,
    SILENCE_S,
    Bed,
    address_of,
    answer_to,
    frontend,
    nat_rule,
    not_applicable,
    pool,
    rule,
    takers,
    vip,
)
from tests.conformance.rows.services import Answer, listen, services
from tests.unit.proxy.wire import Wire, connect

pytestmark = pytest.mark.asyncio(loop_scope="session")

IDLE_S = 1.5
"""A minute of the original, scaled: long enough for keep-alives at half of it on a busy machine."""

DNS = PORT + 1
FIRST = "type filter hook prerouting priority -300"  # in the words of nft: before anybody else sees a packet

SWEEP_S = 10.0
"""How late a datapath may find an idle flow: it visits its flow table in turns, which takes seconds for a million."""


async def load(bed: Bed, row: int, **fields: Any) -> None:
    """Load a TCP rule and a UDP rule with the idle timeout."""
    more: dict[str, Any] = {"idle_timeout": "1500ms", **fields}
    rules = [rule(**more), rule("dns", protocol="udp", frontend_port=53, backend_port=DNS, **more)]
    await bed.load(frontends={"vip": frontend(vip(row))}, rules=rules)


@asynccontextmanager
async def both_ends(bed: Bed, row: int) -> AsyncIterator[tuple[Wire, Wire]]:
    """Open a connection of which the test has both ends: the client's and the member's."""
    listeners = {name: listen(host, address_of(name), PORT, socket.SOCK_STREAM) for name, host in bed.members.items()}
    try:
        with await connect(vip(row), 80, host=bed.client()) as client:
            accepted = None
            async with asyncio.timeout(PATIENCE_S):
                while accepted is None:
                    for sock in listeners.values():
                        try:
                            accepted = sock.accept()[0]
                        except BlockingIOError:
                            continue
                    await asyncio.sleep(0.005)
            with Wire(accepted) as member:
                await client.send(b"hello")
                assert await member.exactly(5) == b"hello"
                yield client, member
    finally:
        for sock in listeners.values():
            sock.close()


async def test_row_38_idle_timeout(bed: Bed) -> None:
    """Packets either way keep a flow; one that is silent for the timeout is gone; UDP goes on as if nothing were."""

    async def over_tcp() -> None:
        async with both_ends(bed, 38) as (client, member):
            for turn in range(3):
                await asyncio.sleep(IDLE_S / 2)
                sender, receiver = (client, member) if turn % 2 else (member, client)
                await sender.send(b"alive")
                assert await receiver.exactly(5) == b"alive"
            async with asyncio.timeout(IDLE_S + SWEEP_S):
                await client.expect_reset()

    async def over_udp() -> None:
        with bed.serving(DNS), bed.asking(vip(38), 53) as sock:
            await answer_to(sock)
            await asyncio.sleep(1.5 * IDLE_S)
            await answer_to(sock)

    await load(bed, 38, tcp_reset=True)
    await asyncio.gather(over_tcp(), over_udp())


async def test_row_39_reset_off(bed: Bed) -> None:
    """A flow that idled out is dropped in silence: neither end hears of it, and what the client sends is lost."""
    await load(bed, 39)
    async with both_ends(bed, 39) as (client, member):
        await asyncio.sleep(1.5 * IDLE_S)
        assert client.error() == 0
        assert member.error() == 0
        client.sock.send(b"anybody?")
        if bed.datapath == "proxy":
            async with asyncio.timeout(PATIENCE_S):
                await client.expect_reset()
            not_applicable("the host's kernel answers later packets of a connection that the proxy forgot with a reset")
        assert await client.is_quiet(SILENCE_S)


async def test_row_40_reset_on(bed: Bed) -> None:
    """Both ends get a reset that they accept, at the timeout."""
    await load(bed, 40, tcp_reset=True)
    async with both_ends(bed, 40) as (client, member):
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(IDLE_S + SWEEP_S):
            await asyncio.gather(client.expect_reset(), member.expect_reset())
        assert asyncio.get_running_loop().time() - began > 0.6 * IDLE_S


async def test_row_42_range_of_timeouts(bed: Bed) -> None:
    """With `compat: azure` less than 4 minutes is refused; more than 100 (outbound rules: 120) always is."""
    frontends = {"vip": frontend(vip(42))}
    azure = {"frontends": frontends, "probes": {}, "compat": "azure"}
    await bed.load(frontends=frontends, rules=[rule()])
    assert (await bed.refused(**azure, rules=[rule(idle_timeout="3m")])).problems[0]["where"] == "rules[0].idle_timeout"
    for timeout in ("101m", "0s"):
        refused = await bed.refused(frontends=frontends, rules=[rule(idle_timeout=timeout)])
        assert refused.problems[0]["where"] == "rules[0].idle_timeout"
    outbound = {"name": "out", "frontends": ["vip"], "backend_pool": "web", "idle_timeout": "121m"}
    refused = await bed.refused(**azure, rules=[rule()], outbound_rules=[outbound])
    assert "outbound_rules[0].idle_timeout" in {problem["where"] for problem in refused.problems}
    with bed.serving():
        await bed.load(**azure, rules=[rule(idle_timeout="100m")])
        await bed.visit(vip(42))


async def test_row_44_fragments(bed: Bed) -> None:
    """A datagram of 4,000 bytes over links of 1,500 arrives whole, and so does its answer."""
    await bed.load(frontends={"vip": frontend(vip(44))}, rules=[rule(protocol="udp")])
    with bed.serving(), bed.asking(vip(44)) as sock:
        data = bytes(index % 251 for index in range(4000))
        async with asyncio.timeout(PATIENCE_S):
            sock.send(data)
            answer = await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
        said, _, echoed = answer.partition(b"\n")
        assert Answer.read(said).client == sock.getsockname()
        assert echoed == data


async def test_row_45_hairpin(bed: Bed) -> None:
    """A member reaches its own VIP every time, also where it is its own member."""
    await bed.load(frontends={"vip": frontend(vip(45))}, rules=[rule()])
    with bed.serving():
        found = [(await bed.visit(vip(45), client=bed.members["be1"])).member for _ in range(100)]
    assert set(found) == set(bed.members)


async def test_row_46_one_port_to_one_member(bed: Bed) -> None:
    """A port of an inbound NAT rule reaches its member and no other, also while its probe fails."""
    await bed.load(
        frontends={"vip": frontend(vip(46))},
        rules=[rule(probe="tcp")],
        inbound_nat_rules=[nat_rule("ssh", frontend_port=5022, member="be1", backend_port=PORT + 1)],
    )
    with bed.serving(PORT), services([(bed.members["be1"], address_of("be1"), PORT + 1)]):
        await bed.eligible("web", *bed.members)
        bed.probed["be1"].down()
        await bed.eligible("web", "be2", "be3", "be4")
        found = {(await bed.visit(vip(46), 5022, client=bed.client(1 + n % 2))).member for n in range(10)}
        assert found == {"be1"}
        answer = await bed.visit(vip(46), 5022)
        assert (answer.client[0], answer.asked[1]) == (address_of("cli1"), PORT + 1)
        assert await bed.is_silent(vip(46), 5023)


async def test_row_47_a_port_for_each_member(bed: Bed) -> None:
    """Each member has a port and keeps it while others come and go; a range without room refuses growth."""
    frontends = {"vip": frontend(vip(47))}
    nat = nat_rule("ssh", frontend_port_range="5000-5002", protocol="all")

    async def members(*names: str) -> dict[int, str]:
        state = await bed.load(frontends=frontends, backend_pools={"web": pool(*names)}, inbound_nat_rules=[nat])
        mappings = state["inbound_nat_rules"][0]["mappings"]
        return {one["frontend_port"]: one["member"] for one in mappings}

    with bed.serving():
        assert await members("be1", "be2", "be3") == {5000: "be1", 5001: "be2", 5002: "be3"}
        for port, member in {5000: "be1", 5001: "be2", 5002: "be3"}.items():
            assert (await bed.visit(vip(47), port)).member == member
            assert (await bed.ask(vip(47), port)).member == member
        async with bed.stream(vip(47), 5001) as (wire, _):
            assert await members("be2", "be3") == {5001: "be2", 5002: "be3"}
            assert await wire.echoes()
            assert (await bed.visit(vip(47), 5002)).member == "be3"
            assert await members("be4", "be2", "be3") == {5000: "be4", 5001: "be2", 5002: "be3"}
            assert (await bed.visit(vip(47), 5000)).member == "be4"
            everybody = {"backend_pools": {"web": pool(*bed.members)}, "inbound_nat_rules": [nat]}
            refused = await bed.refused(frontends=frontends, **everybody)
            assert refused.codes == {"NAT_RANGE_EXHAUSTED"}
            assert "room for 3 of the 4 members" in refused.problems[0]["rule"]
            cut = {**everybody, "backend_pools": {"web": pool("be3")}}
            cut["inbound_nat_rules"] = [{**nat, "frontend_port_range": "5000-5001"}]
            assert (await bed.refused(frontends=frontends, **cut)).codes == {"NAT_RANGE_IN_USE"}
            assert await wire.echoes()
        assert (await bed.visit(vip(47), 5001)).member == "be2"
    assert takers(await bed.state(), "ssh/be2") == {"be2"}


async def test_row_48_frontend_ports_that_clash(bed: Bed) -> None:
    """A port of a frontend and protocol belongs to one rule, of whichever kind; what was active goes on."""
    frontends = {"vip": frontend(vip(48))}
    nat = nat_rule(frontend_port_range="5000-5003", backend_port=PORT + 1)
    await bed.load(frontends=frontends, rules=[rule()], inbound_nat_rules=[nat])
    for parts in (
        {"rules": [rule(frontend_port=5002)], "inbound_nat_rules": [nat]},
        {"inbound_nat_rules": [nat, nat_rule("other", frontend_port_range="5003-5006")]},
        {"inbound_nat_rules": [nat, nat_rule("other", frontend_port=5000, member="be1", protocol="all")]},
    ):
        assert (await bed.refused(frontends=frontends, **parts)).codes == {"FRONTEND_PORT_TAKEN"}
    with bed.serving(PORT, PORT + 1):
        await bed.visit(vip(48))
        assert (await bed.visit(vip(48), 5001)).member == "be2"
        udp = rule("udp", protocol="udp", frontend_port=5002)
        await bed.load(frontends=frontends, rules=[rule(), udp], inbound_nat_rules=[nat])
        assert (await bed.visit(vip(48), 5002)).member == "be3"
        await bed.ask(vip(48), 5002)


async def test_row_41_half_open_flows(bed: Bed) -> None:
    """A handshake that never ended is forgotten without a reset to the client."""
    await load(bed, 41, tcp_reset=True)
    client = bed.client()
    dropped = f"ip saddr {vip(41)} tcp flags & (syn|ack) == syn|ack drop"
    await client.check_output("nft", f"table ip mute {{ chain in {{ {FIRST}; {dropped}; }}; }}")
    try:
        capture = await client.run("tcpdump", "-lnni", "any", f"src {vip(41)} and tcp[tcpflags] & tcp-rst != 0")
        await capture.wait_for_log("listening on")
        with bed.serving():
            with pytest.raises(TimeoutError):
                await connect(vip(41), 80, host=client, wait_s=0.5)
            await asyncio.sleep(2 * IDLE_S)
        await capture.stop()
        assert [found for found in capture.stdout.splitlines() if "Flags [R" in found] == []
    finally:
        await client.check_output("nft", "delete table ip mute")
