"""Findings for people and programs. Pure."""

from collections.abc import Iterator, Sequence

from asynclb.doctor.finding import Finding, Level

_WORDS = {Level.FAIL: "FAIL", Level.WARN: "warn", Level.OK: "ok"}


def findings_text(findings: Sequence[Finding]) -> str:
    """Return the lines; the first says whether anything is in the way, and each command is there once."""
    return "\n".join(_lines(findings))


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    counts = {level: sum(one.level is level for one in findings) for level in Level}
    fine = f"{counts[Level.OK]} fine"
    if counts[Level.FAIL]:
        yield f"{counts[Level.FAIL]} in the way, {counts[Level.WARN]} to be mended, {fine}"
    elif counts[Level.WARN]:
        yield f"nothing is in the way; {counts[Level.WARN]} to be mended, {fine}"
    else:
        yield f"all well: {fine}"
    width = max((len(one.subject) for one in findings), default=0)
    said: dict[str, str] = {}
    for one in findings:
        yield f"{_WORDS[one.level]:<4}  {one.subject:<{width}}  {one.found}"
        if one.mend:
            before = said.get(one.mend)
            again = "as above" if before == one.subject else f"as for {before}"
            said.setdefault(one.mend, one.subject)
            yield f"{'':<4}  {'':<{width}}  > {one.mend if before is None else again}"


def finding_document(finding: Finding) -> dict[str, str]:
    """Return one finding for programs."""
    return {
        "level": str(finding.level),
        "subject": finding.subject,
        "found": finding.found,
        "mend": finding.mend,
    }
