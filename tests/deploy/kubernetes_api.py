"""A Kubernetes API as kubectl speaks to it: discovery, creating, reading and patching objects; nothing acts on them.

A server of Kubernetes is not to be had without a registry of images. This one takes an object as the real one does in
three respects: unknown keys and wrong types are refused, by the schemas that Kubernetes publishes; a namespace must be
there before what is in it; what was created is there to be read, with what kubectl has noted in it.
"""

from dataclasses import dataclass, field
from typing import Any

import kubernetes_validate
from aiohttp import web
from kubernetes_validate import ValidationError

Object = dict[str, Any]

_KINDS = {
    "namespaces": ("", "Namespace", False),
    "nodes": ("", "Node", False),
    "configmaps": ("", "ConfigMap", True),
    "serviceaccounts": ("", "ServiceAccount", True),
    "daemonsets": ("apps", "DaemonSet", True),
}
"""Resource -> group, kind, whether it is in a namespace."""
_NO_DEFINITIONS = (
    b"\x0a\x032.0"  # an OpenAPI 2 document in protobuf with nothing but its version, for kubectl before 1.27
)
_PLACES = ("/api/v1", "/apis/apps/v1")


def _place(group: str) -> str:
    return f"/apis/{group}/v1" if group else "/api/v1"


@dataclass
class Api:
    """What the API has, by the paths of objects. Owner: a test."""

    objects: dict[str, Object] = field(default_factory=dict)

    def application(self) -> web.Application:
        """Return the API to be served."""
        app = web.Application()
        app.router.add_get("/version", _version)
        app.router.add_get("/api", _groups)
        app.router.add_get("/apis", _groups)
        app.router.add_get("/openapi/v2", _definitions)
        app.router.add_get("/openapi/v3", _index)
        for place in _PLACES:
            app.router.add_get(place, _resources)
            app.router.add_get(f"/openapi/v3{place}", _operations)
            for inside in ("", "/namespaces/{namespace}"):
                app.router.add_post(f"{place}{inside}/{{resource}}", self._create)
                app.router.add_get(f"{place}{inside}/{{resource}}/{{name}}", self._read)
                app.router.add_patch(f"{place}{inside}/{{resource}}/{{name}}", self._patch)
        return app

    async def _create(self, request: web.Request) -> web.Response:
        sent: Object = await request.json()
        namespace = request.match_info.get("namespace")
        if namespace and f"/api/v1/namespaces/{namespace}" not in self.objects:
            return _status(404, "NotFound", f'namespaces "{namespace}" not found')
        try:
            kubernetes_validate.validate(sent, kubernetes_validate.latest_version(), strict=True)
        except ValidationError as error:
            return _status(400, "BadRequest", f"strict decoding error: {error.message}")
        self.objects[f"{request.path}/{sent['metadata']['name']}"] = sent
        return web.json_response(sent, status=201)

    async def _read(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.path)
        return web.json_response(found) if found else _missing(request)

    async def _patch(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.path)
        if found is None:
            return _missing(request)
        self.objects[request.path] = merged(found, await request.json())
        return web.json_response(self.objects[request.path])


def merged(target: Any, patch: Any) -> Any:
    """Return what a JSON merge patch makes of a value; Kubernetes' own kind differs for lists. Source: RFC 7396, 2."""
    if not isinstance(patch, dict):
        return patch
    old = target if isinstance(target, dict) else {}
    kept = {key: value for key, value in old.items() if key not in patch}
    return kept | {key: merged(old.get(key), value) for key, value in patch.items() if value is not None}


async def _version(request: web.Request) -> web.Response:
    del request
    major, minor = kubernetes_validate.latest_version().split(".")[:2]
    return web.json_response({"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0"})


async def _groups(request: web.Request) -> web.Response:
    if request.path == "/api":
        return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
    version = {"groupVersion": "apps/v1", "version": "v1"}
    group = {"name": "apps", "versions": [version], "preferredVersion": version}
    return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})


async def _resources(request: web.Request) -> web.Response:
    found = [
        {
            "name": name,
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": inside,
            "verbs": ["create", "get", "patch"],
        }
        for name, (group, kind, inside) in _KINDS.items()
        if _place(group) == request.path
    ]
    version = request.path.removeprefix("/apis/").removeprefix("/api/")
    return web.json_response({"kind": "APIResourceList", "groupVersion": version, "resources": found})


async def _definitions(request: web.Request) -> web.Response:
    del request
    kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    return web.Response(body=_NO_DEFINITIONS, content_type=kind)


async def _index(request: web.Request) -> web.Response:
    del request
    return web.json_response(
        {"paths": {p.removeprefix("/"): {"serverRelativeURL": f"/openapi/v3{p}"} for p in _PLACES}}
    )


async def _operations(request: web.Request) -> web.Response:
    """Tell kubectl that objects are validated here: where it finds this parameter, it leaves that to the server."""
    place = request.path.removeprefix("/openapi/v3")
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    paths = {}
    for name, (group, kind, _) in _KINDS.items():
        if _place(group) == place:
            named = {"group": group, "version": "v1", "kind": kind}
            paths[f"{place}/{name}/{{name}}"] = {
                "patch": {"parameters": [parameter], "x-kubernetes-group-version-kind": named, "responses": {}}
            }
    return web.json_response({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths})


def _missing(request: web.Request) -> web.Response:
    resource, name = request.match_info["resource"], request.match_info["name"]
    return _status(404, "NotFound", f'{resource} "{name}" not found')


def _status(code: int, reason: str, message: str) -> web.Response:
    """Return a refusal as Kubernetes words it."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return web.json_response(status | {"reason": reason, "message": message}, status=code)
