"""What pydantic found, in an operator's words."""

from collections.abc import Collection

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from asynclb.config import values
from asynclb.config.report import Report
from asynclb.config.spec import Spec
from asynclb.errors import Path


def explain(error: ValidationError, spec: type[Spec], path: Path, report: Report) -> None:
    """Report every error that pydantic found in the part of the configuration at `path`."""
    for detail in error.errors(include_url=False):
        if report.full:
            return
        _explain(detail, spec, path, report)


def unknown_key(path: Path, known: Collection[str], report: Report) -> None:
    """Report a key that does not exist, with the one that was probably meant."""
    near = report.suggest(str(path[-1]), known)
    remedy = f"did you mean `{near}`?" if near else f"remove it; the keys here are {', '.join(known)}"
    report.problem(path, "", "unknown key", remedy, at_key=True)


def _explain(detail: ErrorDetails, spec: type[Spec], path: Path, report: Report) -> None:
    loc = tuple(detail["loc"])
    where, value, kind = path + loc, detail["input"], detail["type"]
    part = _part(spec, loc[:-1])
    if kind == values.WRONG:
        report.problem(where, value, detail["ctx"]["rule"], detail["ctx"]["remedy"])
    elif kind == "extra_forbidden":
        unknown_key(where, part.model_fields, report)
    elif kind == "missing":
        key = str(loc[-1])
        meaning = (part.model_fields[key].description or "").split(";")[0].rstrip(".")
        report.problem(where, "", "a required key is missing", f"add `{key}: ...` ({meaning})")
    elif kind == "too_short":
        report.problem(where, "", "the list is empty", "name at least one")
    elif value is None:
        remedy = "write a value, or remove the key to take its default"
        report.problem(where, "", "the key has no value", remedy)
    else:
        rule, remedy = _SHAPES.get(kind, (detail["msg"], "correct the value"))
        report.problem(where, value, f"{rule}, not {values.kind_of(value)}" if kind in _SHAPES else rule, remedy)


_MAPPING = ("this must be a mapping", "write `key: value` pairs, indented or in `{ }`")
_LIST = ("this must be a list", "write the values with `- ` before each, or in `[ ]`")
_SHAPES = {
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "tuple_type": _LIST,
    "list_type": _LIST,
}


def _part(spec: type[Spec], loc: tuple[str | int, ...]) -> type[Spec]:
    """Return the class of the part at `loc` below `spec`: `tls` of a probe, for one."""
    for step in loc:
        spec = spec.part(str(step)) or spec
    return spec
