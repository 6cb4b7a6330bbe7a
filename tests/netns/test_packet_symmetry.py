"""Both directions of a flow between two networks meet one appliance, whatever becomes of the others."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from asynclb.lab import Lab
from tests.netns.packet_site import packets
from tests.netns.proxy_site import BOTH
from tests.netns.spokes import Flow, Spokes, Talks, Witness

MANY = 18
"""Flows of each protocol from each end. Of 36 connections none meets one of three appliances once in 2 * 10^6 runs."""


def one_each(seen: Mapping[Flow, set[str]], flows: Iterable[Flow]) -> dict[Flow, str]:
    """Return the appliance of each flow, and check that it is the only one that saw it, in both directions."""
    found = {}
    for flow in flows:
        there, back = seen.get(flow, set()), seen.get(flow.back, set())
        assert (len(there), back) == (1, there), f"{flow}: there by {there}, back by {back}"
        (found[flow],) = there
    return found


@BOTH
async def test_both_directions_meet_one_appliance(lab: Lab, version: int) -> None:
    """Flows that either end begins, by TCP, UDP and ping, over every appliance; no firewall is asked twice."""
    spokes = await Spokes.build(lab)
    with ExitStack() as stack, Witness(spokes) as witness:
        async with packets(spokes.hub) as balancer:
            await balancer.apply(*spokes.rows(version))
            talks = Talks(spokes, version, stack)
            flows = [flow for end in (0, 1) for flow in await talks.begin(end, 12)]
            assert await talks.all_answered(flows)
            chosen = one_each(witness.seen(), flows)
            counted = await balancer.counters()
    assert set(chosen.values()) == {"nva1", "nva2", "nva3"}
    assert {flow.protocol for flow in chosen} == {6, 17, 1 if version == 4 else 58}
    assert (counted.rules["end1"].new_flows, counted.rules["end2"].new_flows) == (36, 36)
    assert await spokes.strange() == 0


@BOTH
async def test_an_appliance_is_added(lab: Lab, version: int) -> None:
    """Established flows keep theirs in both directions; new ones meet the new one too, again in both directions."""
    spokes = await Spokes.build(lab)
    with ExitStack() as stack, Witness(spokes) as witness:
        async with packets(spokes.hub) as balancer:
            await balancer.apply(*spokes.rows(version, 2))
            talks = Talks(spokes, version, stack)
            old = [flow for end in (0, 1) for flow in await talks.begin(end, 8)]
            assert await talks.all_answered(old)
            before = one_each(witness.seen(), old)
            await balancer.apply(*spokes.rows(version, 3))
            new = [flow for end in (0, 1) for flow in await talks.begin(end, 12)]
            assert await talks.all_answered([*old, *new])
            after = one_each(witness.seen(), [*old, *new])
    assert {flow: after[flow] for flow in old} == before
    assert set(before.values()) == {"nva1", "nva2"}
    assert "nva3" in {after[flow] for flow in new}
    assert await spokes.strange() == 0


@BOTH
async def test_an_appliance_dies_and_returns(lab: Lab, version: int) -> None:
    """Flows of the others go on, new ones avoid it; after its return its TCP flows go on and new ones meet it."""
    spokes = await Spokes.build(lab)
    inner = lab.hosts["inner"]
    with ExitStack() as stack, Witness(spokes) as witness:
        async with packets(spokes.hub) as balancer:
            rows = spokes.rows(version)
            await balancer.apply(*rows)
            talks = Talks(spokes, version, stack)
            old = [flow for end in (0, 1) for flow in await talks.begin(end, MANY)]
            assert await talks.all_answered(old)
            before = one_each(witness.seen(), old)
            await inner.check_output("ip", "link", "set", "dev", "nva1", "down")
            await balancer.apply(*rows, down=["nva1"])
            lost = [flow for flow in old if before[flow] == "nva1"]
            kept = [flow for flow in old if before[flow] != "nva1"]
            meanwhile = [flow for end in (0, 1) for flow in await talks.begin(end, 6)]
            moved = [flow for flow in lost if flow.protocol != 6]
            assert await talks.all_answered([*kept, *meanwhile, *moved])
            during = one_each(witness.seen(), [*kept, *meanwhile, *moved])
            stuck = next(flow for flow in lost if flow.protocol == 6)
            assert not await talks.exchange(stuck, wait_s=0.3)
            await inner.check_output("ip", "link", "set", "dev", "nva1", "up")
            await balancer.apply(*rows)
            assert await talks.tcp[stuck].exactly(4) == b"ping"
            again = [flow for end in (0, 1) for flow in await talks.begin(end, 12)]
            assert await talks.all_answered([*kept, *meanwhile, *again])
            after = one_each(witness.seen(), [*kept, *meanwhile, *again, stuck])
    assert {flow: during[flow] for flow in kept} == {flow: before[flow] for flow in kept}
    assert "nva1" not in {during[flow] for flow in [*meanwhile, *moved]}
    assert {flow: after[flow] for flow in [*kept, *meanwhile] if flow.protocol == 6} == {
        flow: during[flow] for flow in [*kept, *meanwhile] if flow.protocol == 6
    }
    assert after[stuck] == "nva1"
    assert "nva1" in {after[flow] for flow in again}
    assert await spokes.strange() == 0
