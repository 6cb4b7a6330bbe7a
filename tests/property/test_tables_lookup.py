"""Laws of the lookup and the flow hash: every flow has an answer, which depends on the named fields alone."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.net.flowhash import Distribution, flow_hash, slot_of
from asynclb.tables.lookup import Verdict, lookup
from tests.unit.tables.world import PROBE, equal_pool, row, tables

PORTS = st.integers(0, 65_535)
PROTOCOLS = st.sampled_from([1, 6, 17, 58, 132]) | st.integers(0, 255)
SEEDS = st.integers(0, 2**64 - 1)
V4, V6 = st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)


def flows(addresses: st.SearchStrategy[IPv4Address] | st.SearchStrategy[IPv6Address]) -> st.SearchStrategy[Flow]:
    """Draw flows of one family."""
    return st.builds(Flow, addresses, PORTS, addresses, PORTS, PROTOCOLS)


FLOWS = flows(V4) | flows(V6)
QUICK = settings(max_examples=200, deadline=None)

WEB = equal_pool("web", 3)
FRONTENDS = [IPv4Address("203.0.113.10"), IPv6Address("2001:db8::10"), IPv4Address("203.0.113.11")]
TABLES = tables(
    row(WEB, name="tcp", port=80),
    row(WEB, name="udp", port=53, protocol=Protocol.UDP, distribution=Distribution.SOURCE_IP),
    row(WEB, name="v6", port=0, protocol=Protocol.ALL, address="2001:db8::10"),
    row(WEB, name="silent", port=0, protocol=Protocol.ALL, address="203.0.113.11", probe=PROBE),
)


@given(FLOWS, st.sampled_from(FRONTENDS) | st.none(), st.sampled_from([0, 53, 80]) | PORTS)
@QUICK
def test_every_flow_has_a_verdict_or_a_drop(flow: Flow, frontend: IPv4Address | IPv6Address | None, port: int) -> None:
    """Whatever arrives, the lookup answers: with a member of the rule's own pool, or with a reason."""
    answer = lookup(TABLES, replace(flow, destination=frontend or flow.destination, destination_port=port))
    match answer:
        case Verdict():
            assert answer.member in answer.entry.row.pool.members
            assert 0 <= answer.slot < answer.entry.table.size
        case _:
            assert answer in Drop


@given(SEEDS, FLOWS, PORTS, PORTS, PROTOCOLS)
@QUICK
def test_source_ip_ignores_ports_and_protocol(seed: int, flow: Flow, sport: int, dport: int, protocol: int) -> None:
    """One client reaches one member of a frontend over TCP and UDP alike, from any port to any port."""
    other = replace(flow, source_port=sport, destination_port=dport, protocol=protocol)
    assert flow_hash(seed, flow, Distribution.SOURCE_IP) == flow_hash(seed, other, Distribution.SOURCE_IP)


@given(SEEDS, FLOWS, PORTS, PORTS, PROTOCOLS)
@QUICK
def test_source_ip_protocol_ignores_ports_only(seed: int, flow: Flow, sport: int, dport: int, protocol: int) -> None:
    """Ports do not matter, the protocol does."""
    mode = Distribution.SOURCE_IP_PROTOCOL
    ports = replace(flow, source_port=sport, destination_port=dport)
    assert flow_hash(seed, flow, mode) == flow_hash(seed, ports, mode)
    same = flow_hash(seed, flow, mode) == flow_hash(seed, replace(flow, protocol=protocol), mode)
    assert same == (flow.protocol == protocol)


@given(SEEDS, FLOWS, FLOWS)
@QUICK
def test_five_tuple_uses_every_field(seed: int, flow: Flow, other: Flow) -> None:
    """A change of any one field changes the 64-bit hash."""
    changed = [
        replace(flow, source_port=other.source_port),
        replace(flow, destination_port=other.destination_port),
        replace(flow, protocol=other.protocol),
    ]
    if other.source.version == flow.source.version:
        changed += [replace(flow, source=other.source), replace(flow, destination=other.destination)]
    mode = Distribution.FIVE_TUPLE
    for one in changed:
        assert (flow_hash(seed, flow, mode) == flow_hash(seed, one, mode)) == (flow == one)


@given(SEEDS, FLOWS, st.sampled_from(Distribution))
@QUICK
def test_a_symmetric_hash_is_that_of_the_reverse_flow(seed: int, flow: Flow, mode: Distribution) -> None:
    """Both directions of a connection meet the same appliance, in every distribution mode."""
    reverse = Flow(flow.destination, flow.destination_port, flow.source, flow.source_port, flow.protocol)
    assert flow_hash(seed, flow, mode, symmetric=True) == flow_hash(seed, reverse, mode, symmetric=True)


@given(SEEDS, SEEDS, FLOWS)
@QUICK
def test_the_seed_is_a_key(seed: int, other: int, flow: Flow) -> None:
    """Another seed gives another hash."""
    one, two = (flow_hash(key, flow, Distribution.FIVE_TUPLE) for key in (seed, other))
    assert (one == two) == (seed == other)


@given(st.integers(0, 2**64 - 1), st.integers(1, 655_373))
@QUICK
def test_slots_keep_the_order_of_hashes(hashed: int, size: int) -> None:
    """Every hash has a slot, and the next hash has that slot or the next."""
    slot = slot_of(hashed, size)
    assert 0 <= slot < size
    assert slot_of(min(hashed + 2**32, 2**64 - 1), size) - slot in (0, 1)
