"""Row 66: what is counted of a rule equals what a capture at the client counts."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from asynclb.lab import PATIENCE_S
from tests.conformance.rows.bed import Bed, frontend, rule, vip

pytestmark = pytest.mark.asyncio(loop_scope="session")

SOURCES = range(43_000, 43_040)
ADDRESS = vip(66, more=1)
TCP_PORT, UDP_PORT = 80, 7053  # not 53, of which tcpdump prints no length

_FRAME = re.compile(r", length (?P<frame>\d+): (?P<source>\S+)\.\d+ > (?P<to>\S+)\.\d+: .*length (?P<payload>\d+)")


def counted(lines: str, datapath: str) -> Iterator[tuple[str, int]]:
    """Yield what each line of `tcpdump -e` adds to which metric of the rules `tcp66` and `udp66`.

    The proxy counts payload, and of TCP no packets: a stream has none.
    """
    for line in lines.splitlines():
        if not (found := _FRAME.search(line)):
            continue
        name, direction = "tcp66" if "Flags [" in line else "udp66", "in" if found["to"] == ADDRESS else "out"
        size = found["payload" if datapath == "proxy" else "frame"]
        yield f'asynclb_rule_bytes_total{{direction="{direction}",rule="{name}"}}', int(size)
        if (datapath, name) != ("proxy", "tcp66"):
            yield f'asynclb_rule_packets_total{{direction="{direction}",rule="{name}"}}', 1
        if "Flags [S]," in line:
            yield f'asynclb_rule_syn_total{{rule="{name}"}}', 1


async def settled(bed: Bed, expected: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are expected, as soon as they are as expected or it took too long."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        metrics = await bed.metrics()
        found = {name: metrics[name] for name in expected}
        if found == expected or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


async def test_row_66_counters_equal_a_capture(bed: Bed) -> None:
    """Packets, bytes and SYNs of each rule and direction are those that tcpdump counts at the client."""
    rules = [rule("tcp66"), rule("udp66", protocol="udp", frontend_port=UDP_PORT)]
    await bed.load(frontends={"vip": frontend(ADDRESS)}, rules=rules)
    with bed.serving():
        capture = await bed.client().run("tcpdump", "-lenni", "front", f"host {ADDRESS}", name="tcpdump")
        await capture.wait_for_log("listening on")
        await bed.visits(ADDRESS, SOURCES)
        for source in SOURCES:
            await bed.ask(ADDRESS, UDP_PORT, source_port=source)
        await asyncio.sleep(0.5)
        await capture.stop()
    expected: Counter[str] = Counter()
    for name, number in counted(capture.stdout, bed.datapath):
        expected[name] += number
    assert expected['asynclb_rule_syn_total{rule="tcp66"}'] >= len(SOURCES)
    assert await settled(bed, expected) == expected
