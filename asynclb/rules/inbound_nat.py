"""Inbound NAT rules: one frontend port for each member. They parse; nothing executes them yet."""

from asynclb.errors import Problem
from asynclb.model import Model


def unsupported(model: Model) -> tuple[Problem, ...]:
    """Refuse each inbound NAT rule, rather than ignore it."""
    return tuple(
        Problem(
            path=("inbound_nat_rules", index),
            value=rule.name,
            rule="no datapath of this version executes inbound NAT rules",
            remedy="remove the rule; to reach one member, use a load-balancing rule over a pool of that member alone",
        )
        for index, rule in enumerate(model.inbound_nat_rules)
    )
