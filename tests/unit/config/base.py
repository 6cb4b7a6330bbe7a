"""A small sound configuration, and how to change it and see what `parse` says of it."""

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from asynclb.config import Parsed, parse
from asynclb.errors import ConfigError, Problem

BASE: dict[str, Any] = {
    "version": 1,
    "frontends": {
        "web": {"address": "10.0.0.10"},
        "pub": {"address": "203.0.113.10", "allow": ["0.0.0.0/0"]},
        "six": {"address": "fd00::10"},
    },
    "backend_pools": {
        "web": {"members": [{"name": "web-1", "address": "10.1.0.11"}, {"name": "web-2", "address": "10.1.0.12"}]},
        "six": {"members": [{"name": "six-1", "address": "fd00:1::11"}]},
    },
    "probes": {"http": {"protocol": "http", "port": 8080, "path": "/healthz"}},
    "rules": [
        {
            "name": "a",
            "frontend": "web",
            "protocol": "tcp",
            "frontend_port": 80,
            "backend_pool": "web",
            "probe": "http",
        },
        {"name": "b", "frontend": "six", "protocol": "tcp", "frontend_port": 80, "backend_pool": "six"},
    ],
    "inbound_nat_rules": [
        {
            "name": "n",
            "frontend": "web",
            "protocol": "tcp",
            "frontend_port_range": "5000-5009",
            "backend_pool": "web",
            "backend_port": 22,
        }
    ],
    "outbound_rules": [{"name": "o", "frontends": ["pub"], "backend_pool": "web"}],
}

REMOVED = object()
"""As a change: the key is removed."""


def written(document: object) -> bytes:
    """Return a document as YAML; by the library in C, as the largest have ten thousands of lines."""
    text: str = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False)
    return text.encode()


def changed(changes: Mapping[str, Any]) -> bytes:
    """Return the base configuration with values changed at dotted paths; `+` appends to a list."""
    document = copy.deepcopy(BASE)
    for path, value in changes.items():
        *steps, last = path.split(".")
        target: Any = document
        for step in steps:
            target = target[int(step)] if isinstance(target, list) else target.setdefault(step, {})
        if last == "+":
            target.append(value)
        elif value is REMOVED:
            del target[int(last) if isinstance(target, list) else last]
        else:
            target[int(last) if isinstance(target, list) else last] = value
    return written(document)


def parsed(changes: Mapping[str, Any]) -> Parsed:
    """Parse the changed base configuration."""
    return parse(changed(changes), file="test.yaml")


def problems(text: bytes) -> tuple[Problem, ...]:
    """Return everything that `parse` refuses in the text."""
    try:
        parse(text, file="test.yaml")
    except ConfigError as error:
        return error.problems
    return ()
