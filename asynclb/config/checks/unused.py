"""Warnings of what is defined and never used."""

from asynclb.config.draft import Draft
from asynclb.config.report import Report


def check_unused(draft: Draft, report: Report) -> None:
    """Warn of frontends, pools and probes that no rule refers to, and of a configuration without rules."""
    rules, nat_rules, outbound = draft.rules.values(), draft.nat_rules.values(), draft.outbound_rules.values()
    if not (rules or nat_rules or outbound):
        if not report.problems:
            report.warning((), "", "the configuration has no rules, so nothing is balanced", "add `rules`")
        return
    frontends = {rule.frontend for rule in rules} | {rule.frontend for rule in nat_rules}
    used = {
        "frontends": frontends.union(*(rule.frontends for rule in outbound)),
        "backend_pools": set(draft.pools_of_rules()),
        "probes": {rule.probe for rule in rules if rule.probe is not None},
    }
    defined = {"frontends": draft.frontends, "backend_pools": draft.pools, "probes": draft.probes}
    for section, parts in defined.items():
        for name in parts:
            if name not in used[section]:
                report.warning((section, name), name, "no rule refers to it", "remove it, or name it in a rule")
