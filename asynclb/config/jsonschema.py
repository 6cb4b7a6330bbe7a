"""The JSON Schema of the configuration, for editors: completion, hover texts, and most mistakes while typing."""

from typing import Any

from asynclb.config.schema import PARTS, Document
from asynclb.config.spec import Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file.

    What keys mean together a schema cannot say; `asynclb.config.parse` checks that too.
    """
    schema = Document.model_json_schema()
    _spell_defaults(schema, Document)
    for part in PARTS:
        _spell_defaults(schema["$defs"][part.__name__], part)
    for described in schema["properties"].values():
        if "patternProperties" in described:
            described["additionalProperties"] = False
    return {"$schema": DIALECT, **schema, "title": "asynclb configuration"}


def _spell_defaults(schema: dict[str, Any], spec: type[Spec]) -> None:
    """Write defaults as the configuration does (`5s`); pydantic writes what they mean (5.0)."""
    defaults = spec.model_construct().model_dump(mode="json")
    for key, described in schema["properties"].items():
        if "default" in described:
            described["default"] = defaults[key]
