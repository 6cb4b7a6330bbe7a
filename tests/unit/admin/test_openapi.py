"""The OpenAPI document; tests/api holds the server to it."""

import pytest

from asynclb.admin.documents import Member
from asynclb.admin.jsonschema import Schemas
from tests.unit.admin.test_api import site


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
