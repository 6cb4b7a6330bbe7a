"""Fixtures for tests in network namespaces: a lab per test, or a skip with the reason where labs cannot be had."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asynclb.lab import STANDARD, Lab, Site
from tests.labs import mark

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder `netns`, and skip it with the reason where labs cannot be had."""
    mark(items, HERE, "nginx", "curl", "ethtool")


@pytest.fixture
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """Give the test an empty lab of its own."""
    async with Lab(request.node.name) as lab:
        yield lab


@pytest.fixture
async def site(lab: Lab) -> Site:
    """Give the test the standard lab: two clients, the balancer's host, three members."""
    return await STANDARD.build(lab)
