"""Members' own connections through the core: ports, answers, exhaustion, ends."""

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from asynclb import native
from asynclb.datapath.core import Core, Result, Verdict
from asynclb.net.drop import Drop
from asynclb.net.flow import Protocol
from tests.unit.core.world import (
    CLIENT_LINK,
    CLIENTS,
    MEMBERS_OURS,
    OURS,
    SECOND,
    SERVERS,
    Packet,
    icmp_error,
    member_link,
    outbound,
    pool,
    read,
    right,
    row,
    tcp,
    udp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, SECOND_VIP, SERVER = "203.0.113.10", "203.0.113.11", "198.51.100.80"
WEB = pool("web", "10.1.0.11", "10.1.0.12")
PORTS = range(1600, 1608)  # of the first member
SYN, ACK, FIN, RST = 2, 16, 17, 4


class Bench:
    """A core with a rule on port 80 and outbound rules; packets of the member and the server, one second each."""

    def __init__(self, **options: object) -> None:
        addresses = options.pop("addresses", (VIP,))
        rule = outbound(WEB, *addresses, **options)  # type: ignore[arg-type, misc]  # passed on
        self.world = world(row(WEB, VIP, 80, 8080), outbound=(rule,))
        self.core: Core = self.world.core()
        self.core.set_interface(SERVERS, MEMBERS_OURS)
        self.now = 100 * SECOND

    def send(self, packet: Packet, *, later_s: float = 1) -> Result:
        """Let a member send."""
        self.now += int(later_s * SECOND)
        frame = bytes(packet)
        frame = MEMBERS_OURS + member_link(0) + frame[12:]
        return self.core.process(frame, ifindex=SERVERS, now_ns=self.now)

    def receive(self, packet: Packet) -> Result:
        """Let something come from outside."""
        self.now += SECOND // 1000
        return self.core.process(bytes(packet), ifindex=CLIENTS, now_ns=self.now)

    def open(self, sport: int, destination: str = SERVER, dport: int = 443, member: str = "10.1.0.11") -> Result:
        """Let a member begin a connection."""
        return self.send(tcp(member, sport, destination, dport), later_s=0.001)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Return a bench with 8 ports a member."""
    found = Bench()
    yield found
    found.core.close()


def port_of(result: Result) -> int:
    """Return the source port of a translated frame."""
    assert result.verdict is Verdict.TX, result.reason
    source, port, *_ = read(result.frame)
    assert source in (VIP, SECOND_VIP)
    assert right(result.frame)
    return port


def test_a_connection_leaves_by_the_frontend_and_comes_back(bench: Bench) -> None:
    """member:5000 -> server:443 leaves as VIP:p, by the host's routing at first; the answer reaches the member."""
    out = bench.open(5000)
    port = port_of(out)
    assert port in PORTS
    assert out.ifindex == 0
    back = bench.receive(tcp(SERVER, 443, VIP, port, SYN | ACK))
    assert (back.verdict, back.ifindex) == (Verdict.TX, SERVERS)
    assert read(back.frame) == (SERVER, 443, "10.1.0.11", 5000)
    assert back.frame[:12] == member_link(0) + MEMBERS_OURS
    assert right(back.frame)
    out = bench.send(tcp("10.1.0.11", 5000, SERVER, 443, ACK, b"hello"))
    assert (port_of(out), out.ifindex, out.frame[:12]) == (port, CLIENTS, CLIENT_LINK + OURS)


def test_members_have_ports_of_their_own(bench: Bench) -> None:
    """Each member's connections use its own block."""
    assert port_of(bench.open(5000, member="10.1.0.12")) in range(1608, 1616)


def test_a_port_serves_many_destinations_but_one_connection_each(bench: Bench) -> None:
    """With 8 ports, 8 connections to A:1 pass and the ninth does not; to B:1 and A:2 there is room."""
    ports = {port_of(bench.open(5000 + i)) for i in range(8)}
    assert ports == set(PORTS)
    refused = bench.open(5008)
    assert (refused.verdict, refused.reason) == (Verdict.DROP, Drop.SNAT_PORTS_EXHAUSTED)
    assert port_of(bench.open(5008, "198.51.100.81")) in PORTS
    assert port_of(bench.open(5008, SERVER, 80)) in PORTS
    assert port_of(bench.open(5008, member="10.1.0.12"))
    assert bench.core.counters().drops[Drop.SNAT_PORTS_EXHAUSTED] == 1


def test_udp_has_one_port_for_an_address(bench: Bench) -> None:
    """A UDP source keeps its port to every port of an address; the ninth source finds none, but to another address."""
    first = port_of(bench.send(udp("10.1.0.11", 5000, SERVER, 53)))
    assert port_of(bench.send(udp("10.1.0.11", 5000, SERVER, 123))) == first
    back = bench.receive(udp(SERVER, 999, VIP, first))
    assert read(back.frame) == (SERVER, 999, "10.1.0.11", 5000)
    ports = {port_of(bench.send(udp("10.1.0.11", 5000 + i, SERVER, 53))) for i in range(8)}
    assert ports == set(PORTS)
    assert bench.send(udp("10.1.0.11", 5008, SERVER, 54)).reason is Drop.SNAT_PORTS_EXHAUSTED
    assert port_of(bench.send(udp("10.1.0.11", 5008, "198.51.100.81", 53))) in PORTS
    assert bench.receive(udp("198.51.100.82", 53, VIP, first)).reason is Drop.NO_RULE


def test_the_next_address_comes_after_the_first() -> None:
    """With two addresses the first 8 connections leave from the first, the next 8 from the second."""
    bench = Bench(addresses=(VIP, SECOND_VIP))
    sources = [read(bench.open(5000 + i).frame)[0] for i in range(16)]
    assert sources == [VIP] * 8 + [SECOND_VIP] * 8
    assert bench.open(6000).reason is Drop.SNAT_PORTS_EXHAUSTED
    bench.core.close()


def test_a_closed_connection_frees_its_port(bench: Bench) -> None:
    """After both ends have closed, the port is free for others in ten seconds; a reset does the same."""
    for i in range(8):
        port = port_of(bench.open(5000 + i))
        bench.receive(tcp(SERVER, 443, VIP, port, SYN | ACK))
    assert bench.open(5008).reason is Drop.SNAT_PORTS_EXHAUSTED
    bench.send(tcp("10.1.0.11", 5003, SERVER, 443, FIN))
    port = port_of(bench.send(tcp("10.1.0.11", 5003, SERVER, 443, ACK)))
    bench.receive(tcp(SERVER, 443, VIP, port, FIN))
    assert bench.open(5008).reason is Drop.SNAT_PORTS_EXHAUSTED
    bench.now += 10 * SECOND
    assert port_of(bench.open(5008)) == port
    bench.send(tcp("10.1.0.11", 5004, SERVER, 443, RST))
    bench.now += 10 * SECOND
    assert port_of(bench.open(5009)) in PORTS


def test_only_what_begins_begins(bench: Bench) -> None:
    """TCP without a SYN, or the answer to one, and later fragments and errors start nothing and go nowhere."""
    for flags in (ACK, FIN, RST, SYN | ACK):
        assert bench.send(tcp("10.1.0.11", 5000, SERVER, 443, flags)).reason is Drop.NO_FLOW
    assert bench.core.flow_count() == 0


def test_a_rules_members_answer_as_before(bench: Bench) -> None:
    """What a member answers to a client of the load-balancing rule leaves from the rule's port."""
    there = bench.receive(tcp(SERVER, 7000, VIP, 80))
    member = read(there.frame)[2]
    back = bench.send(tcp(member, 8080, SERVER, 7000, SYN | ACK))
    assert read(back.frame) == (VIP, 80, SERVER, 7000)


def test_protocols_and_ways_that_the_rule_does_not_name() -> None:
    """UDP under a TCP rule, and what is not TCP or UDP, is dropped; direct destinations and members pass untouched."""
    bench = Bench(protocols=(Protocol.TCP,), direct=(ip_network("192.0.2.0/24"),))
    assert bench.send(udp("10.1.0.11", 5000, SERVER, 53)).reason is Drop.SNAT_PROTOCOL
    assert bench.send(Packet("10.1.0.11", SERVER, 1, b"\x08\0\0\0\0\1\0\1ping")).reason is Drop.SNAT_PROTOCOL
    for destination in ("192.0.2.7", "10.1.0.12", "224.0.0.1", "169.254.169.254"):
        assert bench.send(udp("10.1.0.11", 5000, destination, 53)).verdict is Verdict.PASS
    bench.core.close()


def test_without_an_outbound_rule_there_is_no_way_out() -> None:
    """A rule without protocols lets nothing out."""
    bench = Bench(protocols=())
    assert bench.open(5000).reason is Drop.NO_OUTBOUND_RULE
    bench.core.close()


def test_errors_find_the_connection_both_ways(bench: Bench) -> None:
    """An error about VIP:p reaches the member with the quote rewritten; one of the member's leaves as the VIP."""
    out = bench.open(5000)
    port = port_of(out)
    sent = tcp(VIP, port, SERVER, 443).network
    back = bench.receive(icmp_error("192.0.2.1", VIP, sent))
    assert back.verdict is Verdict.TX
    assert read(back.frame)[2] == "10.1.0.11"
    assert back.frame[14 + 28 + 12 : 14 + 28 + 16] == bytes((10, 1, 0, 11))
    assert right(back.frame)
    came = tcp(SERVER, 443, "10.1.0.11", 5000).network
    out = bench.send(icmp_error("10.1.0.11", SERVER, came))
    assert read(out.frame)[0] == VIP
    assert right(out.frame)


def test_idle_connections_end_with_resets_at_both_ends() -> None:
    """After the idle timeout, member and server are told with numbers that they accept, and the ports are free."""
    bench = Bench(idle_timeout_s=30.0, tcp_reset=True)
    port = port_of(bench.open(5000))
    bench.receive(tcp(SERVER, 443, VIP, port, SYN | ACK))
    bench.send(tcp("10.1.0.11", 5000, SERVER, 443, ACK))
    swept = bench.core.sweep(bench.now + 31 * SECOND, 10_000)
    frames = sorted(frame for reset in swept.resets for frame in reset.frames)
    assert [index for index, _ in frames] == [CLIENTS, SERVERS]
    assert [read(frame) for _, frame in frames] == [(VIP, port, SERVER, 443), (SERVER, 443, "10.1.0.11", 5000)]
    assert all(frame[38:42] == (2000).to_bytes(4, "big") and right(frame) for _, frame in frames)
    assert bench.core.flow_count() == 0
    bench.core.close()


def test_attempts_are_counted_under_the_members_place(bench: Bench) -> None:
    """Connections that found a port and those that did not are counted for each member of the rule."""
    for i in range(10):
        bench.open(5000 + i)
    number = bench.world.plan.members["web>out-web", "m0"]
    counted = bench.core.counters().members[number]
    assert (counted.new_flows, counted.failed) == (8, 2)
