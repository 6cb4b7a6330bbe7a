"""The configuration: YAML text to `Model`, strictly, with every problem at once.

    text -> reader -> Node tree -> draft -> checks -> build -> Model
             YAML      places      parts    together  defaults

`reader` bounds and understands the text, `schema` knows every key, `draft` validates each part by itself, `checks`
what they are to each other, `build` resolves defaults. Only this package knows YAML and pydantic. What a datapath
can execute is not decided here.
"""

from asynclb.config.jsonschema import json_schema
from asynclb.config.load import Loader, Parsed, load, parse
from asynclb.config.members import check_members, read_members
from asynclb.config.source import SourceMap

__all__ = ["Loader", "Parsed", "SourceMap", "check_members", "json_schema", "load", "parse", "read_members"]
