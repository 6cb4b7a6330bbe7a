"""What the service manager hears: over real sockets, by a path and by an abstract name."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from asynclb.control.notify import ServiceManager, status_line
from asynclb.control.status import STUCK_S, Reload, Status
from asynclb.events import Event
from asynclb.lab import PATIENCE_S
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, web_model


class Manager:
    """The end of the socket that a service manager holds."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address.replace("@", "\0", 1))
        self.sock.setblocking(False)

    def heard(self) -> list[list[str]]:
        """Return the lines of each message so far."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.sock.recv(4096).decode().split("\n"))
        return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """Give the test a service manager."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@asynclb-test-{os.getpid()}-{time.monotonic_ns()}"
    found = Manager(name)
    yield found
    found.sock.close()


def silent(event: Event, /, **fields: object) -> None:
    """Fail: nothing is to be told."""
    raise AssertionError((event, fields))


def status(**changes: object) -> Status:
    """Return the status of a controller that has done nothing yet, with changes."""
    bench = Bench(FakeLoader(web_model("a")), [FakeDatapath("proxy")])
    states = {"rule_states": {"web-0": "serving"}, "generation": 3}
    return replace(bench.controller().status(), **(states | changes))  # type: ignore[arg-type]  # fields by name


def test_a_life(manager: Manager) -> None:
    """Ready, a reload with the time it began, ready again without the status again, an end with its patience."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    told = ServiceManager.from_environment(environ, silent)
    assert environ == {}
    told.ready("generation 3: 1 rule")
    told.reloading()
    told.ready("generation 3: 1 rule")
    told.stopping(60)
    first, second, third, last = manager.heard()
    assert first == ["READY=1", "STATUS=generation 3: 1 rule"]
    assert second[0] == "RELOADING=1"
    began_us = int(second[1].removeprefix("MONOTONIC_USEC="))
    assert 0 <= time.monotonic_ns() // 1000 - began_us < 5_000_000
    assert third == ["READY=1"]
    assert last == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=75000000", "STATUS=stopping: open flows have 60 s"]


def test_signs_of_life_stop_while_the_controller_is_stuck(manager: Manager) -> None:
    """A sign is sent as long as commands end; then the status says what is wrong, and no sign."""
    told = ServiceManager(manager.address, 30.0, silent)
    told.sign(status())
    told.sign(status(busy_s=STUCK_S))
    told.sign(status(busy_s=STUCK_S + 1))
    told.sign(status(busy_s=STUCK_S + 1))
    assert manager.heard() == [
        ["WATCHDOG=1", "STATUS=generation 3: 1 rule"],
        ["WATCHDOG=1"],
        ["STATUS=the controller is busy since 31 s"],
    ]


async def test_a_loop_that_is_held_sends_no_sign(manager: Manager) -> None:
    """Signs come several times within the limit, and none while the event loop does something else."""
    limit_s = 0.15
    told = ServiceManager(manager.address, limit_s, silent)
    task = asyncio.create_task(told.run(status))
    heard_s = list[float]()
    async with asyncio.timeout(PATIENCE_S):
        while len(heard_s) < 3 or heard_s[-1] - heard_s[-3] > limit_s:
            await asyncio.sleep(0.01)
            heard_s += [time.monotonic()] * len(manager.heard())
    time.sleep(2 * limit_s)  # holding the loop is the point
    assert manager.heard() == []
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_without_a_manager() -> None:
    """Nothing is sent and nothing runs."""
    told = ServiceManager.from_environment({}, silent)
    await asyncio.wait_for(told.run(status), PATIENCE_S)
    told.ready("fine")


@pytest.mark.parametrize(
    "asked", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {}]
)
def test_nobody_waits_for_signs(manager: Manager, asked: dict[str, str]) -> None:
    """Without a limit, with one that is no number, or with another process's, there are no signs of life."""
    told = ServiceManager.from_environment({"NOTIFY_SOCKET": manager.address} | asked, silent)
    told.sign(status())
    told.sign(status())
    assert manager.heard() == [["STATUS=generation 3: 1 rule"]]


def test_a_manager_that_is_gone_is_told_of_once(tmp_path: Path) -> None:
    """A socket that nobody reads, or an address that is none, is one event with the remedy, and no failure."""
    for address in (str(tmp_path / "nobody"), "@asynclb-nobody", "vsock:2:1", "x" * 200):
        events: list[dict[str, object]] = []
        told = ServiceManager(address, 1.0, lambda _event, _into=events, /, **fields: _into.append(fields))
        told.ready("fine")
        told.ready("fine still")
        (event,) = events
        assert address in str(event["value"])
        assert "Type=notify" in str(event["remedy"])


def test_a_manager_that_does_not_listen_holds_nobody_up(manager: Manager) -> None:
    """When its queue is full, messages are lost and the process goes on."""
    lost: list[Event] = []
    told = ServiceManager(manager.address, None, lambda event, /, **_fields: lost.append(event))
    for number in range(10_000):
        told.ready(str(number))
        if lost:
            break
    assert lost == [Event.HOST_LIMIT]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "generation 3: 1 rule"),
        ({"rule_states": {"a": "serving", "b": "waiting"}}, "generation 3: 2 rules"),
        ({"rule_states": {"a": "silent", "b": "serving"}}, "1 of 2 rules without a healthy member: a"),
        (
            {"rule_states": {str(number): "all_down" for number in range(7)}},
            "7 of 7 rules without a healthy member: 0, 1, 2, 3, 4, ...",
        ),
        (
            {"last_reload": Reload("refused", "signal", 0.0, 0.0, 3)},
            "generation 3: 1 rule; the last reload was refused",
        ),
    ],
)
def test_the_line_of_status(changes: dict[str, object], line: str) -> None:
    """What is wrong comes first; else the generation and how much it serves."""
    assert status_line(status(**changes)) == line
