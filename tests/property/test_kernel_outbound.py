"""The BPF programs and the Python oracle agree on members' own connections, on both hooks."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynclb.datapath.core import Verdict
from asynclb.datapath.core.oracle import Oracle
from tests.property.test_core_oracle import Step, replied
from tests.property.test_kernel_oracle import SETTINGS, SHORTEST, wanted
from tests.property.test_outbound_oracle import make_world, steps
from tests.unit.core.loaded import Loaded, loaded
from tests.unit.core.world import CLIENTS, OURS, SECOND, SERVERS


@pytest.fixture(scope="module", params=["xdp", "tc"])
def programs(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    """The programs; frames go through one of them."""
    with loaded() as made:
        made.hook = request.param
        yield made


@settings(max_examples=100, **SETTINGS)
@given(ports=st.sampled_from([8, 512]), journey=st.lists(st.tuples(steps(), st.booleans()), min_size=1, max_size=30))
def test_own_connections_agree(programs: Loaded, ports: int, journey: list[tuple[Step, bool]]) -> None:
    """Any frames of members and servers, some answered; first packets pass, rewritten, to the host's routing."""
    start = make_world(7, ports)
    links = {SERVERS: start.hops[0].source, CLIENTS: OURS}
    oracle, now = Oracle(start.tables, start.plan, start.hops, links), 5 * SECOND
    programs.show(start)
    for step, answered in journey:
        if step.later_ms:
            programs.later(step.later_ms)
            now += step.later_ms * 1_000_000
        queue = [replace(step, partial=False)]
        while queue:
            sent = queue.pop()
            if len(sent.frame) < (SHORTEST.get(sent.frame[12:14], 15) if programs.hook == "tc" else 14):
                continue
            found, frame = programs.run(sent.frame, sent.ifindex)
            oracle.icmp_ms, oracle.icmp_tokens = now // 1_000_000, 0  # no messages of our own
            result = oracle.process(sent.frame, ifindex=sent.ifindex, now_ns=now)
            verdict, _, bytes_wanted = wanted(result)
            hosts = result.verdict is Verdict.TX and not result.ifindex
            assert (found, frame) == ("pass" if hosts else verdict, bytes_wanted)
            answer = replied(replace(sent, ifindex=CLIENTS), result) if answered else None
            if answer is not None and answer.ifindex in (0, CLIENTS) and sent.ifindex == SERVERS:
                queue.append(replace(answer, ifindex=CLIENTS))
