"""Rows 60 to 75: who is let in, families, zones, what is shown, limits, and changes under load."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from asynclb.lab import PATIENCE_S
from tests.conformance.rows.bed import (
    PORT,
    PROBE_PORT,
    TCP_PROBE,
    Bed,
    address_of,
    frontend,
    health,
    internal_vip,
    nat_rule,
    pool,
    rule,
    vip,
)
from tests.conformance.rows.test_rows_15_to_27 import HTTP, Http

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = range(42_000, 42_060)
PROBED = {"probe": "tcp"}


async def test_row_60_secure_by_default(bed: Bed) -> None:
    """A public frontend answers nobody until it says whom; an internal one answers private addresses; probes pass."""
    closed = {"vip": {"address": vip(60)}, "inside": {"address": internal_vip(60)}}
    rules = [
        rule("closed", **PROBED),
        rule("inside", **PROBED, frontend="inside", backend_port=PORT + 1),
        rule("closed-dns", protocol="udp", frontend_port=53),
    ]
    await bed.load(frontends=closed, rules=rules)
    with bed.serving(PORT, PORT + 1):
        await bed.eligible("closed", *bed.members)
        assert await bed.is_silent(vip(60))
        assert await bed.is_silent_udp(vip(60), 53)
        assert await bed.flows("closed", "closed-dns") == []
        await bed.visit(internal_vip(60))
        await bed.load(frontends={**closed, "vip": frontend(vip(60))}, rules=rules)
        await bed.visit(vip(60))
        await bed.ask(vip(60), 53)


async def test_row_61_allowed_sources(bed: Bed) -> None:
    """A frontend answers the sources that it allows; others are counted, and neither answered nor kept in mind."""
    only = {"vip": frontend(vip(61), allow=[f"{address_of('cli1')}/32"])}
    await bed.load(
        frontends=only,
        rules=[rule("some"), rule("some-dns", protocol="udp", frontend_port=53)],
        inbound_nat_rules=[nat_rule("some-nat", frontend_port=5022, member="be1", backend_port=PORT + 1)],
    )
    with bed.serving(PORT, PORT + 1):
        first, second = bed.client(1), bed.client(2)
        before = await drops(bed, "source_not_allowed")
        for port in (80, 5022):
            await bed.visit(vip(61), port, client=first)
            assert await bed.is_silent(vip(61), port, client=second)
        await bed.ask(vip(61), 53, client=first)
        assert await bed.is_silent_udp(vip(61), 53, client=second)
        assert await drops(bed, "source_not_allowed") > before
        known = {flow["client"].partition(":")[0] for flow in await bed.flows("some", "some-dns", "some-nat")}
        assert known <= {address_of("cli1")}


async def drops(bed: Bed, reason: str) -> float:
    """Return how many drops of a reason the datapath has counted."""
    return (await bed.metrics())[f'asynclb_drops_total{{datapath="{bed.datapath}",reason="{reason}"}}']


async def test_row_62_dual_stack(bed: Bed) -> None:
    """Each family has a frontend, a pool and health of its own; one going down leaves the other."""
    await bed.load(
        frontends={"vip": frontend(vip(62)), "six": frontend(vip(62, 6))},
        backend_pools={"web": pool(*bed.members), "web6": pool(*bed.members, version=6)},
        rules=[rule(**PROBED), rule("six", frontend="six", backend_pool="web6", probe="six")],
        probes={"tcp": TCP_PROBE, "six": {**TCP_PROBE, "port": PORT}},
    )
    with bed.serving(), bed.serving(version=6):
        await bed.eligible("web", *bed.members)
        await bed.eligible("six", *bed.members)
        bed.probed["be1"].down()
        await bed.eligible("web", "be2", "be3", "be4")
        assert "be1" not in await bed.visits(vip(62), MANY)
        assert set(await bed.visits(vip(62, 6), MANY)) == set(bed.members)
        answer = await bed.visit(vip(62, 6))
        assert answer.client[0] == address_of("cli1", 6)
    with bed.serving():
        await bed.eligible("six")
        assert await bed.is_silent(vip(62, 6))
        await bed.visit(vip(62))


async def test_row_63_zones(bed: Bed) -> None:
    """A zone that is lost takes its members with it and no others; zone affinity prefers the frontend's own."""
    members = pool(*bed.members)
    for number, member in enumerate(members["members"]):
        member["zone"] = str(1 + number // 2)
    parts: dict[str, Any] = {
        "frontends": {
            "vip": frontend(vip(63), zones=["1"]),
            "own": frontend(vip(63, more=1), zones=["1"], zone_affinity=True),
        },
        "backend_pools": {"web": members},
        "rules": [rule(**PROBED), rule("own", frontend="own", backend_port=PORT + 1, **PROBED)],
    }
    await bed.load(**parts)
    with bed.serving(PORT, PORT + 1):
        await bed.eligible("web", *bed.members)
        assert set(await bed.visits(vip(63), MANY)) == set(bed.members)
        assert set(await bed.visits(vip(63, more=1), MANY)) == {"be1", "be2"}
        for name in ("be1", "be2"):
            bed.probed[name].down()
        await bed.eligible("web", "be3", "be4")
        assert set(await bed.visits(vip(63), MANY)) == {"be3", "be4"}
        assert set(await bed.visits(vip(63, more=1), MANY)) == {"be3", "be4"}
        azure = {**parts, "compat": "azure", "probes": {"tcp": {**TCP_PROBE, "interval": "5s", "timeout": "5s"}}}
        azure["frontends"] = {"vip": frontend(vip(63), zones=["2"])}
        azure["rules"] = parts["rules"][:1]
        assert (await bed.refused(**azure)).codes == {"FRONTEND_ZONES_FIXED"}
        await bed.visit(vip(63))


async def test_row_66_metrics(bed: Bed) -> None:
    """Counters of a rule and its members follow the traffic."""
    await bed.load(frontends={"vip": frontend(vip(66))}, rules=[rule("row66", **PROBED)])
    with bed.serving():
        await bed.eligible("row66", *bed.members)
        await bed.visits(vip(66), MANY)
        async with bed.stream(vip(66)) as (wire, _):
            assert await wire.echoes(bytes(5000))
            async with asyncio.timeout(PATIENCE_S):  # open flows may be counted once in a few seconds only
                while (found := await bed.metrics())['asynclb_rule_flows{rule="row66"}'] < 1:
                    await asyncio.sleep(0.2)
        assert found['asynclb_rule_syn_total{rule="row66"}'] == len(MANY) + 1
        assert found['asynclb_rule_new_flows_total{rule="row66"}'] == len(MANY) + 1
        assert found['asynclb_rule_bytes_total{direction="in",rule="row66"}'] >= 5000
        assert found['asynclb_rule_bytes_total{direction="out",rule="row66"}'] >= 5000
        assert found['asynclb_frontend_availability_ratio{frontend="vip"}'] == 1
        assert found['asynclb_member_up{member="be1",pool="web",probe="tcp"}'] == 1
        for probed in bed.probed.values():
            probed.down()
        await bed.eligible("row66")
        assert await bed.is_silent(vip(66))
        found = await bed.metrics()
        assert found['asynclb_frontend_availability_ratio{frontend="vip"}'] == 0
        assert found['asynclb_member_up{member="be1",pool="web",probe="tcp"}'] == 0


async def test_row_69_health_status(bed: Bed) -> None:
    """Each reason is provoked once, and flows follow it."""
    members = {"web": pool("be1")}

    async def becomes(*reasons: str, **probe: Any) -> None:
        await bed.load(
            frontends={"vip": frontend(vip(69))},
            backend_pools=members,
            rules=[rule(**PROBED)],
            probes={"tcp": {**HTTP, "flap_damping": False, **probe}},
        )
        await bed.until(lambda state: health(state, "be1")["reason"] in reasons, " or ".join(reasons))

    with bed.serving():
        await becomes("Down_Probe_TcpReset", host="none")
        await becomes("Down_Probe_HttpEndpointUnreachable", "Down_Probe_HttpNoResponse", port=PROBE_PORT)
        async with Http(bed, "be1") as server:
            await becomes("Up_Probe_Success", host="a")
            await bed.eligible("web", "be1")
            await bed.visit(vip(69))
            server.status = 503
            await becomes("Down_Probe_HttpStatusCodeError", host="b")
            server.delay_s = 1.0
            await becomes("Down_Probe_HttpNoResponse", host="c")
            await bed.eligible("web")
            assert await bed.is_silent(vip(69))
        for state, said in (("up", "Up_Admin"), ("down", "Down_Admin")):
            members["web"] = pool("be1", each={"admin_state": state})
            await becomes(said, host=state)
            await bed.eligible("web", *(["be1"] if state == "up" else []))
            assert (await bed.is_silent(vip(69))) == (state == "down")


async def test_row_69_on_the_way_to_a_threshold(bed: Bed) -> None:
    """While failures or successes are counted the reason says so, and flows go by the state that still is."""
    probe = {**TCP_PROBE, "interval": "500ms", "timeout": "500ms", "threshold": 3, "flap_damping": False}
    backends = {"web": pool("be1")}

    async def because(reason: str) -> None:
        await bed.until(lambda state: health(state, "be1")["reason"] == reason, reason)

    with bed.serving():
        await bed.load(
            frontends={"vip": frontend(vip(69, more=1))},
            backend_pools=backends,
            rules=[rule(**PROBED)],
            probes={"tcp": probe},
        )
        await because("Down_Probe_ApproachingHealthyThreshold")
        assert await bed.is_silent(vip(69, more=1))
        await because("Up_Probe_Success")
        bed.probed["be1"].down()
        await because("Up_Probe_ApproachingUnhealthyThreshold")
        await bed.visit(vip(69, more=1))
        await because("Down_Probe_TcpReset")
        await bed.eligible("web")  # in the datapath as well
        assert await bed.is_silent(vip(69, more=1))


async def test_row_69_no_answer_at_all(bed: Bed) -> None:
    """A member that drops what probes send is down for that reason; once it answers it is up, and flows follow."""
    address, member = vip(69, more=1), bed.members["be1"]
    mute = f"type filter hook prerouting priority -300; tcp dport {PROBE_PORT} drop;"
    await member.check_output("nft", f"table ip mute {{ chain in {{ {mute} }}; }}")
    try:
        await bed.load(
            frontends={"vip": frontend(address)},
            backend_pools={"web": pool("be1")},
            rules=[rule(**PROBED)],
            probes={"tcp": {**TCP_PROBE, "flap_damping": False}},
        )
        await bed.until(lambda state: health(state, "be1")["reason"] == "Down_Probe_TcpProbeTimeout", "silence")
        assert await bed.is_silent(address)
    finally:
        await member.check_output("nft", "delete table ip mute")
    with bed.serving():
        await bed.eligible("web", "be1")
        await bed.visit(address)


async def test_row_74_limits(bed: Bed) -> None:
    """The rule after the last one is refused with the number; `limits` raises it; `compat: azure` does not let it."""
    frontends = {"vip": frontend(vip(74))}
    rules = [rule(f"r{n}", frontend_port=1000 + n) for n in range(20)]
    await bed.load(frontends=frontends, rules=rules[18:19], limits={"rules": 1})
    refused = await bed.refused(frontends=frontends, rules=rules[18:], limits={"rules": 1})
    assert "at most 1 load-balancing and inbound NAT rules" in refused.problems[0]["rule"]
    with bed.serving():
        await bed.visit(vip(74), 1018)
    many = [rule(f"r{n}", frontend_port=1000 + n) for n in range(1501)]
    refused = await bed.refused(frontends=frontends, rules=many, limits={"rules_per_member": 2000})
    assert any("at most 1,500" in problem["rule"] for problem in refused.problems)
    refused = await bed.refused(frontends=frontends, rules=rules, limits={"rules": 1501}, compat="azure", probes={})
    assert any("Azure's limit is 1,500" in problem["rule"] for problem in refused.problems)


async def test_row_75_reconfiguration(bed: Bed) -> None:
    """A hundred open connections go on through fifty changes of other members, weights and rules."""
    frontends = {"vip": frontend(vip(75))}
    with bed.serving():
        await bed.load(frontends=frontends, rules=[rule()])
        async with AsyncExitStack() as stack:
            wires = [(await stack.enter_async_context(bed.stream(vip(75))))[0] for _ in range(100)]
            for turn in range(50):
                members = pool(*bed.members)
                members["members"][turn % 4]["weight"] = 1 + turn % 7
                more = [rule(f"more-{turn}", frontend_port=2000 + turn, backend_port=PORT + 1 + turn)]
                spread = {"distribution": ("five_tuple", "source_ip")[turn % 2]}
                await bed.load(frontends=frontends, backend_pools={"web": members}, rules=[rule(**spread), *more])
            assert all(await asyncio.gather(*(wire.echoes(b"still here") for wire in wires)))
