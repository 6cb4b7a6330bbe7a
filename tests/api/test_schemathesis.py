"""The server held to its OpenAPI document by schemathesis."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.admin.test_api import site

SECONDS = 20
WHAT = "not_a_server_error,status_code_conformance,response_schema_conformance,negative_data_rejection"


@pytest.mark.slow
async def test_the_server_does_what_the_document_says(tmp_path: Path) -> None:
    """Schemathesis asks what the document allows and forbids: no crash, no answer that is not described."""
    pytest.importorskip("schemathesis")
    async with site() as here:
        found = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"http://{here.address}/api/openapi.json"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--checks", WHAT, "--no-color"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        try:
            output, _ = await asyncio.wait_for(found.communicate(), 6 * SECONDS)
        finally:
            if found.returncode is None:
                found.kill()
        after: Any = await here.ask("GET", "/healthz")
    assert found.returncode == 0, output.decode()
    assert after[0] == 200
