"""What the parts of a configuration must be to each other: one small module per subject.

A check reads the draft and reports; it changes nothing, assumes nothing of other checks, and is silent about parts
that are broken already.
"""

from asynclb.config.checks.azure import check_azure
from asynclb.config.checks.floating import check_floating
from asynclb.config.checks.frontends import check_frontends
from asynclb.config.checks.ha_ports import check_ha_ports
from asynclb.config.checks.limits import check_limits
from asynclb.config.checks.outbound import check_outbound
from asynclb.config.checks.pools import check_pools
from asynclb.config.checks.ports import check_ports
from asynclb.config.checks.probes import check_probes
from asynclb.config.checks.references import check_references
from asynclb.config.checks.rules import check_rules
from asynclb.config.checks.settings import check_settings
from asynclb.config.checks.sources import check_sources
from asynclb.config.checks.unused import check_unused
from asynclb.config.draft import Draft
from asynclb.config.report import Report

CHECKS = (
    check_settings,
    check_limits,
    check_references,
    check_frontends,
    check_pools,
    check_sources,
    check_probes,
    check_rules,
    check_ports,
    check_floating,
    check_outbound,
    check_ha_ports,
    check_azure,
    check_unused,
)


def check(draft: Draft, report: Report) -> None:
    """Run every check."""
    for one in CHECKS:
        if not report.full:
            one(draft, report)


__all__ = ["CHECKS", "check"]
