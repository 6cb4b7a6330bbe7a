"""The application: every route with its guard, its limits and its audit. Every answer but `/metrics` is JSON.

Whoever adds pages hands their routes to `make_app`: they are served as they are, and `/` is theirs. What stands under
`/api/` is guarded whoever serves it.
"""

import asyncio
import json
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from asynclb.admin import documents
from asynclb.admin.audit import Audit, peer_of
from asynclb.admin.capture import AT_ONCE as CAPTURES
from asynclb.admin.capture import Begin, Captures
from asynclb.admin.guard import Guard
from asynclb.admin.limits import Crowd, send
from asynclb.admin.openapi import openapi
from asynclb.admin.reads import Reads
from asynclb.admin.route import Answer, Call, Refused, Route, read_call
from asynclb.admin.writes import Writes
from asynclb.control.bulk import in_bulk
from asynclb.control.planner import Planner
from asynclb.control.status import STUCK_S, Commands, StateSource
from asynclb.events import Emit, Event

ALWAYS = ("/healthz", "/readyz")  # answered by whatever name: an orchestrator's checks say nothing worth hiding
SCRAPES = 8  # at once: a pair of Prometheus, and people who look
SCRAPE_S = 15.0  # for whoever scrapes to take the answer; Prometheus itself gives up after ten
SMALL_BYTES = 64 * 1024  # an answer that is sent at once, whoever takes it

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
    planner: Planner | None = None
    capture: Begin | None = None


def make_app(sources: Sources, guard: Guard, emit: Emit, pages: Iterable[web.AbstractRouteDef] = ()) -> web.Application:
    """Return the application. `pages` are routes outside `/api/`, served as they are."""
    audit = Audit(guard, emit)
    app = web.Application(middlewares=[_json_errors(emit), _guarded(guard, audit)])
    routes = api_routes(sources)
    bind = _Binder(audit)
    app.add_routes([web.route(route.method, route.path, bind(route)) for route in routes])
    app.add_routes([web.get("/metrics", _Metrics(sources.scrape).answer), *pages])
    return app


def api_routes(sources: Sources) -> tuple[Route, ...]:
    """Return every route that the OpenAPI document describes."""
    reads = Reads(sources.state)
    writes = Writes(sources.commands, reads, sources.planner)
    about = _About(sources.state)
    captures = Captures(sources.capture, Crowd(CAPTURES))
    routes = (*about.routes(), *reads.routes(), *writes.routes(), *captures.routes())
    return (*routes, _description(routes))


def _description(routes: tuple[Route, ...]) -> Route:
    async def get_openapi(_call: Call) -> Answer:
        return Answer(openapi((*routes, route)))

    route = Route("GET", "/api/openapi.json", "This document.", get_openapi, dict)
    return route


class _About:
    """Whether the process is well: for orchestrators, which carry no tokens."""

    def __init__(self, state: StateSource) -> None:
        self._state = state

    def routes(self) -> tuple[Route, ...]:
        """Return what is served."""
        alive, ready = documents.Alive, documents.Ready
        return (
            Route("GET", "/healthz", "The process is alive.", self.healthz, alive, answers={503: alive}),
            Route("GET", "/readyz", "New flows are welcome.", self.readyz, ready, answers={503: ready}),
        )

    async def healthz(self, _call: Call) -> Answer:
        """Answer 200 unless the controller is stuck: that this answers at all shows that the loop turns."""
        busy_s = self._state.status().busy_s
        if busy_s > STUCK_S:
            return Answer({"alive": False, "reason": f"the controller is busy since {busy_s:.0f} s"}, status=503)
        return Answer({"alive": True})

    async def readyz(self, _call: Call) -> Answer:
        """Answer 200 when new flows are welcome."""
        status = self._state.status()
        if status.ready:
            return Answer({"ready": True, "generation": status.generation})
        reason = "stopping" if status.stopping else "the first tables are not applied yet"
        return Answer({"ready": False, "reason": reason}, status=503)


class _Metrics:
    """The scrape. One is rendered at a time; who asks for the same meanwhile gets it too, and few wait for another."""

    def __init__(self, scrape: Callable[[], Render]) -> None:
        self._scrape = scrape
        self._rendering = asyncio.Lock()
        self._under_way: dict[str, asyncio.Task[tuple[bytes, str]]] = {}
        self._crowd = Crowd(SCRAPES)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer with a snapshot of every metric, at most as old as it took to render."""
        with self._crowd:
            body, content_type = await asyncio.shield(self._rendered(request.headers.get("Accept", "")))
            return await send(request, web.Response(body=body, headers={"Content-Type": content_type}), SCRAPE_S)

    def _rendered(self, accept: str) -> asyncio.Task[tuple[bytes, str]]:
        """Return the rendering that is under way, or begin one; it comes to its end whoever goes away."""
        found = self._under_way.get(accept)
        if found is None:
            found = self._under_way[accept] = asyncio.create_task(self._render(accept), name="scrape")
        return found

    async def _render(self, accept: str) -> tuple[bytes, str]:
        try:
            async with self._rendering:
                return await in_bulk(self._scrape(), accept)
        finally:
            del self._under_way[accept]


class _Binder:
    """Makes a handler of the server of a route."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._crowd = Crowd()

    def __call__(self, route: Route) -> Handler:
        """Return the handler."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if not request.path.startswith("/api/"):  # whoever asks whether we are well must hear it, also in a crowd
                return await self._answer(route, request)
            with self._crowd:
                return await self._answer(route, request)

        return handle

    async def _answer(self, route: Route, request: web.Request) -> web.StreamResponse:
        if not route.writes:
            answer = await route.handler(read_call(route, request, ""))
            return answer if isinstance(answer, web.StreamResponse) else await _respond(request, answer)
        who = self._audit.who(request)
        status = 500
        try:
            answer = await route.handler(read_call(route, request, who))
            status = answer.status
            return answer if isinstance(answer, web.StreamResponse) else await _respond(request, answer)
        except Refused as refused:
            status = refused.status
            raise
        finally:
            self._audit.wrote(request, who, route.summary, status)


async def _respond(request: web.Request, answer: Answer) -> web.Response:
    body = await in_bulk(_encode, answer.document)
    headers = {"Cache-Control": "no-store"}
    if answer.generation is not None:
        headers["ETag"] = f'"{answer.generation}"'
    response = web.Response(body=body, status=answer.status, content_type="application/json", headers=headers)
    return response if len(body) <= SMALL_BYTES else await send(request, response)


def _encode(document: Any) -> bytes:
    """Render in small steps: the quick encoder would hold the interpreter lock for the whole document."""
    return "".join(json.JSONEncoder(ensure_ascii=False).iterencode(document)).encode("utf-8", "replace")


def _guarded(guard: Guard, audit: Audit) -> Any:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        misdirected = guard.misdirected(request.headers.get("Host"))
        if misdirected is not None and request.path not in ALWAYS:
            audit.denied(request, misdirected.status)
            raise Refused(misdirected.status, misdirected.error, misdirected.remedy)
        if request.path.startswith("/api/"):
            denied = guard.decide(request.method, request.headers, peer_of(request).address)
            if denied is not None:
                audit.denied(request, denied.status)
                raise Refused(denied.status, denied.error, denied.remedy)
        return await handler(request)

    return check


def _json_errors(emit: Emit) -> Any:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer every refusal, what aiohttp says by itself (404, 405), and our own bugs, in one shape."""
        try:
            return await handler(request)
        except Refused as refused:
            return _refusal(refused)
        except web.HTTPException as error:
            return _said_by_aiohttp(request, error)
        except Exception as error:  # noqa: BLE001  # the connection's end is the handling; others go on
            task, trace = f"{request.method} {request.path[:200]}", "".join(traceback.format_exception(error))
            emit(Event.TASK_FAILED, task=task, error=repr(error), traceback=trace)
            return _refusal(Refused(500, "this is a bug of asynclb", "see the event task_failed in its log"))

    return answer


def _said_by_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    allowed = error.headers.get("Allow")
    remedy = f"{request.path[:200]} takes {allowed}" if allowed else "see /api/openapi.json, /metrics, /healthz"
    response = _refusal(Refused(error.status, error.reason, remedy))
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _refusal(refused: Refused) -> web.Response:
    headers = {}
    if refused.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="asynclb"'
    if refused.status == 503:
        headers["Retry-After"] = "1"
    return web.json_response(refused.document, status=refused.status, headers=headers)
