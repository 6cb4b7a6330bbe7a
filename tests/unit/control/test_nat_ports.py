"""Ports of inbound NAT rules through reloads and restarts of the controller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from asynclb.admin.state import state_document
from asynclb.control.controller import Controller
from asynclb.control.nat_ports import FILE_NAME, PortFile, read_ports
from asynclb.events import Event
from asynclb.model import Compat, InboundNatRule, Model
from asynclb.net.flow import Protocol
from asynclb.rules.inbound_nat import RANGE_IN_USE
from asynclb.rules.zones import ZONES_ARE_FIXED
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, Log, web_model

SSH = InboundNatRule("ssh", "vip", Protocol.TCP, 50_000, 50_003, "web", 22)


def nat_model(*names: str, rule: InboundNatRule = SSH) -> Model:
    """Return a model with a load-balancing rule and an inbound NAT rule over the same members."""
    return replace(web_model(*names), inbound_nat_rules=(rule,))


@asynccontextmanager
async def controller(loader: FakeLoader, directory: Path, log: Log) -> AsyncIterator[Controller]:
    """Run a controller that keeps ports in the directory."""
    bench = Bench(loader, [FakeDatapath("proxy")], log=log)
    found = bench.controller(PortFile(directory, log))
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_ports_stay_over_reloads_and_restarts(tmp_path: Path) -> None:
    """A member keeps its port when another one goes, when the process starts again, and when others come."""
    loader, log = FakeLoader(nat_model("a", "b", "c")), Log()
    async with controller(loader, tmp_path, log) as first:
        await first.reload("start")
        loader.put(nat_model("b", "c"))
        await first.reload("signal")
        assert first.status().nat_ports == {"ssh": {"b": 50_001, "c": 50_002}}
    async with controller(loader, tmp_path, log) as second:
        loader.put(nat_model("d", "b", "c"))
        await second.reload("start")
        assert second.status().nat_ports == {"ssh": {"d": 50_000, "b": 50_001, "c": 50_002}}
        document = state_document(second.status(), now_s=0, now_ns=0)
    assert [rule["name"] for rule in document["rules"]] == ["web-0", "ssh/d", "ssh/b", "ssh/c"]
    assert {rule["kind"] for rule in document["rules"]} == {"load_balancing", "inbound_nat"}
    (nat,) = document["inbound_nat_rules"]
    assert nat["mappings"][1] == {"member": "b", "frontend_port": 50_001}


async def test_a_range_in_use_is_not_taken_away(tmp_path: Path) -> None:
    """A reload that cuts a port off under its member is refused and changes nothing."""
    loader = FakeLoader(nat_model("a", "b", "c"))
    async with controller(loader, tmp_path, Log()) as found:
        await found.reload("start")
        loader.put(nat_model("b", "c", rule=replace(SSH, last_port=50_001)))
        refused = await found.reload("signal")
        assert [problem.code for problem in refused.problems] == [RANGE_IN_USE]
        assert found.status().nat_ports["ssh"]["c"] == 50_002


async def test_frontends_keep_their_zones_in_azure(tmp_path: Path) -> None:
    """With `compat: azure` a reload that changes a frontend's zones is refused; else it is made."""
    before = nat_model("a")
    moved = {"vip": replace(before.frontends["vip"], zones=("1",))}
    loader = FakeLoader(before)
    async with controller(loader, tmp_path, Log()) as found:
        await found.reload("start")
        loader.put(replace(before, compat=Compat.AZURE, frontends=moved))
        assert [problem.code for problem in (await found.reload("signal")).problems] == [ZONES_ARE_FIXED]
        loader.put(replace(before, frontends=moved))
        assert (await found.reload("signal")).result == "applied"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"ssh": []}', '{"ssh": {"a": 0}}', '{"ssh": {"a": "1"}}', '{"ssh": {"a": 7, "b": 7}}']
)
def test_a_spoilt_file_is_told(tmp_path: Path, content: str) -> None:
    """A file that holds something else counts as none, and the process says so."""
    (tmp_path / FILE_NAME).write_text(content)
    log = Log()
    assert PortFile(tmp_path, log).read() == {}
    assert log.names() == [Event.HOST_LIMIT]


def test_kept_whole(tmp_path: Path) -> None:
    """What was kept is read back, and no draft stays behind."""
    log, place = Log(), tmp_path / "state"
    PortFile(place, log).keep({"ssh": {"a": 50_000}})
    assert read_ports(place) == {"ssh": {"a": 50_000}}
    assert [path.name for path in place.iterdir()] == [FILE_NAME]
    assert log.events == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """Where ports cannot be kept, the process goes on and says so."""
    (tmp_path / "state").write_text("a file where the directory should be")
    log = Log()
    PortFile(tmp_path / "state", log).keep({"ssh": {"a": 50_000}})
    assert log.names() == [Event.HOST_LIMIT]
