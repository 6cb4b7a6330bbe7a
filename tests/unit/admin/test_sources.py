"""How sources of members are told: in the verdict's sentences and in the table."""

from asynclb.admin.situation import RuleFacts, Situation, SourceFacts
from asynclb.admin.source_table import source_rows
from asynclb.admin.verdict import judge

RULES = (RuleFacts("web", "web", "serving"),)


def lines(*sources: SourceFacts) -> list[str]:
    """Return what is wrong with these sources."""
    return list(judge(Situation(1_800_000_000.0, 3, rules=RULES, sources=sources)).wrong)


def test_sources_that_are_well_are_not_told() -> None:
    """A source that answers, and whose answer is in force, is nothing to read about at night."""
    assert lines(SourceFacts("web", "file m.yaml", "up", 3)) == []


def test_each_fault_is_one_sentence_with_what_stays() -> None:
    """A dead source, one that never answered, and one whose answer is refused."""
    assert lines(
        SourceFacts("web", "etcd /web/", "failed", 3, "http://e: it did not answer", (), 1_799_999_000.0),
        SourceFacts("api", "dns A api.test", "waiting", 0),
        SourceFacts("db", "file db.yaml", "up", 1, "", ("too many members", "and more")),
    ) == [
        "The source of pool web fails since 07:43:20 UTC, its last 3 members stay: http://e: it did not answer",
        "The source of pool api (dns A api.test) has not answered yet, the pool has no members of it.",
        "What the source of pool db says is refused, its last member stays: too many members (and 1 more)",
    ]


def test_the_table_says_refused_where_the_state_alone_would_say_up() -> None:
    """One line for each source; pools without one, and documents of older instances, have none."""
    source = {"name": "file m.yaml", "state": "up", "since": "s", "members": 2, "answered": "a", "error": ""}
    refused = {**source, "problems": ["too many"], "warnings": ["a port"]}
    state = {"pools": [{"name": "web", "source": refused}, {"name": "own", "source": None}, {"name": "old"}]}
    assert list(source_rows(state)) == [("web", "file m.yaml", "refused", "s", 2, "a", "too many; a port")]
