"""The packet view at `/api/v1/capture`: a POST, as only who may change things may read others' packets.

It is answered with a pcapng stream that ends by itself, or when its reader goes away. Two run at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from asynclb.admin.flows import read_prefix
from asynclb.admin.limits import Crowd
from asynclb.admin.route import Call, Parameter, Refused, Route
from asynclb.errors import HostError
from asynclb.net.address import Prefix

AT_ONCE = 2
SLOW_S = 10.0  # a reader that has taken nothing for so long is let go
_LOOK_S = 0.5  # how long a capture without packets goes on without its reader
MOST_FRAMES, MOST_S, SNAPLEN = 1_000_000, 3_600, 65_535


@dataclass(frozen=True, slots=True)
class CaptureOrder:
    """What somebody wants to see."""

    rule: str
    member: str
    client: Prefix | None
    count: int
    duration_s: int
    snaplen: int


class Blocks(Protocol):
    """A capture that runs."""

    def blocks(self) -> AsyncIterator[bytes]:
        """Yield the file."""

    def close(self) -> None:
        """End it."""


Begin = Callable[[CaptureOrder], Awaitable[Blocks]]
"""Begins a capture. Raises: LookupError -> there is no such rule; HostError -> its packets cannot be seen here."""

_PARAMETERS = (
    Parameter("rule", "The rule whose packets are wanted.", "web", required=True),
    Parameter("member", "Only packets from or to this member.", "web-1"),
    Parameter("client", "Only packets of clients of this address or prefix.", "198.51.100.0/24"),
    Parameter("count", "How many packets at most.", "1000", least=1, most=MOST_FRAMES),
    Parameter("duration", "For how many seconds at most.", "10", least=1, most=MOST_S),
    Parameter("snaplen", "How many bytes of each packet.", "128", least=64, most=SNAPLEN),
)


@dataclass(frozen=True, slots=True)
class Captures:
    """The handler of the packet view; `begin` is None where nothing can be captured."""

    begin: Begin | None
    crowd: Crowd

    def routes(self) -> tuple[Route, ...]:
        """Return what is served."""
        errors = {404: "there is no such rule", 409: "its packets cannot be seen on this host"}
        summary = "What a rule receives and sends, as a pcapng stream with verdicts as comments."
        route = Route("POST", "/api/v1/capture", summary, self.capture, bytes, _PARAMETERS, errors)
        return (route,)

    async def capture(self, call: Call) -> web.StreamResponse:
        """Stream until the count, the time or the reader ends it."""
        if self.begin is None:
            raise Refused(409, "this process sees no packets", "ask one that forwards some")
        with self.crowd:
            capture = await self._begun(self.begin, _order(call))
            try:
                return await _stream(call.request, capture)
            finally:
                capture.close()

    async def _begun(self, begin: Begin, order: CaptureOrder) -> Blocks:
        try:
            return await begin(order)
        except LookupError:
            remedy = "see /api/v1/rules, or `asynclb show rules`"
            raise Refused(404, f"there is no rule {order.rule!r}", remedy) from None
        except HostError as error:
            raise Refused(409, str(error), "see `asynclb doctor`") from None


def _order(call: Call) -> CaptureOrder:
    client = None
    if call.text("client"):
        try:
            client = read_prefix(call.text("client"))
        except ValueError:
            raise Refused(400, "client is no address", "write an address or a prefix, as 10.0.0.0/8") from None
    numbers = call.number("count", 10_000), call.number("duration", 60), call.number("snaplen", SNAPLEN)
    return CaptureOrder(call.text("rule"), call.text("member"), client, *numbers)


async def _stream(request: web.Request, capture: Blocks) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-pcapng", "Cache-Control": "no-store"})
    await response.prepare(request)
    gone = asyncio.create_task(_end_without_reader(request, asyncio.current_task()))
    try:
        async for block in capture.blocks():
            async with asyncio.timeout(SLOW_S):
                await response.write(block)
        await response.write_eof()
    except (TimeoutError, ConnectionError):  # the reader has gone, or might as well
        if request.transport is not None:
            request.transport.abort()
    finally:
        gone.cancel()
    return response


async def _end_without_reader(request: web.Request, capturing: asyncio.Task[None] | None) -> None:
    """End a capture whose reader has gone, also while nothing comes that could be written to it."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(_LOOK_S)
    if capturing is not None:
        capturing.cancel()
