"""One endpoint of an etcd, asked through its JSON gateway over HTTP.

The gateway is part of every etcd, so no gRPC library is needed. Nothing here decides anything.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from asynclb.discovery.etcd_wire import (
    MOST_BYTES,
    Keys,
    Moment,
    range_request,
    read_keys,
    read_moment,
    watch_request,
)

if TYPE_CHECKING:
    import ssl

    from aiohttp import ClientResponse, ClientSession

_UNAUTHORIZED = 401
_SHOWN = 200  # characters of an error's text


class EtcdError(Exception):
    """An endpoint did not answer, or not as an etcd does."""


class EtcdClient:
    """Asks one endpoint. Owner: the task that connected."""

    def __init__(self, session: "ClientSession", login: tuple[str, str] | None, timeout_s: float) -> None:
        self._session = session
        self._login = login
        self._timeout_s = timeout_s
        self._token = ""

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, endpoint: str, login: tuple[str, str] | None, tls: "ssl.SSLContext | None", timeout_s: float
    ) -> AsyncIterator["EtcdClient"]:
        """Yield a client of an endpoint. Raises: EtcdError -> from whatever is done with it, where it fails."""
        from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

        connector = TCPConnector(ssl=tls if tls is not None else True)
        timeout = ClientTimeout(total=None, sock_connect=timeout_s)
        async with ClientSession(endpoint, connector=connector, timeout=timeout) as session:
            try:
                yield cls(session, login, timeout_s)
            except ClientError as error:
                raise EtcdError(str(error) or type(error).__name__) from error
            except TimeoutError as error:
                raise EtcdError(f"it did not answer within {timeout_s:g} s") from error

    async def read(self, prefix: bytes) -> Keys:
        """Return the keys under a prefix, as a majority of the etcd has them."""
        document = await self._ask("/v3/kv/range", range_request(prefix))
        try:
            return read_keys(document)
        except (ValueError, KeyError, TypeError) as error:
            raise EtcdError(f"it does not answer as an etcd does: {error!r}") from error

    async def ask(self) -> None:
        """Return if the endpoint, and a majority behind it, answers."""
        await self._ask("/v3/kv/range", {"key": "AA==", "keys_only": True})

    @asynccontextmanager
    async def watch(self, prefix: bytes, revision: int) -> AsyncIterator["Watching"]:
        """Yield a watch of everything that happens under a prefix from a revision on."""
        async with asyncio.timeout(self._timeout_s):
            response = await self._post("/v3/watch", watch_request(prefix, revision))
        try:
            yield Watching(response)
        finally:
            response.close()

    async def _ask(self, path: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        async with asyncio.timeout(self._timeout_s):
            response = await self._post(path, question)
            async with response:
                return await _document(response)

    async def _post(self, path: str, question: Mapping[str, Any]) -> "ClientResponse":
        """Send a question; with a token that has expired, once more with a new one."""
        if self._login is not None and not self._token:
            self._token = await self._authenticate(*self._login)
        response = await self._session.post(path, json=question, headers=self._headers())
        if response.status == _UNAUTHORIZED and self._login is not None:
            response.close()
            self._token = await self._authenticate(*self._login)
            response = await self._session.post(path, json=question, headers=self._headers())
        if response.status != 200:
            raise EtcdError(f"{path} was answered with {response.status}: {await _error_text(response)}")
        return response

    def _headers(self) -> Mapping[str, str]:
        return {"Authorization": self._token} if self._token else {}

    async def _authenticate(self, user: str, password: str) -> str:
        async with self._session.post("/v3/auth/authenticate", json={"name": user, "password": password}) as response:
            if response.status != 200:
                raise EtcdError(f"user {user} cannot authenticate: {await _error_text(response)}")
            return str((await _document(response)).get("token", ""))


class Watching:
    """A watch that is open. Owner: the task that reads it."""

    def __init__(self, response: "ClientResponse") -> None:
        self._response = response
        self._pending = bytearray()

    async def next(self, wait_s: float) -> Moment | None:
        """Return what happened next, or None if nothing does within that time.

        Raises: EtcdError -> the watch has ended; Compacted -> as its revision is gone.
        """
        try:
            async with asyncio.timeout(wait_s):
                line = await self._line()
        except TimeoutError:
            return None
        try:
            return read_moment(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EtcdError(f"the watch said something else: {error}") from error

    async def _line(self) -> bytes:
        """Return the next line. Cancel: nothing is lost; the next call goes on."""
        while (end := self._pending.find(b"\n")) < 0:
            part = await self._response.content.readany()
            if not part:
                raise EtcdError("the watch has ended")
            self._pending += part
            if len(self._pending) > MOST_BYTES:
                raise EtcdError(f"a message of the watch is longer than {MOST_BYTES} bytes")
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line


async def _document(response: "ClientResponse") -> Mapping[str, Any]:
    """Return a whole answer of bounded size. Raises: EtcdError -> it is larger, or no JSON object."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MOST_BYTES:
            raise EtcdError(f"the answer is longer than {MOST_BYTES} bytes")
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise EtcdError(f"the answer is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise EtcdError("the answer is no JSON object")
    return found


async def _error_text(response: "ClientResponse") -> str:
    text = (await response.content.read(_SHOWN * 8)).decode(errors="replace")
    try:
        text = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        text = " ".join(text.split())
    return text[:_SHOWN]
