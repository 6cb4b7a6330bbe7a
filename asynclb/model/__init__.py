"""What exists: frontends, pools, members, probes, rules and their health. Frozen values, no behaviour beyond meaning.

Durations are seconds (float) and end in `_s`; instants are monotonic nanoseconds and end in `_ns`.
"""

from asynclb.model.azure import EXTENDED, unknown_to_azure
from asynclb.model.discovery import DnsSource, EtcdSource, FileSource, MembersFrom, MemberSource, Record, SourceKind
from asynclb.model.frontend import Frontend, Scope, preferred_zones
from asynclb.model.health import (
    Health,
    HealthState,
    MemberHealth,
    Reason,
    TargetId,
    effective_health,
    eligible_members,
    in_zones,
    keeps_sessions,
)
from asynclb.model.model import (
    Admin,
    AdminTls,
    Compat,
    DatapathName,
    FlowLogSettings,
    Model,
    OnStop,
    probes_by_pool,
)
from asynclb.model.pool import AdminState, BackendPool, Member
from asynclb.model.probe import Probe, ProbeProtocol, StatusRange
from asynclb.model.rule import (
    Allocation,
    InboundNatRule,
    LoadBalancingRule,
    NoHealthyMembers,
    OutboundRule,
    Persistence,
    ProxyProtocol,
    Rule,
)

__all__ = [
    "EXTENDED",
    "Admin",
    "AdminState",
    "AdminTls",
    "Allocation",
    "BackendPool",
    "Compat",
    "DatapathName",
    "DnsSource",
    "EtcdSource",
    "FileSource",
    "FlowLogSettings",
    "Frontend",
    "Health",
    "HealthState",
    "InboundNatRule",
    "LoadBalancingRule",
    "Member",
    "MemberHealth",
    "MemberSource",
    "MembersFrom",
    "Model",
    "NoHealthyMembers",
    "OnStop",
    "OutboundRule",
    "Persistence",
    "Probe",
    "ProbeProtocol",
    "ProxyProtocol",
    "Reason",
    "Record",
    "Rule",
    "Scope",
    "SourceKind",
    "StatusRange",
    "TargetId",
    "effective_health",
    "eligible_members",
    "in_zones",
    "keeps_sessions",
    "preferred_zones",
    "probes_by_pool",
    "unknown_to_azure",
]
