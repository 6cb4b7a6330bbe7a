"""How a value is written in the configuration, and what it means.

One parser per kind of value, each a plain function from what YAML said to what the model holds. A parser that
refuses raises what `wrong` makes: the rule that is broken and the remedy, never just "invalid".
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NoReturn, TypeVar

from pydantic_core import PydanticCustomError

from asynclb.model import StatusRange
from asynclb.net.address import Address, Prefix

WRONG = "asynclb"
"""The pydantic error type of everything that a parser here refuses; its context has `rule` and `remedy`."""

NAME_PATTERN = r"[A-Za-z0-9._-]{1,80}"  # names become metric labels, URL segments and table columns
DURATION_PATTERN = r"[0-9]+(\.[0-9]+)?(ms|s|m|h)"
_HOST_PATTERN = r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?"
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
SIZE_PATTERN = r"[0-9]+(B|kB|MB|GB)"
_UNIT_BYTES = {"B": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
_YAML_1_1_TRUE = {"yes", "on", "y"}
_YAML_1_1_FALSE = {"no", "off", "n"}
_MAX_DATAGRAM = 65_507  # the largest UDP payload over IPv4

_E = TypeVar("_E", bound=StrEnum)


def wrong(rule: str, remedy: str) -> PydanticCustomError:
    """Return the error to raise for a value: what it breaks, and what to write instead."""
    return PydanticCustomError(WRONG, "{rule}; {remedy}", {"rule": rule, "remedy": remedy})


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the known word that is meant, most likely, or ''."""
    close = get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    return close[0] if close else ""


def flag(value: object) -> bool:
    """Read `true` or `false`."""
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in _YAML_1_1_TRUE or value == 1:
        raise wrong("this must be true or false", "write `true`")
    if text in _YAML_1_1_FALSE or value == 0:
        raise wrong("this must be true or false", "write `false`")
    raise wrong("this must be true or false", "write `true` or `false`, without quotes")


def whole(least: int, most: int, what: str) -> Callable[[object], int]:
    """Return the reader of whole numbers within bounds."""

    def read(value: object) -> int:
        if type(value) is int and least <= value <= most:
            return value
        rule = f"{what} must be a whole number from {least} to {most}"
        raise wrong(rule, _number_remedy(value, least, most))

    return read


def _number_remedy(value: object, least: int, most: int) -> str:
    if not isinstance(value, str):
        return "write a number within the bounds" if type(value) is int else "write a number"
    if re.fullmatch(r"[0-9]{1,5}", value):
        number = int(value)
        return f"write `{number}`, without quotes and leading zeros" if least <= number <= most else "write a number"
    if re.fullmatch(r"0[xob][0-9A-Fa-f]{1,16}", value):
        return f"write it in decimal: `{int(value, 0)}`"
    if re.fullmatch(r"[0-9]+[0-9_,]*[0-9]", value):
        return "write the digits alone"
    return "write a number"


def text(what: str, pattern: str = r"\S(.*\S)?", remedy: str = "write it as text") -> Callable[[object], str]:
    """Return the reader of text that matches a pattern whole."""
    matcher = re.compile(pattern)

    def read(value: object) -> str:
        if not isinstance(value, str):
            _not_text(value, what)
        if matcher.fullmatch(value):
            return value
        raise wrong(f"this is not {what}", remedy)

    return read


def _not_text(value: object, what: str) -> NoReturn:
    if isinstance(value, bool):
        raise wrong(f"{what} must be text", f'write it in quotes: "{str(value).lower()}"')
    if isinstance(value, int):
        raise wrong(f"{what} must be text", f'write it in quotes: "{value}"')
    raise wrong(f"{what} must be text, not {kind_of(value)}", "write one value here")


def kind_of(value: object) -> str:
    """Return what YAML calls a value."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "a truth value", int: "a number"}
    return names.get(type(value), "an empty value")


def choice(kind: type[_E]) -> Callable[[object], _E]:
    """Return the reader of one word out of an enumeration."""
    words = [str(word) for word in kind]

    def read(value: object) -> _E:
        if isinstance(value, str) and value in words:
            return kind(value)
        near = suggest(value.lower().replace("-", "_"), words) if isinstance(value, str) else ""
        listed = ", ".join(f"`{word}`" for word in words)
        remedy = f"did you mean `{near}`?" if near else "write one of them"
        raise wrong(f"this must be one of {listed}", remedy)

    return read


def duration(least_s: float, most_s: float) -> Callable[[object], float]:
    """Return the reader of durations such as `250ms`, `5s`, `4m`. Units: seconds."""

    def read(value: object) -> float:
        if type(value) is int:
            raise wrong("a duration has a unit", f"write `{value}s`, or with `ms`, `m` or `h`")
        if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value) or len(value) > 20:
            raise wrong("this is not a duration", "write a number and a unit, as in `250ms`, `5s`, `4m`, `1h`")
        unit = value.lstrip("0123456789.")
        seconds = float(value.removesuffix(unit)) * _UNIT_SECONDS[unit]
        if not least_s <= seconds <= most_s:
            bounds = f"this must be from {show_duration(least_s)} to {show_duration(most_s)}"
            raise wrong(bounds, "write a duration within the bounds")
        return seconds

    return read


def show_duration(seconds: float) -> str:
    """Write seconds as the configuration does, in the largest unit that keeps the number whole."""
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds * 1000:.12g}ms" if seconds else "0s"


def size(least_bytes: int, most_bytes: int) -> Callable[[object], int]:
    """Return the reader of sizes such as `500kB`, `100MB`, `2GB`. Units: bytes; a kB is 1,000 of them."""

    def read(value: object) -> int:
        if not isinstance(value, str) or not re.fullmatch(SIZE_PATTERN, value) or len(value) > 20:
            raise wrong("this is not a size", "write a whole number and a unit, as in `500kB`, `100MB`, `2GB`")
        number = value.rstrip("kMGB")
        found = int(number) * _UNIT_BYTES[value.removeprefix(number)]
        if not least_bytes <= found <= most_bytes:
            bounds = f"this must be from {show_size(least_bytes)} to {show_size(most_bytes)}"
            raise wrong(bounds, "write a size within the bounds")
        return found

    return read


def show_size(number: int) -> str:
    """Write bytes as the configuration does, in the largest unit that keeps the number whole."""
    unit = next(unit for unit in ("GB", "MB", "kB", "B") if number % _UNIT_BYTES[unit] == 0)
    return f"{number // _UNIT_BYTES[unit]}{unit}"


def address(value: object) -> Address:
    """Read the address of one host: not multicast, unspecified, broadcast, scoped or IPv4 in IPv6's clothes."""
    if not isinstance(value, str):
        _not_text(value, "an address")
    try:
        parsed = ip_address(value)
    except ValueError:
        raise wrong("this is not an IP address", _address_remedy(value)) from None
    if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
        raise wrong("an address has no zone", "remove the `%` and what follows; a frontend has `interface` for it")
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        raise wrong("this is an IPv4 address written as IPv6", f"write `{parsed.ipv4_mapped}`")
    if parsed.is_unspecified:
        raise wrong("the unspecified address names no host", "write the address of one host")
    if parsed.is_multicast or parsed == IPv4Address("255.255.255.255"):
        kind = "multicast" if parsed.is_multicast else "broadcast"
        raise wrong(f"this is a {kind} address", "write the address of one host")
    return parsed


def _address_remedy(value: str) -> str:
    if "/" in value:
        return "write the address without the prefix length"
    if re.fullmatch(r"[0-9.]+:[0-9]+|\[.*\](:[0-9]+)?", value):
        return "write the address alone; ports belong to rules and probes"
    if re.fullmatch(r"[0-9.]+", value):
        return "write four numbers from 0 to 255 without leading zeros, as in `192.0.2.10`"
    return "write it as in `192.0.2.10` or `2001:db8::10`; host names are not looked up"


def prefix(value: object) -> Prefix:
    """Read an address prefix; a bare address is a prefix of full length."""
    if not isinstance(value, str):
        _not_text(value, "a prefix")
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        remedy = "write it as in `198.51.100.0/24` or `2001:db8::/32`"
        raise wrong("this is not an address prefix", remedy) from None
    raise wrong("the prefix has bits set after its length", f"write `{network}`")


def source_addresses(value: object) -> tuple[Address, ...]:
    """Read one address, or a list with one per family."""
    found = tuple(address(item) for item in (value if isinstance(value, list) else [value]))
    if not found or len({item.version for item in found}) != len(found):
        raise wrong(
            "probes have one source address per family", "write one address, or one IPv4 and one IPv6 in a list"
        )
    return found


def statuses(value: object) -> tuple[StatusRange, ...]:
    """Read `200`, `200-299`, or a list of these."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise wrong("the list of statuses is empty", "write the statuses that mean healthy, as in `200` or `200-299`")
    return tuple(_status(item) for item in items)


def _status(value: object) -> StatusRange:
    match = re.fullmatch(r"([0-9]{3})(?:-([0-9]{3}))?", str(value)) if isinstance(value, int | str) else None
    if match is None:
        raise wrong("this is not an HTTP status or a range of them", "write `200`, `200-299`, or a list of these")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 100 <= first <= last <= 599:
        raise wrong("HTTP statuses are from 100 to 599, the lower one first", "write `200`, or `200-299`")
    return StatusRange(first, last)


def show_statuses(ranges: tuple[StatusRange, ...]) -> int | str | list[int | str]:
    """Write statuses as the configuration does."""
    shown: list[int | str] = [r.first if r.first == r.last else f"{r.first}-{r.last}" for r in ranges]
    return shown[0] if len(shown) == 1 else shown


def ports(value: object) -> tuple[int, int]:
    """Read a port range such as `50000-50099`."""
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", value) if isinstance(value, str) else None
    if match is None:
        remedy = "write the first and the last port as in `50000-50099`; a single port goes into `frontend_port`"
        raise wrong("this is not a port range", remedy)
    first, last = int(match[1]), int(match[2])
    if not 1 <= first <= last <= 65_535:
        raise wrong("ports are from 1 to 65535, the lower one first", "write the range as in `50000-50099`")
    return first, last


def hex_bytes(value: object) -> bytes:
    """Read bytes in hexadecimal; blanks between bytes are allowed."""
    if isinstance(value, int):
        raise wrong("bytes in hexadecimal are text", f'write them in quotes: "{value}"')
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None:
        raise wrong("this is not bytes in hexadecimal", 'write two digits a byte, in quotes: "00 01 ff"')
    return _datagram(found)


def utf8_bytes(value: object) -> bytes:
    """Read text that is sent or expected as UTF-8."""
    if not isinstance(value, str):
        _not_text(value, "this")
    return _datagram(value.encode())


def _datagram(found: bytes) -> bytes:
    if len(found) > _MAX_DATAGRAM:
        raise wrong(f"a datagram holds at most {_MAX_DATAGRAM:,} bytes", "send less")
    return found


def seed(value: object) -> int:
    """Read a 64-bit number in hexadecimal."""
    if type(value) is int:
        raise wrong("the seed is hexadecimal text", f'write it in quotes: "{value}"')
    match = re.fullmatch(r"(?:0[xX])?([0-9A-Fa-f]{1,16})", value) if isinstance(value, str) else None
    if match is None:
        remedy = "write up to 16 hexadecimal digits in quotes, as `openssl rand -hex 8` prints them"
        raise wrong("the seed is a 64-bit number in hexadecimal", remedy)
    return int(match[1], 16)


def host(value: object) -> str:
    """Read a host name or address, with or without a port, as a Host header carries it."""
    return text("a host name", _HOST_PATTERN, "write a host name as in `www.example.org`")(value)


def host_name(value: object) -> str:
    """Read a host name without a port."""
    return text("a host name", r"[A-Za-z0-9._-]{1,253}", "write a name without a port, as in `lb1.example.org`")(value)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: `unix_path` if set, else `host` and `port`."""

    host: str
    port: int
    unix_path: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.unix_path is not None or self.host == "localhost" or ip_address(self.host).is_loopback

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen(value: object) -> Listen:
    """Read `host:port`, `[v6]:port` or `unix:/path`."""
    remedy = "write `127.0.0.1:9180`, `[::1]:9180` or `unix:/run/asynclb.sock`"
    if isinstance(value, str) and re.fullmatch(r"unix:/[^\0\n]{1,106}", value):  # sun_path holds 108 bytes
        return Listen("", 0, value.removeprefix("unix:"))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.]+)):([0-9]{1,5})", str(value))
    if match is None or not isinstance(value, str):
        raise wrong("this is not an address to listen on", remedy)
    name, port = match[1] or match[2], int(match[3])
    try:
        known = name == "localhost" or ip_address(name) is not None
    except ValueError:
        known = False
    if not known or not 1 <= port <= 65_535:
        raise wrong("this is an IP address or `localhost`, and a port from 1 to 65535", remedy)
    return Listen(name, port)


def name_server(value: object) -> tuple[str, int]:
    """Read the address of a name server, with a port if it is not 53."""
    match = re.fullmatch(
        r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?|([0-9.]+)(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+)", str(value)
    )
    remedy = "write `10.0.0.53`, `10.0.0.53:5353` or `[2001:db8::53]:53`"
    if match is None or not isinstance(value, str):
        raise wrong("this is not the address of a name server", remedy)
    host, port = match[1] or match[3] or match[5], int(match[2] or match[4] or 53)
    if not 1 <= port <= 65_535:
        raise wrong("ports are from 1 to 65535", remedy)
    return str(address(host)), port


def family(value: object) -> int:
    """Read `ipv4` or `ipv6`."""
    if value not in ("ipv4", "ipv6"):
        raise wrong("this must be one of `ipv4`, `ipv6`", "write one of them")
    return 4 if value == "ipv4" else 6
