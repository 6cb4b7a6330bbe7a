"""The demo and the examples, run as a new user runs them: their exit code is their own verdict."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from asynclb.lab.registry import REGISTER

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/run.py") if path.parent.name != "unprivileged")
"""Those that play in a lab."""


async def start(*words: str) -> asyncio.subprocess.Process:
    """Start the interpreter with these words in the checkout; its output comes through a pipe."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def labs_of(pid: int) -> list[str]:
    """List what is left in the register of the labs that the process owned."""
    return [path.name for path in REGISTER.glob(f"alb{pid}-*")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("-m", "asynclb", "demo", "--fast"), *((f"examples/{name}/run.py",) for name in EXAMPLES)],
    ids=["demo", *EXAMPLES],
)
async def test_it_verifies_itself_and_leaves_nothing(words: tuple[str, ...]) -> None:
    """Every check that it makes holds, in lines of at most 80 columns without colour, and its lab is gone."""
    process = await start(*words)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()  # its lab is swept by the next one
            await process.wait()
    text = output.decode()
    assert process.returncode == 0, text
    assert "\x1b" not in text
    assert labs_of(process.pid) == []
    if "examples/nva/run.py" in words:
        assert "FAIL" not in text
        assert "1,000 of 1,000 flows" in text
    if "demo" in words:
        assert max(map(len, text.splitlines())) <= 80
        assert "FAIL" not in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_cleans_up(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the demo within seconds, with an exit code that is not 0 and nothing left."""
    process = await start("-m", "asynclb", "demo", "--fast")
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"/s" not in await process.stdout.readline():
            assert process.returncode is None
        process.send_signal(number)
        assert await process.wait() != 0
        await process.stdout.read()
    assert labs_of(process.pid) == []
