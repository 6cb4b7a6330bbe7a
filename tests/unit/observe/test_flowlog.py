"""The flow log: lines, which flows have one, rotation, files that others move, and disks that are full."""

import asyncio
import ctypes
import json
import multiprocessing
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from asynclb import config
from asynclb.datapath.lifetimes import End, Lifetime, Place, TellingCost, is_told
from asynclb.errors import ConfigError
from asynclb.events import Event
from asynclb.lab import PATIENCE_S
from asynclb.model import FlowLogSettings
from asynclb.observe.flowlog import FlowLog, LineResult
from asynclb.observe.flowlog_file import LogFile
from asynclb.observe.flowlog_line import Lines
from tests.unit.proxy.world import Events

PLACE = Place(
    rule="web",
    frontend="web",
    frontend_address="203.0.113.10:80",
    pool="web",
    member="web-1",
    member_address="10.1.0.11:8080",
    protocol="tcp",
)
FREE = TellingCost(0.0, 0.0)
FLOW = Lifetime(
    1_700_000_000.25,
    End.CLOSED,
    PLACE,
    client="198.51.100.7:41000",
    bytes_in=100,
    packets_in=5,
    bytes_out=2_000,
    packets_out=4,
    duration_s=1.5,
)


def of(*flows: Lifetime) -> Callable[[], Iterable[Lifetime]]:
    """Return the words for these flows."""
    return lambda: flows


def lines(path: Path) -> list[dict[str, object]]:
    """Return what a file says; each line must be JSON."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_everything_and_is_json() -> None:
    """The line of a flow that ended has its names, addresses, sizes, duration, reason, and a time in UTC."""
    assert json.loads(Lines("proxy", 4).line(FLOW)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "event": "end",
        "datapath": "proxy",
        "sample": 4,
        "rule": "web",
        "frontend": "web",
        "frontend_address": "203.0.113.10:80",
        "pool": "web",
        "member": "web-1",
        "member_address": "10.1.0.11:8080",
        "client": "198.51.100.7:41000",
        "protocol": "tcp",
        "bytes_in": 100,
        "packets_in": 5,
        "bytes_out": 2000,
        "packets_out": 4,
        "duration_s": 1.5,
        "reason": "closed",
    }


def test_start_and_end_of_a_flow_are_sampled_alike() -> None:
    """About one in so many flows is told of, and those of a coarser rate are some of those of a finer one."""
    flows = [(client.encode(), port) for client in ("198.51.100.7", "2001:db8::7") for port in range(1_024, 21_024)]
    before = flows
    for sample in (1, 10, 20, 40, 80):
        chosen = [flow for flow in flows if is_told(sample, *flow)]
        assert len(chosen) == pytest.approx(40_000 / sample, rel=0.1)
        assert set(chosen) <= set(before)
        before = chosen


def test_lines_of_one_batch_have_their_own_seconds_and_places() -> None:
    """What lines have in common is kept for those that have it in common only."""
    maker, other = Lines("kernel", 1), replace(PLACE, member="web-2")
    flows = [
        FLOW,
        replace(FLOW, at_s=1_700_000_001.0),
        replace(FLOW, place=other, end=None, destination="[2001:db8::1]:53"),
    ]
    found = [json.loads(maker.line(flow)) for flow in (*flows, FLOW)]
    assert [line["time"][17:] for line in found] == ["20.250Z", "21.000Z", "20.250Z", "20.250Z"]
    assert [line["member"] for line in found] == ["web-1", "web-1", "web-2", "web-1"]
    assert [line.get("destination") for line in found] == [None, None, "[2001:db8::1]:53", None]


def test_rotation_keeps_whole_files_in_order(tmp_path: Path) -> None:
    """No file is larger than allowed, as many as asked for are kept, and path.1 is the youngest."""
    path = tmp_path / "flows"
    file = LogFile(str(path), 100, keep=2)
    for number in range(1, 9):
        file.append(f"{number:039d}\n".encode())
    file.close()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["flows", "flows.1", "flows.2"]
    found = [[int(line) for line in (tmp_path / name).read_text().split()] for name in ("flows.2", "flows.1", "flows")]
    assert found == [[3, 4], [5, 6], [7, 8]]


def test_without_kept_files_the_file_begins_anew(tmp_path: Path) -> None:
    """`keep: 0` leaves nothing but the file itself."""
    file = LogFile(str(tmp_path / "flows"), 10, keep=0)
    file.append(b"12345678\n")
    file.append(b"abcdefgh\n")
    file.close()
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("flows", b"abcdefgh\n")]


def test_a_file_that_logrotate_moved_is_opened_anew(tmp_path: Path) -> None:
    """What comes after an outside rotation is in the new file, and both may be read by the group only."""
    path = tmp_path / "flows"
    file = LogFile(str(path), 1_000, keep=2)
    file.append(b"one\n")
    path.rename(tmp_path / "flows.old")
    file.append(b"two\n")
    assert (tmp_path / "flows.old").read_bytes() == b"one\n"
    path.unlink()
    file.append(b"three\n")
    assert path.read_bytes() == b"three\n"
    assert not stat.S_IMODE(path.stat().st_mode) & 0o137
    file.close()


async def test_a_reload_switches_on_off_and_to_another_path(tmp_path: Path) -> None:
    """Lines go where the settings of the moment say, and nowhere without any."""
    log, first, second = FlowLog(Events()), tmp_path / "first", tmp_path / "second"
    assert log.listeners("proxy", FREE).ends is None
    for path in (first, second):
        log.configure(FlowLogSettings(str(path)))
        listeners = log.listeners("proxy", FREE)
        assert listeners.ends is not None
        assert listeners.starts is None
        listeners.ends(1, of(FLOW))
        async with asyncio.timeout(PATIENCE_S):
            while not path.exists() or not path.read_bytes():
                await asyncio.sleep(0.01)
    log.configure(None)
    assert log.listeners("proxy", FREE).ends is None
    await log.close()
    assert len(lines(first)) == len(lines(second)) == 1
    assert log.lines[LineResult.WRITTEN] == 2


async def test_what_does_not_fit_is_lost_and_counted(tmp_path: Path) -> None:
    """A bound on what waits is kept, and what is beyond it is counted."""
    log = FlowLog(Events(), most=3)
    log.configure(FlowLogSettings(str(tmp_path / "flows"), start=True))
    tell = log.listeners("proxy", FREE).starts
    assert tell is not None
    for _ in range(5):
        tell(1, of(replace(FLOW, end=None)))
    await log.close()
    assert dict(log.lines) == {LineResult.WRITTEN: 3, LineResult.OVERFLOW: 2, LineResult.FAILED: 0}
    assert {line["event"] for line in lines(tmp_path / "flows")} == {"start"}


async def test_a_log_that_costs_too_much_tells_of_fewer_flows(tmp_path: Path) -> None:
    """Flows that cost more than 1 % make the rate coarser; datapaths listen anew, and lines say the rate."""
    events, rates, path = Events(), list[int](), tmp_path / "flows"

    def changed() -> None:
        rates.append(log.listeners("proxy", FREE).sample)

    log = FlowLog(events, changed)
    log.configure(FlowLogSettings(str(path)))
    dear = log.listeners("proxy", TellingCost(10.0, 0.0)).ends  # ten seconds' worth: 1,000 times the budget
    assert dear is not None
    dear(1, of(FLOW))
    async with asyncio.timeout(PATIENCE_S):
        while not events.of(Event.FLOW_LOG_SAMPLED):
            await asyncio.sleep(0.01)
    sample = log.report.sample
    assert sample >= 512
    assert rates == [sample]
    assert events.of(Event.FLOW_LOG_SAMPLED) == [{"path": str(path), "sample": sample, "finest": 1}]
    tell = log.listeners("proxy", FREE).ends
    assert tell is not None
    tell(1, of(FLOW))
    await log.close()
    assert [line["sample"] for line in lines(path)] == [1, sample]
    assert log.report.spent_s > 10.0


async def test_what_writing_takes_is_measured(tmp_path: Path) -> None:
    """The thread's processor time is counted, with what was passed over for each flow that was told."""
    log = FlowLog(Events())
    log.configure(FlowLogSettings(str(tmp_path / "flows"), sample=4))
    assert log.report.sample == 4
    tell = log.listeners("proxy", TellingCost(1e-6, 1e-6)).ends
    assert tell is not None
    tell(1_000, of(*[FLOW] * 1_000))
    on_loop_s = log.report.spent_s
    assert on_loop_s == pytest.approx(1_000 * 4e-6, rel=0.01)
    await log.close()
    assert 0.000_5 < log.report.spent_s - on_loop_s < 0.1


def _on_small_disk(directory: str) -> None:
    """Fill a disk of 64 kB with the log, make room, and go on; in a process with mounts of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.unshare(os.CLONE_NEWNS) if hasattr(os, "unshare") else libc.unshare(0x00020000)
    assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
    assert libc.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, b"size=64k") == 0
    asyncio.run(_fill(Path(directory)))


async def _counted(log: FlowLog, result: LineResult, lines: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while log.lines[result] < lines:
            await asyncio.sleep(0.01)


async def _fill(directory: Path) -> None:
    events, ballast = Events(), directory / "ballast"
    log = FlowLog(events)
    log.configure(FlowLogSettings(str(directory / "flows")))
    tell = log.listeners("packet", FREE).ends
    assert tell is not None
    ballast.write_bytes(bytes(40_000))
    for lost in (100, 200):
        tell(100, of(*[FLOW] * 100))
        await _counted(log, LineResult.FAILED, lost)
    assert len(events.of(Event.FLOW_LOG_FAILED)) == 1, "told once"
    assert "No space left" in str(events.of(Event.FLOW_LOG_FAILED)[0]["error"])
    ballast.unlink()
    tell(10, of(*[FLOW] * 10))
    await _counted(log, LineResult.WRITTEN, 10)
    await log.close()
    assert events.of(Event.FLOW_LOG_RESUMED) == [{"path": str(directory / "flows"), "lost": 200}]
    assert dict(log.lines) == {LineResult.WRITTEN: 10, LineResult.OVERFLOW: 0, LineResult.FAILED: 200}
    assert len(lines(directory / "flows")) == 10, "whole lines only"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    """Lines that the disk has no room for are counted, begin and end are told once, and no half line is left."""
    process = multiprocessing.get_context("fork").Process(target=_on_small_disk, args=(str(tmp_path),))
    process.start()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("path", "rule", "remedy"),
    [
        ("{here}/absent/flows", "the directory {here}/absent is not there", "install -d"),
        ("{here}", "this is not a file", "name a file"),
    ],
)
def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path, path: str, rule: str, remedy: str) -> None:
    """`check` and the start name the directory, what is wrong with it, and the command that mends it."""
    text = f"version: 1\nflow_log: {{path: {path.format(here=tmp_path)}}}\n"
    with pytest.raises(ConfigError) as refused:
        config.parse(text.encode(), file="asynclb.yaml")
    problem = refused.value.problems[0]
    assert (problem.line, problem.path) == (2, ("flow_log", "path"))
    assert rule.format(here=tmp_path) in problem.rule
    assert remedy in problem.remedy


def _as_nobody() -> None:
    """Ask for a log where only root may write."""
    config.parse(b"version: 1\n", file="asynclb.yaml")  # what is imported late may be out of nobody's reach
    os.setgid(65_534)
    os.setuid(65_534)
    with pytest.raises(ConfigError, match=r"uid 65534\) may not write in /;.*chown USER /"):
        config.parse(b"version: 1\nflow_log: {path: /flows.jsonl}\n", file="asynclb.yaml")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_a_directory_of_somebody_else_is_refused() -> None:
    """A user who may not write there is told so, with the directory and the command."""
    process = multiprocessing.get_context("fork").Process(target=_as_nobody)
    process.start()
    process.join(30)
    assert process.exitcode == 0
