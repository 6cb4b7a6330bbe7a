"""The OpenAPI document, made from the routes that the server serves. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

import asynclb
from asynclb.admin.documents import Error
from asynclb.admin.jsonschema import Schema, Schemas
from asynclb.admin.route import Parameter, Route

_ALWAYS = {
    401: "the bearer token is missing or wrong",
    403: "commands are taken from this host only, or with a token",
    421: "the name in the Host header is not in admin.hosts",
    503: "too many requests at once; come back in a second",
}


def openapi(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "asynclb",
            "version": asynclb.__version__,
            "description": "What is active in a load balancer, and the commands that change it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.named.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "a token of admin.token_file"}
            },
        },
    }


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": route.handler.__name__.strip("_"),
        "summary": route.summary,
        "parameters": [*map(_parameter, route.parameters), *_locking(route)],
        "responses": dict(_responses(route, schemas)),
    }
    if route.body is not None:
        schema = {} if route.body is str else schemas.of(route.body)  # a text that only `config` understands
        found["requestBody"] = {"required": True, "content": {route.content: {"schema": schema}}}
    return found


def _parameter(parameter: Parameter) -> Schema:
    found = {
        "name": parameter.name,
        "in": "path" if parameter.in_path else "query",
        "required": parameter.required or parameter.in_path,
        "description": parameter.meaning,
        "schema": parameter.schema,
    }
    return found | ({"example": parameter.example} if parameter.example else {})


def _locking(route: Route) -> Iterator[Schema]:
    if route.locks:
        yield {
            "name": "If-Match",
            "in": "header",
            "required": False,
            "description": 'The generation that must be active still, as in `"42"`; `*` or none: any.',
            "schema": {"type": "string", "pattern": '^("[0-9]{1,18}"|\\*)$'},
        }


def _responses(route: Route, schemas: Schemas) -> Iterator[tuple[str, Schema]]:
    if route.answer is bytes:
        yield "200", {"description": "a file, as it grows", "content": {"application/x-pcapng": {}}}
    media = "application/x-ndjson" if route.streams else "application/json"
    schema = {"type": "object"} if route.answer is dict else {} if route.answer is bytes else schemas.of(route.answer)
    if schema:
        yield "200", {"description": "done", "content": {media: {"schema": schema}}}
    for status, kind in route.answers.items():
        what = route.errors.get(status, "refused")
        yield str(status), {"description": what, "content": {"application/json": {"schema": schemas.of(kind)}}}
    guarded = _ALWAYS if route.path.startswith("/api/") else {}
    asked = {400: "a parameter or a header is wrong"} if route.parameters or route.locks else {}
    for status, what in sorted({**guarded, **asked, **route.errors}.items()):
        if status not in route.answers:
            yield str(status), {"description": what, "content": {"application/json": {"schema": schemas.of(Error)}}}
