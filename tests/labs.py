"""What folders of tests share that play in labs."""

from pathlib import Path

import pytest

from asynclb.errors import HostError
from asynclb.lab import require_root, require_tools


def mark(items: list[pytest.Item], folder: Path, *tools: str) -> None:
    """Mark every test of a folder `netns`, and skip it with the reason where labs, or their tools, cannot be had."""
    try:
        require_root("network namespaces")
        require_tools("ip", "setpriv", *tools)
        skip = None
    except HostError as error:
        skip = pytest.mark.skip(reason=str(error))
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if skip is not None:
                item.add_marker(skip)
