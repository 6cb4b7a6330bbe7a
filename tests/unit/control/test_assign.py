"""Which datapath carries which rule."""

from dataclasses import replace

import pytest

from asynclb import rules
from asynclb.control.assign import Candidate, assign, restrict
from asynclb.datapath.base import Refusal
from asynclb.model import DatapathName, Health, Model
from asynclb.tables.compile import compile_tables
from tests.unit.control.fakes import web_model

NO_KERNEL = Candidate("kernel", lambda _row: Refusal("not part of this version", "use `datapath: proxy`"))
NO_PACKET = Candidate("packet", lambda _row: Refusal("not part of this version", "use `datapath: proxy`"))
PROXY = Candidate("proxy", lambda _row: None)


def assigned(model: Model, *candidates: Candidate) -> tuple[list[str], list[str]]:
    """Return the datapath of each rule, and the problems as text."""
    choices, problems = assign(model, rules.rows_of(model), candidates)
    return [choice.datapath for choice in choices.values()], [str(problem) for problem in problems]


def test_auto_takes_the_first_that_does_not_refuse() -> None:
    """Preference goes down the list to the first datapath that can carry the rule."""
    assert assigned(web_model("a"), NO_KERNEL, PROXY) == (["proxy"], [])


def test_the_models_datapath_holds_for_rules_that_name_none() -> None:
    """`datapath: kernel` at the top refuses every rule where there is no kernel datapath."""
    model = replace(web_model("a", rules=2), datapath=DatapathName.KERNEL)
    chosen, problems = assigned(model, NO_KERNEL, PROXY)
    assert chosen == []
    assert len(problems) == 2
    assert problems[0].startswith("rules[0]: 'web-0': no datapath here can carry this rule (kernel: not part of")


def test_a_rule_overrides_the_models_datapath() -> None:
    """A rule's own `datapath` counts before the model's."""
    model = replace(web_model("a", datapath="proxy"), datapath=DatapathName.KERNEL)
    assert assigned(model, NO_KERNEL, PROXY) == (["proxy"], [])


def test_every_reason_is_given_and_the_remedy_within_reach() -> None:
    """Where all refuse, each one's reason is told, and the remedy of the last: the one that most hosts have."""
    split = Candidate("proxy", lambda _row: Refusal("has sockets only", "use one rule per port"))
    _, problems = assigned(web_model("a"), NO_KERNEL, NO_PACKET, split)
    assert problems[0].endswith("use one rule per port")
    assert "proxy: has sockets only" in problems[0]
    assert "kernel: not part" in problems[0]
    assert "packet: not part" in problems[0]


@pytest.mark.parametrize("name", ["kernel", "proxy"])
def test_restrict_keeps_what_one_datapath_carries(name: str) -> None:
    """The restricted tables hold exactly the entries assigned to a datapath, under the same generation and seed."""
    model = web_model("a", probe=None, rules=4)
    rows = rules.rows_of(model)
    even = Candidate("kernel", lambda row: None if row.key.port % 2 == 0 else Refusal("odd", "even"))
    choices, _ = assign(model, rows, [even, PROXY])
    tables = compile_tables(rows, Health({}), seed=7, generation=3)
    mine = restrict(tables, choices, name)
    assert {key.port % 2 for key in mine.entries} == {0 if name == "kernel" else 1}
    assert (mine.generation, mine.seed, len(mine.entries)) == (3, 7, 2)
