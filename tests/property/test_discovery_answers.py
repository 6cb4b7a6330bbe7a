"""What name servers and an etcd answer: whatever it is, it becomes members or is refused."""

import json
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asynclb.config import check_members
from asynclb.discovery.etcd_wire import Compacted, end_of, read_keys, read_moment
from asynclb.discovery.records import Service, parts_of_services

LEAVES = st.none() | st.booleans() | st.text(max_size=5) | st.sampled_from(["7", "DELETE", "YQ=="])
ODD = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=10
)
HEADER = st.fixed_dictionaries({"revision": LEAVES})
PAIR = st.fixed_dictionaries({"key": LEAVES}, optional={"value": LEAVES})
EVENT = st.fixed_dictionaries({"kv": PAIR | ODD}, optional={"type": LEAVES})
RESULT = st.fixed_dictionaries(
    {"header": HEADER | ODD}, optional={"events": st.lists(EVENT | ODD, max_size=3) | ODD, "compact_revision": ODD}
)
MOMENT = st.fixed_dictionaries({"result": RESULT | ODD}, optional={"error": ODD})
KEYS = st.fixed_dictionaries({"header": HEADER | ODD}, optional={"kvs": st.lists(PAIR | ODD, max_size=3) | ODD})


@given(st.binary(min_size=1, max_size=8), st.binary(max_size=8))
def test_the_range_of_a_prefix_has_every_key_that_begins_with_it(prefix: bytes, rest: bytes) -> None:
    """Keys with the prefix are below the range's end, or it is open."""
    end = end_of(prefix)
    assert end == b"\0" or prefix + rest < end


@given(MOMENT | KEYS | ODD)
def test_whatever_json_says_is_read_or_refused(document: Any) -> None:
    """No answer of a server can raise what the client does not expect."""
    known = ValueError, KeyError, TypeError, AttributeError, Compacted
    with suppress(*known):
        read_moment(json.dumps(document).encode())
    with suppress(*known):
        read_keys(document)


@given(
    st.lists(
        st.builds(
            Service,
            st.integers(0, 65_535),
            st.integers(0, 65_535),
            st.integers(1, 65_535),
            st.sampled_from([f"{name}.test" for name in "abcdefgh"]),
        ),
        max_size=30,
    )
)
def test_whatever_records_say_is_a_sound_set_of_members(services: list[Service]) -> None:
    """Any records give members that the configuration's rules accept, with names of their own, in one order."""
    addresses = {
        f"{name}.test": [ip_address(f"10.0.{i}.{k}") for k in (1, 2)][: 1 + i % 2] for i, name in enumerate("abcdefg")
    }
    parts = parts_of_services(services, addresses)
    members = check_members(parts, source="dns")
    assert len({member.name for member in members}) == len({member.address for member in members}) == len(members)
    assert parts == parts_of_services(list(reversed(services)), addresses)
