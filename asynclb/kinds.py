"""What there is to choose from, listed once: probe kinds, sources of members and datapaths.

A new kind is one new file and one line here. Rule kinds are listed in `asynclb.rules`, which is pure and lies below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from asynclb import config
from asynclb.control.assign import Candidate, Judge, no_outbound
from asynclb.control.watch import FileWatch
from asynclb.datapath import kernel, packet, proxy
from asynclb.datapath.base import Datapath, Refusal, Translator
from asynclb.datapath.frames.limits import clash_judge, outbound_refusal
from asynclb.datapath.kernel import KernelDatapath
from asynclb.datapath.packet import PacketDatapath
from asynclb.datapath.proxy import ProxyDatapath
from asynclb.discovery.dns import DnsMembers
from asynclb.discovery.etcd import EtcdMembers
from asynclb.discovery.file import FileMembers
from asynclb.discovery.source import Source
from asynclb.events import Emit
from asynclb.health import HttpProbe, ProbeKind, TcpProbe, UdpProbe
from asynclb.model import DatapathName, DnsSource, EtcdSource, FileSource, MemberSource, Model, ProbeProtocol
from asynclb.tables.row import Row
from asynclb.tables.snat import SnatRule


class HostDatapath(Datapath, Protocol):
    """A datapath that has to be opened on this host before it is asked anything."""

    async def open(self) -> None:
        """Remove what a killed instance left behind and find out what this host allows. Raises: HostError."""


@dataclass(frozen=True, slots=True)
class DatapathKind:
    """A datapath by its name."""

    name: str
    make: Callable[[Emit, Model], HostDatapath]
    static_refusal: Callable[[Row], Refusal | None]
    """What can be said without a host: for `check`."""
    clashes: Callable[[], Judge] | None = None
    """What rules of this datapath cannot share."""
    outbound: Callable[[SnatRule], Refusal | None] = no_outbound
    """What can be said of outbound rules without a host."""


def _may_carry(name: str, model: Model) -> bool:
    """Return whether a configuration has rules that a datapath may be chosen for."""
    wanted = {str(rule.datapath or model.datapath) for rule in model.rules}
    wanted |= {str(model.datapath)} if model.inbound_nat_rules or model.outbound_rules else set()
    return not wanted.isdisjoint((name, DatapathName.AUTO))


DATAPATHS = (
    DatapathKind(
        "kernel",
        lambda emit, model: KernelDatapath(emit=emit, expects_rules=_may_carry("kernel", model)),
        kernel.static_refusal,
        clash_judge,
        outbound_refusal,
    ),
    DatapathKind("proxy", lambda emit, _model: ProxyDatapath(emit=emit), proxy.static_refusal),
    DatapathKind(
        "packet",
        lambda emit, model: PacketDatapath(emit=emit, workers=model.workers),
        packet.static_refusal,
        clash_judge,
        outbound_refusal,
    ),
)
"""Every datapath that a configuration can name, from the most to the least preferred."""


def probe_kinds() -> Mapping[ProbeProtocol, ProbeKind]:
    """Return a way to check for each protocol that a probe can name."""
    http = HttpProbe()
    return {
        ProbeProtocol.TCP: TcpProbe(),
        ProbeProtocol.HTTP: http,
        ProbeProtocol.HTTPS: http,
        ProbeProtocol.UDP: UdpProbe(),
    }


def make_source(source: MemberSource, directory: Path) -> Source:
    """Return what asks a source of members; relative paths begin at the directory of the configuration."""
    match source:
        case FileSource():
            return FileMembers(source, directory, config.read_members, FileWatch)
        case DnsSource():
            return DnsMembers(source, config.check_members)
        case EtcdSource():
            return EtcdMembers(source, directory, config.check_members)


def static_candidates() -> tuple[Candidate, ...]:
    """Return what `check` asks: no host, no privileges."""
    return tuple(Candidate(kind.name, kind.static_refusal, kind.clashes, kind.outbound) for kind in DATAPATHS)


def live_candidates(datapaths: Mapping[str, Datapath]) -> tuple[Candidate, ...]:
    """Return what the controller asks: open datapaths know this host, the others say what is known without one."""
    refusals = {name: datapath.refusal for name, datapath in datapaths.items()}
    outbound = {
        name: datapath.outbound_refusal for name, datapath in datapaths.items() if isinstance(datapath, Translator)
    }
    return tuple(
        Candidate(
            *(kind.name, refusals.get(kind.name, kind.static_refusal)),
            *(kind.clashes, outbound.get(kind.name, kind.outbound)),
        )
        for kind in DATAPATHS
    )
