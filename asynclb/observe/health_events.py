"""Health events: conditions that somebody should know of, told once and then again after their time. Pure.

Laws:
  1. A condition is told when it has held for its window, and again after its repeat time for as long as it holds.
  2. One that comes back within the repeat time is not told twice: an alert is no drum.
  3. Time is an argument; nothing here looks at a clock.

Source: Azure Load Balancer, health event logs (types, severities, windows, times of repetition). Left out: the events
of Gateway Load Balancer and of the cloud's platform, which have no meaning here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from asynclb.datapath.base import Counters
from asynclb.model import HealthState, Model, effective_health
from asynclb.model.health import Health
from asynclb.observe.availability import CRITICAL_BELOW, WARNING_BELOW
from asynclb.tables.row import FrontendKey
from asynclb.tables.snat import HIGH

DAY_S = 86_400
MANY_RULES = 300


class Severity(StrEnum):
    """How bad it is."""

    WARNING = "warning"
    CRITICAL = "critical"


class HealthEventType(StrEnum):
    """What is the matter, in the cloud's words."""

    DATA_PATH_AVAILABILITY_WARNING = "DataPathAvailabilityWarning"
    DATA_PATH_AVAILABILITY_CRITICAL = "DataPathAvailabilityCritical"
    NO_HEALTHY_BACKENDS = "NoHealthyBackends"
    HIGH_SNAT_PORT_USAGE = "HighSnatPortUsage"
    SNAT_PORT_EXHAUSTION = "SnatPortExhaustion"
    APPROACHING_MAX_RULES = "ApproachingMaxRulesPerNicLimit"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a condition must hold before it is told, and how long until it is told again. Units: seconds."""

    severity: Severity
    window_s: float
    repeat_s: float


TIMINGS: Mapping[HealthEventType, Timing] = {
    HealthEventType.DATA_PATH_AVAILABILITY_WARNING: Timing(Severity.WARNING, 60, 300),
    HealthEventType.DATA_PATH_AVAILABILITY_CRITICAL: Timing(Severity.CRITICAL, 60, 300),
    HealthEventType.NO_HEALTHY_BACKENDS: Timing(Severity.CRITICAL, 0, 3_600),
    HealthEventType.HIGH_SNAT_PORT_USAGE: Timing(Severity.WARNING, 0, 300),
    HealthEventType.SNAT_PORT_EXHAUSTION: Timing(Severity.CRITICAL, 0, 300),
    HealthEventType.APPROACHING_MAX_RULES: Timing(Severity.WARNING, DAY_S, DAY_S),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is the matter now, with whom it concerns; equal ones are the same. `detail` may change."""

    type: HealthEventType
    subject: tuple[tuple[str, str], ...]
    detail: Mapping[str, object] = field(default_factory=dict, compare=False)

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return TIMINGS[self.type].severity


@dataclass(frozen=True, slots=True)
class SnatUse:
    """How a member's SNAT ports on one frontend address stand; `failed` counts connections that got none."""

    pool: str
    member: str
    frontend: str
    allocated: int
    used: int
    failed: int


def snat_uses(counters: Iterable[Counters]) -> Iterator[SnatUse]:
    """Yield how every member's ports stand on each address; what failed had looked on all, and is told with the first.

    The protocol of which more ports are in use stands for both.
    """
    for part in counters:
        for (pool, member), found in part.snat.items():
            for number, ports in enumerate(found.ports):
                most = max(ports.used.values(), default=0)
                failed = 0 if number else found.failed
                yield SnatUse(pool, member, ports.frontend, ports.allocated, most, failed)


class HealthEvents:
    """Remembers what has been told. Owner: the monitor."""

    def __init__(self) -> None:
        self._since_s: dict[Condition, float] = {}
        self._told_s: dict[Condition, float] = {}

    def judge(self, conditions: Iterable[Condition], now_s: float) -> list[Condition]:
        """Return which of the conditions that hold now are to be told now, in the order in which they came."""
        holding = dict.fromkeys(conditions)
        self._since_s = {condition: self._since_s.get(condition, now_s) for condition in holding}
        self._told_s = {
            condition: told_s
            for condition, told_s in self._told_s.items()
            if now_s - told_s < TIMINGS[condition.type].repeat_s
        }
        due = [condition for condition in holding if self._is_due(condition, now_s)]
        self._told_s.update(dict.fromkeys(due, now_s))
        return due

    def _is_due(self, condition: Condition, now_s: float) -> bool:
        return condition not in self._told_s and (now_s - self._since_s[condition] >= TIMINGS[condition.type].window_s)


def availability_conditions(ratios: Mapping[FrontendKey, float]) -> Iterator[Condition]:
    """Yield the frontends' addresses that too few packets get through."""
    by_address: dict[str, list[tuple[FrontendKey, float]]] = {}
    for key, ratio in ratios.items():
        by_address.setdefault(str(key.address), []).append((key, ratio))
    for address, found in by_address.items():
        mean = sum(ratio for _, ratio in found) / len(found)
        if mean >= WARNING_BELOW:
            continue
        kind = HealthEventType.DATA_PATH_AVAILABILITY_WARNING
        if mean < CRITICAL_BELOW:
            kind = HealthEventType.DATA_PATH_AVAILABILITY_CRITICAL
        ports = sorted({f"{key.protocol}/{key.port}" for key, ratio in found if ratio < 1})
        yield Condition(kind, (("frontend", address),), {"ratio": round(mean, 3), "ports": ports})


def pool_conditions(model: Model, health: Health) -> Iterator[Condition]:
    """Yield the pools of rules with a probe in which no member is up."""
    rules: dict[tuple[str, str], list[str]] = {}
    for rule in model.rules:
        if rule.probe is not None:
            rules.setdefault((rule.backend_pool, rule.probe), []).append(rule.name)
    for (pool_name, probe), names in rules.items():
        pool = model.backend_pools[pool_name]
        found = [effective_health(member, health.of(pool_name, member.name, probe)).state for member in pool.members]
        if found and all(state is HealthState.DOWN for state in found):
            subject = (("pool", pool_name), ("probe", probe))
            yield Condition(HealthEventType.NO_HEALTHY_BACKENDS, subject, {"rules": sorted(names)})


def snat_conditions(uses: Iterable[SnatUse], failed_before: Mapping[tuple[str, str, str], int]) -> Iterator[Condition]:
    """Yield the members that are short of SNAT ports; `failed_before` is what `failed` was in the round before."""
    for use in uses:
        subject = (("pool", use.pool), ("member", use.member), ("frontend", use.frontend))
        if use.failed > failed_before.get((use.pool, use.member, use.frontend), 0):
            yield Condition(HealthEventType.SNAT_PORT_EXHAUSTION, subject, {"allocated": use.allocated})
        elif use.allocated and use.used > HIGH * use.allocated:
            detail = {"used": use.used, "allocated": use.allocated}
            yield Condition(HealthEventType.HIGH_SNAT_PORT_USAGE, subject, detail)


def rule_count_conditions(model: Model) -> Iterator[Condition]:
    """Yield the members that more than 300 load-balancing and inbound NAT rules deliver to, and by which frontends."""
    targets: dict[tuple[str, str | None], Counter[str]] = {}  # (pool, its member or None for all) -> frontend -> rules
    for rule in model.rules:
        targets.setdefault((rule.backend_pool, None), Counter())[rule.frontend] += 1
    for nat in model.inbound_nat_rules:
        targets.setdefault((nat.backend_pool, nat.member), Counter())[nat.frontend] += 1
    counts = {target: frontends.total() for target, frontends in targets.items()}
    places: dict[str, list[tuple[str, str | None]]] = {}
    for name, pool in model.backend_pools.items():
        for one in pool.members:
            places.setdefault(str(one.address), []).extend(((name, None), (name, one.name)))
    for address, found in places.items():
        if (rules := sum(counts.get(target, 0) for target in found)) > MANY_RULES:
            names = {name for target in found for name in targets.get(target, ())}
            frontends = sorted(str(model.frontends[name].address) for name in names)
            detail = {"rules": rules, "frontends": frontends}
            yield Condition(HealthEventType.APPROACHING_MAX_RULES, (("member", address),), detail)
