"""From a draft that passed every check to the model: what is absent becomes what it means.

Laws: no decision is left to readers of the model; the same text always gives an equal model.
"""

from collections.abc import Mapping
from dataclasses import replace

from asynclb.config.draft import Draft, PoolDraft
from asynclb.config.schema import (
    AdminSpec,
    Document,
    FlowLogSpec,
    FrontendSpec,
    InboundNatRuleSpec,
    MemberSpec,
    OutboundRuleSpec,
    ProbeSpec,
    RuleSpec,
)
from asynclb.config.sources import MembersFromSpec
from asynclb.model import (
    Admin,
    AdminTls,
    BackendPool,
    Compat,
    DnsSource,
    EtcdSource,
    FileSource,
    FlowLogSettings,
    Frontend,
    InboundNatRule,
    LoadBalancingRule,
    Member,
    MembersFrom,
    MemberSource,
    Model,
    OutboundRule,
    Probe,
    Scope,
)
from asynclb.model.frontend import default_allow, default_scope
from asynclb.net.address import PRIVATE_PREFIXES, Address, Prefix

MAX_DEFAULT_TIMEOUT_S = 30.0  # Azure: no response within min(interval, 30 s) is a timeout
ANY_ANSWER = b"any"


def build(draft: Draft) -> Model:
    """Return the model of a draft in which nothing is wrong."""
    settings = draft.settings
    return Model(
        datapath=settings.datapath,
        hash_seed=settings.hash_seed,
        compat=settings.compat,
        admin=_admin(settings.admin),
        flow_log=_flow_log(settings.flow_log),
        workers=settings.workers,
        shutdown_drain_s=settings.shutdown_drain,
        on_stop=settings.on_stop,
        frontends={name: _frontend(name, spec) for name, spec in draft.frontends.items()},
        backend_pools={name: _pool(name, pool) for name, pool in draft.pools.items()},
        probes={name: _probe(name, spec) for name, spec in draft.probes.items()},
        rules=tuple(_rule(spec, draft.frontends[spec.frontend], settings) for spec in draft.rules.values()),
        inbound_nat_rules=tuple(_nat_rule(spec, settings) for spec in draft.nat_rules.values()),
        outbound_rules=tuple(_outbound_rule(spec, draft.frontends) for spec in draft.outbound_rules.values()),
        interfaces={name: str(spec.attach) for name, spec in draft.interfaces.items()},
    )


def _admin(spec: AdminSpec) -> Admin:
    tls = AdminTls(spec.tls.certificate_file, spec.tls.key_file) if spec.tls is not None else None
    said = Admin(token_file=spec.token_file, tls=tls, hosts=spec.hosts)
    if spec.listen is None:
        return replace(said, enabled=False)
    if spec.listen.unix_path is not None:
        return replace(said, unix_path=spec.listen.unix_path)
    return replace(said, host=spec.listen.host, port=spec.listen.port)


def _flow_log(spec: FlowLogSpec | None) -> FlowLogSettings | None:
    return None if spec is None else FlowLogSettings(spec.path, spec.start, spec.sample, spec.max_size, spec.keep)


def _frontend(name: str, spec: FrontendSpec) -> Frontend:
    scope = spec.scope if spec.scope is not None else default_scope(spec.address)
    allow = spec.allow if spec.allow is not None else default_allow(spec.address, scope)
    return Frontend(name, spec.address, scope, allow, spec.interface, spec.routed, spec.zones, spec.zone_affinity)


def _pool(name: str, pool: PoolDraft) -> BackendPool:
    members = tuple(member_of(spec) for spec in pool.members.values())
    source = pool.spec.members_from
    return BackendPool(name, members, pool.spec.drain_period, _members_from(source) if source is not None else None)


def _members_from(spec: MembersFromSpec) -> MembersFrom:
    return MembersFrom(_source(spec), spec.allow_empty)


def _source(spec: MembersFromSpec) -> MemberSource:
    """Return the one source that is given; `checks.sources` has seen to it that there is one."""
    if (dns := spec.dns) is not None:
        bounds = dns.min_interval, dns.max_interval, dns.timeout
        return DnsSource(dns.names, dns.record, dns.servers, dns.family, *bounds)
    if (etcd := spec.etcd) is not None:
        files = etcd.password_file, etcd.tls.ca_file, etcd.tls.certificate_file, etcd.tls.key_file
        return EtcdSource(etcd.endpoints, etcd.prefix, etcd.timeout, etcd.user, *files)
    return FileSource(spec.file or "")


def member_of(spec: MemberSpec) -> Member:
    """Return the member that a part of a configuration, or of a source's answer, describes."""
    return Member(spec.name, spec.address, spec.weight, spec.admin_state, spec.zone, spec.priority)


def _probe(name: str, spec: ProbeSpec) -> Probe:
    expect = spec.expect_hex if spec.expect_hex is not None else spec.expect
    return Probe(
        name=name,
        protocol=spec.protocol,
        port=spec.port,
        interval_s=spec.interval,
        timeout_s=spec.timeout if spec.timeout is not None else min(spec.interval, MAX_DEFAULT_TIMEOUT_S),
        rise=spec.rise if spec.rise is not None else spec.threshold,
        fall=spec.fall if spec.fall is not None else spec.threshold,
        flap_damping=spec.flap_damping,
        max_in_flight=spec.max_in_flight,
        source_address_v4=_of_family(spec.source_address, 4),
        source_address_v6=_of_family(spec.source_address, 6),
        path=spec.path if spec.path is not None else "/",
        host=spec.host,
        expected_status=spec.expected_status,
        tls_verify=spec.tls.verify,
        tls_server_name=spec.tls.server_name,
        tls_ca_file=spec.tls.ca_file,
        send=spec.send_hex if spec.send_hex is not None else spec.send or b"",
        expect=None if spec.expect_hex is None and spec.expect == ANY_ANSWER else expect,
    )


def _of_family(addresses: tuple[Address, ...] | None, version: int) -> Address | None:
    return next((address for address in addresses or () if address.version == version), None)


def _rule(spec: RuleSpec, frontend: FrontendSpec, settings: Document) -> LoadBalancingRule:
    return LoadBalancingRule(
        name=spec.name,
        frontend=spec.frontend,
        protocol=spec.protocol,
        frontend_port=spec.frontend_port,
        backend_port=spec.backend_port if spec.backend_port is not None else spec.frontend_port,
        backend_pool=spec.backend_pool,
        probe=spec.probe,
        distribution=spec.distribution,
        floating_ip=spec.floating_ip,
        idle_timeout_s=spec.idle_timeout,
        tcp_reset=spec.tcp_reset,
        no_healthy_members=spec.no_healthy_members,
        persistence_on_unhealthy=spec.persistence_on_unhealthy,
        connection_tracking=_tracks(spec, frontend, settings.compat),
        datapath=str(spec.datapath) if spec.datapath is not None else None,
        transparent=spec.transparent if spec.transparent is not None else settings.transparent,
        proxy_protocol=spec.proxy_protocol,
        connect_timeout_s=spec.connect_timeout,
        disable_outbound_snat=spec.disable_outbound_snat,
    )


def _tracks(spec: RuleSpec, frontend: FrontendSpec, compat: Compat) -> bool:
    """Return whether UDP flows keep their member: as the frontend says, or the rule, or as is usual."""
    said = frontend.connection_tracking if frontend.connection_tracking is not None else spec.connection_tracking
    return said if said is not None else compat is not Compat.AZURE


def _nat_rule(spec: InboundNatRuleSpec, settings: Document) -> InboundNatRule:
    first, last = spec.frontend_port_range or (spec.frontend_port or 0, spec.frontend_port or 0)
    return InboundNatRule(
        name=spec.name,
        frontend=spec.frontend,
        protocol=spec.protocol,
        first_port=first,
        last_port=last,
        backend_pool=spec.backend_pool,
        backend_port=spec.backend_port,
        member=spec.member,
        floating_ip=spec.floating_ip,
        idle_timeout_s=spec.idle_timeout,
        tcp_reset=spec.tcp_reset,
        transparent=settings.transparent,
    )


def _outbound_rule(spec: OutboundRuleSpec, frontends: Mapping[str, FrontendSpec]) -> OutboundRule:
    return OutboundRule(
        name=spec.name,
        frontends=spec.frontends,
        backend_pool=spec.backend_pool,
        protocol=spec.protocol,
        allocated_ports=spec.allocated_ports,
        idle_timeout_s=spec.idle_timeout,
        tcp_reset=spec.tcp_reset,
        allocation=spec.allocation,
        direct=_direct(spec, [_frontend(name, frontends[name]) for name in spec.frontends]),
    )


def _direct(spec: OutboundRuleSpec, frontends: list[Frontend]) -> tuple[Prefix, ...]:
    """Return the destinations that are not translated to: nobody has a private address on the public side."""
    if spec.direct is not None:
        return spec.direct
    if all(frontend.scope is Scope.INTERNAL for frontend in frontends):
        return ()
    return tuple(prefix for prefix in PRIVATE_PREFIXES if prefix.version == frontends[0].address.version)
