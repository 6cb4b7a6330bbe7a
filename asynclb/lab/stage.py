"""The demo's stage: the balancer as a real process, its configuration file, its members, and what they say.

Everything is used as an operator would: the file is rewritten and renamed into place, the state is asked for over the
API, members are killed by signal.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from asynclb.lab.namespace import LabError
from asynclb.lab.nginx import LogTail, Nginx
from asynclb.lab.process import Process
from asynclb.lab.topology import VIP4, Site, member_addresses
from asynclb.model import (
    BackendPool,
    Frontend,
    Health,
    HealthState,
    LoadBalancingRule,
    Member,
    MemberHealth,
    Model,
    Scope,
)
from asynclb.net.flow import Protocol
from asynclb.rules import load_balancing
from asynclb.tables.compile import compile_tables
from asynclb.tables.tables import Tables

VIP_PORT = 80
MEMBER_PORT = 8080
ADMIN_PORT = 9180
PATIENCE_S = 20.0  # a member is seen down or up within three seconds; a busy machine may take longer
HASH_SEED = "8c1f0c6e5f0b4a7d"  # fixed, so that the tables can be computed here again

_CONFIG = """\
version: 1
datapath: auto
hash_seed: "{seed}"
admin: {{listen: 127.0.0.1:{admin_port}}}
frontends:
  web: {{address: {vip}, allow: [0.0.0.0/0]}}
backend_pools:
  web:
    members:
{members}
probes:
  http: {{protocol: http, port: {member_port}, path: /healthz, interval: 1s}}
rules:
  - name: web
    frontend: web
    protocol: tcp
    frontend_port: {vip_port}
    backend_port: {member_port}
    backend_pool: web
    probe: http
"""
_MEMBER = "      - {{name: {name}, address: {address}, weight: {weight}}}"


@dataclass(frozen=True, slots=True)
class State:
    """What the balancer says of itself. `health` is by member; `reload` is (result, trigger, generation)."""

    generation: int
    ready: bool
    datapath: str
    health: Mapping[str, str]
    reload: tuple[str, str, int]


class Stage:
    """The balancer and its members. Owner: the demo."""

    def __init__(self, site: Site, weights: Mapping[str, int]) -> None:
        self.site = site
        self.weights = dict(weights)
        self.hosts = dict(zip(weights, site.members, strict=True))
        self.addresses = {name: member_addresses(number)[0] for number, name in enumerate(weights, start=1)}
        self.logs: dict[str, LogTail] = {}
        self._members: dict[str, Nginx] = {}
        self._balancer: Process | None = None
        # A directory of its own, as in /etc: a watched one in which programs write logs would keep the balancer busy.
        self.config_path = site.lb.directory / "etc" / "asynclb.yaml"

    @property
    def balancer(self) -> Process:
        """The running `asynclb run`."""
        if self._balancer is None:
            raise LabError("the balancer was not started")
        return self._balancer

    async def start_balancer(self) -> None:
        """Start `asynclb run` on a configuration file."""
        self.config_path.parent.mkdir()
        self.config_path.write_text(self.config_text())
        self._balancer = await self.site.lb.asynclb("run", self.config_path)

    async def start_member(self, name: str) -> None:
        """Start the member's nginx; its access log goes on where it was."""
        web = self._members[name] = await self.hosts[name].nginx(MEMBER_PORT)
        self.logs.setdefault(name, LogTail(web.log_path))

    async def kill_member(self, name: str) -> None:
        """Kill the member's nginx with SIGKILL; its kernel closes the connections."""
        await self._members[name].process.kill()

    def config_text(self) -> str:
        """Return the configuration with the weights of now."""
        members = [
            _MEMBER.format(name=name, address=self.addresses[name], weight=weight)
            for name, weight in self.weights.items()
        ]
        ports = {"admin_port": ADMIN_PORT, "member_port": MEMBER_PORT, "vip_port": VIP_PORT}
        return _CONFIG.format(seed=HASH_SEED, vip=VIP4, members="\n".join(members), **ports)

    def rewrite_config(self, weights: Mapping[str, int]) -> None:
        """Put a new file in the place of the old one, as editors and configuration management do."""
        self.weights = dict(weights)
        fresh = self.config_path.with_suffix(".new")
        fresh.write_text(self.config_text())
        fresh.rename(self.config_path)

    async def state(self) -> State | None:
        """Ask the balancer's API; None while it does not answer."""
        try:
            async with asyncio.timeout(5), self.site.lb.connection("127.0.0.1", ADMIN_PORT) as (reader, writer):
                writer.write(b"GET /api/v1/state HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        except OSError:
            return None
        return _state(json.loads(body)) if head[9:12] == b"200" else None

    async def until(self, condition: Callable[[State], bool], what: str) -> State:
        """Return the first state for which the condition holds.

        Raises: LabError -> the balancer ended, or it took longer than `PATIENCE_S`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while True:
            state = await self.state()
            if state is not None and condition(state):
                return state
            if self.balancer.returncode is not None:
                raise LabError(f"asynclb ended with {self.balancer.returncode}\n{self.balancer.tail()}")
            if loop.time() > deadline:
                raise LabError(f"{what}: not within {PATIENCE_S:g} s; last state {state}\n{self.balancer.tail()}")
            await asyncio.sleep(0.05)

    def tables(self, eligible: Mapping[str, int]) -> Tables:
        """Compute the forwarding tables that the balancer should have while these members take new flows."""
        members = tuple(Member(name, ip_address(self.addresses[name]), w) for name, w in self.weights.items())
        frontend = Frontend("web", ip_address(VIP4), Scope.PUBLIC, (ip_network("0.0.0.0/0"),))
        rule = LoadBalancingRule("web", "web", Protocol.TCP, VIP_PORT, MEMBER_PORT, "web", probe="http")
        model = Model(frontends={"web": frontend}, backend_pools={"web": BackendPool("web", members)}, rules=(rule,))
        health = Health({("web", name, "http"): MemberHealth(HealthState.UP) for name in eligible})
        return compile_tables(load_balancing.rows(model), health, seed=int(HASH_SEED, 16), generation=0)

    def read_logs(self) -> None:
        """Take in what the members' access logs have got since the last call."""
        for log in self.logs.values():
            log.read()


def _state(document: Mapping[str, Any]) -> State:
    members = [member for pool in document["pools"] for member in pool["members"]]  # none before the first tables
    reload = document["last_reload"] or {"result": "", "trigger": "", "generation": 0}
    return State(
        generation=document["generation"],
        ready=document["ready"],
        datapath=", ".join(
            f"{datapath['name']} ({datapath['mode']})" for datapath in document["datapaths"] if datapath["rules"]
        ),
        health={member["name"]: member["health"][0]["state"] for member in members if member["health"]},
        reload=(reload["result"], reload["trigger"], reload["generation"]),
    )
