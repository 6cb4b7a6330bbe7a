"""The media-upload example, run as a new user runs it: its exit code is its own verdict."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from asynclb.lab.registry import REGISTER

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "media-upload"


@pytest.mark.slow
async def test_both_protocols_meet_one_member() -> None:
    """Every assertion in it holds, and its lab is gone."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLE / "run.py",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()  # its lab is swept by the next one
            await process.wait()
    text = output.decode()
    assert process.returncode == 0, text
    assert list(REGISTER.glob(f"alb{process.pid}-*")) == []
