"""The demo's lab that goes on: its status page is reached from this host, and it ends when told."""

import asyncio
import os
import re
import signal
import sys
import urllib.request
from pathlib import Path

import pytest

from asynclb.lab import PATIENCE_S
from asynclb.lab.registry import REGISTER

ROOT = Path(__file__).parents[2]


def fetch(url: str) -> bytes:
    """Return what is there."""
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310  # the URL that was printed
        return bytes(answer.read())


@pytest.mark.slow
async def test_the_page_of_the_lab_is_reached_from_this_host() -> None:
    """The printed URL answers with the page and with the members of the lab; Ctrl-C ends it with 0 and nothing left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asynclb", "demo", "--serve"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(60):
        while (found := re.search(r"status page: (http://127\.0\.0\.1:\d+/)", text)) is None:
            line = await process.stdout.readline()
            assert line, text
            text += line.decode()
        assert b"<title>asynclb</title>" in await asyncio.to_thread(fetch, found[1])
        assert b'"be3"' in await asyncio.to_thread(fetch, f"{found[1]}api/v1/state")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0, (await process.stdout.read()).decode()
    assert list(REGISTER.glob(f"alb{process.pid}-*")) == []
