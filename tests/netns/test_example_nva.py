"""The firewalls example, run as a new user runs it: its exit code is its own verdict."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from asynclb.lab import require_tools
from asynclb.lab.registry import REGISTER

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "nva"


@pytest.mark.slow
async def test_flows_are_symmetric_and_survive_a_firewall() -> None:
    """Every check that it makes holds, it takes less than a minute, and its lab is gone."""
    require_tools("nft", "iperf3")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLE / "run.py",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()  # its lab is swept by the next one
            await process.wait()
    text = output.decode()
    assert process.returncode == 0, text
    assert "FAIL" not in text
    assert "1,000 of 1,000 flows" in text
    assert list(REGISTER.glob(f"alb{process.pid}-*")) == []
