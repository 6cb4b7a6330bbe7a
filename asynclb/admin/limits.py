"""How much one who asks may cost: requests at once, bytes and seconds of a body, seconds to take an answer."""

import asyncio

from aiohttp import web

from asynclb.admin.route import Refused

AT_ONCE = 64  # requests: more than people and their tools make, and few enough not to be felt by the loop
BODY_S = 10.0  # for a whole body: 10 MB on a line of 8 Mbit/s
TAKE_S = 60.0  # for a whole answer: 10 MB on a line of 1.3 Mbit/s


async def read_body(request: web.Request, most: int) -> bytes:
    """Return the body. Raises: Refused -> it is too large, or does not come in time."""
    too_large = Refused(413, "the body is too large", f"send at most {most:,} bytes")
    if (request.content_length or 0) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Refused(408, "the body did not come in time", f"send it within {BODY_S:.0f} seconds") from None
    return bytes(body)


class Crowd:
    """Lets in so many requests at once. Owner: the API."""

    def __init__(self, most: int = AT_ONCE) -> None:
        self._most = most
        self._inside = 0

    def __enter__(self) -> None:
        """Come in. Raises: Refused -> too many are inside."""
        if self._inside >= self._most:
            raise Refused(503, f"{self._most} requests are answered already", "come back in a second")
        self._inside += 1

    def __exit__(self, *_error: object) -> None:
        """Go out."""
        self._inside -= 1


async def send(request: web.Request, response: web.Response, take_s: float = TAKE_S) -> web.Response:
    """Send an answer to its end; a client that does not take it in time loses its connection."""
    try:
        async with asyncio.timeout(take_s):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response
