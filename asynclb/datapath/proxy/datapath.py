"""The proxy datapath: executes entries of the tables with sockets.

A delta is applied in three steps. Prepare: bind what is new, silently, and try what the kernel might refuse. Widen:
the host's routes and filter let the new keys in. Commit, which does not wait and cannot fail: changed frontends get
their entries, new ones begin to speak, removed ones stop listening. If anything fails before the commit, what was
prepared is undone and the old tables go on.
"""

import asyncio
import contextlib
import errno
import resource
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Counters, FlowRecord, Refusal
from asynclb.datapath.host import Capability, missing
from asynclb.datapath.lifetimes import NOBODY, Listeners, TellingCost
from asynclb.datapath.proxy import sockets
from asynclb.datapath.proxy.frontend import ProxyFrontend, Shared, wanted_program
from asynclb.datapath.proxy.ledger import Ledger
from asynclb.datapath.proxy.limits import host_refusal, static_refusal
from asynclb.datapath.proxy.plumbing import Plumbing
from asynclb.datapath.proxy.reactor import TICK_S, Reactor
from asynclb.datapath.proxy.relay import Ending
from asynclb.datapath.proxy.tcp import TcpFrontend
from asynclb.datapath.proxy.udp import UdpFrontend
from asynclb.errors import ApplyError, HostError, Problem
from asynclb.events import Emit, Event
from asynclb.net.drop import Drop
from asynclb.net.flow import PROTOCOL_NUMBERS, Flow, Protocol
from asynclb.tables.diff import Delta
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.tables import Entry

_DESCRIPTOR_RESERVE = 64  # for the configuration, the API, probes and netlink while flows fill the rest
_DRAIN_POLL_S = 0.05
_FILTER_POLL_S = 2.0  # how often the packet filter is looked at
_FLUSHED = (
    "somebody removed the proxy's rules from this host (`nft flush ruleset`, or a network manager that keeps routing "
    "rules to itself); they are set up again"
)

_FRONTENDS = {Protocol.TCP: TcpFrontend, Protocol.UDP: UdpFrontend}
_PROTOCOLS = {PROTOCOL_NUMBERS[protocol]: protocol for protocol in (Protocol.TCP, Protocol.UDP)}

_TELLING_COST = TellingCost(4e-6, 0.4e-6)


class ProxyDatapath:
    """Executes TCP and UDP rules with sockets. Owner: the controller.

    Its timeouts and drains go by `clock`, at which it looks every `tick_s` of real time.
    """

    name = "proxy"
    judge = ""

    def __init__(self, *, emit: Emit, clock: Callable[[], float] = time.monotonic, tick_s: float = TICK_S) -> None:
        self._emit = emit
        self._clock = clock
        self._tick_s = tick_s
        self._ledger = Ledger()
        self._frontends: dict[FrontendKey, ProxyFrontend] = {}
        self._draining: dict[ProxyFrontend, Farewell] = {}
        self._changing = asyncio.Lock()  # `apply` and the watch over the host's rules change them one at a time
        self._generation = 0
        self._shared: Shared | None = None
        self._privileged = False
        self._plumbing: Plumbing | None = None
        self._poll: asyncio.Task[None] | None = None
        self._listeners = NOBODY

    def mode(self, row: Row) -> str:
        """Return `transparent` where the rule keeps clients' addresses and this host lets it, else `sockets`."""
        return "transparent" if row.rule.transparent and self._privileged else "sockets"

    @property
    def generation(self) -> int:
        """The generation that new flows meet."""
        return self._generation

    async def open(self) -> None:
        """Find out what this host allows, and remove what a killed instance left behind.

        Raises: HostError -> with CAP_NET_ADMIN, the kernel or a library lacks what that is good for. Without it the
        proxy runs, and refuses transparent rules one by one.
        """
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        reactor = Reactor(asyncio.get_running_loop(), clock=self._clock, tick_s=self._tick_s)
        self._shared = Shared(reactor, self._ledger, self._emit, max_descriptor=soft - _DESCRIPTOR_RESERVE)
        self._shared.listeners = self._listeners
        self._privileged = not missing(Capability.CAP_NET_ADMIN)
        if not self._privileged:
            return
        self._plumbing = Plumbing()
        leftovers = await asyncio.to_thread(self._plumbing.sweep)
        if leftovers:
            self._emit(Event.LEFTOVERS_REMOVED, what=leftovers)

    def refusal(self, row: Row) -> Refusal | None:
        """Return why this datapath cannot carry the row, or None."""
        return static_refusal(row) or host_refusal(row, transparent=self._privileged)

    async def apply(self, delta: Delta) -> None:
        """Execute the delta's new tables from here on; see the module for the steps.

        Raises: ApplyError -> a port is taken, an address is not here, a filter is too large; nothing has changed.
        """
        shared = self._opened()
        async with self._changing:
            fresh = self._prepare(shared, delta)
            rows = [entry.row for entry in delta.new.entries.values()]
            try:
                await self._deliver([*rows, *(entry.row for entry in delta.removed)])
            except BaseException as error:
                for frontend in fresh.values():
                    frontend.stop_listening()
                if isinstance(error, HostError):
                    raise ApplyError([Problem((), "", str(error), "nothing was changed")]) from error
                raise
            removed = self._commit(shared, delta, fresh)
            try:
                await self._deliver(rows)
            except HostError as error:  # the new tables are in force; the watch over the host tries again to narrow it
                self._emit(Event.DATAPATH_FAILED, datapath=self.name, error=str(error))
            finally:
                for frontend in removed:
                    frontend.stop_listening(Ending.REMOVED)

    def counters(self) -> Counters:
        """Return a snapshot of the counters."""
        for frontend in self._frontends.values():
            frontend.count_drops()
        return self._ledger.snapshot()

    def flows(self) -> Iterator[FlowRecord]:
        """Iterate over the open connections and sessions."""
        for frontend in (*self._frontends.values(), *self._draining):
            yield from frontend.records()

    @property
    def telling_cost(self) -> TellingCost:
        """What telling costs on the loop, at most."""
        return _TELLING_COST

    def tell_flows(self, listeners: Listeners) -> None:
        """Tell these from here on of flows that begin and end."""
        self._listeners = listeners
        if self._shared is not None:
            self._shared.listeners = listeners

    async def reaches(self, rows: Collection[Row]) -> Mapping[FrontendKey, bool]:
        """Return whether each row's socket listens and lets clients in, with a member that takes them.

        No packet is sent: a connection would be one that members see.
        """
        found = {row.key: self._frontends.get(row.key) for row in rows}
        return {key: frontend is not None and frontend.is_open for key, frontend in found.items()}

    async def verdict(self, flow: Flow, interface: str | None = None) -> LiveVerdict | None:  # noqa: ARG002
        """Return what the listener of the flow's frontend would choose."""
        protocol = _PROTOCOLS.get(flow.protocol)
        key = None if protocol is None else FrontendKey(flow.destination, flow.destination_port, protocol)
        frontend = None if key is None else self._frontends.get(key)
        return LiveVerdict(None, None) if frontend is None else frontend.verdict(flow)

    async def close(self, drain_s: float) -> int:
        """Stop listening, let connections go on for `drain_s`, reset the rest, and undo what was set up in the host.

        Cancel: what is still open is reset at once, and everything is undone.
        """
        if self._shared is None:
            return 0
        frontends = (*self._frontends.values(), *self._draining)
        reset = 0
        try:
            for frontend in frontends:
                frontend.hush()
                frontend.stop_listening()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._idle(frontends)
        finally:
            for frontend in frontends:
                reset += frontend.reset_flows(Ending.STOPPED, lambda _peer: True)
            self._frontends.clear()
            self._draining.clear()
            self._shared.reactor.close()
            self._shared.pipes.close()
            self._shared = None
            await self._undo()
        return reset

    def _opened(self) -> Shared:
        if self._shared is None:
            message = "apply() before open()"
            raise RuntimeError(message)
        return self._shared

    def _prepare(self, shared: Shared, delta: Delta) -> dict[FrontendKey, ProxyFrontend]:
        fresh: dict[FrontendKey, ProxyFrontend] = {}
        problems = []
        for entry in (*delta.added, *(new for _old, new in delta.changed)):
            try:
                _try_filter(entry)
                if entry.row.key not in self._frontends:
                    fresh[entry.row.key] = self._listen(shared, entry)
            except OSError as error:
                problems.append(_problem(entry, error))
        if problems:
            for frontend in fresh.values():
                frontend.stop_listening()
            raise ApplyError(problems)
        return fresh

    def _listen(self, shared: Shared, entry: Entry) -> ProxyFrontend:
        """Bind what a rule needs; a rule that comes back while it drains goes on with the flows that it has."""
        for frontend in self._draining:
            if frontend.key == entry.row.key:
                frontend.listen()
                return frontend
        kind = _FRONTENDS[entry.row.key.protocol]
        return kind(shared, entry, transparent=self._privileged)

    def _commit(self, shared: Shared, delta: Delta, fresh: dict[FrontendKey, ProxyFrontend]) -> list[ProxyFrontend]:
        """Make the delta the law for new flows; return the frontends that have to stop listening."""
        shared.seed = delta.new.seed
        self._frontends.update(fresh)
        for frontend in fresh.values():
            farewell = self._draining.pop(frontend, None)
            if farewell is not None:
                shared.reactor.unschedule(farewell)
        for entry in (*delta.added, *(new for _old, new in delta.changed)):
            self._frontends[entry.row.key].commit(entry)
        removed = [self._frontends.pop(entry.row.key) for entry in delta.removed]
        for frontend in removed:
            frontend.hush()
            if frontend.open_flows():
                farewell = self._draining[frontend] = Farewell(frontend, self._draining)
                until_s = shared.reactor.now_s + frontend.entry.row.pool.drain_period_s
                shared.reactor.schedule(farewell, until_s)
        self._generation = delta.new.generation
        return removed

    async def _deliver(self, rows: Collection[Row]) -> None:
        """Make the host deliver these rows' traffic; nothing is touched while nothing needs it."""
        plumbing = self._plumbing
        if plumbing is None:
            return
        if not plumbing.is_open:
            if not any(row.rule.transparent or not sockets.is_own_address(row.key.address) for row in rows):
                return
            await asyncio.to_thread(plumbing.open)
            self._poll = asyncio.create_task(self._watch_host(plumbing), name="proxy-host-watch")
        held = frozenset(frontend.key.address for frontend in self._draining)
        await asyncio.to_thread(plumbing.update, frozenset(row.key for row in rows), held)

    async def _undo(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.wait([self._poll])
        if self._plumbing is not None:
            await asyncio.to_thread(self._plumbing.close)
            self._plumbing = None

    async def _idle(self, frontends: Iterable[ProxyFrontend]) -> None:
        while any(frontend.open_flows() for frontend in frontends):  # noqa: ASYNC110  nothing hot shall signal it
            await asyncio.sleep(_DRAIN_POLL_S)

    async def _watch_host(self, plumbing: Plumbing) -> None:
        """Every few seconds: bring the filter's counter into the ledger, mend what somebody flushed, let VIPs go."""
        seen = 0
        while True:
            await asyncio.sleep(_FILTER_POLL_S)
            try:
                async with self._changing:
                    if await asyncio.to_thread(plumbing.repair):
                        self._emit(Event.DATAPATH_FAILED, datapath=self.name, error=_FLUSHED)
                    await self._release()
                now = await asyncio.to_thread(plumbing.no_rule_drops)
            except (HostError, OSError) as error:
                self._emit(Event.DATAPATH_FAILED, datapath=self.name, error=str(error))
                continue
            self._ledger.drop(Drop.NO_RULE, now - seen if now >= seen else now)
            seen = now

    async def _release(self) -> None:
        """Let the VIPs of removed rules go whose flows are over."""
        for frontend, farewell in tuple(self._draining.items()):
            if not frontend.open_flows():
                del self._draining[frontend]
                frontend.shared.reactor.unschedule(farewell)
        await self._deliver([frontend.entry.row for frontend in self._frontends.values()])


class Farewell:
    """Resets what is left of a removed rule when its drain period is over. Owner: the reactor's wheel."""

    def __init__(self, frontend: ProxyFrontend, draining: "dict[ProxyFrontend, Farewell]") -> None:
        self._frontend = frontend
        self._draining = draining

    def on_time(self, _now_s: float) -> None:
        """Reset every flow of the rule that is still open."""
        reset = self._frontend.reset_flows(Ending.REMOVED, lambda _peer: True)
        self._draining.pop(self._frontend, None)
        if reset:
            self._frontend.report_reset(reset, "the drain period of the removed rule is over")


def _try_filter(entry: Entry) -> None:
    """Attach the entry's filter to a socket of no use, so that a refusal comes before anything has changed."""
    program = wanted_program(entry)
    if program is None or len(program) <= sockets.SMALL_FILTER_BYTES:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sockets.attach_filter(sock, program)


def _problem(entry: Entry, error: OSError) -> Problem:
    row = entry.row
    path = ("rules", row.rule.name)
    key = row.key
    remedies = {
        errno.EADDRINUSE: f"stop who listens there (`ss -nlp 'sport = :{key.port}'`), or change `frontend_port`",
        errno.EADDRNOTAVAIL: f"add the address (`ip addr add {key.address} dev ...`), or run with CAP_NET_ADMIN",
        errno.EACCES: "run with CAP_NET_BIND_SERVICE, or use a `frontend_port` above 1023",
        errno.EMFILE: "raise the limit of open files (systemd: LimitNOFILE=; docker: --ulimit nofile=)",
        errno.ENOMEM: "shorten the frontend's `allow`, or raise net.core.optmem_max",
        errno.EAFNOSUPPORT: "enable IPv6 on this host, or remove the IPv6 frontend",
    }
    remedy = remedies.get(error.errno or 0, "see the system's error, mend it and reload")
    return Problem(path, str(key), f"cannot listen: {error.strerror}", remedy)
