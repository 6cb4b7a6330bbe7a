"""What tests of the core share: the BPF programs, which the kernel verifies for half a second."""

from collections.abc import Iterator

import pytest

from tests.unit.core.loaded import Loaded, loaded


@pytest.fixture(scope="session")
def shared() -> Iterator[Loaded]:
    """The programs, loaded once; `show` makes them forget what was before."""
    with loaded() as made:
        yield made
