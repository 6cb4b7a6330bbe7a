"""The process: what is started, in which order, and how it ends.

    read the configuration -> admin socket -> datapaths -> controller, prober, watch -> first tables -> ready
    signal -> not ready -> no new flows -> drain -> reset what is left -> undo -> exit

The admin socket comes before anything of the host is touched, so that a second instance that was started by mistake
gives up without disturbing the first one.

Exit codes: 0 stopped as asked; 1 the configuration was refused or the host lacks something; 2 wrong usage of the
command line; 70 (EX_SOFTWARE) a task of ours failed, which is a bug and is written as `task_failed`.
"""

import asyncio
import gc
import os
import signal
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

import asynclb
from asynclb import config
from asynclb.admin.api import Render, Sources
from asynclb.admin.capture import CaptureOrder
from asynclb.admin.page.routes import page_routes
from asynclb.admin.page.stream import LiveSources, Stream
from asynclb.admin.server import AdminServer, open_socket
from asynclb.control.controller import Controller
from asynclb.control.member_memory import MemberFile
from asynclb.control.nat_ports import PortFile
from asynclb.control.notify import ServiceManager, status_line
from asynclb.control.planner import Planner
from asynclb.control.prepare import Parsed
from asynclb.control.process import raise_capabilities, raise_descriptor_limit
from asynclb.control.seed import installation_seed, known_seed, state_directory
from asynclb.control.targets import feeds_of
from asynclb.control.watch import ConfigWatch
from asynclb.datapath.base import Configurable, HostSettings
from asynclb.datapath.lifetimes import Telling
from asynclb.discovery import Discoverer
from asynclb.errors import AsynclbError, ConfigError, Problem
from asynclb.events import Emit, Event
from asynclb.health import Prober, Transition
from asynclb.kinds import DATAPATHS, HostDatapath, live_candidates, make_source, probe_kinds
from asynclb.model import Member, MembersFrom, Model, OnStop
from asynclb.observe.capture.begin import begin
from asynclb.observe.capture.scope import Wanted
from asynclb.observe.capture.session import Capture, Limits
from asynclb.observe.flowlog import FlowLog
from asynclb.observe.health_events import snat_uses
from asynclb.observe.metrics import Snapshot, render
from asynclb.observe.monitor import INTERVAL_S, Monitor
from asynclb.observe.recent import Recent

EXIT_OK = 0
EXIT_BUG = 70
FIRST_ANSWERS_S = 5.0  # how long a start waits for sources of whose members nothing is remembered


def main(config_path: str, emit: Emit, *, monitor_scale: float = 1.0) -> int:
    """Run until stopped and return the exit code; the monitor's minutes are `monitor_scale` times as quick (labs).

    Raises: ConfigError -> the configuration is refused at the start; HostError -> the host lacks something.
    """
    raise_capabilities()
    raise_descriptor_limit(emit)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(config_path, emit, monitor_scale=monitor_scale))


async def run(config_path: str, emit: Emit, *, monitor_scale: float = 1.0) -> int:
    """Run on the present event loop until SIGTERM or SIGINT. Raises: as `main`; what was set up by then is undone."""
    loop = asyncio.get_running_loop()
    recent = emit = Recent(emit)
    kind = type(loop).__module__.partition(".")[0]
    emit(Event.STARTING, version=asynclb.__version__, config=config_path, loop=kind, pid=os.getpid())
    loop.set_exception_handler(lambda _loop, context: _tell_failure(emit, "event loop", context))
    with Signals.received() as signals:
        try:
            return await _Instance(config_path, recent, signals, monitor_scale).run()
        except AsynclbError:
            raise
        except Exception as error:  # noqa: BLE001  the end of the process is the handling
            _tell_failure(emit, "main", {"exception": error})
            return EXIT_BUG


class Signals:
    """What the process was asked by signals. Owner: the event loop's thread."""

    def __init__(self) -> None:
        self.on_hangup: Callable[[], object] | None = None
        self.stop = asyncio.Event()
        self.stop_now = asyncio.Event()
        self.name = ""

    @classmethod
    @contextmanager
    def received(cls) -> Iterator["Signals"]:
        """Receive SIGHUP, SIGTERM and SIGINT within the context."""
        loop, signals = asyncio.get_running_loop(), cls()
        loop.add_signal_handler(signal.SIGHUP, signals.hang_up)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.end, number)
        try:
            yield signals
        finally:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def hang_up(self) -> None:
        """Ask to reload; before there is anything to reload it is too early and means nothing."""
        if self.on_hangup is not None:
            self.on_hangup()

    def end(self, number: signal.Signals) -> None:
        """Ask to stop; the second time, to stop without draining."""
        if self.stop.is_set():
            self.stop_now.set()
        self.name = self.name or number.name
        self.stop.set()


class _Instance:
    """One run of the process. Owner: the task in `run`."""

    def __init__(self, config_path: str, emit: Recent, signals: Signals, monitor_scale: float) -> None:
        self._path = config_path
        self._emit = self._recent = emit
        self._signals = signals
        self._monitor_scale = monitor_scale
        self._manager = ServiceManager.from_environment(os.environ, emit)
        self._started = time.monotonic()
        self._watch = ConfigWatch(Path(config_path), partial(self._reload, "watch"), emit)  # before the first reading
        self._load = config.Loader().load
        self._prober = Prober(probe_kinds(), self._health_changed, emit)
        self._discoverer = Discoverer(partial(make_source, directory=Path(config_path).absolute().parent), emit)
        self._member_file = MemberFile(state_directory(os.environ), config.check_members, emit)
        self._datapaths: dict[str, HostDatapath] = {}
        self._flow_log = FlowLog(emit, self._tell_flows)
        self._controller: Controller | None = None
        self._monitor: Monitor | None = None
        self._stream: Stream | None = None

    async def run(self) -> int:
        """Start, serve, stop; whatever happens, undo what was set up."""
        parsed = await asyncio.to_thread(self._load, self._path)
        admin = parsed.model.admin
        sock = open_socket(admin) if admin.enabled else None
        server: AdminServer | None = None
        try:
            await self._open_datapaths(parsed.model)
            controller = self._controller = self._make_controller()
            if sock is not None:
                stream = self._stream = self._make_stream(controller)
                pages = (*page_routes(), *stream.routes())
                server = AdminServer(sock, admin, self._make_sources(controller), self._emit, pages)
                await server.start()
            return await self._serve(controller, parsed)
        finally:
            await self._close_datapaths()
            await self._flow_log.close()
            if server is not None:
                await server.close()
            elif sock is not None:
                sock.close()

    async def _serve(self, controller: Controller, parsed: Parsed) -> int:
        """Run the tasks until a signal comes, then drain.

        Raises: ConfigError -> the first tables were refused.
        """
        refused: ConfigError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._loudly("controller", controller.run())),
                    group.create_task(self._loudly("prober", self._prober.run())),
                    group.create_task(self._loudly("discovery", self._discoverer.run())),
                ]
                if self._stream is not None:
                    tasks.append(group.create_task(self._loudly("status page", self._stream.run())))
                discovered = await self._first_members(parsed.model)
                first = await controller.reload("start", parsed, discovered=discovered)
                if first.result == "refused":
                    refused = ConfigError(first.problems)
                else:
                    self._monitor = self._make_monitor(controller)
                    self._discoverer.deliver(self._take_members)
                    tasks.append(group.create_task(self._loudly("watch", self._watch.run())))
                    tasks.append(group.create_task(self._loudly("monitor", self._monitor.run())))
                    tasks.append(group.create_task(self._loudly("signs", self._manager.run(controller.status))))
                    self._signals.on_hangup = lambda: group.create_task(self._reload("signal"))
                    self._tell_started(controller)
                    gc.freeze()  # modules and what they made stay: the collector would look through them for 50 ms
                    await self._signals.stop.wait()
                controller.stop()
                self._signals.on_hangup = None
                for task in tasks:
                    task.cancel()
        except ExceptionGroup:
            return EXIT_BUG  # the task that failed has said so
        if refused is not None:
            raise refused
        await self._drain(controller)
        return EXIT_OK

    async def _drain(self, controller: Controller) -> None:
        """Take no new flows, let open ones go on for the drain period or until the second signal, reset the rest."""
        began = time.monotonic()
        drain_s = controller.status().model.shutdown_drain_s
        connections = sum(counters.flows for counters in controller.counters().values())
        self._manager.stopping(drain_s)
        self._emit(Event.STOPPING, signal=self._signals.name, connections=connections, drain_s=drain_s)
        closing = asyncio.create_task(controller.close(drain_s))
        hurry = asyncio.create_task(self._signals.stop_now.wait())
        await asyncio.wait((closing, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if closing.done():
            reset = await closing
        else:
            reset = sum(counters.flows for counters in controller.counters().values())
            closing.cancel()
            await asyncio.wait((closing,))
            reset += await controller.close(0.0)
        self._datapaths.clear()
        self._emit(Event.STOPPED, connections_reset=reset, took_ms=round((time.monotonic() - began) * 1e3, 1))

    async def _open_datapaths(self, model: Model) -> None:
        for kind in DATAPATHS:
            datapath = kind.make(self._emit, model)
            self._datapaths[kind.name] = datapath
            await datapath.open()

    async def _close_datapaths(self) -> None:
        """Close what `_drain` has not: after a failure there is nothing to wait for."""
        for datapath in self._datapaths.values():
            await datapath.close(0.0)

    def _make_controller(self) -> Controller:
        return Controller(
            self._path,
            load=self._load,
            candidates=live_candidates(self._datapaths),
            datapaths=self._datapaths,
            prober=self._prober,
            installation_seed=lambda: installation_seed(state_directory(os.environ), self._emit),
            emit=self._emit,
            port_memory=PortFile(state_directory(os.environ), self._emit),
            configure=self._configure,
            discovery=self._discoverer,
            member_memory=self._member_file,
        )

    def _make_sources(self, controller: Controller) -> Sources:
        def seed_of(model: Model) -> int:
            return known_seed(model.hash_seed, state_directory(os.environ))[0]

        def parse(text: bytes, name: str) -> Parsed:
            return config.parse(text, file=name)

        planner = Planner(controller, parse, live_candidates(self._datapaths), seed_of)

        async def capture(order: CaptureOrder) -> Capture:
            wanted = Wanted(order.member, order.client)
            limits = Limits(order.count, order.duration_s, order.snaplen, wanted)
            return begin(controller.status(), self._datapaths, order.rule, limits)

        return Sources(controller, controller, self._scrape, planner, capture)

    def _make_stream(self, controller: Controller) -> Stream:
        return Stream(LiveSources(controller, self._prober.history, self._recent.since), self._emit)

    def _configure(self, model: Model) -> None:
        """Tell the datapaths what a model says of the host, and whom to tell of their flows."""
        self._flow_log.configure(model.flow_log)
        settings = HostSettings(model.interfaces, leave=model.on_stop is OnStop.LEAVE)
        for datapath in self._datapaths.values():
            if isinstance(datapath, Configurable):
                datapath.configure(settings)
        self._tell_flows()

    def _tell_flows(self) -> None:
        for datapath in self._datapaths.values():
            if isinstance(datapath, Telling):
                datapath.tell_flows(self._flow_log.listeners(datapath.name, datapath.telling_cost))

    def _make_monitor(self, controller: Controller) -> Monitor:
        return Monitor(
            status=controller.status,
            measure=controller.measure,
            snat_uses=lambda: snat_uses(controller.counters().values()),
            emit=self._emit,
            interval_s=INTERVAL_S / self._monitor_scale,
            clock=lambda: time.monotonic() * self._monitor_scale,
        )

    def _health_changed(self, transitions: tuple[Transition, ...]) -> None:
        if self._controller is not None:
            self._controller.health_changed(transitions)

    async def _first_members(self, model: Model) -> Mapping[str, tuple[Member, ...]]:
        """Return the members that are remembered; for pools without, those that their sources name in a while."""
        feeds = feeds_of(model)
        if not feeds:
            return {}
        self._discoverer.set_feeds(feeds)
        remembered = await asyncio.to_thread(self._member_file.read, model)
        return {**remembered, **await self._discoverer.first_answers(feeds.keys() - remembered.keys(), FIRST_ANSWERS_S)}

    async def _take_members(
        self, pool: str, members_from: MembersFrom, members: tuple[Member, ...]
    ) -> tuple[str, tuple[Problem, ...]]:
        if self._controller is None:
            raise RuntimeError("a source was listened to before the controller was made")
        change = await self._controller.take_members(pool, members_from, members)
        return change.result, change.problems

    async def _reload(self, trigger: str) -> None:
        if self._controller is not None:
            self._manager.reloading()
            await self._controller.reload(trigger)
            self._manager.ready(status_line(self._controller.status()))

    def _scrape(self) -> Render:
        """Take a snapshot for one scrape; the function that it returns renders it."""
        if self._controller is None:
            raise RuntimeError("scraped before the controller was made")
        reached = self._monitor.ratios if self._monitor is not None else {}
        snapshot = Snapshot(
            self._controller.status(),
            self._controller.counters(),
            self._prober.results(),
            reached,
            self._flow_log.report,
        )
        return partial(render, snapshot)

    def _tell_started(self, controller: Controller) -> None:
        status = controller.status()
        self._emit(
            Event.STARTED,
            generation=status.generation,
            rules=len(status.tables.entries),
            members=sum(len(pool.members) for pool in status.model.backend_pools.values()),
            took_ms=round((time.monotonic() - self._started) * 1e3, 1),
        )
        self._manager.ready(status_line(status))

    async def _loudly(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a task; its failure, which is a bug of ours, is written before it ends the process."""
        try:
            await work
        except Exception as error:
            _tell_failure(self._emit, name, {"exception": error})
            raise


def _tell_failure(emit: Emit, task: str, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException):
        emit(Event.TASK_FAILED, task=task, error=repr(error), traceback="".join(traceback.format_exception(error)))
    else:
        emit(Event.TASK_FAILED, task=task, error=str(context.get("message", context)))
