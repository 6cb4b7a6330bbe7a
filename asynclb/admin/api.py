"""The handlers. Every answer but `/metrics` is JSON, errors included."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

from asynclb.admin.guard import Guard
from asynclb.admin.state import reload_document, state_document
from asynclb.control.bulk import in_bulk
from asynclb.control.explain import explain, parse_flow
from asynclb.control.status import Commands, StateSource, Status

STUCK_S = 30.0  # a big configuration compiles in seconds; a command that takes longer than this will not end
MAX_BODY_BYTES = 64 * 1024  # no command takes a body of any size

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Render = Callable[[str], tuple[bytes, str]]
"""From an `Accept` header to a body and its content type. Runs in a thread."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What the API reads from and sends commands to."""

    state: StateSource
    commands: Commands
    scrape: Callable[[], Render]
    """Take a snapshot of every metric; the function that it returns renders it."""


def make_app(sources: Sources, guard: Guard) -> web.Application:
    """Return the application, which has no state of its own."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_json_errors, _guarded(guard)])
    api = _Api(sources)
    app.add_routes(
        [
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
            web.get("/api/v1/state", api.state),
            web.get("/api/v1/explain", api.explain),
            web.post("/api/v1/reload", api.reload),
        ]
    )
    return app


class _Api:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._rendering = asyncio.Lock()

    async def healthz(self, _request: web.Request) -> web.Response:
        """Answer 200 unless the controller is stuck: that this answers at all shows that the loop turns."""
        busy_s = self._sources.state.status().busy_s
        if busy_s > STUCK_S:
            return _json({"alive": False, "reason": f"the controller is busy since {busy_s:.0f} s"}, status=503)
        return _json({"alive": True})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Answer 200 when new flows are welcome."""
        status = self._sources.state.status()
        if status.ready:
            return _json({"ready": True, "generation": status.generation})
        reason = "stopping" if status.stopping else "the first tables are not applied yet"
        return _json({"ready": False, "reason": reason}, status=503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with a snapshot of every metric. One scrape is rendered at a time."""
        async with self._rendering:
            render = self._sources.scrape()
            body, content_type = await in_bulk(render, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def state(self, _request: web.Request) -> web.Response:
        """Answer with everything that is active."""
        async with self._rendering:
            status = self._sources.state.status()
            body = await in_bulk(_state_body, status, time.time(), time.monotonic_ns())
        return web.Response(body=body, content_type="application/json")

    async def explain(self, request: web.Request) -> web.Response:
        """Answer where a flow would go now."""
        text = request.query.get("flow", "")
        try:
            flow = parse_flow(text)
        except ValueError as error:
            return _error(400, str(error), "pass ?flow=tcp 198.51.100.7:41000 > 203.0.113.10:443, URL-encoded")
        status = self._sources.state.status()
        choices = {rule: (path.name, why) for path in status.datapaths for rule, why in path.rules.items()}
        return _json(asdict(explain(status.tables, status.health, choices, flow)))

    async def reload(self, _request: web.Request) -> web.Response:
        """Reload and answer with what became of it: 200, or 422 with every problem."""
        found = await self._sources.commands.reload("api")
        return _json(reload_document(found), status=422 if found.result == "refused" else 200)


def _state_body(status: Status, now_s: float, now_ns: int) -> bytes:
    """Render in small steps: the quick encoder would hold the interpreter lock for the whole document."""
    document = state_document(status, now_s=now_s, now_ns=now_ns)
    return "".join(json.JSONEncoder(ensure_ascii=False).iterencode(document)).encode()


def _guarded(guard: Guard) -> Any:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/api/"):
            denied = guard.decide(request.method, request.headers, _peer(request))
            if denied is not None:
                return _error(denied.status, denied.error, denied.remedy)
        return await handler(request)

    return check


def _peer(request: web.Request) -> str | None:
    """Return the client's address; None on a UNIX socket, whose permissions have already decided."""
    peername = request.transport.get_extra_info("peername") if request.transport else ("0.0.0.0", 0)  # noqa: S104
    return str(peername[0]) if isinstance(peername, tuple) else None


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what aiohttp answers by itself (404, 405, 413) into JSON."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        allowed = error.headers.get("Allow")
        remedy = f"{request.path} takes {allowed}" if allowed else "see /api/v1/state, /metrics, /healthz, /readyz"
        response = _error(error.status, error.reason, remedy)
        if allowed:
            response.headers["Allow"] = allowed
        return response


def _error(status: int, error: str, remedy: str) -> web.Response:
    return _json({"error": error, "remedy": remedy}, status=status)


def _json(document: Any, *, status: int = 200) -> web.Response:
    return web.json_response(document, status=status)
