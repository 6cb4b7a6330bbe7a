"""One case per rule of the configuration: what is changed, where it is refused, and what is said.

The combinations of HA-ports rules with others are in `test_ha_ports`.
"""

from typing import Any

import pytest

from asynclb.config.checks.deliveries import BACKEND_PORT_CLASH
from asynclb.config.checks.limits import RULE_COUNT
from tests.unit.config.base import BASE, REMOVED, changed, parsed, problems

Changes = dict[str, Any]


def rule(**keys: Any) -> dict[str, Any]:
    """Return a rule like the first of the base, on another port, with keys changed."""
    return {**BASE["rules"][0], "name": "c", "frontend_port": 81, **keys}


def nat(**keys: Any) -> dict[str, Any]:
    """Return an inbound NAT rule of another name than the base's, with keys changed."""
    return {**BASE["inbound_nat_rules"][0], "name": "m", "frontend_port_range": "6000-6009", **keys}


def members(count: int) -> list[dict[str, Any]]:
    """Return members of distinct names and addresses."""
    return [{"name": f"m{i}", "address": f"10.2.{i >> 8}.{i & 255}"} for i in range(count)]


def test_base_has_nothing_wrong() -> None:
    """The configuration that every case changes is sound and gives no warning."""
    assert parsed({}).warnings == ()


OUTBOUND: dict[str, Any] = BASE["outbound_rules"][0]
REFUSED: list[tuple[Changes, str, str, str]] = [
    # settings
    ({"version": 2}, "version", "from 1 to 1", ""),
    ({"version": REMOVED}, "version", "required key is missing", "add `version: ...`"),
    ({"datapath": "kernal"}, "datapath", "one of `auto`", "did you mean `kernel`?"),
    ({"compat": "Azure"}, "compat", "one of `extended`, `azure`", "did you mean `azure`?"),
    ({"hash_seed": 8100}, "hash_seed", "hexadecimal text", 'quotes: "8100"'),
    ({"hash_seed": "8c1f0c6e5f0b4a7d0"}, "hash_seed", "64-bit", "openssl rand -hex 8"),
    ({"transparent": "off"}, "transparent", "true or false", "write `false`"),
    ({"transparent": 1}, "transparent", "true or false", "write `true`"),
    ({"workers": 0}, "workers", "number of workers must be a whole number from 1 to 64", "bounds"),
    ({"workers": 65}, "workers", "number of workers must be a whole number from 1 to 64", "bounds"),
    ({"shutdown_drain": "2h"}, "shutdown_drain", "from 0s to 1h", ""),
    ({"admin.listen": "0.0.0.0:9180"}, "admin.listen", "no token", "token_file"),
    ({"admin.listen": "[::]:9180"}, "admin.listen", "no token", "token_file"),
    ({"admin.hosts": ["lb1:9180"]}, "admin.hosts[0]", "is not a host name", "without a port"),
    ({"admin.listen": "localhost"}, "admin.listen", "address to listen on", "127.0.0.1:9180"),
    ({"admin.listen": "example.org:80"}, "admin.listen", "IP address or `localhost`", "127.0.0.1:9180"),
    ({"admin.listen": "127.0.0.1:0"}, "admin.listen", "port from 1", "127.0.0.1:9180"),
    ({"admin.listen": 9180}, "admin.listen", "address to listen on", "127.0.0.1:9180"),
    ({"admin.lisen": "x"}, "admin.lisen", "unknown key", "did you mean `listen`?"),
    ({"interfaces": {"a/b": {}}}, "interfaces.a/b", "not an interface name", "ip link"),
    ({"interfaces": {"eth0": {"attach": "xpd"}}}, "interfaces.eth0.attach", "one of", "did you mean `xdp`?"),
    # frontends
    ({"frontends.web.address": "10.0.0.256"}, "frontends.web.address", "not an IP address", "0 to 255"),
    ({"frontends.web.address": "10.0.0.010"}, "frontends.web.address", "not an IP address", "leading zeros"),
    ({"frontends.web.address": "10.0.0.10/24"}, "frontends.web.address", "not an IP address", "prefix length"),
    ({"frontends.web.address": "10.0.0.10:80"}, "frontends.web.address", "not an IP address", "ports belong to"),
    ({"frontends.web.address": "web.example"}, "frontends.web.address", "not an IP address", "host names"),
    ({"frontends.web.address": 10}, "frontends.web.address", "must be text", "quotes"),
    ({"frontends.web.address": "224.0.0.1"}, "frontends.web.address", "multicast", ""),
    ({"frontends.web.address": "ff02::1"}, "frontends.web.address", "multicast", ""),
    ({"frontends.web.address": "0.0.0.0"}, "frontends.web.address", "unspecified", ""),
    ({"frontends.web.address": "255.255.255.255"}, "frontends.web.address", "broadcast", ""),
    ({"frontends.six.address": "fe80::1%eth0"}, "frontends.six.address", "no zone", "interface"),
    ({"frontends.six.address": "::ffff:10.0.0.9"}, "frontends.six.address", "IPv4", "write `10.0.0.9`"),
    ({"frontends.pub.address": "10.0.0.10"}, "frontends.pub.address", "frontend web has it too", "its own address"),
    ({"frontends.web.zones": ["1", "2", "1"]}, "frontends.web.zones[2]", "zone 1 is named twice", "remove it"),
    ({"frontends.web.allow": ["10.0.0.1/8"]}, "frontends.web.allow[0]", "bits set", "write `10.0.0.0/8`"),
    ({"frontends.web.allow": ["everyone"]}, "frontends.web.allow[0]", "not an address prefix", "198.51.100.0/24"),
    ({"frontends.web.allow": ["::/0"]}, "frontends.web.allow[0]", "never matches", "remove it"),
    ({"frontends.web.allow": "0.0.0.0/0"}, "frontends.web.allow", "must be a list", "`- `"),
    ({"frontends.web.routed": True}, "frontends.web.routed", "on its interface", "add `interface: ...`"),
    (
        {
            "frontends.web": {"address": "10.0.0.10", "routed": True, "interface": "e1"},
            "frontends.pub": {"address": "10.0.0.11", "routed": True, "interface": "e1"},
        },
        "frontends.pub.routed",
        "frontend web is routed on e1 too",
        "one frontend per interface",
    ),
    ({"frontends.web.zone_affinity": True}, "frontends.web.zone_affinity", "prefers no zone", "name the zones"),
    ({"limits.frontends": 0}, "limits.frontends", "a limit must be", "within the bounds"),
    ({"limits.pool_members": 70_000}, "limits.pool_members", "from 1 to 65535", ""),
    ({"limits.member": 5}, "limits.member", "unknown key", ""),
    ({"frontends.web.zones": [1]}, "frontends.web.zones[0]", "must be text", 'quotes: "1"'),
    ({"frontends.web.scope": "private"}, "frontends.web.scope", "one of `internal`, `public`", "write one of them"),
    ({"frontends.a b": {"address": "10.0.0.99"}}, "frontends.a b", "not a name", "80 characters"),
    ({f"frontends.{'a' * 81}": {"address": "10.0.0.99"}}, f"frontends.{'a' * 81}", "not a name", "80 characters"),
    ({"frontends": []}, "frontends", "must be a mapping, not a list", "key: value"),
    ({"frontends.web": None}, "frontends.web", "no value", "write a value"),
    # pools
    ({"backend_pools.web.members.0.weight": 1001}, "backend_pools.web.members[0].weight", "0 to 1000", ""),
    ({"backend_pools.web.members.0.weight": 1.5}, "backend_pools.web.members[0].weight", "whole number", ""),
    ({"backend_pools.web.members.0.weight": "2"}, "backend_pools.web.members[0].weight", "whole number", "`2`"),
    ({"backend_pools.web.members.0.weight": "0x10"}, "backend_pools.web.members[0].weight", "whole number", "`16`"),
    ({"backend_pools.web.members.0.weight": "010"}, "backend_pools.web.members[0].weight", "whole number", "`10`"),
    ({"backend_pools.web.members.0.weight": "1_000"}, "backend_pools.web.members[0].weight", "whole", "digits alone"),
    ({"backend_pools.web.members.0.admin_state": False}, "backend_pools.web.members[0].admin_state", "one of", ""),
    ({"backend_pools.web.members.1.name": "web-1"}, "backend_pools.web.members[1].name", "this name", "rename"),
    ({"backend_pools.web.members.1.address": "10.1.0.11"}, "backend_pools.web.members[1].address", "web-1", "weight"),
    (
        {"backend_pools.web.members.+": {"name": "x", "address": "fd00::1"}},
        "backend_pools.web.members[2].address",
        "one address family",
        "pool of its own",
    ),
    ({"backend_pools.web.members": {}}, "backend_pools.web.members", "must be a list, not a mapping", "`- `"),
    ({"backend_pools.web.members.0": "web-1"}, "backend_pools.web.members[0]", "must be a mapping, not text", ""),
    ({"backend_pools.web.drain_period": "25h"}, "backend_pools.web.drain_period", "from 0s to 24h", ""),
    ({"backend_pools.web.drain_period": 300}, "backend_pools.web.drain_period", "has a unit", "write `300s`"),
    ({"backend_pools.web.drain_period": "5 minutes"}, "backend_pools.web.drain_period", "not a duration", "`5s`"),
    # probes
    ({"probes.http.path": REMOVED}, "probes.http", "over http needs a path", "path: /healthz"),
    ({"probes.http.path": "healthz"}, "probes.http.path", "not a path", "begin it with `/`"),
    ({"probes.http.path": "/a b"}, "probes.http.path", "not a path", "percent-encode"),
    ({"probes.http.protocol": "tcp"}, "probes.http.path", "for http and https probes", "remove the key"),
    ({"probes.http.protocol": "grpc"}, "probes.http.protocol", "one of `tcp`", ""),
    ({"probes.http.tls": {"verify": True}}, "probes.http.tls", "for https probes", "remove the key"),
    ({"probes.http.send": "x"}, "probes.http.send", "for udp probes", "remove the key"),
    ({"probes.http.expect_hex": "00"}, "probes.http.expect_hex", "for udp probes", "remove the key"),
    ({"probes.http.port": "22:22"}, "probes.http.port", "1 to 65535", "write a number"),
    ({"probes.http.port": 0}, "probes.http.port", "1 to 65535", "within the bounds"),
    ({"probes.http.port": True}, "probes.http.port", "1 to 65535", "write a number"),
    ({"probes.http.interval": "1ms"}, "probes.http.interval", "from 10ms to 1h", ""),
    ({"probes.http.timeout": "6s"}, "probes.http.timeout", "the interval is 5s", "lower `timeout`"),
    ({"probes.http.threshold": 0}, "probes.http.threshold", "a threshold", ""),
    ({"probes.http.expected_status": 700}, "probes.http.expected_status", "100 to 599", "200-299"),
    ({"probes.http.expected_status": [200, "ok"]}, "probes.http.expected_status", "not an HTTP status", "200-299"),
    ({"probes.http.expected_status": []}, "probes.http.expected_status", "empty", "200-299"),
    ({"probes.http.expected_status": "299-200"}, "probes.http.expected_status", "lower one first", "200-299"),
    ({"probes.http.source_address": ["10.0.0.1", "10.0.0.2"]}, "probes.http.source_address", "per family", ""),
    ({"probes.http.host": "a b"}, "probes.http.host", "not a host name", "www.example.org"),
    ({"probes.u": {"protocol": "udp", "port": 53, "send": "a", "send_hex": "00"}}, "probes.u.send_hex", "too", "keep"),
    ({"probes.u": {"protocol": "udp", "port": 53, "send_hex": "0g"}}, "probes.u.send_hex", "not bytes", "two digits"),
    ({"probes.u": {"protocol": "udp", "port": 53, "send_hex": 12}}, "probes.u.send_hex", "text", 'quotes: "12"'),
    ({"probes.u": {"protocol": "udp", "port": 53, "send": "a" * 65508}}, "probes.u.send", "65,507 bytes", "less"),
    ({"probes.http.tsl": {}}, "probes.http.tsl", "unknown key", "did you mean `tls`?"),
    # rules
    ({"rules.0.frontend": "wbe"}, "rules[0].frontend", "no frontend of this name", "did you mean `web`?"),
    ({"rules.0.frontend": "zzz"}, "rules[0].frontend", "no frontend of this name", "pub, six, web"),
    ({"rules.0.backend_pool": "webb"}, "rules[0].backend_pool", "no backend pool", "did you mean `web`?"),
    ({"rules.0.probe": "htp"}, "rules[0].probe", "no probe of this name", "did you mean `http`?"),
    ({"rules.0.name": "b"}, "rules[1].name", "another rule has this name", "rename"),
    ({"rules.0.name": "n"}, "inbound_nat_rules[0].name", "another rule has this name", "rename"),
    ({"rules.0.name": 5}, "rules[0].name", "a name must be text", 'quotes: "5"'),
    ({"rules.0.frontend_port": 65536}, "rules[0].frontend_port", "0 to 65535", ""),
    ({"rules.0.frontend_port": 0}, "rules[0].frontend_port", "needs protocol `all`", "write a port"),
    ({"rules.0.backend_port": 0}, "rules[0].backend_port", "needs protocol `all`", "write a port"),
    ({"rules.0.protocol": "all"}, "rules[0].frontend_port", "HA ports", "`frontend_port: 0`"),
    ({"rules.0.protocol": "sctp"}, "rules[0].protocol", "one of `tcp`, `udp`, `all`", "write one of them"),
    ({"rules.0.frontend_prot": 80}, "rules[0].frontend_prot", "unknown key", "did you mean `frontend_port`?"),
    ({"rules.0.backend_pool": "six"}, "rules[0].backend_pool", "IPv6 and frontend web is IPv4", "IPv4 members"),
    ({"rules.0.idle_timeout": "101m"}, "rules[0].idle_timeout", "from 1s to 100m", ""),
    ({"rules.0.proxy_protocol": "v2"}, "rules[0].proxy_protocol", "is transparent", "`transparent: false`"),
    (
        {"rules.+": rule(proxy_protocol="v2", transparent=False, protocol="all", frontend_port=0)},
        "rules[2].proxy_protocol",
        "for tcp and udp",
        "",
    ),
    ({"rules.0.distribution": "source-ip"}, "rules[0].distribution", "one of", "did you mean `source_ip`?"),
    ({"rules.0.datapath": "xdp"}, "rules[0].datapath", "one of `auto`", "write one of them"),
    ({"rules.+": rule(frontend_port=80)}, "rules[2].frontend_port", "rule a (line", "change the port"),
    ({"rules.+": rule(frontend_port=5003)}, "inbound_nat_rules[0].frontend_port_range", "rule c", "change the port"),
    (
        {"inbound_nat_rules.+": nat(frontend_port_range="5009-5020")},
        "inbound_nat_rules[1].frontend_port_range",
        "n",
        "",
    ),
    ({"rules": {}}, "rules", "must be a list, not a mapping", ""),
    ({"rules": None}, "rules", "no value", "remove the key"),
    # inbound NAT rules
    ({"inbound_nat_rules.0.frontend_port": 5000}, "inbound_nat_rules[0]", "either", "remove one"),
    ({"inbound_nat_rules.0.frontend_port_range": REMOVED}, "inbound_nat_rules[0]", "either", "add one"),
    ({"inbound_nat_rules.0.frontend_port_range": "5000"}, "inbound_nat_rules[0].frontend_port_range", "not a port", ""),
    ({"inbound_nat_rules.0.frontend_port_range": "9-5"}, "inbound_nat_rules[0].frontend_port_range", "lower one", ""),
    (
        {"inbound_nat_rules.0.frontend_port_range": "5000-5000"},
        "inbound_nat_rules[0].frontend_port_range",
        "room for 1 of the 2 members of pool web",
        "`5000-5001`",
    ),
    (
        {"inbound_nat_rules.0.frontend_port_range": "65535-65535"},
        "inbound_nat_rules[0].frontend_port_range",
        "room for 1 of the 2",
        "begin it at 65534",
    ),
    ({"inbound_nat_rules.0.member": "web-1"}, "inbound_nat_rules[0].member", "every member", "`frontend_port`"),
    (
        {"inbound_nat_rules.+": nat(frontend_port=7000, frontend_port_range=None)},
        "inbound_nat_rules[1].frontend_port",
        "pool web has 2",
        "name the `member`",
    ),
    (
        {"inbound_nat_rules.+": nat(frontend_port=7000, frontend_port_range=None, member="web-3")},
        "inbound_nat_rules[1].member",
        "no member of pool web",
        "did you mean",
    ),
    ({"inbound_nat_rules.0.backend_port": 0}, "inbound_nat_rules[0].backend_port", "1 to 65535", ""),
    ({"inbound_nat_rules.0.frontend": "nope"}, "inbound_nat_rules[0].frontend", "no frontend", ""),
    (
        {
            "inbound_nat_rules": [],
            "rules.0": rule(protocol="all", frontend_port=0, backend_port=0, transparent=False, proxy_protocol="v2"),
        },
        "rules[0].proxy_protocol",
        "PROXY protocol is for tcp and udp",
        "remove it",
    ),
    # outbound rules
    ({"outbound_rules.0.frontends": []}, "outbound_rules[0].frontends", "empty", "at least one"),
    ({"outbound_rules.0.frontends": ["pbu"]}, "outbound_rules[0].frontends[0]", "no frontend", "`pub`"),
    ({"outbound_rules.0.frontends": ["pub", "pub"]}, "outbound_rules[0].frontends[1]", "twice", "remove one"),
    ({"outbound_rules.0.frontends": ["six"]}, "outbound_rules[0].backend_pool", "IPv4 and frontend six is IPv6", ""),
    ({"outbound_rules.0.allocated_ports": 12}, "outbound_rules[0].allocated_ports", "blocks of 8", "8 or 16"),
    (
        {"outbound_rules.0.allocated_ports": 40000},
        "outbound_rules[0].allocated_ports",
        "2 members need 80,000 ports, and 1 frontend has 64,000",
        "at most 32000",
    ),
    (
        {
            "backend_pools.many": {"members": members(9000)},
            "limits.pool_members": 9000,
            "outbound_rules.+": {"name": "p", "frontends": ["web"], "backend_pool": "many"},
        },
        "outbound_rules[1].allocated_ports",
        "9,000 members need 72,000 ports",
        "add frontends, or write `allocation: shared`",
    ),
    ({"outbound_rules.0.idle_timeout": "121m"}, "outbound_rules[0].idle_timeout", "from 1s to 2h", ""),
    (
        {"outbound_rules.0.allocated_ports": 32000, "outbound_rules.0.frontends": ["web"]},
        "outbound_rules[0].allocated_ports",
        "2 members need 64,000 ports, and 1 frontend has 63,976",
        "at most 31984",
    ),
    (
        {
            "outbound_rules.0.allocated_ports": 20000,
            "outbound_rules.0.protocol": "tcp",
            "outbound_rules.+": OUTBOUND | {"name": "p", "protocol": "udp", "allocated_ports": 20000},
        },
        "outbound_rules[1].allocated_ports",
        "with the ports of o on the same frontends",
        "fewer ports",
    ),
    (
        {"outbound_rules.0.allocated_ports": 8, "outbound_rules.0.allocation": "shared"},
        "outbound_rules[0].allocated_ports",
        "every member may use every port",
        "remove it",
    ),
    (
        {"outbound_rules.+": OUTBOUND | {"name": "p", "protocol": "udp"}},
        "outbound_rules[1].backend_pool",
        "rule o translates udp of member web-1 already",
        "another pool or protocol",
    ),
    ({"outbound_rules.0.allocation": "all"}, "outbound_rules[0].allocation", "member", ""),
    # limits
    (
        {"frontends": {f"f{i}": {"address": f"10.9.{i >> 8}.{i & 255}"} for i in range(601)}, "rules": []},
        "frontends",
        "at most 600 frontends",
        "remove 1",
    ),
    ({"rules": [rule(name=f"r{i}", frontend_port=10_000 + i) for i in range(1500)]}, "rules", "at most 1,500", ""),
    ({"backend_pools.big": {"members": members(5001)}}, "backend_pools.big.members", "at most 5,000", "remove 1"),
    (
        {"outbound_rules": [{"name": f"o{i}", "frontends": ["pub"], "backend_pool": "web"} for i in range(601)]},
        "outbound_rules",
        "at most 600 outbound rules",
        "remove 1",
    ),
]


THREE_HUNDRED = [rule(name=f"r{i}", frontend_port=10_000 + i, backend_port=1 + i) for i in range(299)]
BIG_POOL = {
    "backend_pools.big": {"members": members(50)},
    "rules": [rule(name=f"r{i}", frontend_port=10 + i, backend_pool="big") for i in range(3)],
}
LIMITED: list[tuple[Changes, str, int, str]] = [
    ({}, "frontends", 2, "frontends"),
    ({}, "rules", 2, "rules"),
    ({"outbound_rules.+": {"name": "p", "frontends": ["six"], "backend_pool": "six"}}, "outbound_rules", 1, ""),
    ({}, "pool_members", 1, "backend_pools.web.members"),
    ({"rules": THREE_HUNDRED}, "rules_per_member", 300, "backend_pools.web.members[0].address"),
    (BIG_POOL, "members_per_frontend", 100, "frontends.web"),
    (BIG_POOL | {"limits.members_per_frontend": 200}, "members_of_all_frontends", 140, "rules"),
]


@pytest.mark.parametrize(("changes", "key", "most", "where"), LIMITED)
def test_limits_can_be_raised(changes: Changes, key: str, most: int, where: str) -> None:
    """What goes beyond a limit is refused with the limit's number and the key that raises it, and is then accepted."""
    (problem,) = problems(changed({**changes, f"limits.{key}": most}))
    assert problem.where == (where or key)
    assert f"{most:,}" in problem.rule
    assert f"`limits.{key}`" in problem.remedy
    assert problem.code == (RULE_COUNT if key == "rules_per_member" else "")
    assert problems(changed({**changes, f"limits.{key}": 100 * most})) == ()


def ports_of_members(count: int, *, first_only: bool) -> Changes:
    """Return a pool, and an inbound NAT rule to one port of each member, or as many to the first member."""
    usual = {"frontend": "web", "protocol": "tcp", "backend_pool": "many", "backend_port": 22}
    rules = [
        {**usual, "name": f"n{i}", "frontend_port": 6000 + i, "member": f"m{0 if first_only else i}"}
        for i in range(count)
    ]
    return {"backend_pools.many": {"members": members(count)}, "inbound_nat_rules": rules}


def test_rules_for_one_member_count_for_it_alone() -> None:
    """301 inbound NAT rules that each lead to a member of its own are one rule a member; to one member they are 301."""
    assert problems(changed(ports_of_members(301, first_only=False))) == ()
    (problem,) = problems(changed(ports_of_members(301, first_only=True)))
    assert (problem.where, problem.code) == ("backend_pools.many.members[0].address", RULE_COUNT)
    assert "301 rules reach this member" in problem.rule


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rules.+": rule(frontend_port=80)}, "FRONTEND_PORT_TAKEN"),
        ({"rules.+": rule(frontend_port=5003)}, "FRONTEND_PORT_TAKEN"),
        ({"inbound_nat_rules.+": nat(protocol="all", frontend_port_range="5005-5020")}, "FRONTEND_PORT_TAKEN"),
        ({"inbound_nat_rules.0.frontend_port_range": "5000-5000"}, "NAT_RANGE_EXHAUSTED"),
        ({"datapath": "packet", "inbound_nat_rules.+": nat()}, BACKEND_PORT_CLASH),
        ({"rules": THREE_HUNDRED}, RULE_COUNT),
        ({"outbound_rules.0.allocated_ports": 12}, "SNAT_PORTS_NOT_IN_BLOCKS"),
        ({"outbound_rules.0.allocated_ports": 4}, "SNAT_PORTS_NOT_IN_BLOCKS"),
        ({"outbound_rules.0.allocated_ports": 63_984, "outbound_rules.0.frontends": ["web"]}, "SNAT_PORTS_EXCEEDED"),
        (
            {
                "outbound_rules.0.allocated_ports": 20_000,
                "outbound_rules.0.protocol": "tcp",
                "outbound_rules.+": OUTBOUND | {"name": "p", "protocol": "udp", "allocated_ports": 20_000},
            },
            "SNAT_PORTS_EXCEEDED",
        ),
        ({"outbound_rules.+": OUTBOUND | {"name": "p", "protocol": "udp"}}, "OUTBOUND_MEMBER_TAKEN"),
    ],
)
def test_codes(changes: Changes, code: str) -> None:
    """Conflicts have a code that programs can tell apart."""
    assert {problem.code for problem in problems(changed(changes))} == {code}


@pytest.mark.parametrize(
    ("changes", "where", "law", "remedy"), REFUSED, ids=[f"{i}-{case[1][:60]}" for i, case in enumerate(REFUSED)]
)
def test_refused(changes: Changes, where: str, law: str, remedy: str) -> None:
    """What is wrong is refused at its place, with the rule that it breaks and a remedy."""
    found = [problem for problem in problems(changed(changes)) if problem.where == where]
    assert found, [str(problem) for problem in problems(changed(changes))]
    (problem,) = found
    assert law in problem.rule
    assert remedy in problem.remedy
    assert problem.remedy
    assert problem.line
    assert problem.column
    assert problem.file == "test.yaml"


FLOATING: dict[str, Any] = {"floating_ip": True, "backend_port": 8080}
SAME_SOURCE: list[tuple[Changes, str, str, str]] = [
    (
        {"rules.0.floating_ip": True, "rules.0.backend_port": 8080, "rules.+": rule(**FLOATING)},
        "rules[2].backend_port",
        "rule a has members answer from tcp 10.0.0.10:8080 too",
        "another `backend_port`",
    ),
    (
        {"rules.0": rule(name="a", **FLOATING), "rules.+": rule(floating_ip=True, frontend_port=8080)},
        "rules[2].backend_port",
        "rule a has members answer from tcp 10.0.0.10:8080 too",
        "or another frontend",
    ),
    (
        {"inbound_nat_rules.0": nat(**FLOATING)},
        "inbound_nat_rules[0].frontend_port_range",
        "with `floating_ip` all 2 members of the range answer from 10.0.0.10:8080",
        "write `floating_ip: false`",
    ),
]


@pytest.mark.parametrize(("changes", "where", "law", "remedy"), SAME_SOURCE)
def test_answers_that_could_be_anybodys(changes: Changes, where: str, law: str, remedy: str) -> None:
    """Where floating IP changes ports, one port of members' on one address belongs to one rule."""
    (problem,) = problems(changed(changes))
    assert (problem.where, problem.code) == (where, BACKEND_PORT_CLASH)
    assert law in problem.rule
    assert remedy in problem.remedy


AZURE_REFUSED: list[tuple[Changes, str, str, str]] = [
    ({"probes.http.interval": "4s"}, "probes.http.interval", "shortest interval is 5s", ""),
    *(
        ({"probes.http.port": port}, "probes.http.port", "does not probe over HTTP", "")
        for port in (19, 21, 25, 70, 110, 119, 143, 220, 993)
    ),
    ({"probes.u": {"protocol": "udp", "port": 53}}, "probes.u.protocol", "no udp probes", ""),
    ({"rules.0.idle_timeout": "3m"}, "rules[0].idle_timeout", "shortest idle timeout is 4m", ""),
    ({"inbound_nat_rules.0.idle_timeout": "3m"}, "inbound_nat_rules[0].idle_timeout", "is 4m", ""),
    ({"outbound_rules.0.idle_timeout": "3m"}, "outbound_rules[0].idle_timeout", "is 4m", ""),
    ({"rules.0.frontend_port": 65535}, "rules[0].frontend_port", "end at 65534", ""),
    (
        {"inbound_nat_rules.0.frontend_port_range": "65500-65535"},
        "inbound_nat_rules[0].frontend_port_range",
        "65534",
        "",
    ),
    ({"outbound_rules.0.frontends": ["web"]}, "outbound_rules[0].frontends[0]", "public frontends", ""),
    (
        {"rules.+": rule(frontend="pub", name="c")},
        "outbound_rules[0].frontends[0]",
        "rule c on this frontend translates outbound connections as well",
        "OUTBOUND_SNAT_ENABLED",
    ),
    ({"outbound_rules.0.allocation": "shared"}, "outbound_rules[0].allocation", "ports of its own", ""),
    ({"outbound_rules.0.direct": ["10.0.0.0/8"]}, "outbound_rules[0].direct", "every public address", ""),
    ({"rules.+": rule(backend_port=80)}, "rules[2].backend_port", "rule a delivers", BACKEND_PORT_CLASH),
    (
        {"backend_pools.two": BASE["backend_pools"]["web"], "rules.+": rule(backend_port=80, backend_pool="two")},
        "rules[2].backend_port",
        "rule a delivers to the same members on tcp 80",
        BACKEND_PORT_CLASH,
    ),
    (
        {"inbound_nat_rules.+": nat(backend_port=22)},
        "inbound_nat_rules[1].backend_port",
        "rule n delivers to the same members on tcp 22",
        BACKEND_PORT_CLASH,
    ),
    (
        {"inbound_nat_rules.+": nat(frontend_port=7000, frontend_port_range=None, member="web-1", backend_port=80)},
        "inbound_nat_rules[1].backend_port",
        "rule a delivers to the same members on tcp 80",
        BACKEND_PORT_CLASH,
    ),
    (
        {
            "frontends.web": {"address": "10.0.0.10", "zones": ["1"], "zone_affinity": True},
            "backend_pools.web.members.0.zone": "1",
        },
        "frontends.web.zone_affinity",
        "no zone affinity",
        "",
    ),
    ({"probes.http.timeout": "2s"}, "probes.http.timeout", "the whole interval", ""),
    ({"probes.http.rise": 2}, "probes.http.rise", "one threshold for both ways", ""),
    ({"probes.http.fall": 3}, "probes.http.fall", "here 1 successes and 3 failures", ""),
    ({"probes.http.expected_status": "200-299"}, "probes.http.expected_status", "status 200 is healthy", ""),
    ({"probes.http.host": "www.example.org"}, "probes.http.host", "no host by name", ""),
    (
        {"probes.http": {"protocol": "https", "port": 443, "path": "/", "tls": {"verify": True}}},
        "probes.http.tls",
        "look at certificates",
        "",
    ),
    ({"backend_pools.web.members.0.weight": 2}, "backend_pools.web.members[0].weight", "no weights", ""),
    ({"backend_pools.web.members.0.weight": 0}, "backend_pools.web.members[0].weight", "no weights", ""),
    ({"backend_pools.web.members.1.priority": 1}, "backend_pools.web.members[1].priority", "no priorities", ""),
    ({"backend_pools.web.members.1.admin_state": "drain"}, "backend_pools.web.members[1].admin_state", "`down`", ""),
    ({"transparent": False}, "transparent", "the client's address as source", ""),
    ({"rules.0.transparent": False}, "rules[0].transparent", "the client's address as source", ""),
    ({"limits.frontends": 601}, "limits.frontends", "Azure's limit is 600", ""),
    ({"limits.rules_per_member": 301}, "limits.rules_per_member", "Azure's limit is 300", ""),
]


@pytest.mark.parametrize(("changes", "where", "law", "code"), AZURE_REFUSED)
def test_refused_with_compat_azure_only(changes: Changes, where: str, law: str, code: str) -> None:
    """What Azure refuses is refused with `compat: azure` and accepted without."""
    assert problems(changed(changes)) == ()
    (problem,) = problems(changed({**changes, "compat": "azure"}))
    assert problem.where == where
    assert law in problem.rule
    assert problem.code == code
    assert "or write `compat: extended`" in problem.remedy


AZURE_ACCEPTED: list[Changes] = [
    {},
    {"rules.+": rule(backend_port=80, floating_ip=True)},
    {"rules.+": rule(backend_port=80, frontend="pub", disable_outbound_snat=True)},
    {"rules.0.idle_timeout": "30m"},
    {"probes.http.interval": "60s", "probes.http.timeout": "30s"},
    {"probes.http.rise": 2, "probes.http.fall": 2},
    {"backend_pools.web.members.0.weight": 1, "backend_pools.web.members.0.admin_state": "down"},
    {"outbound_rules.0.idle_timeout": "120m"},
]


@pytest.mark.parametrize("changes", AZURE_ACCEPTED)
def test_accepted_with_compat_azure(changes: Changes) -> None:
    """What Azure accepts is accepted."""
    assert problems(changed({**changes, "compat": "azure"})) == ()


WARNED: list[tuple[Changes, str, str, str]] = [
    ({"backend_pools.web.members": []}, "backend_pools.web", "has no members", "add members"),
    (
        {"backend_pools.web.members.0.weight": 0, "backend_pools.web.members.1.weight": 0},
        "backend_pools.web",
        "every member has weight 0",
        "weight of 1",
    ),
    (
        {"rules.0.probe": REMOVED, "probes": {}, "backend_pools.web.members.1.admin_state": "down"},
        "backend_pools.web.members[1].admin_state",
        "rule a has no probe, and without one `down` takes no flows away",
        "give the rule a `probe`, or write `drain`",
    ),
    ({"frontends.x": {"address": "10.0.0.12"}}, "frontends.x", "no rule refers to it", "remove it"),
    ({"backend_pools.x": {"members": members(1)}}, "backend_pools.x", "no rule refers to it", "remove it"),
    ({"probes.x": {"protocol": "tcp", "port": 22}}, "probes.x", "no rule refers to it", "remove it"),
    ({"frontends.pub.allow": REMOVED}, "frontends.pub", "admits nobody", '["0.0.0.0/0"]'),
    ({"frontends.web.allow": []}, "frontends.web", "an empty `allow` admits nobody", '["0.0.0.0/0"]'),
    ({"frontends.six.scope": "public"}, "frontends.six", "admits nobody", '["::/0"]'),
    ({"probes.http.number_of_probes": 2}, "probes.http.number_of_probes", "ignored", "threshold"),
    (
        {"frontends.web": {"address": "10.0.0.10", "zones": ["1"], "zone_affinity": True}},
        "frontends.web.zone_affinity",
        "no member of pool web of rule a is in its zones",
        "give members a `zone`",
    ),
    (
        {"rules.0.floating_ip": True, "rules.0.backend_port": 8081},
        "rules[0].backend_port",
        "members answer from 10.0.0.10:8081, and only what passes this host on its way to the client is written back",
        "have members' route to clients lead through this host",
    ),
    ({"compat": "azure", "rules.0.idle_timeout": "31m"}, "rules[0].idle_timeout", "end at 30m", "keep-alives"),
]


@pytest.mark.parametrize(("changes", "where", "law", "remedy"), WARNED)
def test_warned(changes: Changes, where: str, law: str, remedy: str) -> None:
    """What works but is hardly meant is told as a warning, with its place."""
    (warning,) = parsed(changes).warnings
    assert warning.where == where
    assert law in warning.rule
    assert remedy in warning.remedy
    assert warning.line


def test_ports_that_change_beside_ha_ports() -> None:
    """Members cannot tell two connections of one source port apart; a rule that keeps the port has no such client."""
    every = rule(protocol="all", frontend_port=0, backend_port=0, floating_ip=True)
    changes: Changes = {"inbound_nat_rules": [], "rules.0.floating_ip": True, "rules.+": every}
    assert parsed(changes).warnings == ()
    _, warning = parsed({**changes, "rules.0.backend_port": 8081}).warnings
    assert "rule c (HA ports) leads clients of 10.0.0.10:8081 to that port as well" in warning.rule
    assert "write `backend_port: 80`" in warning.remedy


ACCEPTED: list[Changes] = [
    {"hash_seed": "0x1"},
    {"hash_seed": "8C1F0C6E5F0B4A7D"},
    {"admin.listen": None},
    {"admin.listen": "unix:/run/asynclb.sock"},
    {"admin.listen": "[::1]:9180"},
    {"admin": {"listen": "0.0.0.0:9180", "token_file": "/etc/asynclb/token"}},
    {"rules.+": rule(frontend_port=80, protocol="udp")},
    {"rules.+": rule(transparent=False, proxy_protocol="v2")},
    {"transparent": False, "rules.0.proxy_protocol": "v2"},
    {"probes.http.expected_status": [200, "204-206"]},
    {"probes.http.source_address": ["10.0.0.1", "fd00::1"]},
    {"probes.http": {"protocol": "https", "port": 443, "path": "/", "tls": {"verify": True}, "host": "a.b:443"}},
    {"inbound_nat_rules.0": nat(frontend_port_range=None, frontend_port=22, member="web-2")},
    {"outbound_rules.0.allocated_ports": 32000},
    {"frontends.web.interface": "bond0.100"},
]


@pytest.mark.parametrize("changes", ACCEPTED)
def test_accepted(changes: Changes) -> None:
    """What is allowed is not refused, and gives no warning."""
    assert problems(changed(changes)) == ()
    assert parsed(changes).warnings == ()


def test_broken_part_does_not_make_others_look_wrong() -> None:
    """A frontend that is broken is reported once; the rules that refer to it are not blamed."""
    found = problems(changed({"frontends.web.address": "nonsense", "backend_pools.six": 5, "probes.http.port": "x"}))
    assert [problem.where for problem in found] == ["frontends.web.address", "backend_pools.six", "probes.http.port"]


def test_broken_section_does_not_make_others_look_wrong() -> None:
    """Where the frontends are no mapping at all, only that is reported."""
    assert [problem.where for problem in problems(changed({"frontends": []}))] == ["frontends"]


def test_rule_with_a_wrong_value_still_has_its_references_checked() -> None:
    """What is wrong with a rule is told at once, not one thing after the other."""
    found = problems(changed({"rules.0.idle_timeout": 5, "rules.0.frontend": "wbe", "rules.1.name": "a"}))
    assert [problem.where for problem in found] == ["rules[0].frontend", "rules[0].idle_timeout", "rules[1].name"]


def test_unknown_key_does_not_hide_what_else_is_wrong() -> None:
    """A rule with an unknown key is still checked against everything else, nested parts and settings too."""
    changes = {"rules.0.nme": 1, "rules.0.frontend": "x", "admin": {"listen": "0.0.0.0:1", "x": 1}}
    changes |= {"probes.http.tls": {"verfy": True}}
    where = {problem.where for problem in problems(changed(changes))}
    assert where == {
        "rules[0].nme",
        "rules[0].frontend",
        "admin.x",
        "admin.listen",
        "probes.http.tls.verfy",
        "probes.http.tls",
    }


def test_reports_are_bounded() -> None:
    """A hundred thousand mistakes are refused in seconds, with the first thousand of them."""
    lines = (f"  f{number}: {{adress: x}}" for number in range(20_000))
    found = problems("\n".join(["version: 1", "frontends:", *lines]).encode())
    assert len(found) == 1000
