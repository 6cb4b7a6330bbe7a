"""What the BPF programs do beyond the oracle: counters, and frames that the host's own routing sends."""

from dataclasses import replace

import pytest

from asynclb.net.drop import Drop
from asynclb.tables.row import Delivery
from tests.unit.core.loaded import Loaded
from tests.unit.core.world import CLIENTS, OURS, SECOND, SERVERS, World, changed, ha, pool, read, right, row, tcp, world

ALICE, VIP, VIP6 = "198.51.100.7", "203.0.113.10", "2001:db8::10"
WEB = world(row(pool("web", "10.1.0.11"), VIP, 80, 8080), row(pool("web6", "2001:db8:1::11"), VIP6, 80, 8080))
SYN, ACK = 2, 16


@pytest.fixture(params=["xdp", "tc"])
def programs(request: pytest.FixtureRequest, shared: Loaded) -> Loaded:
    """The programs, serving `WEB` through one of the hooks; nothing is counted yet."""
    shared.hook = request.param
    shared.show(WEB)
    shared.reset_counts()
    shared.next_tick()
    return shared


def conversation() -> list[tuple[bytes, int]]:
    """Return a handshake and more, of IPv4 and of IPv6, with some payload and a short frame that was filled up."""
    frames = []
    for client, vip, member in ((ALICE, VIP, "10.1.0.11"), ("2001:db8:9::7", VIP6, "2001:db8:1::11")):
        frames += [
            (bytes(tcp(client, 4000, vip, 80, SYN)), CLIENTS),
            (bytes(tcp(member, 8080, client, 4000, SYN | ACK)), SERVERS),
            (bytes(tcp(client, 4000, vip, 80, ACK)) + bytes(6), CLIENTS),
            (bytes(tcp(client, 4000, vip, 80, ACK, b"GET / HTTP/1.0\r\n\r\n")), CLIENTS),
            (bytes(tcp(member, 8080, client, 4000, ACK, b"x" * 1000)), SERVERS),
        ]
    return frames


def test_counters_are_those_of_the_native_core(programs: Loaded) -> None:
    """Packets, bytes of frames, SYNs and new flows, by rule and by member, in both directions."""
    core = WEB.core()
    core.set_interface(SERVERS, WEB.hops[0].source)
    for frame, ifindex in conversation():
        verdict, out = programs.run(frame, ifindex)
        result = core.process(frame, ifindex=ifindex, now_ns=SECOND)
        assert (verdict, out) == ("tx", result.frame)
    counters = core.counters()
    for index, rule in counters.rules.items():
        count = programs.count("rule_counts", index)
        assert (count.packets_in, count.bytes_in, count.packets_out, count.bytes_out, count.syn, count.new_flows) == (
            *(rule.packets_in, rule.bytes_in, rule.packets_out, rule.bytes_out),
            *(rule.syn, rule.new_flows),
        )
    for index, member in counters.members.items():
        count = programs.count("member_counts", index)
        assert (count.bytes_in, count.bytes_out) == (member.bytes_in, member.bytes_out)
    kept = {(flow.packets_in, flow.packets_out, flow.bytes_in, flow.bytes_out) for flow in programs.flows()}
    seen = {(f.packets_in, f.packets_out, f.bytes_in, f.bytes_out) for f in core.flows()[0]}
    assert kept == seen
    core.close()


def test_a_hop_that_is_not_resolved_is_left_to_the_host(programs: Loaded) -> None:
    """The frame is rewritten but for its link addresses, so that the host takes it and routes it."""
    for index in WEB.hops:
        programs.set_hop(index, None)
    for flags in (SYN, ACK):
        frame = bytes(tcp(ALICE, 4000, VIP, 80, flags))
        verdict, out = programs.run(frame, CLIENTS)
        assert (verdict, out[:12], read(out), right(out)) == (
            "pass",
            frame[:12],
            (ALICE, 4000, "10.1.0.11", 8080),
            True,
        )


def test_an_egress_that_cannot_be_redirected_to_is_left_to_the_host(programs: Loaded) -> None:
    """XDP leaves it to the host's routing, there and back; tc can send to every interface."""
    for index, hop in WEB.hops.items():
        programs.set_hop(index, hop, via_kernel=True)
    programs.set_interface(CLIENTS, OURS, flags=1)
    programs.next_tick()
    for flags in (SYN, ACK):
        there = programs.run(bytes(tcp(ALICE, 4000, VIP, 80, flags)), CLIENTS)
        back = programs.run(bytes(tcp("10.1.0.11", 8080, ALICE, 4000, SYN | ACK)), SERVERS)
        assert {there[0], back[0]} == ({"pass"} if programs.hook == "xdp" else {"tx"})
        assert (read(there[1])[2:], read(back[1])[:2]) == (("10.1.0.11", 8080), (VIP, 80))


def test_floating_and_routed_frames_are_not_left_to_the_host(shared: Loaded) -> None:
    """Its routing would not take them to the member."""
    floating = world(ha(pool("web", "10.1.0.11"), VIP, delivery=Delivery.FLOATING))
    shared.hook = "xdp"
    shared.show(floating)
    shared.reset_counts()
    shared.set_hop(0, floating.hops[0], via_kernel=True)
    assert shared.run(bytes(tcp(ALICE, 1, VIP, 9)), CLIENTS)[0] == "drop"
    shared.set_hop(0, None)
    assert shared.run(bytes(tcp(ALICE, 1, VIP, 9)), CLIENTS)[0] == "drop"
    assert shared.drops() == {Drop.NO_EGRESS: 1, Drop.NEXT_HOP_UNRESOLVED: 1}


def test_large_unsegmented_frames_pass_any_mtu(programs: Loaded) -> None:
    """What the kernel is yet to cut is not too big; the same frame whole is, and XDP sees only such."""
    small: World = replace(WEB, hops={i: replace(hop, mtu=600) for i, hop in WEB.hops.items()})
    programs.show(small)
    programs.run(bytes(tcp(ALICE, 4000, VIP, 80, SYN)), CLIENTS)
    large = bytes(tcp(ALICE, 4000, VIP, 80, ACK, bytes(1200)))
    assert programs.run(large, CLIENTS)[0] == "drop"
    if programs.hook == "tc":
        assert programs.run(large, CLIENTS, gso=500)[0] == "tx"


def test_headers_behind_the_copy_are_not_there(programs: Loaded) -> None:
    """The programs look at 512 bytes: an extension header that leads beyond them ends the frame for them."""
    chain = b"\x06\x40" + bytes(64 * 8 + 6)
    inner = bytes(tcp("2001:db8::7", 1, VIP6, 80))
    frame = inner[:20] + b"\x3c" + inner[21:54] + chain + inner[54:]
    frame = changed(frame, 18, (len(frame) - 54).to_bytes(2, "big"))
    assert programs.run(frame, CLIENTS)[0] == "drop"
    assert programs.drops() == {Drop.TRUNCATED: 1}
