"""Writes REFERENCE.md beside this file: `python conf/reference.py`.

Every key of the configuration from its JSON Schema; commands, metrics, drop reasons and events from where they are
declared. Nothing is described twice, and a test refuses a page that is not what this program writes.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from asynclb import events, observe
from asynclb.cli import cli
from asynclb.config import json_schema
from asynclb.datapath.lifetimes import End
from asynclb.net import drop

HERE = Path(__file__).parent
_HEAD = """\
# Reference

Written by `python conf/reference.py` from the program itself. [full.yaml](full.yaml) has the same keys as one file, and
`asynclb check --schema` prints the JSON Schema that editors complete and check with.

[Configuration](#configuration) | [Commands](#commands) | [Metrics](#metrics) | [Drop reasons](#drop-reasons) |
[Ends of flows](#ends-of-flows) | [Events](#events)
"""


def page() -> str:
    """Return the text of the page."""
    parts = (_HEAD, *_configuration(), *_commands(), *_metrics(), *_drops(), *_ends(), *_events())
    return "\n".join(parts)


def _configuration() -> Iterator[str]:
    schema = json_schema()
    yield "## Configuration\n"
    yield "Durations are a number and a unit: `250ms`, `5s`, `4m`, `1h`. A key without a default is required.\n"
    yield from _part("The file", schema, schema["$defs"])


def _part(title: str, part: dict[str, Any], parts: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the part's keys, then its own parts."""
    yield f"### {title}\n"
    if title != "The file":
        yield f"{part['description']}\n"
    yield "| key | values | default | meaning |\n| --- | --- | --- | --- |"
    required = part.get("required", ())
    for key, described in part["properties"].items():
        default = "**required**" if key in required else _value(described.get("default"))
        yield f"| `{key}` | {_kind(described, parts)} | {default} | {_cell(described.get('description', ''))} |"
    yield ""
    for key, described in part["properties"].items():
        for place, inner in _inner(key, described):
            path = f"`{place}`" if title == "The file" else f"{title[:-1]}.{place}`"
            yield from _part(path, parts[inner], parts)


def _inner(key: str, described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (place, name of the part) for what stands under a key."""
    by_name = next(iter(described.get("patternProperties", {}).values()), {})
    for place, found in ((key, described), (f"{key}.NAME", by_name), (f"{key}[]", described.get("items", {}))):
        for choice in (found, *found.get("anyOf", ())):
            if "$ref" in choice:
                yield place, choice["$ref"].rpartition("/")[2]


def _kind(described: dict[str, Any], parts: dict[str, Any]) -> str:
    """Return what may stand there, in a word or as the list of words."""
    choices = [choice for choice in described.get("anyOf", ()) if choice.get("type") != "null"]
    if choices:
        nullable = len(choices) < len(described["anyOf"])
        return " or ".join(dict.fromkeys(_kind(choice, parts) for choice in choices)) + (" or null" if nullable else "")
    if "enum" in described:
        return ", ".join(f"`{word}`" for word in described["enum"])
    if "const" in described:
        return f"`{described['const']}`"
    if "$ref" in described or "patternProperties" in described:
        return "see below"
    if described.get("type") == "array":
        kind = _kind(described["items"], parts)
        return f"list: {kind}" if kind.startswith(("as ", "see ")) else f"list of {kind}"
    return _plain(described)


def _plain(described: dict[str, Any]) -> str:
    bounds = [str(described[word]) for word in ("minimum", "maximum") if word in described]
    word: str = {"integer": "number", "boolean": "`true`, `false`", "string": "text"}[described["type"]]
    examples = described.get("examples", ())
    if examples:
        return f"as {_value(examples[0])}"
    return f"{word} {' to '.join(bounds)}" if len(bounds) == 2 else word


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "| command | does |\n| --- | --- |"
    for name, command in sorted(cli.commands.items()):
        words = " ".join(command.collect_usage_pieces(click.Context(command))[1:])
        yield f"| `{_cell(f'asynclb {name} {words}')}` | {_cell(command.help or '')} |"
    yield ""


def _metrics() -> Iterator[str]:
    yield "## Metrics\n"
    yield "On `/metrics` of `admin.listen`. Labels are names of the configuration and words of lists.\n"
    yield "| metric | meaning |\n| --- | --- |"
    for file in sorted(Path(observe.__path__[0]).glob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id.endswith("MetricFamily"):
                name, meaning = (ast.literal_eval(argument) for argument in call.args[:2])
                counted = "_total" if call.func.id.startswith("Counter") else ""
                yield f"| `{name}{counted}` | {_cell(meaning)} |"
    yield ""


def _drops() -> Iterator[str]:
    yield "## Drop reasons\n"
    yield "What `asynclb_drops_total`, `asynclb show drops` and the status page count, each with why.\n"
    yield from _reasons(drop.Drop)


_ENDS = """\
`reason` in a line of the [flow log](#flow_log). Each flow that ends has one line. The datapath `kernel` has none for
flows that make room for others (`asynclb_flow_evictions_total`), for those whose place another flow of the same ends
took before they were a second old or were seen to be over, and for those that `moved` while more than 65,536 were
open or in rules with `connection_tracking: false`; the numbers of one that `moved` are up to a second old.
"""


def _ends() -> Iterator[str]:
    yield "## Ends of flows\n"
    yield _ENDS
    yield from _reasons(End)


def _reasons(words: type[StrEnum]) -> Iterator[str]:
    """Yield a table of words, each with the sentence that stands below it where it is declared."""
    yield "| reason | why |\n| --- | --- |"
    for name, meaning in re.findall(r'= "(\w+)"\n    """(.+?)"""', inspect.getsource(words), re.DOTALL):
        yield f"| `{name}` | {_cell(meaning)} |"
    yield ""


def _events() -> Iterator[str]:
    yield "## Events\n"
    yield "Each change of state is one line of the log, JSON unless on a terminal.\n"
    yield "| event | fields |\n| --- | --- |"
    for name, fields in re.findall(r'= "(\w+)"  # (.+)', inspect.getsource(events.Event)):
        yield f"| `{name}` | {_cell(fields)} |"
    yield ""


if __name__ == "__main__":
    (HERE / "REFERENCE.md").write_text(page())
