"""One running asynclb for each datapath, for all rows: each row loads what it needs, and leaves nothing behind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conformance.collector import Collector
from tests.conformance.rows.bed import Bed
from tests.conformance.rows.bed import bed as run_bed
from tests.conformance.table import COLUMNS, DATAPATHS
from tests.labs import mark

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every row `netns`, and skip it with the reason where labs cannot be had."""
    mark(items, HERE, "ping", "tcpdump")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each row on every datapath; where a table is made, on the kernel's attached in every way."""
    makes_table = any(isinstance(plugin, Collector) for plugin in metafunc.config.pluginmanager.get_plugins())
    for name, scope in (("running", "session"), ("quick", "module")):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, COLUMNS if makes_table else DATAPATHS, indirect=True, scope=scope)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """Run asynclb with one datapath."""
    async with run_bed(request.param) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def bed(running: Bed) -> AsyncIterator[Bed]:
    """Give a row the bed, with every member up, and take the row's rules away afterwards."""
    running.all_up()
    yield running
    running.all_up()
    await running.load(backend_pools={}, probes={})
