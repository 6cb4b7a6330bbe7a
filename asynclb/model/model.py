"""The whole of what an operator asked for, as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from asynclb.model.frontend import Frontend
from asynclb.model.pool import BackendPool
from asynclb.model.probe import Probe
from asynclb.model.rule import InboundNatRule, LoadBalancingRule, OutboundRule


class Compat(StrEnum):
    """Whether combinations that Azure refuses are allowed."""

    EXTENDED = "extended"
    AZURE = "azure"


class DatapathName(StrEnum):
    """The datapaths that a configuration can name."""

    AUTO = "auto"
    PROXY = "proxy"
    PACKET = "packet"
    KERNEL = "kernel"


class OnStop(StrEnum):
    """What becomes of the forwarding when the process is told to stop."""

    DRAIN = "drain"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class AdminTls:
    """PEM files: a certificate with its chain, and its key."""

    certificate_file: str
    key_file: str


@dataclass(frozen=True, slots=True)
class Admin:
    """Where the API, the pages and the metrics are served: `unix_path` if set, else `host` and `port`."""

    host: str = "127.0.0.1"
    port: int = 9180
    unix_path: str | None = None
    enabled: bool = True
    token_file: str | None = None
    tls: AdminTls | None = None
    hosts: tuple[str, ...] = ()
    """Names by which clients may call it, besides addresses and localhost."""


@dataclass(frozen=True, slots=True)
class FlowLogSettings:
    """The file that flows are written to: one of `sample` flows, their start too if `start`; `keep` older files."""

    path: str
    start: bool = False
    sample: int = 1
    max_bytes: int = 100_000_000
    keep: int = 5


@dataclass(frozen=True, slots=True)
class Model:
    """A configuration that passed every check. Names are unique within their kind; every reference resolves.

    `hash_seed` is None when the configuration leaves it to the installation.
    """

    datapath: DatapathName = DatapathName.AUTO
    hash_seed: int | None = None
    compat: Compat = Compat.EXTENDED
    admin: Admin = Admin()
    flow_log: FlowLogSettings | None = None
    workers: int = 1
    shutdown_drain_s: float = 10.0
    on_stop: OnStop = OnStop.DRAIN
    frontends: Mapping[str, Frontend] = field(default_factory=dict)
    backend_pools: Mapping[str, BackendPool] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    rules: tuple[LoadBalancingRule, ...] = ()
    inbound_nat_rules: tuple[InboundNatRule, ...] = ()
    outbound_rules: tuple[OutboundRule, ...] = ()
    interfaces: Mapping[str, str] = field(default_factory=dict)


def probes_by_pool(model: Model) -> dict[str, tuple[str, ...]]:
    """Return pool -> the probes that its rules ask its members by, in the rules' order."""
    found: dict[str, dict[str, None]] = {}
    for rule in model.rules:
        if rule.probe is not None:
            found.setdefault(rule.backend_pool, {})[rule.probe] = None
    return {pool: tuple(names) for pool, names in found.items()}
