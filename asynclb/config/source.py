"""The text of a configuration as a tree that knows where everything stands.

`Node.value` is plain data for whoever validates it; the nodes beside it keep line and column, so that a problem
found at a path much later (by a datapath, for one) can still be shown at its place in the file.
"""

import re
from dataclasses import dataclass, replace
from typing import TypeAlias

from asynclb.config.values import NAME_PATTERN
from asynclb.errors import Path, Problem

Value: TypeAlias = "bool | int | str | list[Value] | dict[str, Value] | None"
Place = tuple[int, int]
"""Line and column, counted from 1."""


@dataclass(slots=True)
class Node:
    """One value of the text: the data, where it starts, and the nodes below it.

    Shape: `children` is a mapping's or a list's nodes; `keys` is where a mapping's keys stand; `size` counts the
    nodes of the subtree with every alias expanded.
    Owner: the reader, until the tree is handed out; nobody after that.
    """

    value: Value
    place: Place
    size: int = 1
    children: "dict[str, Node] | list[Node] | None" = None
    keys: dict[str, Place] | None = None

    def child(self, step: str | int) -> "Node | None":
        """Return the node below, or None where there is none."""
        if isinstance(self.children, dict):
            return self.children.get(step) if isinstance(step, str) else None
        if isinstance(self.children, list) and isinstance(step, int) and 0 <= step < len(self.children):
            return self.children[step]
        return None


@dataclass(frozen=True, slots=True)
class SourceMap:
    """Where every path of one configuration stands in its file."""

    file: str
    root: Node

    def place(self, path: Path, *, at_key: bool = False) -> Place:
        """Return where `path` stands, or its nearest ancestor that the file has.

        A scalar stands where its value starts; a mapping or list stands at its key, and so does everything
        when `at_key` is set.
        """
        node, place = self.root, self.root.place
        for step in path:
            child = node.child(step)
            if child is None:
                break
            key = node.keys.get(step) if node.keys is not None and isinstance(step, str) else None
            place = key if key is not None and (at_key or child.children is not None) else child.place
            node = child
        return place

    def names(self, path: Path) -> tuple[str, ...]:
        """Return for each step of a path the name of the part that stands at that position of a list, '' for others."""
        names, node = [], self.root
        for step in path:
            child = node.child(step)
            if child is None:
                break
            names.append(_name(child.value) if isinstance(step, int) else "")
            node = child
        return tuple(names)

    def locate(self, problem: Problem, *, at_key: bool = False) -> Problem:
        """Return the problem with file, line, column and names filled in from its path."""
        line, column = self.place(problem.path, at_key=at_key)
        return replace(problem, file=self.file, line=line, column=column, names=self.names(problem.path))


def _name(part: Value) -> str:
    """Return the name of a part, '' for one without or with a name that is none."""
    name = part.get("name") if isinstance(part, dict) else None
    return name if isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) else ""
