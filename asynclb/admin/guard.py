"""Who may ask for what. Pure apart from reading the token file."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from asynclb.errors import HostError

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is turned away, and what would be let in."""

    status: int
    error: str
    remedy: str


class Guard:
    """Decides on requests under `/api/`. The token file is read for each of them: a rotated secret needs no restart."""

    def __init__(self, token_file: str | None) -> None:
        """Raise HostError where a token file is named that holds no token."""
        self._token_file = Path(token_file) if token_file else None
        if self._token_file is not None and not self._token():
            raise HostError(
                f"admin.token_file {token_file}: cannot be read or is empty; "
                f"put a secret into it (openssl rand -hex 32 > {token_file}) and make it readable for this process"
            )

    def decide(self, method: str, headers: Mapping[str, str], peer: str | None) -> Denied | None:
        """Return why the request is turned away, or None. `peer` is the client's address, None on a UNIX socket."""
        if self._token_file is not None:
            return self._check_token(headers.get("Authorization", ""))
        if method in _SAFE:
            return None
        if not _is_local(peer):
            remedy = "set admin.token_file and send its content as `Authorization: Bearer`, or ask from this host"
            return Denied(403, "without a token file, commands are taken from this host only", remedy)
        if _from_another_page(headers):
            return Denied(403, "commands are not taken from web pages of other origins", "use `asynclb reload` or curl")
        return None

    def _check_token(self, authorization: str) -> Denied | None:
        scheme, _, given = authorization.partition(" ")
        token = self._token()
        if scheme.lower() == "bearer" and token and hmac.compare_digest(given.strip().encode(), token.encode()):
            return None
        remedy = "send the content of admin.token_file as `Authorization: Bearer ...` (asynclb: --token-file)"
        return Denied(401, "the bearer token is missing or wrong", remedy)

    def _token(self) -> str:
        try:
            return self._token_file.read_text(encoding="utf-8").strip() if self._token_file else ""
        except (OSError, UnicodeDecodeError):
            return ""


def _is_local(peer: str | None) -> bool:
    return peer is None or ip_address(peer.partition("%")[0]).is_loopback


def _from_another_page(headers: Mapping[str, str]) -> bool:
    """Return whether a browser sends this on behalf of another site: it always says so for what is not a GET."""
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != headers.get("Host", "")
