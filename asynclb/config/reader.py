"""Text to tree: YAML, read so that no input can hurt and no spelling can surprise.

libyaml turns the text into events; the tree is built from them with a stack, never by recursion, so depth and
size are bounded before anything is built and an alias is a second reference to a node, never a copy.

Laws:
  1. Whatever the bytes are, the answer is a tree or a `ConfigError`, in time linear in the length of the text.
  2. A scalar means what it looks like: `true` and `false`, decimal whole numbers, `null` and `~`; everything else
     is text. The traps of YAML 1.1 (`on`, `22:22`, `010`, `1_000`) stay text, and a key that wants something else
     refuses them by name instead of taking `no` for false.
  3. Keys are text, as written, and stand once in their mapping; `<<` merges as everywhere.

Source: YAML 1.2.2, section 10.3 (core schema, of which this is a part); yaml.org/type/merge.html.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from asynclb.config.source import Node, Place, Value
from asynclb.config.syntax import syntax_problem
from asynclb.errors import ConfigError, Path, Problem

MAX_BYTES = 10 * 1024 * 1024  # 1,500 rules and 5,000 members, a key a line and commented, are about 1.5 MiB
MAX_NODES = 1_000_000  # the same configuration has about 60,000
MAX_DEPTH = 32  # the contract goes 6 deep
MAX_KEY = 1024  # as YAML has it for keys without `?`
MAX_DUPLICATES = 100  # the rest is not worth reading

_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")  # 19 digits: more is no number of ours, and int() is quadratic
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG_PREFIX = "tag:yaml.org,2002:"
_TAGS = {None, "!", f"{_TAG_PREFIX}str", f"{_TAG_PREFIX}map", f"{_TAG_PREFIX}seq"}


@dataclass(frozen=True, slots=True)
class Reading:
    """A tree, and what was wrong with the text but did not keep it from being read."""

    root: Node
    problems: tuple[Problem, ...]


def read(text: bytes, *, file: str) -> Reading:
    """Read one YAML document.

    Raises: ConfigError -> the text is no YAML document within the bounds.
    Cost: about 3 us a node; `tests/bench/config_bench.py`.
    """
    composer = _Composer(file)
    try:
        composer.compose(_events(_decode(text, file)))
    except yaml.YAMLError as error:
        raise ConfigError((*composer.problems, syntax_problem(error, text, file))) from None
    if composer.root is None or (composer.root.value is None):
        raise ConfigError([_empty(file)])
    return Reading(composer.root, tuple(composer.problems))


def scalar(text: str, *, plain: bool) -> Value:
    """Return what a scalar means."""
    if not plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INTEGER.fullmatch(text) else text


def _events(text: str) -> Iterator[Any]:
    return yaml.parse(text, Loader=yaml.CSafeLoader)


def _decode(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        rule = f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB"
        raise ConfigError([Problem((), "", rule, "check that this is the configuration", file)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        value = data[error.start : error.start + 1].hex(" ")
        remedy = "save the file as UTF-8, as with `iconv -t utf-8`"
        raise ConfigError([Problem((), f"byte {value}", "the text is not UTF-8", remedy, file, line, column)]) from None
    if found := _UNPRINTABLE.search(text):
        start = found.start()
        line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
        value = f"U+{ord(found[0]):04X}"
        remedy = "remove it; in a probe, send and expect bytes with `send_hex` and `expect_hex`"
        raise ConfigError([Problem((), value, "YAML text has no control characters", remedy, file, line, column)])
    return text


def _empty(file: str) -> Problem:
    return Problem(
        (), "", "the file is empty", "begin with `version: 1`; conf/asynclb.yaml is a small example", file, 1, 1
    )


@dataclass(slots=True)
class _Open:
    """A mapping or a list whose end has not been read. `key` is the mapping key that waits for its value."""

    node: Node
    anchor: str | None
    is_mapping: bool
    key: str | None = None
    repeated: bool = False
    merges: list[Node] = field(default_factory=list)

    @property
    def step(self) -> tuple[str | int, ...]:
        """The key or index of the next value; nothing where a key is what comes next."""
        if isinstance(self.node.children, list):
            return (len(self.node.children),)
        return () if self.key is None else (self.key,)


class _Composer:
    """Builds the tree from events. Owner: one call of `read`."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._file = file
        self._nodes = 0
        self._documents = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._handlers: dict[type, Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._open,
            yaml.SequenceStartEvent: self._open,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }

    def compose(self, events: Iterable[Any]) -> None:
        """Take the events of a text."""
        handler_of = self._handlers.get
        for event in events:
            if (handler := handler_of(type(event))) is not None:
                handler(event)

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            remedy = "keep one document; remove the `---` line or split the file"
            self._refuse(event, "---", "the file holds more than one YAML document", remedy)

    def _scalar(self, event: Any) -> None:
        """Take a key or a value. Cost: most events of a text are scalars, so nothing is called that need not be."""
        if event.tag not in _TAGS:
            self._refuse_tag(event)
        value, plain, mark = event.value, event.implicit[0], event.start_mark
        place = (mark.line + 1, mark.column + 1)
        top = self._stack[-1] if self._stack else None
        if top is not None and top.key is None and top.is_mapping:
            self._key(top, value, event, place, merge=plain and value == "<<")
        else:
            value = scalar(value, plain=plain)
            self._attach(Node(value, place), event)
        if event.anchor is not None:
            self._anchors[event.anchor] = Node(value, place)

    def _key(self, top: _Open, key: str, event: Any, place: Place, *, merge: bool = False) -> None:
        top.key = key
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._refuse_size(event)
        if len(key) > MAX_KEY:
            top.key = None
            self._refuse(event, key, f"a key has more than {MAX_KEY} characters", "check the quotes and the colons")
        if merge:
            top.repeated = False
            top.merges.append(_MERGE_NEXT)
            return
        keys = top.node.keys if top.node.keys is not None else {}
        first = keys.setdefault(key, place)
        top.repeated = first is not place
        if top.repeated:
            self._duplicate(key, first, event)

    def _duplicate(self, key: str, first: Place, event: Any) -> None:
        rule = f"the key stands twice in one mapping; first at line {first[0]}, column {first[1]}"
        problem = self._problem(event, key, rule, "remove one of the two, or rename it")
        self.problems.append(problem)
        if len(self.problems) >= MAX_DUPLICATES:
            raise ConfigError(self.problems)

    def _open(self, event: Any) -> None:
        if event.tag not in _TAGS:
            self._refuse_tag(event)
        mapping = isinstance(event, yaml.MappingStartEvent)
        top = self._stack[-1] if self._stack else None
        if top is not None and top.key is None and top.is_mapping:
            remedy = "put the key in quotes; if this is a template (`{{ ... }}`), render it first"
            self._refuse(event, "", "a key is text, not a mapping or a list", remedy)
        if len(self._stack) >= MAX_DEPTH:
            rule = f"mappings and lists are nested more than {MAX_DEPTH} deep"
            self._refuse(event, "", rule, "check the indentation and the brackets")
        node = Node({}, _place(event), 1, {}, {}) if mapping else Node([], _place(event), 1, [])
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(node, event.anchor, mapping))

    def _close(self, event: Any) -> None:
        opened = self._stack.pop()
        for source in opened.merges:
            _merge(opened.node, source)
        if opened.anchor is not None:
            self._anchors[opened.anchor] = opened.node
        self._attach(opened.node, event)

    def _alias(self, event: Any) -> None:
        name = event.anchor
        if name not in self._anchors:
            remedy = f"define it before with `&{name}`, or put the value in quotes if it is text"
            self._refuse(event, f"*{name}", "the alias names no anchor", remedy)
        node = self._anchors[name]
        if node is None:
            self._refuse(event, f"*{name}", "the alias stands inside its own anchor", "write the value out")
            return
        top = self._stack[-1] if self._stack else None
        if top is not None and top.key is None and top.is_mapping:
            if not isinstance(node.value, str):
                self._refuse(event, f"*{name}", "a key is text", "write the key out")
            self._key(top, str(node.value), event, _place(event))
            return
        self._attach(node, event, node.size)

    def _attach(self, node: Node, event: Any, size: int = 1) -> None:
        """Put a finished node under the mapping, list or document that waits for it; `size` counts what is new."""
        self._nodes += size
        if self._nodes > MAX_NODES:
            self._refuse_size(event)
        if not self._stack:
            self.root = node
            return
        top = self._stack[-1]
        parent, key = top.node, top.key
        parent.size += node.size
        children, values = parent.children, parent.value
        if key is None:
            if isinstance(children, list) and isinstance(values, list):
                children.append(node)
                values.append(node.value)
            return
        top.key = None
        if top.merges and top.merges[-1] is _MERGE_NEXT:
            top.merges[-1:] = self._merge_sources(node, event)
        elif not top.repeated and isinstance(children, dict) and isinstance(values, dict):
            children[key] = node
            values[key] = node.value

    def _merge_sources(self, node: Node, event: Any) -> list[Node]:
        sources = node.children if isinstance(node.children, list) else [node]
        if not all(isinstance(source.children, dict) for source in sources):
            remedy = "name an anchor of a mapping, as in `<<: *defaults`"
            self._refuse(event, "<<", "only mappings can be merged", remedy)
        return list(sources)

    def _refuse_size(self, event: Any) -> None:
        rule = f"the file has more than {MAX_NODES:,} values, aliases expanded"
        self._refuse(event, "", rule, "check that this is the configuration, and what its aliases stand for")

    def _refuse_tag(self, event: Any) -> None:
        tag = event.tag.replace(_TAG_PREFIX, "!!")
        self._refuse(event, tag, "tags have no meaning here", "remove the tag; put text in quotes")

    def _refuse(self, event: Any, value: str, rule: str, remedy: str) -> None:
        raise ConfigError((*self.problems, self._problem(event, value, rule, remedy)))

    def _problem(self, event: Any, value: str, rule: str, remedy: str) -> Problem:
        path: Path = tuple(step for opened in self._stack for step in opened.step)
        return Problem(path, value[:80], rule, remedy, self._file, *_place(event))


_MERGE_NEXT = Node(None, (0, 0))
"""Stands in `_Open.merges` until the value of `<<` has been read."""


def _place(event: Any) -> Place:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1


def _merge(target: Node, source: Node) -> None:
    """Give `target` the keys of `source` that it does not have; its own win, then the first merged."""
    if not (isinstance(target.children, dict) and isinstance(source.children, dict)):
        return
    if not (isinstance(target.value, dict) and target.keys is not None and source.keys is not None):
        return
    for key, node in source.children.items():
        if key not in target.children:
            target.children[key] = node
            target.value[key] = node.value
            target.keys.setdefault(key, source.keys.get(key, node.place))
