"""A watch that is told to stop while the directory is busy."""

import asyncio
from pathlib import Path

from asynclb.control.watch import ConfigWatch
from asynclb.events import Event
from asynclb.lab import PATIENCE_S

TURNS = 12  # of the loop between the event and the cancellation: somewhere in there they meet
ROUNDS = 4


async def test_a_busy_directory_does_not_keep_the_watch_from_stopping(tmp_path: Path) -> None:
    """A cancellation that arrives together with a file event ends the watch at once, every time."""
    config = tmp_path / "asynclb.yaml"
    config.write_text("version: 1\n")

    async def on_change() -> None:
        return

    def emit(_event: Event, /, **_fields: object) -> None:
        return

    for turns in range(TURNS * ROUNDS):
        watch = asyncio.create_task(ConfigWatch(config, on_change, emit).run())
        await asyncio.sleep(0.005)
        (tmp_path / f"neighbour-{turns}").write_text("x")
        for _ in range(turns % TURNS):
            await asyncio.sleep(0)
        watch.cancel()
        done, _ = await asyncio.wait((watch,), timeout=PATIENCE_S)
        assert done
