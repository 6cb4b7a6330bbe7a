"""runc, where root may not raise limits (no CAP_SYS_RESOURCE): limits beyond this process's own are lowered to them.

The engine calls this in the place of runc. Nothing else of a container is changed, and nothing where root is whole.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any


def lowered(process: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a container's process, with no limit above what this process may set."""
    return process | {"rlimits": [_lowered(limit) for limit in process.get("rlimits") or ()]}


def _lowered(limit: dict[str, Any]) -> dict[str, Any]:
    hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
    if hard == resource.RLIM_INFINITY:
        return limit
    return limit | {key: min(limit[key], hard) for key in ("soft", "hard")}


def _edit(words: list[str]) -> None:
    """Edit the file that an order of the engine comes with: for `create` a bundle's, for `exec` the process's own."""
    if "--bundle" in words:
        file = Path(words[words.index("--bundle") + 1], "config.json")
        found = json.loads(file.read_text())
        file.write_text(json.dumps(found | {"process": lowered(found["process"])}))
    elif "--process" in words:
        file = Path(words[words.index("--process") + 1])
        file.write_text(json.dumps(lowered(json.loads(file.read_text()))))


if __name__ == "__main__":
    _edit(sys.argv[1:])
    os.execvp("runc", ["runc", *sys.argv[1:]])  # noqa: S606  # it becomes runc, which the engine has asked for
