"""Members from an etcd: the keys under a prefix, read once and then watched.

    range (revision n) --> watch from n + 1 --events--> answers
         ^                        |
         +---- compacted, ended --+      failed: the next endpoint, after a while

Law: an endpoint that stops answering is noticed. A watch may be silent for hours, so the endpoint is asked beside it
every `ASK_S`; an etcd without a leader does not answer that, and what it would say of members could be old.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asynclb.discovery.etcd_client import EtcdClient, EtcdError, Watching
from asynclb.discovery.etcd_wire import Compacted, Keys, parts_of_keys
from asynclb.discovery.schedule import retry_after_s
from asynclb.discovery.source import Answer, CheckMembers, Failure, Finding, Say, wrong_answer
from asynclb.errors import ConfigError
from asynclb.model import EtcdSource

if TYPE_CHECKING:
    import ssl

ASK_S = 5.0  # as often as probes ask by default; a question costs etcd about 0.1 ms

GATHER_S = 0.02  # between writes of one program: a thousand keys are a few answers, not a thousand
GATHER_MOST_S = 0.2  # a member that is written must not wait longer for others that may be


class EtcdMembers:
    """A `Source`. Owner: the task in `run`."""

    def __init__(
        self,
        source: EtcdSource,
        directory: Path,
        check: CheckMembers,
        *,
        chance: Callable[[], float] = random.random,
        ask_s: float = ASK_S,
    ) -> None:
        """Take where relative paths of files begin, and who reads members."""
        self._source = source
        self._directory = directory
        self._check = check
        self._chance = chance
        self._ask_s = ask_s
        self._failures = 0

    async def run(self, say: Say) -> None:
        """Follow the keys; where an endpoint fails, go on with the next one, at the last one's heels or later."""
        for endpoint in itertools.cycle(self._source.endpoints):
            try:
                async with self._client(endpoint) as client:
                    await self._follow(client, say)
            except (EtcdError, OSError, ValueError) as error:  # ValueError: a file that holds something else
                self._failures += 1
                say(Failure(f"{endpoint}: {error}"))
                await asyncio.sleep(retry_after_s(self._failures, self._chance()))

    async def _follow(self, client: EtcdClient, say: Say) -> None:
        """Read and watch over and over. Raises: EtcdError -> the endpoint failed."""
        prefix = self._source.prefix.encode()
        while True:
            keys = await client.read(prefix)
            await self._tell(keys, say)
            try:
                async for now in self._changes(client, keys):
                    await self._tell(now, say)
            except Compacted:
                continue  # what was missed is gone; the keys as they are now are all that matters

    async def _changes(self, client: EtcdClient, keys: Keys) -> AsyncIterator[Keys]:
        """Iterate over what the keys become. Raises: EtcdError, Compacted -> the watch has ended."""
        async with client.watch(self._source.prefix.encode(), keys.revision + 1) as watch:
            while True:
                moment = await watch.next(self._ask_s)
                if moment is None:
                    await client.ask()
                    continue
                if moment.changes:
                    keys = await _gathered(watch, keys.after(moment))
                    yield keys

    async def _tell(self, keys: Keys, say: Say) -> None:
        self._failures = 0
        say(await asyncio.to_thread(self._find, keys))

    def _find(self, keys: Keys) -> Finding:
        try:
            return Answer(self._check(parts_of_keys(keys, self._source.prefix), source=str(self._source)))
        except ConfigError as error:
            return wrong_answer(error)

    @asynccontextmanager
    async def _client(self, endpoint: str) -> AsyncIterator[EtcdClient]:
        """Connect to an endpoint as the source says. Raises: OSError, ValueError -> a file cannot be used."""
        source = self._source
        password = await asyncio.to_thread(self._password)
        tls = await asyncio.to_thread(self._tls) if endpoint.startswith("https:") else None
        login = (source.user, password) if source.user is not None else None
        async with EtcdClient.connected(endpoint, login, tls, source.timeout_s) as client:
            yield client

    def _password(self) -> str:
        if self._source.password_file is None:
            return ""
        return (self._directory / self._source.password_file).read_text(encoding="utf-8").split("\n")[0]

    def _tls(self) -> "ssl.SSLContext":
        import ssl

        source, directory = self._source, self._directory
        context = ssl.create_default_context(cafile=directory / source.ca_file if source.ca_file else None)
        if source.certificate_file is not None:
            key = directory / source.key_file if source.key_file else None
            context.load_cert_chain(directory / source.certificate_file, key)
        return context


async def _gathered(watch: Watching, keys: Keys) -> Keys:
    """Return the keys after what follows at their heels. Raises: as `Watching.next`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + GATHER_MOST_S
    while loop.time() < deadline and (moment := await watch.next(GATHER_S)) is not None:
        keys = keys.after(moment)
    return keys
