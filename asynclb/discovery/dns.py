"""Members from name servers: A and AAAA records, or SRV records and the addresses of their targets.

Names are looked up again when the shortest TTL of all that was needed has passed. A name without records, or that does
not exist, is an answer: nobody. Servers that fail or are silent are a failure. dnspython checks that replies belong to
what was asked, goes on to TCP where they are truncated, and tries the servers in turn.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from asynclb.discovery.records import Parts, Service, parts_of_addresses, parts_of_services
from asynclb.discovery.schedule import LAST_RETRY_S, expires_after_s, retry_after_s
from asynclb.discovery.source import Answer, CheckMembers, Failure, Say, wrong_answer
from asynclb.errors import ConfigError
from asynclb.model import DnsSource, Member, Record
from asynclb.net.address import Address

if TYPE_CHECKING:
    import dns.asyncresolver
    from dns.exception import DNSException
    from dns.rdata import Rdata

AT_ONCE = 16  # questions in flight: a service of a thousand targets must not flood its server


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one name, and for how long they hold. One without any is asked for again soon: it may be new."""

    found: "tuple[Rdata, ...]"
    ttl_s: float


class DnsMembers:
    """A `Source`. Owner: the task in `run`."""

    def __init__(self, source: DnsSource, check: CheckMembers, chance: Callable[[], float] = random.random) -> None:
        self._source = source
        self._check = check
        self._chance = chance

    async def run(self, say: Say) -> None:
        """Look the names up whenever their answers have expired; after a failure soon, and then less and less often."""
        from dns.exception import DNSException

        source, failures = self._source, 0
        while True:
            try:
                answer, ttl_s = await self._look_up()
            except DNSException as error:
                failures += 1
                say(Failure(_explained(source, error)))
            except OSError as error:
                failures += 1
                say(Failure(f"{source}: no name server can be asked: {error}"))
            except ConfigError as error:
                failures += 1
                say(wrong_answer(error))
            else:
                failures = 0
                say(answer)
            if failures:
                await asyncio.sleep(retry_after_s(failures, self._chance()))
            else:
                bounds = source.min_interval_s, source.max_interval_s
                await asyncio.sleep(expires_after_s(ttl_s, *bounds, self._chance()))

    async def _look_up(self) -> tuple[Answer, float]:
        """Return the members, and for how long the answer holds.

        Raises: DNSException, OSError -> no answer for one of the names; ConfigError -> an answer is not of members.
        """
        asking = _Asking(self._source)
        if self._source.record is Record.SRV:
            return await self._services(asking)
        found = await asking.all(self._source.names, str(self._source.record))
        addresses = [_address(record) for records in found.values() for record in records.found]
        members = await self._members(parts_of_addresses(addresses))
        return Answer(members), _holds(found.values())

    async def _services(self, asking: "_Asking") -> tuple[Answer, float]:
        found = await asking.all(self._source.names, "srv")
        services = [one for records in found.values() for record in records.found if (one := _service(record)).target]
        targets = tuple(sorted({one.target for one in services}))
        behind = await asking.all(targets, "a" if self._source.version == 4 else "aaaa")
        addresses = {target: [_address(record) for record in behind[target].found] for target in targets}
        members = await self._members(parts_of_services(services, addresses))
        notes = tuple(
            f"target {target} has no IPv{self._source.version} address and is left out"
            for target in targets
            if not addresses[target]
        )
        ports = frozenset(one.port for one in services)
        return Answer(members, ports, notes), _holds((*found.values(), *behind.values()))

    async def _members(self, parts: Parts) -> tuple[Member, ...]:
        """Return the members, read in a thread: thousands take more than a turn of the loop."""
        return await asyncio.to_thread(self._check, parts, source=str(self._source))


class _Asking:
    """One round of questions to the source's servers. Owner: the task that looks up."""

    def __init__(self, source: DnsSource) -> None:
        """Read /etc/resolv.conf, if it names the servers. Raises: DNSException -> it cannot be read."""
        from dns.asyncresolver import Resolver
        from dns.nameserver import Do53Nameserver

        self._resolver: dns.asyncresolver.Resolver = Resolver(configure=not source.servers)
        if source.servers:
            self._resolver.nameservers = [Do53Nameserver(host, port) for host, port in source.servers]
        self._resolver.lifetime = source.timeout_s
        self._resolver.timeout = source.timeout_s / max(2, len(self._resolver.nameservers))
        self._places = asyncio.Semaphore(AT_ONCE)

    async def all(self, names: tuple[str, ...], record: str) -> dict[str, Records]:
        """Return the records of each name. Raises: as `_one`, once every question has come to its end."""
        found = await asyncio.gather(*(self._one(name, record) for name in names), return_exceptions=True)
        return {name: _sound(records) for name, records in zip(names, found, strict=True)}

    async def _one(self, name: str, record: str) -> Records:
        from dns.name import from_text
        from dns.resolver import NXDOMAIN

        absolute = from_text(name)
        async with self._places:
            try:
                answer = await self._resolver.resolve(absolute, record, search=False, raise_on_no_answer=False)
            except NXDOMAIN:
                return Records((), LAST_RETRY_S)
        return Records(tuple(answer.rrset or ()), answer.chaining_result.minimum_ttl if answer.rrset else LAST_RETRY_S)


def _sound(records: Records | BaseException) -> Records:
    """Return the records, or raise why there are none."""
    if isinstance(records, BaseException):
        raise records
    return records


def _address(record: "Rdata") -> Address:
    return ip_address(record.to_text())


def _service(record: "Rdata") -> Service:
    """Return a record's fields; the target is '' where the service is said not to be offered (RFC 2782)."""
    priority, weight, port, target = record.to_text().split(" ", 3)
    return Service(int(priority), int(weight), int(port), target.rstrip(".").lower())


def _holds(found: Iterable[Records]) -> float:
    """Return for how long all of these hold."""
    return min((records.ttl_s for records in found), default=LAST_RETRY_S)


def _explained(source: DnsSource, error: "DNSException") -> str:
    """Return what went wrong, the same text each time: each server with what became of the question last."""
    from dns.exception import Timeout

    told: dict[str, str] = {}
    for name, _, _, why, _ in error.kwargs.get("errors", ()):
        server = str(name).removeprefix("Do53:").replace("@", ":")
        told[server] = "did not answer" if isinstance(why, Timeout) else f"answered {why}" if why else "failed"
    text = ", ".join(f"{server} {what}" for server, what in told.items()) or " ".join(str(error).split())
    return f"{source}: {text or type(error).__name__}"
