"""Pools whose members come from elsewhere: how that is written, and how members are joined to the configuration."""

import copy
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from asynclb.config import Parsed, check_members, load, parse, read_members
from asynclb.errors import ConfigError
from asynclb.model import AdminState, DnsSource, EtcdSource, FileSource, Member, MembersFrom, MemberSource, Record
from tests.unit.config.base import BASE, written


def parsed(members_from: Any, **pool: Any) -> Parsed:
    """Read the base configuration with a pool `web` that has a source."""
    document = copy.deepcopy(BASE)
    document["backend_pools"]["web"] = {"members_from": members_from, **pool}
    return parse(written(document), file="asynclb.yaml")


def problems(members_from: Any, **pool: Any) -> list[str]:
    """Return what is wrong, without the places."""
    with pytest.raises(ConfigError) as caught:
        parsed(members_from, **pool)
    return [str(problem).split(": ", 1)[1] for problem in caught.value.problems]


def member(name: str, address: str) -> Member:
    """Make a member."""
    return Member(name, ip_address(address))


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ({"file": "members.yaml"}, FileSource("members.yaml")),
        ({"dns": {"names": ["web.test"]}}, DnsSource(("web.test",))),
        (
            {
                "dns": {
                    "names": ["_web._tcp.test."],
                    "record": "srv",
                    "family": "ipv6",
                    "timeout": "1s",
                    "servers": ["10.0.0.53", "10.0.0.54:5353", "[fd00::53]:54", "fd00::54"],
                    "min_interval": "500ms",
                    "max_interval": "1h",
                }
            },
            DnsSource(
                ("_web._tcp.test.",),
                Record.SRV,
                (("10.0.0.53", 53), ("10.0.0.54", 5353), ("fd00::53", 54), ("fd00::54", 53)),
                *(6, 0.5, 3600.0, 1.0),
            ),
        ),
        (
            {"etcd": {"endpoints": ["http://10.0.0.5:2379"], "prefix": "/web/"}},
            EtcdSource(("http://10.0.0.5:2379",), "/web/"),
        ),
        (
            {
                "etcd": {
                    "endpoints": ["https://[fd00::5]:2379"],
                    "prefix": "/web/",
                    "user": "u",
                    "password_file": "p",
                    "tls": {"ca_file": "ca", "certificate_file": "c", "key_file": "k"},
                    "timeout": "2s",
                }
            },
            EtcdSource(("https://[fd00::5]:2379",), "/web/", 2.0, "u", "p", "ca", "c", "k"),
        ),
    ],
)
def test_sources_as_they_are_written(written: Any, source: MemberSource) -> None:
    """Each kind of source becomes what the model says of it; the pool needs no members of its own."""
    pool = parsed(written).model.backend_pools["web"]
    assert pool.members_from == MembersFrom(source)
    assert pool.members == ()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({}, "no source is named; add one of `file`, `dns` and `etcd`"),
        ({"file": "x", "dns": {"names": ["a"]}}, "a pool has one source, and `file` and `dns` are given; keep one"),
        ({"dns": {"names": []}}, "the list is empty; name at least one"),
        ({"dns": {"names": ["a b"]}}, "this is not a name to look up; write it in full"),
        ({"dns": {"names": ["a"], "record": "mx"}}, "this must be one of `a`, `aaaa`, `srv`; write one of them"),
        (
            {"dns": {"names": ["a"], "family": "ipv6"}},
            "this key is for `record: srv`, and the record is `a`",
        ),
        ({"dns": {"names": ["a"], "servers": ["ns1"]}}, "this is not the address of a name server; write `10.0.0.53`"),
        ({"dns": {"names": ["a"], "servers": ["10.0.0.53:0"]}}, "ports are from 1 to 65535"),
        ({"dns": {"names": ["a"], "min_interval": "1h"}}, "it is longer than `max_interval`, 5m; lower it"),
        ({"etcd": {"endpoints": ["10.0.0.5:2379"], "prefix": "/"}}, "this is not the URL of an etcd; write scheme"),
        ({"etcd": {"endpoints": ["http://e"], "prefix": "/", "user": "u"}}, "`password_file` is missing"),
        (
            {"etcd": {"endpoints": ["http://e"], "prefix": "/", "tls": {"ca_file": "c"}}},
            "http://e is not https",
        ),
        (
            {"etcd": {"endpoints": ["https://e"], "prefix": "/", "tls": {"key_file": "c"}}},
            "certificate_file` is missing",
        ),
        ({"etc": {}}, "unknown key; did you mean `etcd`?"),
    ],
)
def test_mistakes_in_sources(written: Any, said: str) -> None:
    """Each mistake is refused with its rule and its remedy."""
    assert any(said in problem for problem in problems(written)), problems(written)


def test_a_pool_without_members_and_source_is_refused() -> None:
    """`members` may be left out only where there is `members_from`."""
    document = copy.deepcopy(BASE)
    document["backend_pools"]["web"] = {}
    with pytest.raises(ConfigError, match="a pool needs members; add `members: "):
        parse(written(document), file="asynclb.yaml")


def test_members_are_joined_behind_the_pools_own() -> None:
    """What a source tells of stands behind what is written; another answer takes its place, not a place beside it."""
    base = parsed({"file": "x"}, members=[{"name": "own", "address": "10.1.0.9"}])
    one = base.with_members({"web": (member("a", "10.1.0.1"),)})
    two = one.with_members({"web": (member("b", "10.1.0.2"),)})
    assert [m.name for m in one.model.backend_pools["web"].members] == ["own", "a"]
    assert [m.name for m in two.model.backend_pools["web"].members] == ["own", "b"]
    assert two.digest == base.digest
    assert two.model.backend_pools["six"] == base.model.backend_pools["six"]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            member("own", "10.1.0.1"),
            "member own (10.1.0.1), which the source tells of, `name`: another member",
        ),
        (
            member("a", "10.1.0.9"),
            "member a (10.1.0.9), which the source tells of, `address`: member own",
        ),
        (
            member("a", "fd00::1"),
            "member a (fd00::1), which the source tells of, `address`: the pool's first",
        ),
    ],
)
def test_members_that_do_not_fit_name_their_source(told: Member, said: str) -> None:
    """A problem of a member that is not in the file stands at the pool's `members_from`, with the member."""
    base = parsed({"file": "x"}, members=[{"name": "own", "address": "10.1.0.9"}])
    with pytest.raises(ConfigError) as caught:
        base.with_members({"web": (told,)})
    problem = caught.value.problems[0]
    assert problem.where == "backend_pools.web.members_from"
    assert said in problem.rule


def test_limits_and_port_ranges_hold_for_joined_members() -> None:
    """More members than the limit, or than an inbound NAT rule has ports, do not fit."""
    base = parsed({"file": "x"})
    eleven = tuple(member(f"m{n}", f"10.1.0.{n}") for n in range(1, 12))
    with pytest.raises(ConfigError, match="room for 10 of the 11 members"):
        base.with_members({"web": eleven})
    many = tuple(member(f"m{n}", f"10.1.{n // 250}.{n % 250 + 1}") for n in range(5001))
    with pytest.raises(ConfigError, match=r"there are at most 5,000 members in one pool; remove 1"):
        base.with_members({"web": many})


def test_files_of_members() -> None:
    """YAML and JSON, a list or `members:`; a member without a name is called by its address."""
    text = (
        b"- {name: a, address: 10.0.0.1, weight: 3, admin_state: drain, zone: '1', priority: 2}\n- {address: fd00::1}\n"
    )
    one, two = read_members(text, file="m.yaml")
    assert one == Member("a", ip_address("10.0.0.1"), 3, AdminState.DRAIN, "1", 2)
    assert two == member("fd00--1", "fd00::1")
    assert read_members(b'{"members": [{"address": "10.0.0.1"}]}', file="m") == (member("10.0.0.1", "10.0.0.1"),)
    assert read_members(b"[]", file="m") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "m.yaml:1:1: the file is empty"),
        (b"a: 1\n", "m.yaml:1:1: this must be a list of members, not a mapping"),
        (b"- {name: a}\n", "m.yaml:1:3: [0] (a).address: a required key is missing"),
        (b"- {address: 1}\n", "an address must be text"),
        (b"- web-1\n", "m.yaml:1:3: [0]: 'web-1': this must be a mapping, not text"),
        (
            b"- {address: 10.0.0.1}\n- {address: 10.0.0.300}\n",
            "m.yaml:2:13: [1].address: '10.0.0.300'",
        ),
        (b"- {address: 10.0.0.1, address: 10.0.0.2}\n", "m.yaml:1:23"),
        (b"\xff", "the text is not UTF-8"),
    ],
)
def test_files_that_are_none_of_members(text: bytes, said: str) -> None:
    """Whatever is wrong has its line, its rule and its remedy."""
    with pytest.raises(ConfigError) as caught:
        read_members(text, file="m.yaml")
    assert said in str(caught.value)


def test_parts_that_are_none_of_members() -> None:
    """An answer that is no file tells of each part by what it is called there."""
    with pytest.raises(ConfigError) as caught:
        check_members({"/web/a": 7, "/web/b": {"name": "b", "address": "10.0.0.1", "weight": "heavy"}}, source="etcd")
    told = [str(problem) for problem in caught.value.problems]
    assert told[0].startswith("etcd: /web/a: '7': this must be a mapping")
    assert told[1].startswith("etcd: /web/b.weight: 'heavy': a weight must be a whole number")


def test_the_example_of_every_key_is_sound(tmp_path: Path) -> None:
    """The commented sources of conf/full.yaml are right when they are taken out of their comments."""
    text = (Path(__file__).parents[3] / "conf" / "full.yaml").read_text()
    begin = text.index("    # members_from:\n")
    example = text[begin : text.index("    drain_period:", begin)]
    example = re.sub(r"^    # ", "    ", example, flags=re.MULTILINE)
    blocks = [block for block in example.split("    members_from:\n") if block.strip()]
    assert len(blocks) == 3
    for block in blocks:
        path = tmp_path / "asynclb.yaml"
        path.write_text(text.replace("    members_from: null ", "    members_from:\n" + block.rstrip() + "\n    # "))
        assert load(path).model.backend_pools["web"].members_from is not None
