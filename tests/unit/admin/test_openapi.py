"""The OpenAPI document, and the server held to it by schemathesis."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from asynclb.admin.documents import Member
from asynclb.admin.jsonschema import Schemas
from tests.unit.admin.test_api import site

SECONDS = 20
WHAT = "not_a_server_error,status_code_conformance,response_schema_conformance,negative_data_rejection"


async def test_every_route_is_described() -> None:
    """The document has every path of the API, each with a summary, an answer and an identifier of its own."""
    async with site() as here:
        status, document, _ = await here.ask("GET", "/api/openapi.json")
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert status == 200
    assert document["openapi"] == "3.1.0"
    assert {"/api/v1/state", "/api/v1/flows", "/api/v1/plan", "/healthz", "/api/openapi.json"} <= document[
        "paths"
    ].keys()
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] and "200" in operation["responses"] for operation in operations)


def test_schemas_follow_the_types() -> None:
    """A document's keys, unions and words become the schema's; those that may be missing are not required."""
    schemas = Schemas()
    assert schemas.of(Member) == {"$ref": "#/components/schemas/Member"}
    member = schemas.named["Member"]
    assert member["properties"]["zone"] == {"type": ["string", "null"]}
    assert member["properties"]["admin_state"]["enum"] == ["none", "up", "down", "drain"]
    assert member["additionalProperties"] is False
    with pytest.raises(TypeError, match="has no schema"):
        schemas.of(set[int])


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
