"""`asynclb doctor`: what this host lacks, for whom, and the command that mends it.

    facts (I/O, read-only) --> checks (pure) --> findings --> text

Laws:
  1. Nothing is changed: no sysctl, no interface, no rule; programs that are tried in the kernel are not attached.
  2. Every finding that is not fine has a command that mends it, ready to be pasted.
  3. What a configuration asks for by name is missing (`fail`); what `auto` passes over is a warning.

A member has a doctor of its own (`--member`), who looks at the host that he runs on and asks no balancer.
"""

from asynclb.doctor.checks import check_host
from asynclb.doctor.facts import gather
from asynclb.doctor.finding import Finding, Level
from asynclb.doctor.member_checks import Role, check_member
from asynclb.doctor.member_facts import gather_member
from asynclb.doctor.wants import wants_of

__all__ = ["Finding", "Level", "Role", "examine", "examine_member"]


def examine(config: str | None) -> tuple[Finding, ...]:
    """Return what was found, the worst first. Raises: ConfigError -> the configuration is refused."""
    wants = wants_of(config)
    return tuple(sorted(check_host(gather(wants), wants), key=lambda one: one.level.rank))


def examine_member(role: Role) -> tuple[Finding, ...]:
    """Return what was found on this host as a member, the worst first."""
    found = check_member(gather_member(role.vip, role.port), role)
    return tuple(sorted(found, key=lambda one: one.level.rank))
