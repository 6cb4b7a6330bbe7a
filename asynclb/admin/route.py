"""A route: what is asked, with which parameters, and what is answered. Said once, for the server and for OpenAPI."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

T = TypeVar("T", str, int)

LONGEST = 200  # characters: a name has 80, an inbound NAT port is called by two, and each may be percent-encoded

_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_ETAG = re.compile(r'"([0-9]{1,18})"', re.ASCII)


class Refused(Exception):  # noqa: N818  # it is an answer, not an error
    """A request that is answered with an error document."""

    def __init__(self, status: int, error: str, remedy: str, **more: Any) -> None:
        super().__init__(error)
        self.status = status
        self.document: dict[str, Any] = {"error": error, "remedy": remedy, **more}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter, or with `in_path` a part of the path. Whole numbers have bounds, both included."""

    name: str
    meaning: str
    example: str = ""
    least: int | None = None
    most: int | None = None
    words: tuple[str, ...] = ()
    required: bool = False
    in_path: bool = False
    longest: int = LONGEST

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON Schema."""
        if self.least is not None:
            return {"type": "integer", "minimum": self.least, "maximum": self.most}
        if self.words:
            return {"type": "string", "enum": list(self.words)}
        return {"type": "string", "minLength": 1, "maxLength": self.longest}

    def read(self, text: str) -> str | int:
        """Return the value. Raises: Refused -> the text is not one."""
        if self.least is not None and self.most is not None:
            if not _NUMBER.fullmatch(text) or not self.least <= int(text) <= self.most:
                raise Refused(400, f"{self.name} is not a number here", f"write {self.least} to {self.most}")
            return int(text)
        if self.words and text not in self.words:
            raise Refused(400, f"{self.name} is not a word known here", f"write one of {', '.join(self.words)}")
        if not 0 < len(text) <= self.longest:
            raise Refused(400, f"{self.name} has {len(text)} characters", f"write 1 to {self.longest}")
        return text


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read and checked."""

    request: web.Request
    values: Mapping[str, str | int]
    who: str
    expected: int | None = None
    """The generation in `If-Match`; None without one."""

    def text(self, name: str) -> str:
        """Return a parameter, '' where it was not given."""
        return str(self.values.get(name, ""))

    def number(self, name: str, default: int) -> int:
        """Return a parameter that is a number."""
        return int(self.values.get(name, default))


@dataclass(frozen=True, slots=True)
class Answer:
    """A document, the generation that it is of, and the status."""

    document: Any
    generation: int | None = None
    status: int = 200


Handler = Callable[[Call], Awaitable[Answer | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """What a request means. `errors`: status -> when it is answered."""

    method: str
    path: str
    summary: str
    handler: Handler
    answer: Any
    parameters: tuple[Parameter, ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    body: Any = None
    content: str = "application/json"
    """The media type of the body, if there is one."""
    answers: Mapping[int, Any] = field(default_factory=dict)
    """Other statuses that have documents of their own."""
    streams: bool = False
    """Whether it answers with one document a line, until there are no more."""

    changes: bool = True
    """Whether it changes something, if its method could."""

    @property
    def writes(self) -> bool:
        """Whether it is told who asked."""
        return self.changes and self.method not in ("GET", "HEAD")

    @property
    def locks(self) -> bool:
        """Whether it takes `If-Match`."""
        return 412 in self.errors


def read_call(route: Route, request: web.Request, who: str) -> Call:
    """Check path, query and headers. Raises: Refused -> with what would be right."""
    known = {parameter.name: parameter for parameter in route.parameters}
    given = {**request.match_info}
    for key, value in request.query.items():
        if key in given or key not in known or known[key].in_path:
            names = ", ".join(name for name, parameter in known.items() if not parameter.in_path) or "none"
            what = "twice" if key in given else "not known"
            raise Refused(400, f"query parameter {key[:80]!r} is {what} here", f"the parameters are: {names}")
        given[key] = value
    for parameter in known.values():
        if parameter.required and parameter.name not in given:
            raise Refused(400, f"{parameter.name} is missing", f"pass ?{parameter.name}={parameter.example}")
    values = {key: known[key].read(value) for key, value in given.items() if key in known}
    return Call(request, values, who, _expected(route, request))


def _expected(route: Route, request: web.Request) -> int | None:
    text = request.headers.get("If-Match", "*").strip()
    if not route.locks or text == "*":
        return None
    if (match := _ETAG.fullmatch(text)) is None:
        raise Refused(400, "If-Match is not a generation", 'send one in quotes, as the ETag of an answer: "42"')
    return int(match[1])


def read_json(body: bytes) -> Any:
    """Return what JSON text says. Raises: Refused -> it says nothing."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON", 'send an object, as in {"admin_state": "drain"}') from None
