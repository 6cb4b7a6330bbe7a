"""What tests of the core and of its programs share: the programs, which the kernel verifies for 0.7 s."""

from collections.abc import Iterator

import pytest

from tests.unit.core.loaded import Loaded, loaded


@pytest.fixture(scope="session")
def shared() -> Iterator[Loaded]:
    """The programs, loaded once; `show` makes them forget what was before."""
    with loaded() as made:
        yield made
