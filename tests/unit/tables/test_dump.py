"""The dump of a generation: golden texts, which also fix every hash, permutation and share for ever.

A change of a golden file moves the flows of every installation that upgrades: say so in the changelog.
`ASYNCLB_WRITE_GOLDEN=1 pytest tests/unit/tables/test_dump.py` writes them anew.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from asynclb.net.flow import Protocol
from asynclb.net.flowhash import Distribution
from asynclb.tables.dump import dump
from asynclb.tables.row import Delivery
from asynclb.tables.tables import EMPTY_TABLES, Tables
from tests.unit.tables.world import PROBE, equal_pool, health, pool, row, tables

GOLDEN = Path(__file__).parents[2] / "golden" / "tables"
WEB = pool("web", {"web-1": 1, "web-2": 2, "web-3": 1})


def web() -> Tables:
    """A weighted pool behind three rules, IPv4 and IPv6, one of them with a member down."""
    return tables(
        row(WEB, name="https", port=443, distribution=Distribution.SOURCE_IP),
        row(WEB, name="https-v6", port=443, address="2001:db8::10"),
        row(WEB, name="http", probe=PROBE),
        found=health(WEB, down=["web-3"]),
        generation=7,
    )


def nva() -> Tables:
    """Appliances behind a routed HA-ports rule."""
    routed = row(equal_pool("nva", 2), name="nva", address="10.0.1.4", protocol=Protocol.ALL, port=0, symmetric=True)
    return tables(replace(routed, delivery=Delivery.ROUTED))


def skewed() -> Tables:
    """A thousandfold difference of weights."""
    return tables(row(pool("canary", {"canary": 1, "stable": 1000})))


def silent() -> Tables:
    """A rule whose probe has said nothing yet, beside one that serves."""
    return tables(row(WEB, name="waiting", probe=PROBE), row(WEB, name="serving", port=81))


def empty() -> Tables:
    """No rule at all."""
    return EMPTY_TABLES


CASES = {"web": web, "nva": nva, "skewed": skewed, "silent": silent, "empty": empty}


@pytest.mark.parametrize("case", CASES)
def test_the_dump_is_the_golden_text(case: str) -> None:
    """Tables of the same inputs are the same text, on every machine and in every version."""
    text, golden = dump(CASES[case]()), GOLDEN / f"{case}.txt"
    if os.environ.get("ASYNCLB_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
