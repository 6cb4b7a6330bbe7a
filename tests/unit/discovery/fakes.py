"""Stand-ins with behaviour: a source that says what it is told to, a listener that remembers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from asynclb.discovery import Answer, Failure, Finding, Say
from asynclb.discovery.source import Source
from asynclb.lab import PATIENCE_S
from asynclb.model import Member


def member(address: str, name: str = "", weight: int = 1) -> Member:
    """Make a member that is called by its address unless it has a name."""
    return Member(name or address.replace(":", "-"), ip_address(address), weight)


def answer(*addresses: str) -> Answer:
    """Make an answer with members that are called by their addresses."""
    return Answer(tuple(member(address) for address in addresses))


@dataclass
class Listener:
    """Remembers what a source says; a `Say`."""

    heard: list[Finding] = field(default_factory=list)

    def __call__(self, finding: Finding) -> None:
        self.heard.append(finding)

    @property
    def last(self) -> Finding:
        """What was said last."""
        return self.heard[-1]

    @property
    def addresses(self) -> list[str] | None:
        """The addresses of the last answer, None if the last word was a failure, or nothing was said."""
        last = self.heard[-1] if self.heard else Failure("")
        return [str(found.address) for found in last.members] if isinstance(last, Answer) else None

    async def until(self, condition: Callable[[], bool], wait_s: float = PATIENCE_S) -> None:
        """Wait for what was heard to be so."""
        try:
            async with asyncio.timeout(wait_s):
                while not condition():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not so after {wait_s} s; heard: {self.heard[-3:]}") from None

    async def until_addresses(self, *addresses: str) -> None:
        """Wait for an answer with exactly these members."""
        await self.until(lambda: self.addresses is not None and sorted(self.addresses) == sorted(addresses))

    async def until_failed(self) -> str:
        """Wait for a failure and return why."""
        await self.until(lambda: bool(self.heard) and isinstance(self.last, Failure))
        assert isinstance(self.last, Failure)
        return self.last.error


@asynccontextmanager
async def listening_to(source: Source, listener: Listener | None = None) -> AsyncIterator[Listener]:
    """Run a source for the length of a block; what it says is remembered."""
    listener = Listener() if listener is None else listener
    task = asyncio.create_task(source.run(listener))
    try:
        yield listener
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class FakeSource:
    """Says what is put into it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Finding] = asyncio.Queue()
        self.closed = False

    def say(self, *findings: Finding) -> None:
        """Have it say these."""
        for finding in findings:
            self.queue.put_nowait(finding)

    async def run(self, say: Say) -> None:
        try:
            while True:
                say(await self.queue.get())
        finally:
            self.closed = True
