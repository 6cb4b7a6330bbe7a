"""From the documents' types to JSON Schema (the dialect of OpenAPI 3.1). Pure.

Understands what `documents` uses: TypedDict, Literal, Annotated with a description, unions, lists, dictionaries and
plain values. Everything else is a mistake in this package and raises TypeError.
"""

import inspect
import types
import typing
from typing import Annotated, Any, Literal, NotRequired, Union

Schema = dict[str, Any]

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
REFERENCE = "#/components/schemas/"


class Schemas:
    """Collects the named schemas that a document refers to. Owner: whoever makes the document."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type; a TypedDict is named, and referred to."""
        if typing.is_typeddict(kind):
            return self._reference(kind)
        if kind in _PLAIN:
            return {"type": _PLAIN[kind]}
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is NotRequired:
            return self.of(arguments[0])
        if origin is Annotated:
            return {**self.of(arguments[0]), "description": arguments[1]}
        if origin is Literal:
            return {"type": "string", "enum": list(arguments)}
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin in (Union, types.UnionType):
            return _union([self.of(one) for one in arguments])
        raise TypeError(f"{kind} has no schema here")

    def _reference(self, kind: Any) -> Schema:
        name = kind.__name__
        if name not in self.named:
            self.named[name] = {}  # a document that contains itself meets its own name
            hints = typing.get_type_hints(kind, include_extras=True)
            self.named[name] = {
                "type": "object",
                "description": inspect.getdoc(kind) or "",
                "properties": {key: self.of(hint) for key, hint in hints.items()},
                "required": sorted(kind.__required_keys__),
                "additionalProperties": False,
            }
        return {"$ref": REFERENCE + name}


def _union(parts: list[Schema]) -> Schema:
    """Return one schema for several; plain types are listed, which reads better than `anyOf`."""
    if all(part.keys() == {"type"} for part in parts):
        return {"type": [part["type"] for part in parts]}
    return {"anyOf": parts}
