"""Rows 40 and 43: resets that were missed, and pings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from asynclb.lab import PATIENCE_S, Host
from tests.conformance.rows.bed import (
    SILENCE_S,
    TCP_PROBE,
    Bed,
    address_of,
    frontend,
    internal_vip,
    not_applicable,
    pool,
    rule,
    vip,
)
from tests.conformance.rows.test_rows_38_to_48 import FIRST, both_ends, load

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def muted(*hosts: Host) -> AsyncIterator[None]:
    """Let hosts hear no reset for the length of a block."""
    table = f"table ip deaf {{ chain in {{ {FIRST}; tcp flags & rst == rst counter drop; }}; }}"
    await asyncio.gather(*(host.check_output("nft", table) for host in hosts))
    try:
        yield
    finally:
        await asyncio.gather(*(host.check_output("nft", "delete table ip deaf") for host in hosts))


async def until_missed(*hosts: Host) -> None:
    """Return as soon as each muted host has missed a reset."""
    async with asyncio.timeout(PATIENCE_S):
        for host in hosts:
            while "counter packets 0 " in await host.check_output("nft", "list table ip deaf"):
                await asyncio.sleep(0.1)


async def test_row_40_reset_that_was_missed(bed: Bed) -> None:
    """Who did not hear the reset gets another one for whatever it sends later; both kernels believe it."""
    await load(bed, 40, tcp_reset=True)
    async with both_ends(bed, 40) as (client, member):
        taker = next(host for name, host in bed.members.items() if address_of(name) == member.name[0])
        async with muted(bed.client(), taker):
            await until_missed(bed.client(), taker)
            assert client.error() == member.error() == 0
        client.sock.send(b"anybody?")
        async with asyncio.timeout(PATIENCE_S):
            await client.expect_reset()
        member.sock.send(b"anybody?")
        async with asyncio.timeout(PATIENCE_S):
            await member.expect_reset()


async def ping(bed: Bed, address: str, size: int = 56) -> str:
    """Return what a client's ping hears of the address itself: `reply`, `unreachable` or `silence`."""
    words = ("ping", "-n", "-c", "1", "-W", str(SILENCE_S), "-s", str(size), address)
    process = await bed.client().run(*words)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while process.returncode is None:
                await asyncio.sleep(0.05)
    finally:
        await process.stop()
    said = "\n".join(process.stdout.splitlines())
    if "bytes from" in said:
        return "reply"
    return "unreachable" if f"From {address}" in said and "Unreachable" in said else "silence"


async def test_row_43_ping(bed: Bed) -> None:
    """A public frontend answers pings of 64 bytes by the health of its members; internal ones are silent."""
    if bed.datapath == "proxy":
        not_applicable(
            "pings are left to the host's own stack: answers from a VIP take CAP_NET_RAW, which the proxy does without"
        )
    frontends = {"vip": frontend(vip(43)), "inside": frontend(internal_vip(43))}
    rules = [rule(probe="tcp"), rule("inside", frontend="inside", backend_port=8081, probe="tcp")]
    probes = {"tcp": {**TCP_PROBE, "flap_damping": False}}
    everybody = pool(*bed.members)
    await bed.load(frontends=frontends, rules=rules, probes=probes)
    await bed.eligible("web", *bed.members)
    captures = [await host.run("tcpdump", "-lnni", "any", "icmp") for host in bed.members.values()]
    for capture in captures:
        await capture.wait_for_log("listening on")
    assert await ping(bed, vip(43)) == "reply"
    assert await ping(bed, vip(43), size=57) == "silence"
    assert await ping(bed, internal_vip(43)) == "silence"
    for probed in bed.probed.values():
        probed.down()
    await bed.eligible("web")
    assert await ping(bed, vip(43)) == "unreachable"
    off = {**everybody, "members": [{**member, "admin_state": "down"} for member in everybody["members"]]}
    await bed.load(frontends=frontends, rules=rules, probes=probes, backend_pools={"web": off})
    assert await ping(bed, vip(43)) == "silence"
    await bed.load(frontends=frontends, probes=probes)
    assert await ping(bed, vip(43)) == "silence"
    for capture in captures:
        await capture.stop()
        assert vip(43) not in capture.stdout


async def test_row_43_ping_through_ha_ports(bed: Bed) -> None:
    """HA ports carry pings to a member, whose own stack answers; its answer comes from the VIP."""
    if bed.datapath == "proxy":
        not_applicable("the proxy carries TCP and UDP only")
    address = internal_vip(43, more=1)
    ha = rule(protocol="all", frontend_port=0, backend_port=0)
    await bed.load(frontends={"vip": frontend(address)}, rules=[ha])
    assert await ping(bed, address, size=200) == "reply"
