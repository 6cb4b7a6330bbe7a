"""Who may ask for what, and by which name they are known. Pure apart from reading the token file.

The token file has a token on each line, which may be followed by the name of whoever holds it; lines that begin with
`#` are comments. Every write is told with that name, so that tokens of several people can be told apart and revoked.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from asynclb.errors import HostError
from asynclb.model import Admin

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
UNNAMED = "token"
_MOST_BYTES = 64 * 1024  # of the file: a thousand tokens; it is read for each request


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is turned away, and what would be let in."""

    status: int
    error: str
    remedy: str


class Guard:
    """Decides on requests. The token file is read for each one under `/api/`: a rotated secret needs no restart."""

    def __init__(self, token_file: str | None, *, names: Iterable[str] | None = ()) -> None:
        """Raise HostError where a token file is named that holds no token.

        `names`: by which it may be called in a Host header, besides addresses and localhost; None: by every name.
        """
        self._names = None if names is None else frozenset(map(str.lower, names))
        self._token_file = Path(token_file) if token_file else None
        if self._token_file is not None and not self._tokens():
            raise HostError(
                f"admin.token_file {token_file}: cannot be read or is empty; "
                f"put a secret into it (openssl rand -hex 32 > {token_file}) and make it readable for this process"
            )

    @classmethod
    def of(cls, admin: Admin) -> "Guard":
        """Return the guard of an API. No browser reaches a UNIX socket, so its clients may call it what they like."""
        return cls(admin.token_file, names=admin.hosts if admin.unix_path is None else None)

    def misdirected(self, host: str | None) -> Denied | None:
        """Return why a request with this Host header is turned away, or None. Browsers always send one.

        A page whose name its owner has pointed at this address (DNS rebinding) is to a browser the same origin as this
        API. It can do so with names only: whoever calls by an address, or by localhost, has not been led here.
        """
        if self._names is None or host is None or _called_by(host) in self._names or _unmistakable(host):
            return None
        name = _called_by(host)[:100]
        remedy = f"ask by address, or name it in the configuration (admin.hosts: [{name}]) and restart"
        return Denied(421, f"{name!r} is not known to be a name of this instance", remedy)

    def decide(self, method: str, headers: Mapping[str, str], peer: str | None) -> Denied | None:
        """Return why the request is turned away, or None. `peer` is the client's address, None on a UNIX socket."""
        if self._token_file is not None:
            return None if self.holder(headers) is not None else _NO_TOKEN
        if method in _SAFE:
            return None
        if not _is_local(peer):
            remedy = "set admin.token_file and send its content as `Authorization: Bearer`, or ask from this host"
            return Denied(403, "without a token file, commands are taken from this host only", remedy)
        if _from_another_page(headers):
            return Denied(403, "commands are not taken from web pages of other origins", "use `asynclb reload` or curl")
        return None

    def holder(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of whoever holds the token that was sent, or None.

        Cost: the same for every token that is as long, right or wrong, wherever it stands in the file.
        """
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        found = None
        for token, name in self._tokens():
            if hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode()):
                found = name
        return found if scheme.lower() == "bearer" else None

    def _tokens(self) -> tuple[tuple[str, str], ...]:
        if self._token_file is None:
            return ()
        try:
            with self._token_file.open(encoding="utf-8") as file:
                lines = file.read(_MOST_BYTES).splitlines()
        except (OSError, UnicodeDecodeError):
            return ()
        words = (line.split(maxsplit=1) for line in lines if not line.lstrip().startswith("#"))
        return tuple((found[0], found[1].strip() if len(found) > 1 else UNNAMED) for found in words if found)


_NO_TOKEN = Denied(
    401,
    "the bearer token is missing or wrong",
    "send a token of admin.token_file as `Authorization: Bearer ...` (asynclb: --token-file)",
)


def _called_by(host: str) -> str:
    """Return the name or address in a Host header, without its port."""
    return re.sub(r":[0-9]*\Z", "", host).strip("[]").rstrip(".").lower()


def _unmistakable(host: str) -> bool:
    """Return whether a Host header has an address, or localhost, which browsers ask nobody about (RFC 6761, 6.3)."""
    name = _called_by(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_local(peer: str | None) -> bool:
    return peer is None or ip_address(peer.partition("%")[0]).is_loopback


def _from_another_page(headers: Mapping[str, str]) -> bool:
    """Return whether a browser sends this on behalf of another site: it always says so for what is not a GET."""
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != headers.get("Host", "")
