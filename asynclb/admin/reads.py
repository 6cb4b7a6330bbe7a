"""What can be read. Every answer is made from a snapshot; what is long is made in a thread."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from aiohttp import web

from asynclb.admin import documents
from asynclb.admin.counting import counters_document, drops_document
from asynclb.admin.flows import FlowFilter, Page, Talkers, flow_document, read_cursor, read_prefix
from asynclb.admin.instant import instant
from asynclb.admin.route import Answer, Call, Parameter, Refused, Route
from asynclb.admin.state import (
    datapath_document,
    pool_documents,
    rule_documents,
    state_document,
    tables_document,
)
from asynclb.control.beside import Live, beside, carrier
from asynclb.control.bulk import in_bulk
from asynclb.control.explain import Explanation, explain, parse_flow
from asynclb.control.status import StateSource, Status
from asynclb.control.walk import walk
from asynclb.net.flow import Flow

CURSOR = 2000  # characters: two names, two addresses with ports, in base64
STREAM_S = 30.0  # a reader that takes nothing for so long has gone

_RULE = Parameter("rule", "The rule's name.", in_path=True)
POOL = Parameter("pool", "The pool's name.", in_path=True)
MEMBER = Parameter("member", "The member's name.", in_path=True)
_FLOW_FILTER = (
    Parameter("rule", "Flows of this rule."),
    Parameter("pool", "Flows to this pool."),
    Parameter("member", "Flows to this member."),
    Parameter("client", "Flows of this client address, or of this prefix.", "198.51.100.0/24"),
    Parameter("protocol", "Flows of this protocol, as in tcp, udp, icmp or 47.", "tcp"),
)


class Reads:
    """The handlers of what can be read."""

    def __init__(self, state: StateSource) -> None:
        self._state = state
        self._walking = asyncio.Semaphore(2)  # walks through all flows at once: each costs the loop its time

    def routes(self) -> tuple[Route, ...]:
        """Return what is served."""
        api, missing = "/api/v1", {404: "there is none of that name"}
        return (
            Route("GET", f"{api}/state", "Everything that is active.", self.state, documents.State),
            Route("GET", f"{api}/rules", "Every rule.", self.rules, documents.Rules),
            Route("GET", f"{api}/rules/{{rule}}", "One rule.", self.rule, documents.Rule, (_RULE,), missing),
            Route("GET", f"{api}/pools", "Every pool with its members and their health.", self.pools, documents.Pools),
            Route("GET", f"{api}/pools/{{pool}}", "One pool.", self.pool, documents.Pool, (POOL,), missing),
            Route(
                "GET",
                f"{api}/pools/{{pool}}/members/{{member}}",
                "One member.",
                self.member,
                documents.Member,
                (POOL, MEMBER),
                missing,
            ),
            *self._flow_routes(api),
            Route("GET", f"{api}/counters", "Every counter.", self.counters, documents.Counters),
            Route("GET", f"{api}/drops", "What was dropped, by reason.", self.drops, documents.Drops),
            Route("GET", f"{api}/tables", "Every table with its members' shares.", self.tables, documents.Tables),
            Route("GET", f"{api}/generations", "What changed, and when.", self.generations, documents.Generations),
            Route(
                "GET",
                f"{api}/explain",
                "Where a flow would go now, and why.",
                self.explain,
                documents.Explanation,
                (Parameter("flow", "The flow.", "tcp 198.51.100.7:41000 > 203.0.113.10:443", required=True),),
                {400: "the text is not a flow"},
            ),
        )

    def _flow_routes(self, api: str) -> tuple[Route, ...]:
        limit = Parameter("limit", "Most flows on a page; 100 if not given.", least=1, most=1000)
        cursor = Parameter("cursor", "Go on behind this: `next` of the page before.", longest=CURSOR)
        most = Parameter("limit", "Most clients; 20 if not given.", least=1, most=1000)
        where = f"{api}/flows"
        return (
            Route("GET", where, "One page of flows.", self.flows, documents.Flows, (*_FLOW_FILTER, limit, cursor)),
            Route(
                "GET",
                f"{where}/stream",
                "Every flow, one a line.",
                self.stream,
                documents.Flow,
                _FLOW_FILTER,
                streams=True,
            ),
            Route("GET", f"{api}/clients", "Clients with the most flows.", self.clients, documents.Clients, (most,)),
        )

    async def state(self, _call: Call) -> Answer:
        """Answer with everything that is active."""
        status = self._state.status()
        document = await in_bulk(state_document, status, now_s=time.time(), now_ns=time.monotonic_ns())
        return Answer(document, status.generation)

    async def rules(self, _call: Call) -> Answer:
        """Answer with every rule."""
        status = self._state.status()
        rules, _ = await in_bulk(rule_documents, status)
        return Answer({"generation": status.generation, "rules": rules}, status.generation)

    async def rule(self, call: Call) -> Answer:
        """Answer with one rule."""
        status = self._state.status()
        rules, _ = await in_bulk(rule_documents, status)
        return Answer(_one("rule", call.text("rule"), rules), status.generation)

    async def pools(self, _call: Call) -> Answer:
        """Answer with every pool."""
        generation, pools = await self._pools()
        return Answer({"generation": generation, "pools": pools}, generation)

    async def pool(self, call: Call) -> Answer:
        """Answer with one pool."""
        generation, pools = await self._pools()
        return Answer(_one("pool", call.text("pool"), pools), generation)

    async def member(self, call: Call) -> Answer:
        """Answer with one member."""
        generation, pools = await self._pools()
        pool = _one("pool", call.text("pool"), pools)
        return Answer(_one("member", call.text("member"), pool["members"]), generation)

    async def flows(self, call: Call) -> Answer:
        """Answer with one page of flows."""
        try:
            after = read_cursor(call.text("cursor")) if "cursor" in call.values else None
        except ValueError as error:
            raise Refused(400, str(error), "send `next` of a page, or none for the first page") from None
        page = Page(_filter(call), call.number("limit", 100), after)
        async with self._walking:
            async for batch in walk(self._state):
                page.add(batch)
        return Answer(page.document())

    async def stream(self, call: Call) -> web.StreamResponse:
        """Write every flow, one document a line, as fast as the reader takes them."""
        wanted = _filter(call)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(call.request)
        async with self._walking:
            async for batch in walk(self._state):
                lines = b"".join(json.dumps(flow_document(flow)).encode() + b"\n" for flow in batch if wanted(flow))
                if lines:
                    async with asyncio.timeout(STREAM_S):
                        await response.write(lines)
        await response.write_eof()
        return response

    async def clients(self, call: Call) -> Answer:
        """Answer with the clients that have the most flows."""
        talkers = Talkers()
        async with self._walking:
            async for batch in walk(self._state):
                talkers.add(batch)
        return Answer(talkers.document(call.number("limit", 20)))

    async def counters(self, _call: Call) -> Answer:
        """Answer with every counter."""
        return Answer(await in_bulk(counters_document, self._state.counters(), time.monotonic()))

    async def drops(self, _call: Call) -> Answer:
        """Answer with what was dropped."""
        return Answer(await in_bulk(drops_document, self._state.counters()))

    async def tables(self, _call: Call) -> Answer:
        """Answer with every table."""
        status = self._state.status()
        tables = await in_bulk(tables_document, status)
        return Answer({"generation": status.generation, "tables": tables}, status.generation)

    async def generations(self, _call: Call) -> Answer:
        """Answer with what changed, and when."""
        status = self._state.status()
        history = (
            {
                "generation": found.number,
                "at": instant(found.at_s),
                "cause": found.cause,
                "added": found.added,
                "removed": found.removed,
                "changed": found.changed,
            }
            for found in reversed(status.history)
        )
        document = {
            "generation": status.generation,
            "since": instant(status.generation_since_s),
            "datapaths": [datapath_document(datapath) for datapath in status.datapaths],
            "history": [*history],
        }
        return Answer(document, status.generation)

    async def explain(self, call: Call) -> Answer:
        """Answer where a flow would go now."""
        try:
            flow = parse_flow(call.text("flow"))
        except ValueError as error:
            remedy = "pass ?flow=tcp 198.51.100.7:41000 > 203.0.113.10:443, URL-encoded"
            raise Refused(400, str(error), remedy) from None
        status, found, live = await self._explained(flow)
        if not live.agrees:  # tables may have changed between the two answers
            status, found, live = await self._explained(flow)
        return Answer({**asdict(found), "live": asdict(live)}, status.generation)

    async def _explained(self, flow: Flow) -> tuple[Status, Explanation, Live]:
        """Return what the tables say of a flow, and what its datapath says."""
        status = self._state.status()
        choices = {rule: (path.name, why) for path in status.datapaths for rule, why in path.rules.items()}
        found = explain(status.tables, status.health, choices, flow)
        path, frontend = carrier(status, found, flow), status.model.frontends.get(found.frontend)
        asked = await self._state.ask(path, flow, None if frontend is None else frontend.interface)
        return status, found, beside(found, *asked)

    async def _pools(self) -> tuple[int, list[Any]]:
        status = self._state.status()
        offset_s = time.time() - time.monotonic_ns() / 1e9

        def work() -> list[Any]:
            return list(pool_documents(status, offset_s))

        return status.generation, await in_bulk(work)


def _one(kind: str, name: str, found: Any) -> Any:
    """Return the object of a name. Raises: Refused -> there is none."""
    for one in found:
        if one["name"] == name:
            return one
    raise no_such(kind, name, (one["name"] for one in found))


def no_such(kind: str, name: str, known: Iterator[str]) -> Refused:
    """Return the answer to a name that nothing has."""
    names = ", ".join(text for text, _ in zip(known, range(10), strict=False)) or "none"
    return Refused(404, f"there is no {kind} {name[:100]!r}", f"the first ones here are: {names}")


def _filter(call: Call) -> FlowFilter:
    try:
        client = read_prefix(call.text("client")) if "client" in call.values else None
    except ValueError:
        raise Refused(400, "client is no address", "write an address or a prefix, as 198.51.100.0/24") from None
    protocol = call.text("protocol").lower()
    return FlowFilter(call.text("rule"), call.text("pool"), call.text("member"), protocol, client)
