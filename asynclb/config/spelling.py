"""The kinds of value that the schema is made of: a parser, and what an editor should know of the spelling."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from asynclb.config import values
from asynclb.model import (
    AdminState,
    Allocation,
    Compat,
    DatapathName,
    NoHealthyMembers,
    OnStop,
    Persistence,
    ProbeProtocol,
    ProxyProtocol,
    Scope,
)
from asynclb.model import StatusRange as Statuses
from asynclb.net.flow import Protocol
from asynclb.net.flowhash import Distribution


@dataclass(frozen=True, eq=False)  # by identity: schemas are dictionaries, and annotations are hashed
class Written:
    """How a value is written: its parser, its JSON Schema, and the way back for defaults in that schema."""

    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]
    show: Callable[[Any], Any] = field(default=lambda value: value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Put the parser in the place of pydantic's own rules."""
        shown = core_schema.plain_serializer_function_ser_schema(self.show)
        return core_schema.no_info_plain_validator_function(self._read, serialization=shown)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the spelling to editors."""
        return dict(self.schema)

    def _read(self, value: Any) -> Any:
        if value is None:
            raise values.wrong("the key has no value", "write a value, or remove the key to take its default")
        return self.parse(value)


def _whole(least: int, most: int, what: str) -> Written:
    return Written(values.whole(least, most, what), {"type": "integer", "minimum": least, "maximum": most})


def text(what: str, pattern: str, remedy: str) -> Written:
    """Return the type of text that matches a pattern whole."""
    return Written(values.text(what, pattern, remedy), {"type": "string", "pattern": f"^(?:{pattern})$"})


def _choice(kind: Any) -> Written:
    return Written(values.choice(kind), {"type": "string", "enum": [str(word) for word in kind]}, str)


def duration(least_s: float, most_s: float) -> Written:
    """Return the type of a duration within bounds, both included."""
    pattern = f"^{values.DURATION_PATTERN}$"
    return Written(
        values.duration(least_s, most_s),
        {"type": "string", "pattern": pattern, "examples": ["250ms", "5s", "4m"]},
        values.show_duration,
    )


def size(least_bytes: int, most_bytes: int) -> Written:
    """Return the type of a size within bounds, both included."""
    return Written(
        values.size(least_bytes, most_bytes),
        {"type": "string", "pattern": f"^{values.SIZE_PATTERN}$", "examples": ["500kB", "100MB", "2GB"]},
        values.show_size,
    )


_STATUS = {
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": "^[0-9]{3}(-[0-9]{3})?$"},
    ]
}
_HEX = {"type": "string", "pattern": "^([0-9A-Fa-f]{2}\\s*)*$", "examples": ["00 01 ff"]}

Flag = Annotated[bool, Written(values.flag, {"type": "boolean"})]
NAME = text("a name", values.NAME_PATTERN, "write letters, digits, `.`, `_` and `-`, at most 80 characters")
Name = Annotated[str, NAME]
INTERFACE_NAME = text(
    "an interface name", r"[^\s/:]{1,15}", "write the name as `ip link` shows it, at most 15 characters"
)
InterfaceName = Annotated[str, INTERFACE_NAME]
Zone = Annotated[str, text("a zone", values.NAME_PATTERN, 'write a zone in quotes, as in "1"')]
FilePath = Annotated[str, text("a file name", r"[^\0\n]{1,4095}", "write the path of a file")]
UrlPath = Annotated[
    str,
    text("a path", r"/[!-\"$-~]*", "begin it with `/`; percent-encode blanks, `#` and characters outside ASCII"),
]
HostName = Annotated[str, Written(values.host_name, {"type": "string", "examples": ["lb1.example.org"]})]
Host = Annotated[str, Written(values.host, {"type": "string", "examples": ["www.example.org"]})]
Port = Annotated[int, _whole(1, 65_535, "a port")]
PortOrAny = Annotated[int, _whole(0, 65_535, "a port (0: every port)")]
PortRange = Annotated[
    tuple[int, int],
    Written(
        values.ports,
        {"type": "string", "pattern": "^[0-9]{1,5}-[0-9]{1,5}$", "examples": ["50000-50099"]},
        lambda ports: f"{ports[0]}-{ports[1]}",
    ),
]
Weight = Annotated[int, _whole(0, 1000, "a weight")]
Priority = Annotated[int, _whole(0, 15, "a priority")]
Threshold = Annotated[int, _whole(1, 1000, "a threshold")]
Workers = Annotated[int, _whole(1, 64, "the number of workers")]
InFlight = Annotated[int, _whole(1, 65_535, "the number of checks at once")]
AllocatedPorts = Annotated[int, _whole(0, 64_000, "the number of ports per member")]
Sample = Annotated[int, _whole(1, 1_000_000, "the number of flows of which one is written")]
Kept = Annotated[int, _whole(0, 1000, "the number of files")]
Limit = Annotated[int, _whole(1, 100_000_000, "a limit")]
PoolLimit = Annotated[int, _whole(1, 65_535, "a limit of members")]  # tables number members with 16 bits
AnyNumber = Annotated[int, _whole(0, 65_535, "the number of probes")]
Version = Annotated[int, Written(values.whole(1, 1, "the version"), {"const": 1})]
HostAddress = Annotated[
    IPv4Address | IPv6Address,
    Written(values.address, {"type": "string", "examples": ["192.0.2.10", "2001:db8::10"]}, str),
]
AddressPrefix = Annotated[
    IPv4Network | IPv6Network,
    Written(values.prefix, {"type": "string", "examples": ["0.0.0.0/0", "10.0.0.0/8", "::/0"]}, str),
]
SourceAddresses = Annotated[
    tuple[IPv4Address | IPv6Address, ...],
    Written(
        values.source_addresses,
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}]},
        lambda addresses: [str(address) for address in addresses],
    ),
]
StatusRanges = Annotated[
    tuple[Statuses, ...],
    Written(
        values.statuses,
        {"anyOf": [*_STATUS["anyOf"], {"type": "array", "items": _STATUS, "minItems": 1}]},
        values.show_statuses,
    ),
]
HexBytes = Annotated[bytes, Written(values.hex_bytes, _HEX, bytes.hex)]
TextBytes = Annotated[bytes, Written(values.utf8_bytes, {"type": "string"}, bytes.decode)]
Seed = Annotated[
    int,
    Written(
        values.seed,
        {"type": "string", "pattern": "^(0[xX])?[0-9A-Fa-f]{1,16}$", "examples": ["8c1f0c6e5f0b4a7d"]},
        lambda seed: f"{seed:016x}",
    ),
]
ListenAddress = Annotated[
    values.Listen,
    Written(values.listen, {"type": "string", "examples": ["127.0.0.1:9180", "unix:/run/asynclb.sock"]}, str),
]

ProtocolWord = Annotated[Protocol, _choice(Protocol)]
DistributionWord = Annotated[Distribution, _choice(Distribution)]
NoHealthyMembersWord = Annotated[NoHealthyMembers, _choice(NoHealthyMembers)]
PersistenceWord = Annotated[Persistence, _choice(Persistence)]
DatapathWord = Annotated[DatapathName, _choice(DatapathName)]
ProxyProtocolWord = Annotated[ProxyProtocol, _choice(ProxyProtocol)]
ProbeProtocolWord = Annotated[ProbeProtocol, _choice(ProbeProtocol)]
AllocationWord = Annotated[Allocation, _choice(Allocation)]
AdminStateWord = Annotated[AdminState, _choice(AdminState)]
ScopeWord = Annotated[Scope, _choice(Scope)]
OnStopWord = Annotated[OnStop, _choice(OnStop)]
CompatWord = Annotated[Compat, _choice(Compat)]
