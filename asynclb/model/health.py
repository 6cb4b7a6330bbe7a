"""Health as a value: what is known of each member through each probe, and who may take new flows.

Laws:
  1. A member is eligible through a probe only once that probe has said so: unknown counts as down.
  2. Admin states override probes, and only in rules that have a probe.
  3. Weight 0 takes no new flows, whatever the probe says.
  4. Only members of the best priority that anybody has are eligible; the others stand by.
  5. With zone affinity, members of other zones take new flows only while no eligible one is in the zones preferred.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from asynclb.model.pool import AdminState, BackendPool, Member
from asynclb.model.rule import NoHealthyMembers


class HealthState(StrEnum):
    """What a probe says of a member."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Reason(StrEnum):
    """Why a member is in its state. Source: the health status API of Azure Load Balancer; the last ones are ours."""

    NA = "NA"
    UP_PROBE_SUCCESS = "Up_Probe_Success"
    UP_PROBE_ALL_DOWN_IS_UP = "Up_Probe_AllDownIsUp"
    UP_PROBE_APPROACHING_UNHEALTHY = "Up_Probe_ApproachingUnhealthyThreshold"
    UP_ADMIN = "Up_Admin"
    UP_PLATFORM = "Up_Platform"
    DOWN_PROBE_APPROACHING_HEALTHY = "Down_Probe_ApproachingHealthyThreshold"
    DOWN_PROBE_HTTP_STATUS = "Down_Probe_HttpStatusCodeError"
    DOWN_PROBE_HTTP_UNREACHABLE = "Down_Probe_HttpEndpointUnreachable"
    DOWN_PROBE_TCP_TIMEOUT = "Down_Probe_TcpProbeTimeout"
    DOWN_PROBE_HTTP_NO_RESPONSE = "Down_Probe_HttpNoResponse"
    DOWN_ADMIN = "Down_Admin"
    DOWN_PLATFORM = "Down_Platform"
    DOWN_PROBE_TCP_REFUSED = "Down_Probe_TcpReset"
    DOWN_PROBE_UDP_NO_RESPONSE = "Down_Probe_UdpNoResponse"
    DOWN_PROBE_UDP_UNREACHABLE = "Down_Probe_UdpPortUnreachable"
    DOWN_PROBE_UDP_MISMATCH = "Down_Probe_UdpResponseMismatch"
    DOWN_PROBE_TLS = "Down_Probe_TlsError"
    DOWN_PROBE_UNREACHABLE = "Down_Probe_Unreachable"
    DOWN_PROBE_HTTP_INVALID = "Down_Probe_HttpInvalidResponse"
    DOWN_PROBE_SOURCE_ADDRESS = "Down_Probe_SourceAddressMissing"


TargetId = tuple[str, str, str]
"""(pool, member, probe): what one series of checks is about."""


@dataclass(frozen=True, slots=True)
class MemberHealth:
    """What one probe says of one member, since when, and the detail of its last check."""

    state: HealthState = HealthState.UNKNOWN
    reason: Reason = Reason.NA
    since_ns: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """A snapshot of everything the probes say. A target that is missing is unknown."""

    targets: Mapping[TargetId, MemberHealth]

    def of(self, pool: str, member: str, probe: str) -> MemberHealth:
        """Return what the probe says of the member."""
        return self.targets.get((pool, member, probe), _UNKNOWN)


_UNKNOWN = MemberHealth()


def eligible_members(
    pool: BackendPool, probe: str | None, health: Health, policy: NoHealthyMembers
) -> tuple[Member, ...]:
    """Return the members that may take new flows, in the pool's order.

    `policy` ALL lets every member with a weight that the operator has not taken out in when no probed one is healthy.
    """
    weighted = [member for member in pool.members if member.weight > 0]
    if probe is None:
        return _foremost([m for m in weighted if m.admin_state is not AdminState.DRAIN])
    open_to_new = [m for m in weighted if m.admin_state not in (AdminState.DOWN, AdminState.DRAIN)]
    healthy = [
        m
        for m in open_to_new
        if m.admin_state is AdminState.UP or health.of(pool.name, m.name, probe).state is HealthState.UP
    ]
    if healthy or policy is NoHealthyMembers.DROP:
        return _foremost(healthy)
    return _foremost(open_to_new)


def _foremost(members: list[Member]) -> tuple[Member, ...]:
    best = min((member.priority for member in members), default=0)
    return tuple(member for member in members if member.priority == best)


def in_zones(eligible: tuple[Member, ...], zones: tuple[str, ...]) -> tuple[Member, ...]:
    """Return the eligible members in the zones if there are any, else all of them; no zones prefer nobody."""
    if not zones:
        return eligible
    return tuple(member for member in eligible if member.zone in zones) or eligible


def effective_health(member: Member, found: MemberHealth, *, all_down_is_up: bool = False) -> MemberHealth:
    """Return the state that rules act on: the admin state over the probe's word."""
    if member.admin_state is AdminState.UP:
        return MemberHealth(HealthState.UP, Reason.UP_ADMIN, found.since_ns, found.detail)
    if member.admin_state in (AdminState.DOWN, AdminState.DRAIN):
        return MemberHealth(HealthState.DOWN, Reason.DOWN_ADMIN, found.since_ns, found.detail)
    if all_down_is_up and found.state is not HealthState.UP:
        return MemberHealth(HealthState.UP, Reason.UP_PROBE_ALL_DOWN_IS_UP, found.since_ns, found.detail)
    return found


def keeps_sessions(member: Member, eligible: Iterable[str]) -> bool:
    """Return whether a member's flows other than TCP stay with it: it is eligible, or drains, or has weight 0."""
    if member.admin_state is AdminState.DOWN:
        return False
    return member.name in eligible or member.admin_state is AdminState.DRAIN or member.weight == 0
