"""The health check of a container, run as the image runs it."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

from asynclb.admin.ready import refusal
from asynclb.lab import PATIENCE_S
from asynclb.model import Admin
from tests.unit.admin.test_api import site

DOCKERFILE = (Path(__file__).parents[3] / "Dockerfile").read_text()


async def checked(address: str) -> tuple[int, str]:
    """Run the command that the image names; return its exit code and what it said."""
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words, environ = [sys.executable, *json.loads(command)[1:]], {"ASYNCLB_URL": address}
    done = await asyncio.to_thread(subprocess.run, words, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_a_container_is_healthy_while_new_flows_are_welcome() -> None:
    """0 without a word while they are; 1 before the first tables and while stopping, with the reason in one line."""
    async with site(load=False) as here:
        early = await checked(here.address)
        await here.controller.reload("start")
        serving = await checked(here.address)
    assert early[0] == 1
    assert early[1].endswith("answers 503: the first tables are not applied yet; see its log\n")
    assert serving == (0, "")


async def test_it_asks_a_unix_socket_too(tmp_path: Path) -> None:
    """Where the admin API has a path, the variable names it."""
    path = tmp_path / "admin"
    async with site(Admin(unix_path=str(path))):
        assert await checked(f"unix:{path}") == (0, "")


async def test_nobody_listens(tmp_path: Path) -> None:
    """A process that is not there is told of in one line, at once."""
    code, said = await checked(f"unix:{tmp_path}/admin")
    assert code == 1
    assert len(said.splitlines()) == 1
    assert "no asynclb answers at unix:" in said


async def test_a_process_that_hangs_is_given_up() -> None:
    """Who accepts and says nothing is unhealthy after the time for an answer, long before the engine ends the check."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        asking = asyncio.to_thread(refusal, f"http://127.0.0.1:{hung.getsockname()[1]}", answer_s=0.1)
        why = await asyncio.wait_for(asking, PATIENCE_S)
    assert why is not None
    assert "timed out" in why
