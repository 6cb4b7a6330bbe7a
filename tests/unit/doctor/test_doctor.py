"""What the doctor says of hosts, and of this one."""

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from click.testing import CliRunner

from asynclb.cli import cli
from asynclb.cli.options import vip_and_port
from asynclb.config import parse
from asynclb.datapath.base import Refusal
from asynclb.doctor.cables import Cable
from asynclb.doctor.checks import check_host
from asynclb.doctor.facts import Facts, Interface, Reach
from asynclb.doctor.finding import Finding, Level
from asynclb.doctor.text import finding_document, findings_text
from asynclb.doctor.wants import Wants, wants_of_model

WELL = Facts(
    user="uid 0",
    lacking=frozenset(),
    release=(6, 1),
    native="",
    libraries={"libnftables.so.1": "", "libbpf.so.1": ""},
    bpffs=True,
    kernel_refusal=None,
    descriptors=1_048_576,
    sysctls={"net/ipv4/ip_forward": "1", "net/core/bpf_jit_enable": "1"},
    interfaces=(Interface("lo", 1, 65536, up=True), Interface("eth0", 2, 1500, up=True)),
)


def bad(facts: Facts, wants: Wants | None = None) -> list[Finding]:
    """Return the findings that are not fine."""
    return [one for one in check_host(facts, wants or Wants()) if one.level is not Level.OK]


def test_a_host_that_has_everything_is_well() -> None:
    """Nothing is to be mended, and the first line says so."""
    assert bad(WELL) == []
    assert findings_text([*check_host(WELL, Wants())]).startswith("all well: 12 fine\n")


def test_a_command_that_mends_several_lacks_is_written_once() -> None:
    """The first of them has the command, and the others refer to it; for programs each has it."""
    lacking = replace(WELL, lacking=frozenset({"CAP_NET_ADMIN", "CAP_NET_RAW"}))
    found = [*check_host(lacking, Wants())]
    lines = findings_text(found).splitlines()
    assert [line.split("> ")[1][:20] for line in lines if "> " in line] == [
        "sudo setcap cap_net_",
        "as for CAP_NET_ADMIN",
    ]
    assert len({finding_document(one)["mend"] for one in bad(lacking)}) == 1


@pytest.mark.parametrize(
    ("facts", "subject", "mend"),
    [
        (replace(WELL, lacking=frozenset({"CAP_NET_RAW"})), "CAP_NET_RAW", "sudo setcap"),
        (replace(WELL, lacking=frozenset({"CAP_BPF", "CAP_SYS_ADMIN"})), "CAP_BPF", "cap_bpf"),
        (replace(WELL, release=(5, 10)), "kernel", "linux-image"),
        (replace(WELL, kernel_refusal=Refusal("no", "mend it")), "datapath kernel", "mend it"),
        (replace(WELL, bpffs=False), "bpffs", "sudo mount -t bpf bpf /sys/fs/bpf"),
        (replace(WELL, bpffs=False, user="uid 7"), "bpffs", "sudo chown 7 /run/asynclb/bpf"),
        (replace(WELL, libraries={"libbpf.so.1": "none"}), "libbpf.so.1", "sudo apt-get install libbpf1"),
        (replace(WELL, native="not built"), "native library", "python -m asynclb.native.build"),
        (replace(WELL, descriptors=1024), "open files", "LimitNOFILE=65536"),
        (
            replace(WELL, sysctls={"net/core/bpf_jit_enable": "0"}),
            "bpf_jit_enable",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        (
            replace(WELL, interfaces=(Interface("eth0", 2, 1500, up=True, rp_filter=1),)),
            "eth0",
            "sudo sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.eth0.rp_filter=2",
        ),
        (replace(WELL, interfaces=(Interface("eth0", 2, 1500, up=True, lro=True),)), "eth0", "ethtool -K eth0 lro off"),
    ],
)
def test_each_lack_is_one_finding_with_its_command(facts: Facts, subject: str, mend: str) -> None:
    """What one host lacks is said once, as a warning while nothing asks for it, with what mends it."""
    (found,) = bad(facts)
    assert (found.level, found.subject) == (Level.WARN, subject)
    assert mend in found.mend


def test_xdp_that_a_tunnel_cannot_have() -> None:
    """It is a warning with what carries its traffic; without the wish for XDP there is nothing to say."""
    tunnel = replace(WELL, interfaces=(*WELL.interfaces, Interface("tun7", 3, 1400, up=True, bare=True)))
    model = parse(b"version: 1\ninterfaces: {tun7: {attach: xdp}, eth0: {attach: xdp}}\n", file="f").model
    (found,) = [one for one in bad(tunnel, wants_of_model(model, "f")) if one.subject in ("tun7", "eth0")]
    assert (found.level, found.subject) == (Level.WARN, "tun7")
    assert "packets without a link header: tc carries its traffic instead" in found.found
    assert found.mend == "interfaces: {tun7: {attach: tc}}   # in f"
    assert not [one for one in bad(tunnel, Wants(interfaces=frozenset({"tun7"}))) if one.subject == "tun7"]


END = Cable("/run/netns/app", "eth0", 1500, 1, gro=True, tx_checksums=False)
VETH = Interface("front", 3, 1500, up=True, kind="veth", native=True, target=True, cable=END)
XDP = Wants(xdp=frozenset({"front"}), interfaces=frozenset({"front"}), source="f")


@pytest.mark.parametrize(
    ("interface", "level", "found", "mend"),
    [
        (VETH, None, "", ""),
        (
            replace(VETH, cable=replace(END, tx_checksums=True)),
            "fail",
            "arrives broken",
            "nsenter --net=/run/netns/app",
        ),
        (replace(VETH, cable=replace(END, tx_checksums=True, namespace="")), "fail", "", "sudo ethtool -K eth0 tx off"),
        (
            replace(VETH, cable=replace(END, mtu=9000)),
            "warn",
            "MTU 9,000, and the driver's XDP takes 3,506",
            "mtu 1500",
        ),
        (
            replace(VETH, mtu=9000, cable=replace(END, mtu=9000)),
            "warn",
            "runs in the kernel's stack",
            "ip link set dev eth0 mtu 3506 && sudo ip link set dev front mtu 3506",
        ),
        (replace(VETH, cable=replace(END, queues=2)), "warn", "sends by 2 queues", "ethtool -L eth0 tx 1"),
        (replace(VETH, target=False), "warn", "(eth0) has neither GRO nor XDP", "ethtool -K eth0 gro on"),
        (replace(VETH, target=None, native=None), None, "", ""),
        (replace(VETH, target=None, native=None, cable=replace(END, gro=False)), "warn", "neither GRO", "gro on"),
        (replace(VETH, cable=None), "warn", "cannot be looked at", "sudo ethtool -K OTHER_END tx off gro on"),
        (replace(VETH, kind="", native=False, target=False, cable=None), "warn", "its driver has no XDP", "attach: tc"),
        (
            replace(VETH, kind="bridge", native=False, cable=None),
            "warn",
            "its driver (bridge) has no XDP",
            "attach: tc",
        ),
        (replace(VETH, kind="", target=False, cable=None), "warn", "takes no frames of XDP's", "front: {attach: tc}"),
        (replace(VETH, kind="", native=None, target=None, cable=None), None, "", ""),
    ],
)
def test_xdp_on_each_kind_of_interface(interface: Interface, level: str | None, found: str, mend: str) -> None:
    """What the driver refuses, what it cannot be sent, and what the other end of a veth breaks; else nothing."""
    told = [one for one in bad(replace(WELL, interfaces=(interface,)), XDP) if one.subject == "front"]
    assert [str(one.level) for one in told] == ([level] if level else [])
    assert all(found in one.found and mend in one.mend for one in told)
    assert not [one for one in bad(replace(WELL, interfaces=(interface,)), Wants()) if one.subject == "front"]


def test_two_faults_of_one_cable_have_one_command() -> None:
    """It is printed with the first, and the second refers to it."""
    shut = replace(VETH, target=False, cable=replace(END, gro=False, tx_checksums=True))
    lines = findings_text(bad(replace(WELL, interfaces=(shut,)), XDP)).splitlines()
    mends = [line.split("> ")[1] for line in lines if "> " in line]
    assert mends == ["sudo nsenter --net=/run/netns/app ethtool -K eth0 tx off gro on", "as above"]


def test_interfaces_that_xdp_sends_to() -> None:
    """One that has no wish of its own is looked at too: what XDP takes in elsewhere has to leave by it."""
    back = replace(VETH, name="back", target=False, cable=replace(END, gro=False, tx_checksums=True))
    unseen = replace(VETH, name="side", cable=None)
    wants = replace(XDP, interfaces=frozenset({"front", "back", "side"}))
    (told,) = bad(replace(WELL, interfaces=(VETH, back, unseen)), wants)
    assert (told.subject, told.mend.endswith("ethtool -K eth0 gro on")) == ("back", True)


def test_the_kernel_datapath_needs_a_host_that_forwards() -> None:
    """Where XDP is wished for, or a rule names the datapath, the host's routing takes what programs leave to it."""
    facts = replace(WELL, interfaces=(VETH,), sysctls={"net/ipv4/ip_forward": "0"})
    for wants in (XDP, Wants(named=frozenset({"kernel"}))):
        (told,) = bad(facts, wants)
        assert (told.subject, told.mend) == ("ip_forward", "sudo sysctl -w net.ipv4.ip_forward=1")


def test_what_is_asked_for_by_name_is_in_the_way() -> None:
    """A datapath that the configuration names fails where `auto` would have passed it over."""
    wants = Wants(named=frozenset({"packet"}))
    assert bad(replace(WELL, lacking=frozenset({"CAP_NET_RAW"})), wants)[0].level is Level.FAIL
    assert bad(replace(WELL, release=(4, 19)), wants)[0].level is Level.WARN


def test_what_a_configuration_cannot_do_without_is_in_the_way() -> None:
    """Transparent rules need CAP_NET_ADMIN on every datapath; low ports a capability, or a datapath without sockets."""
    lacking = frozenset(("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_SYS_ADMIN", "CAP_NET_BIND_SERVICE"))
    nobody = replace(WELL, user="uid 65534", lacking=lacking, kernel_refusal=Refusal("no", "mend it"))

    def failing(facts: Facts, wants: Wants) -> set[str]:
        return {one.subject for one in bad(facts, wants) if one.level is Level.FAIL}

    assert failing(nobody, Wants()) == set()
    assert failing(nobody, Wants(lowest_port=8080, source="f")) == {"CAP_NET_ADMIN"}
    own = Wants(transparent=False, named=frozenset({"proxy"}), lowest_port=8080, source="f")
    assert failing(nobody, own) == set()
    assert failing(nobody, replace(own, lowest_port=80, named=frozenset())) == {"CAP_NET_BIND_SERVICE"}
    assert (
        failing(replace(WELL, lacking=frozenset({"CAP_NET_BIND_SERVICE"})), Wants(lowest_port=80, source="f")) == set()
    )
    everybody = replace(nobody, sysctls={"net/ipv4/ip_unprivileged_port_start": "80"})
    assert failing(everybody, replace(own, lowest_port=80)) == set()


def test_capability_sys_admin_is_as_good_as_bpf() -> None:
    """A process with CAP_SYS_ADMIN needs no CAP_BPF."""
    assert bad(replace(WELL, lacking=frozenset({"CAP_BPF"}))) == []


def test_perfmon_is_needed_on_old_kernels_only() -> None:
    """Where the kernel does not tell how long frames are, a rule on `kernel` fails without CAP_PERFMON."""
    lacking = replace(WELL, lacking=frozenset({"CAP_PERFMON", "CAP_SYS_ADMIN"}))
    wants = Wants(named=frozenset({"kernel"}))
    for release, level in (((5, 15), Level.FAIL), ((5, 17), Level.FAIL), ((5, 18), Level.WARN), ((6, 1), Level.WARN)):
        (found,) = bad(replace(lacking, release=release), wants)
        assert (found.level, found.subject) == (level, "CAP_PERFMON")
        assert "before Linux 5.18" in found.found
        assert "cap_perfmon" in found.mend


def test_interfaces_members_and_next_hops() -> None:
    """An interface that is not there, unequal MTUs, a member without a route and an unknown neighbour are told."""
    facts = replace(
        WELL,
        interfaces=(Interface("eth0", 2, 9000, up=True), Interface("eth1", 3, 1500, up=True)),
        members={
            "p/a": Reach("eth0", resolved=True),
            "p/b": Reach("eth1", "10.0.0.1"),
            "p/c": Reach(error="unreachable"),
        },
    )
    addresses = IPv4Address("10.0.0.2"), IPv4Address("10.1.0.2"), IPv6Address("2001:db8::1")
    members = tuple(zip(("p/a", "p/b", "p/c"), addresses, strict=True))
    found = {one.subject: one for one in bad(facts, Wants(members=members, interfaces=frozenset({"eth7"}), source="f"))}
    assert found.keys() == {"eth7", "MTU", "member p/b", "member p/c"}
    assert found["MTU"].mend == "sudo ip link set dev eth1 mtu 9000"
    assert found["member p/b"].mend == "ping -c 1 10.0.0.1; ip neigh show 10.0.0.1"
    assert found["member p/c"].mend == "sudo ip -6 route add 2001:db8::1/128 via GATEWAY"


def test_a_next_hop_needs_a_host_that_forwards() -> None:
    """With a routed frontend, a host that does not forward is warned of; without, nobody cares."""
    facts = replace(WELL, sysctls={"net/ipv4/ip_forward": "0"})
    assert bad(facts) == []
    assert bad(facts, Wants(routed=True))[0].mend == "sudo sysctl -w net.ipv4.ip_forward=1"


def test_wants_are_read_from_a_configuration() -> None:
    """Datapaths by name, interfaces and members' addresses are what a configuration wants."""
    text = b"""
version: 1
frontends: {web: {address: 10.0.0.10, interface: eth1}}
backend_pools: {web: {members: [{name: a, address: 10.1.0.11}]}}
rules: [{name: r, frontend: web, protocol: tcp, frontend_port: 80, backend_pool: web, datapath: packet}]
"""
    wants = wants_of_model(parse(text, file="f").model, "f")
    assert wants.lowest_port == 80
    assert (wants.named, wants.interfaces) == (frozenset({"packet"}), frozenset({"eth1"}))
    assert wants.members == (("web/a", IPv4Address("10.1.0.11")),)


def test_this_host(tmp_path: Path) -> None:
    """The command looks at this host, changes nothing, and ends with 1 only if something is in the way."""
    found = CliRunner().invoke(cli, ["doctor", "--json"])
    findings = json.loads(found.output)
    assert found.exit_code == (1 if any(one["level"] == "fail" for one in findings) else 0)
    assert {"CAP_NET_ADMIN", "bpffs", "open files"} <= {one["subject"] for one in findings}
    assert all(one["mend"] for one in findings if one["level"] != "ok")
    config = tmp_path / "asynclb.yaml"
    config.write_text("version: 2\n")
    assert CliRunner().invoke(cli, ["doctor", str(config)]).exit_code == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("203.0.113.10", (IPv4Address("203.0.113.10"), None)),
        ("203.0.113.10:80", (IPv4Address("203.0.113.10"), 80)),
        ("2001:db8::10", (IPv6Address("2001:db8::10"), None)),
        ("[2001:db8::10]", (IPv6Address("2001:db8::10"), None)),
        ("[2001:db8::10]:80", (IPv6Address("2001:db8::10"), 80)),
    ],
)
def test_a_vip_with_or_without_a_port(text: str, found: object) -> None:
    """Both families are read in the spellings that people use."""
    assert vip_and_port(text) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--member", "203.0.113"], "is no address, as in 203.0.113.10"),
        (["--member", "203.0.113.10:http"], "is no address, as in 203.0.113.10"),
        (["--member", "203.0.113.10:65536"], "port 65536 of '203.0.113.10:65536' is not from 1 to 65535"),
        (["--member", "203.0.113.10/32"], "is no address"),
        (["--floating"], "add --member VIP"),
        (["--member", "203.0.113.10", "--floating", "--frontend-port", "80"], "add --member VIP:PORT --floating"),
        (["--member", "203.0.113.10:8080", "--frontend-port", "80"], "add --member VIP:PORT --floating"),
        (["--member", "203.0.113.10:8080", "--floating", "--frontend-port", "0"], "0 is not in the range"),
        (["--member", "203.0.113.10", "asynclb.yaml"], "leave CONFIG out"),
    ],
)
def test_wrong_words_about_a_member(words: list[str], said: str) -> None:
    """What cannot be meant is refused with what can."""
    found = CliRunner().invoke(cli, ["doctor", *words])
    assert found.exit_code == 2
    assert said in found.output
