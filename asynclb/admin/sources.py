"""Sources of pool members as documents, and in the words of the verdict. Pure."""

from collections.abc import Iterator

from asynclb.admin import documents
from asynclb.admin.instant import instant
from asynclb.admin.situation import SourceFacts
from asynclb.control.status import Status


def source_document(status: Status, pool: str) -> documents.Source | None:
    """Return what is known of a pool's source, or None where it has none."""
    found = status.sources.get(pool)
    if found is None:
        return None
    return {
        "kind": found.members_from.source.kind.value,
        "name": str(found.members_from.source),
        "allow_empty": found.members_from.allow_empty,
        "state": found.state.value,
        "since": instant(found.since_s),
        "error": found.error,
        "answered": instant(found.answered_s),
        "members": len(status.discovered.get(pool, ())),
        "result": found.result.value if found.result is not None else None,
        "problems": [str(problem) for problem in found.problems],
        "warnings": list(found.warnings),
        "updates": {result.value: count for result, count in found.updates.items()},
    }


def facts_of(status: Status) -> Iterator[SourceFacts]:
    """Yield what a verdict is made of for each source."""
    for pool, found in status.sources.items():
        problems = tuple(str(problem) for problem in found.problems)
        members = len(status.discovered.get(pool, ()))
        yield SourceFacts(
            pool, str(found.members_from.source), found.state, members, found.error, problems, found.since_s
        )
