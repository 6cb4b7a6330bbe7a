"""From a file to a model, and problems found later back to their place in it."""

import hashlib
import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

from asynclb.config import load, parse
from asynclb.errors import ConfigError, Problem
from asynclb.model import AdminState, AdminTls, Scope, StatusRange
from asynclb.net.address import PRIVATE_PREFIXES
from tests.unit.config.base import REMOVED, changed, parsed

CONF = Path(__file__).parents[3] / "conf"


def refused(path: Path | str) -> Problem:
    """Return the one problem for which a file is refused."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    return problem


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is refused with its name."""
    problem = refused(tmp_path / "nope.yaml")
    assert "no such file" in problem.rule
    assert problem.file.endswith("nope.yaml")
    assert str(problem).startswith(f"{problem.file}: the file cannot be read")


def test_directory(tmp_path: Path) -> None:
    """A directory is no configuration."""
    assert "is a directory" in refused(tmp_path).rule


def test_name_that_is_no_name() -> None:
    """A name with a null byte is refused like any other that cannot be opened."""
    assert "cannot be read" in refused("a\0b").rule


def test_link_to_itself(tmp_path: Path) -> None:
    """A symbolic link that leads nowhere is refused."""
    (tmp_path / "a").symlink_to("a")
    assert "symbolic link" in refused(tmp_path / "a").remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path: Path) -> None:
    """A file that may not be read names the permission to give."""
    path = tmp_path / "a.yaml"
    path.write_text("version: 1\n")
    path.chmod(0)
    assert "chmod" in refused(path).remedy


def test_large_file(tmp_path: Path) -> None:
    """A file beyond the limit is refused."""
    path = tmp_path / "a.yaml"
    path.write_bytes(b"# " + b"x" * 11_000_000)
    assert "larger than 10 MiB" in refused(path).rule


def test_digest_is_of_the_text() -> None:
    """The digest changes with the text, comments included."""
    text = changed({})
    assert parse(text, file="a").digest == hashlib.sha256(text).hexdigest()


def test_defaults_of_a_frontend_follow_its_address() -> None:
    """A private address admits the private ranges of its family, a public one nobody."""
    model = parsed({"frontends.pub.allow": REMOVED}).model
    web, pub, six = model.frontends["web"], model.frontends["pub"], model.frontends["six"]
    assert (web.scope, web.address) == (Scope.INTERNAL, IPv4Address("10.0.0.10"))
    assert web.allow == tuple(prefix for prefix in PRIVATE_PREFIXES if prefix.version == 4)
    assert (pub.scope, pub.allow) == (Scope.PUBLIC, ())
    assert all(prefix.version == 6 for prefix in six.allow)
    opened = parsed({"frontends.web.scope": "public", "frontends.web.allow": ["192.0.2.0/24"]}).model.frontends["web"]
    assert (opened.scope, opened.allow) == (Scope.PUBLIC, (IPv4Network("192.0.2.0/24"),))


def test_defaults_of_a_probe() -> None:
    """The timeout is the interval, at most 30 s; `threshold` is rise and fall unless these are given."""
    probe = parsed({}).model.probes["http"]
    assert (probe.interval_s, probe.timeout_s, probe.rise, probe.fall, probe.max_in_flight) == (5, 5, 1, 1, 256)
    assert probe.expected_status == (StatusRange(200, 200),)
    assert parsed({"probes.http.interval": "1m"}).model.probes["http"].timeout_s == 30
    keys = {"probes.http.threshold": 3, "probes.http.fall": 2}
    probe = parsed(keys).model.probes["http"]
    assert (probe.rise, probe.fall) == (3, 2)


def test_probe_values() -> None:
    """Statuses, source addresses, TLS and payloads arrive as the model has them."""
    https = {
        "protocol": "https",
        "port": 443,
        "path": "/",
        "expected_status": [200, "300-399"],
        "source_address": ["fd00::1", "10.0.0.1"],
        "tls": {"verify": True, "server_name": "a.example", "ca_file": "/ca.pem"},
    }
    probe = parsed({"probes.http": https}).model.probes["http"]
    assert probe.expected_status == (StatusRange(200, 200), StatusRange(300, 399))
    assert (probe.source_address_v4, probe.source_address_v6) == (IPv4Address("10.0.0.1"), IPv6Address("fd00::1"))
    assert (probe.tls_verify, probe.tls_server_name, probe.tls_ca_file) == (True, "a.example", "/ca.pem")


@pytest.mark.parametrize(
    ("keys", "send", "expect"),
    [
        ({}, b"", None),
        ({"expect": "any"}, b"", None),
        ({"send": "PING", "expect": "PONG"}, b"PING", b"PONG"),
        ({"send_hex": "00 ff", "expect_hex": "616e79"}, b"\x00\xff", b"any"),
    ],
)
def test_udp_payloads(keys: dict[str, str], send: bytes, expect: bytes | None) -> None:
    """`any` accepts every answer; the three letters themselves can be asked for in hexadecimal."""
    probe = parsed({"probes.http": {"protocol": "udp", "port": 53, **keys}}).model.probes["http"]
    assert (probe.send, probe.expect) == (send, expect)


def test_rule_takes_what_it_does_not_say_from_the_whole() -> None:
    """An absent backend port is the frontend port; `transparent` comes from the top unless the rule says."""
    first, second = parsed({"transparent": False, "rules.1.transparent": True}).model.rules
    assert (first.backend_port, first.transparent, first.datapath) == (80, False, None)
    assert second.transparent


def test_nat_rule_with_one_port() -> None:
    """One port is a range of one."""
    keys = {"frontend_port": 22, "member": "web-1", "name": "n", "frontend": "web", "protocol": "tcp"}
    nat = {**keys, "backend_pool": "web", "backend_port": 22}
    (rule,) = parsed({"inbound_nat_rules.0": nat}).model.inbound_nat_rules
    assert (rule.first_port, rule.last_port, rule.member) == (22, 22, "web-1")


def test_admin_and_settings() -> None:
    """The places to listen on, the seed and the durations arrive as the model has them."""
    model = parsed({"admin.listen": "[::1]:80", "hash_seed": "0xff", "shutdown_drain": "250ms"}).model
    assert (model.admin.host, model.admin.port, model.hash_seed, model.shutdown_drain_s) == ("::1", 80, 255, 0.25)
    assert (model.workers, parsed({"workers": 4}).model.workers) == (1, 4)
    assert parsed({"admin.listen": "unix:/run/a.sock"}).model.admin.unix_path == "/run/a.sock"
    assert not parsed({"admin.listen": None}).model.admin.enabled
    files = {"certificate_file": "c.pem", "key_file": "k.pem"}
    assert parsed({"admin": {"tls": files}}).model.admin.tls == AdminTls("c.pem", "k.pem")


def test_pool_values() -> None:
    """Members keep the order of the file, with weight, state and zone."""
    changes = {
        "backend_pools.web.members.1": {
            "name": "b",
            "address": "10.1.0.9",
            "weight": 0,
            "admin_state": "drain",
            "zone": "2",
        },
        "backend_pools.web.drain_period": "1h",
    }
    pool = parsed(changes).model.backend_pools["web"]
    assert [member.name for member in pool.members] == ["web-1", "b"]
    assert (pool.members[1].weight, pool.members[1].admin_state, pool.members[1].zone) == (0, AdminState.DRAIN, "2")
    assert pool.drain_period_s == 3600


def test_same_text_gives_an_equal_model() -> None:
    """Nothing but the text decides on the model."""
    assert parsed({}).model == parsed({}).model


def test_later_problems_find_their_place() -> None:
    """A problem that a datapath finds is placed by its path, or by the nearest ancestor that the file has."""
    text = changed({})
    lines = text.decode().splitlines()
    found = parse(text, file="lb.yaml").source.locate(Problem(("rules", 1, "frontend"), "six", "no", "yes"))
    assert found.file == "lb.yaml"
    assert lines[found.line - 1] == "  frontend: six"
    assert lines[found.line - 1][found.column - 1 :] == "six"
    missing = parse(text, file="lb.yaml").source.locate(Problem(("rules", 1, "datapath"), "", "no", "yes"))
    assert lines[missing.line - 1] == "- name: b"
    mapping = parse(text, file="lb.yaml").source.locate(Problem(("frontends", "six"), "", "no", "yes"))
    assert lines[mapping.line - 1] == "  six:"


def test_text_with_byte_order_mark_and_crlf() -> None:
    """Files from other systems are read, and their columns are right."""
    text = b"\xef\xbb\xbf" + changed({}).replace(b"\n", b"\r\n")
    assert parse(text, file="a").model == parsed({}).model


@pytest.mark.parametrize("name", ["asynclb.yaml", "full.yaml"])
def test_shipped_configurations_are_sound(name: str) -> None:
    """The files in conf/ load without a warning."""
    assert load(CONF / name).warnings == ()


def test_what_stands_in_a_list_is_called_by_its_name() -> None:
    """A text has a rule's or a member's name beside its position, if it has one; the path for programs has none."""
    text = b"""
version: 1
frontends: {web: {address: 10.0.0.1}}
backend_pools: {web: {members: [{name: a, address: 10.0.0.2, weigth: 2}, {name: "b c", address: 10.0.0.3}]}}
rules:
  - {name: web, frontend: wbe, protocol: tcp, frontend_port: 80, backend_pool: web}
  - {name: web, name: web, frontend: web, protocol: tcp, frontend_port: 81, backend_pool: web, surplus: 1}
  - {frontend: web}
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, file="f")
    found = {problem.where: problem for problem in caught.value.problems}
    assert found["rules[0].frontend"].what == "rules[0] (web).frontend"
    assert str(found["rules[0].frontend"]).startswith("f:6:27: rules[0] (web).frontend: 'wbe': there is no frontend")
    assert found["rules[1].surplus"].what == "rules[1] (web).surplus"
    assert found["backend_pools.web.members[0].weigth"].what == "backend_pools.web.members[0] (a).weigth"
    assert found["backend_pools.web.members[1].name"].what == "backend_pools.web.members[1].name"
    assert found["rules[2].name"].what == "rules[2].name"
