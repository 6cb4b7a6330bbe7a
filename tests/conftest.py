"""What every test shares: asynchronous tests run on uvloop, as the product does."""

import asyncio
import gc
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test on uvloop."""
    del config, item
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_finish() -> None:
    """Hide what was collected from the garbage collector: it lives to the end, and each full look at it takes 0.1 s."""
    gc.freeze()
