"""A test bed: `asynclb run` between two clients and four members, one process for each datapath, all real.

    cli1, cli2 -- lb: asynclb run, `datapath: ...` -- be1..be4

A row loads a configuration as an operator does, by changing the file, and then sends packets. What the datapath
refuses to carry makes the row not applicable, for the reason that asynclb gives.
"""

import asyncio
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from asynclb.admin.client import AdminClient
from asynclb.config import parse
from asynclb.control.assign import NOT_EXECUTABLE
from asynclb.control.prepare import prepare
from asynclb.errors import ConfigError, HostError
from asynclb.kinds import DATAPATHS, static_candidates
from asynclb.lab import PATIENCE_S, Host, Lab, Site
from asynclb.lab.process import Process
from asynclb.lab.topology import Topology, client_addresses, member_addresses
from asynclb.model import Model
from tests.conformance.rows.services import Answer, Probed, listen, services
from tests.conformance.table import ATTACHED, NOT_APPLICABLE
from tests.netns.kernel_site import let_xdp_redirect
from tests.unit.proxy.wire import Wire, connect

PROBE_PORT = 9000
PORT = 8080  # where members serve, unless a row says otherwise
EPHEMERAL = "20000 29999"  # source ports that clients take by themselves; rows bind to others
SILENCE_S = 0.5  # long enough for a SYN-ACK, a reset or an ICMP message, in a lab without loss

QUICK = "tests.conformance.rows.quick"
WHERE = {"PYTHONPATH": str(Path(__file__).parents[3])}

Document = Mapping[str, Any]


def not_applicable(reason: str) -> NoReturn:
    """End the test: the datapath cannot carry the row, by its nature."""
    pytest.skip(f"{NOT_APPLICABLE}{reason}")


class RefusedError(Exception):
    """The running process refused a configuration."""

    def __init__(self, problems: list[Document]) -> None:
        super().__init__("\n".join(problem["text"] for problem in problems))
        self.problems = problems

    @property
    def codes(self) -> set[str]:
        """The problems' codes."""
        return {str(problem["code"]) for problem in self.problems}


class Bed:
    """One running asynclb, its clients and members. Owner: the session; a row has it for itself."""

    def __init__(self, datapath: str, site: Site, process: Process, api: AdminClient, attach: str = "") -> None:
        """`attach`: how the kernel's programs are attached, where that is not left to asynclb."""
        self.datapath = datapath
        self._attach = attach
        self.site = site
        self.process = process
        self.warnings: list[Document] = []
        self._api = api
        self.members = {host.name: host for host in site.members}
        self.probed = {
            name: Probed(host, member_addresses(number)[0], PROBE_PORT)
            for number, (name, host) in enumerate(self.members.items(), 1)
        }

    # Control

    async def load(self, **parts: Any) -> Document:
        """Make a configuration active and return the state.

        A part that is absent is the usual one (see `document`).
        Raises: RefusedError -> asynclb refuses it; the row is not applicable where that is the datapath's nature.
        """
        result = await self._load(parts)
        if result["result"] == "refused":
            reasons = [problem["rule"] for problem in result["problems"] if problem["code"] == NOT_EXECUTABLE]
            if reasons and len(reasons) == len(result["problems"]):
                reason = reasons[0].partition(f"({self.datapath}: ")[2].removesuffix(")") or reasons[0]
                not_applicable(reason) if self._by_nature(parts) else pytest.skip(reason)
            raise RefusedError(result["problems"])
        self.warnings = result["warnings"]
        return await self.state()

    async def refused(self, **parts: Any) -> RefusedError:
        """Offer a configuration that must be refused; return what was said, having seen that nothing changed."""
        before = await self.state()
        result = await self._load(parts)
        assert result["result"] == "refused", result
        assert (await self.state())["generation"] == before["generation"]
        return RefusedError(result["problems"])

    async def _load(self, parts: Mapping[str, Any]) -> Document:
        path = self.process_file
        draft = path.with_name(f"{path.name}.draft")
        draft.write_text(json.dumps(self.document(**parts)))  # JSON is YAML
        draft.replace(path)
        _status, found = await asyncio.to_thread(self._api.post, "/api/v1/reload")
        return dict(found)

    def _by_nature(self, parts: Mapping[str, Any]) -> bool:
        """Return whether the datapath refuses a configuration on any host, and not just on this one."""
        text = json.dumps(self.document(**parts)).encode()
        try:
            prepare(parse(text, file="conformance.yaml"), static_candidates(), Model())
        except ConfigError:
            return True
        return False

    @property
    def process_file(self) -> Any:
        """The configuration's file."""
        return self.site.lb.directory / "conformance.yaml"

    def document(self, **parts: Any) -> dict[str, Any]:
        """Return a configuration: the pool `web` of every member, a quick TCP probe `tcp`, and what is given."""
        return {
            "version": 1,
            "datapath": self.datapath,
            "hash_seed": "8c1f0c6e5f0b4a7d",
            "shutdown_drain": "0s",
            "admin": {"listen": f"unix:{self.site.lb.directory}/a.sock"},
            "backend_pools": {"web": pool(*self.members)},
            "probes": {"tcp": TCP_PROBE},
            **attached(self._attach),
            **parts,
        }

    async def state(self) -> Document:
        """Return the state document."""
        return dict(await asyncio.to_thread(self._api.get, "/api/v1/state"))

    async def counters(self) -> Document:
        """Return the counters document."""
        return dict(await asyncio.to_thread(self._api.get, "/api/v1/counters"))

    async def flows(self, *rules: str) -> list[Document]:
        """Return the flows of these rules, those included that have ended and are not forgotten yet."""
        pages = [await asyncio.to_thread(self._api.get, f"/api/v1/flows?rule={name}") for name in rules]
        return [flow for page in pages for flow in page["flows"]]

    async def metrics(self) -> Mapping[str, float]:
        """Return every sample of `/metrics` by its name with its labels, as `name{label="value"}`, labels sorted."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{self.site.lb.directory}/a.sock")) as session,
            session.get("http://localhost/metrics") as answer,
        ):
            text = await answer.text()
            assert answer.status == 200, f"{text}\n{self.process.tail()}"
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return {_spell(sample.name, sample.labels): sample.value for sample in samples}

    async def until(self, condition: Callable[[Document], bool], what: str) -> Document:
        """Return the state as soon as it is as wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(state := await self.state()):
            assert time.monotonic() < deadline, f"{what}: not so in time: {state['rules']} {state['pools']}"
            await asyncio.sleep(0.02)
        return state

    async def eligible(self, rule: str, *members: str) -> None:
        """Return as soon as exactly these members take the rule's new flows, in the datapath as well."""

        def active(state: Document) -> bool:
            executed = {datapath["name"]: datapath["generation"] for datapath in state["datapaths"]}
            return takers(state, rule) == set(members) and executed[self.datapath] == state["generation"]

        await self.until(active, f"{rule} is taken by {members}")

    def all_up(self) -> None:
        """Let every member's probe succeed."""
        for probed in self.probed.values():
            probed.up()

    # Traffic

    def serving(
        self, *ports: int, members: Iterable[str] | None = None, version: int = 4
    ) -> AbstractContextManager[None]:
        """Run the service on some ports of some members, or of all."""
        names = tuple(self.members if members is None else members)
        return services(
            (self.members[name], address_of(name, version), port) for name in names for port in ports or (PORT,)
        )

    def client(self, number: int = 1) -> Host:
        """Return a client's host."""
        return self.site.clients[number - 1]

    @asynccontextmanager
    async def stream(
        self, vip: str, port: int = 80, *, client: Host | None = None, source_port: int = 0
    ) -> AsyncIterator[tuple[Wire, Answer]]:
        """Open a connection; yield it with what the member said."""
        host = client or self.client()
        source = (address_of(host.name, 6 if ":" in vip else 4), source_port) if source_port else None
        with await connect(vip, port, host=host, source=source) as wire:
            yield wire, Answer.read(await line(wire))

    async def visit(self, vip: str, port: int = 80, *, client: Host | None = None, source_port: int = 0) -> Answer:
        """Open a connection, hear who answers, and reset it, so that its port is free again."""
        async with self.stream(vip, port, client=client, source_port=source_port) as (wire, answer):
            wire.reset()
            return answer

    async def visits(self, vip: str, ports: Iterable[int], port: int = 80, client: Host | None = None) -> list[str]:
        """Visit from each of some source ports, a few at a time; return who answered, in the order of the ports."""
        turn = asyncio.Semaphore(16)

        async def one(source_port: int) -> str:
            async with turn:
                return (await self.visit(vip, port, client=client, source_port=source_port)).member

        return list(await asyncio.gather(*(one(source_port) for source_port in ports)))

    async def ask(
        self, vip: str, port: int = 80, *, client: Host | None = None, source_port: int = 0, data: bytes = b"?"
    ) -> Answer:
        """Send a datagram until somebody answers; return who."""
        with self.asking(vip, port, client=client, source_port=source_port) as sock:
            return await answer_to(sock, data)

    @contextmanager
    def asking(
        self, vip: str, port: int = 80, *, client: Host | None = None, source_port: int = 0
    ) -> Iterator[socket.socket]:
        """Open a UDP socket of a client towards a VIP."""
        host = client or self.client()
        source = (address_of(host.name, 6 if ":" in vip else 4), source_port) if source_port else None
        with host.udp(vip, port, source=source) as sock:
            yield sock

    async def is_silent(self, vip: str, port: int = 80, *, client: Host | None = None) -> bool:
        """Return whether a client's SYN is not answered at all: no connection, no reset, no ICMP message."""
        try:
            (await connect(vip, port, host=client or self.client(), wait_s=SILENCE_S)).close()
        except TimeoutError:
            return True
        except OSError:
            return False
        return False

    async def is_silent_udp(self, vip: str, port: int = 80, *, client: Host | None = None) -> bool:
        """Return whether a client's datagram is not answered at all."""
        with self.asking(vip, port, client=client) as sock:
            sock.send(b"?")
            try:
                async with asyncio.timeout(SILENCE_S):
                    await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
            except TimeoutError:
                return True
            except OSError:
                return False
        return False


TCP_PROBE: Document = {"protocol": "tcp", "port": PROBE_PORT, "interval": "50ms", "timeout": "50ms"}


def address_of(name: str, version: int = 4) -> str:
    """Return the address of a client or member by its host's name."""
    addresses = client_addresses(int(name[3:])) if name.startswith("cli") else member_addresses(int(name[2:]))
    return addresses[version == 6]


def pool(*members: str, version: int = 4, each: Document | None = None, **fields: Any) -> dict[str, Any]:
    """Return a pool of these members; `each` are fields of every member, `fields` those of the pool."""
    return {"members": [{"name": m, "address": address_of(m, version), **(each or {})} for m in members], **fields}


def vip(row: int, version: int = 4, *, more: int = 0) -> str:
    """Return an address that only this row uses, public, reached by way of the balancer."""
    return f"203.0.113.{row + more * 100}" if version == 4 else f"2001:db8:ff::{row}:{more}"


def internal_vip(row: int, *, more: int = 0) -> str:
    """Return a private address that only this row uses, reached by way of the balancer."""
    return f"10.9.{more}.{row}"


def frontend(address: str, **fields: Any) -> dict[str, Any]:
    """Return a frontend that everybody may reach."""
    return {"address": address, "allow": ["::/0" if ":" in address else "0.0.0.0/0"], **fields}


def rule(name: str = "web", **fields: Any) -> dict[str, Any]:
    """Return a rule of TCP port 80 of the frontend `vip`, to port 8080 of the pool `web`; `fields` change it."""
    usual = {"frontend": "vip", "protocol": "tcp", "frontend_port": 80, "backend_port": PORT, "backend_pool": "web"}
    return {"name": name, **usual, **fields}


def nat_rule(name: str = "nat", **fields: Any) -> dict[str, Any]:
    """Return an inbound NAT rule of the frontend `vip`, to port 8080 of the pool `web`."""
    return {
        "name": name,
        "frontend": "vip",
        "protocol": "tcp",
        "backend_pool": "web",
        "backend_port": PORT,
        **fields,
    }


def _spell(name: str, labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    return f"{name}{{{inside}}}"


def takers(state: Document, name: str) -> set[str]:
    """Return who takes a rule's new flows."""
    rule = next(rule for rule in state["rules"] if rule["name"] == name)
    return {member["name"] for member in state["tables"][rule["table"]]["members"]}


def health(state: Document, member: str, pool_name: str = "web") -> Document:
    """Return what the first probe says of a member."""
    (found,) = (pool for pool in state["pools"] if pool["name"] == pool_name)
    return next(dict(one["health"][0]) for one in found["members"] if one["name"] == member)


async def line(wire: Wire) -> bytes:
    """Return what the member says at the beginning of a connection."""
    found = b""
    while not found.endswith(b"\n"):
        part = await wire.read()
        if not part:
            raise ConnectionError("the connection ended before the member said who it is")
        found += part
    return found


async def answer_to(sock: socket.socket, data: bytes = b"?") -> Answer:
    """Send a datagram until it is answered."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        sock.send(data)
        try:
            async with asyncio.timeout(1.0):
                return Answer.read(await asyncio.get_running_loop().sock_recv(sock, 1 << 16))
        except TimeoutError:
            continue
    raise TimeoutError("nobody answers")


def shares(found: Iterable[str]) -> dict[str, float]:
    """Return each member's share of the answers."""
    counts = Counter(found)
    return {member: count / counts.total() for member, count in counts.items()}


def attached(how: str) -> dict[str, Any]:
    """Return the part of a configuration that attaches the kernel's programs in one way, if any is given."""
    return {"interfaces": {name: {"attach": how} for name in ("front", "back")}} if how else {}


@asynccontextmanager
async def bed(column: str, *, monitor_scale: float | None = None) -> AsyncIterator[Bed]:
    """Run asynclb with one datapath for the length of a block; its monitor's minutes may be scaled."""
    attach = ATTACHED.get(column, "")
    datapath = column.removesuffix(f"-{attach}")
    if not any(kind.name == datapath and kind.make is not None for kind in DATAPATHS):
        not_applicable("this version has only the datapath's name")
    title = f"conformance-{column}{'' if monitor_scale is None else '-quick'}"
    async with Lab(title, offload=not attach) as lab:  # XDP sees frames as cards do
        site = await Topology(clients=2, members=4).build(lab)
        for host in site.clients:
            with host.entered():
                Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(EPHEMERAL)
        if attach:
            await let_xdp_redirect(lab)
        path, api = site.lb.directory / "conformance.yaml", f"unix:{site.lb.directory}/a.sock"
        path.write_text(json.dumps({"version": 1, "datapath": datapath, "admin": {"listen": api}, **attached(attach)}))
        state = {"STATE_DIRECTORY": str(site.lb.directory / "state"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        words = ("asynclb", "run") if monitor_scale is None else (QUICK, str(monitor_scale))
        process = await site.lb.run(sys.executable, "-m", *words, path, name="asynclb", env=state | WHERE)
        await process.wait_for_log("started")
        found = Bed(datapath, site, process, AdminClient(api), attach)
        try:
            yield found
        finally:
            for probed in found.probed.values():
                probed.down()
            await process.stop()


__all__ = [
    "PORT",
    "PROBE_PORT",
    "TCP_PROBE",
    "Answer",
    "Bed",
    "HostError",
    "RefusedError",
    "address_of",
    "answer_to",
    "bed",
    "frontend",
    "health",
    "internal_vip",
    "line",
    "listen",
    "nat_rule",
    "not_applicable",
    "pool",
    "rule",
    "shares",
    "takers",
    "vip",
]
