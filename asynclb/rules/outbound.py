"""Outbound rules: members' own connections leave from a frontend's address. They parse; nothing executes them yet."""

from asynclb.errors import Problem
from asynclb.model import Model


def unsupported(model: Model) -> tuple[Problem, ...]:
    """Refuse each outbound rule, rather than ignore it."""
    return tuple(
        Problem(
            path=("outbound_rules", index),
            value=rule.name,
            rule="no datapath of this version executes outbound rules",
            remedy="remove the rule; to translate members' own connections, use masquerade on the router they leave by",
        )
        for index, rule in enumerate(model.outbound_rules)
    )
