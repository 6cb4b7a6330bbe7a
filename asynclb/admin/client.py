"""Asks a running process: the command line's side of the API. Blocking, and of the standard library only."""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from asynclb.admin.url import DEFAULT_URL
from asynclb.errors import HostError

_TIMEOUT_S = 30.0  # a reload of a big configuration takes seconds


class AdminClient:
    """Speaks to one process, at `http://host:port`, `https://host:port` or `unix:/path`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token_file: str | None = None,
        ca_file: str | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Raise HostError where the URL or a file is unusable."""
        self._url = url
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._headers = {"Accept": "application/json"}
        if token_file:
            self._headers["Authorization"] = f"Bearer {_read_token(token_file)}"

    def get(self, path: str, **query: str) -> Any:
        """Return the decoded answer. Raises: HostError -> nobody answers there, or it says no."""
        text = "&".join(f"{key}={quoted(value)}" for key, value in query.items())
        status, document = self._ask("GET", f"{path}?{text}" if text else path)
        if status != 200:
            raise HostError(_refusal(self._url, status, document))
        return document

    def post(self, path: str, body: bytes | None = None, *, generation: int | None = None) -> tuple[int, Any]:
        """Return the status and the decoded answer; 422 is an answer, not an error."""
        headers = {"Content-Type": "application/yaml"} if body is not None else {}
        status, document = self._ask("POST", path, body, headers | _expecting(generation))
        if status not in (200, 422):
            raise HostError(_refusal(self._url, status, document))
        return status, document

    def write(self, method: str, path: str, change: Any = None, generation: int | None = None) -> Any:
        """Ask for a change; return the decoded answer. Raises: HostError -> it was not made."""
        body = json.dumps(change).encode() if change is not None else None
        headers = {"Content-Type": "application/json"} if change is not None else {}
        status, document = self._ask(method, path, body, headers | _expecting(generation))
        if status != 200:
            raise HostError(_refusal(self._url, status, document))
        return document

    def stream(self, method: str, path: str, **query: str) -> Iterator[bytes]:
        """Yield an answer's bytes as they come. Raises: HostError -> nobody answers there, or it says no."""
        connection = self._connect()
        try:
            text = "&".join(f"{key}={quoted(value)}" for key, value in query.items())
            connection.request(method, f"{path}?{text}", headers=self._headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise HostError(_refusal(self._url, answer.status, json.loads(answer.read())))
            while chunk := answer.read1(1 << 16):
                yield chunk
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HostError(f"the stream from {self._url} broke off: {error}; see that process' log") from error
        finally:
            connection.close()

    def _ask(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = self._connect()
        try:
            connection.request(method, target, body=body, headers={**self._headers, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except ssl.SSLError as error:
            raise HostError(f"{self._url}: {error.reason or error}; name its authority with --ca-file") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise HostError(
                f"no asynclb answers at {self._url} ({reason}); start one with `asynclb run CONFIG`, "
                "or say where it is with --url (or $ASYNCLB_URL)"
            ) from error
        except (http.client.HTTPException, ValueError) as error:
            raise HostError(f"what answers at {self._url} is not asynclb; check --url") from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        url = self._url
        if url.startswith("unix:"):
            return _UnixConnection(os.path.normpath(url.removeprefix("unix:").replace("//", "/")), self._timeout_s)
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise HostError(f"--url {url!r} is neither http://host:port nor unix:/path")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, port or 80, timeout=self._timeout_s)
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            raise HostError(f"--ca-file {self._ca_file}: {error}; name a PEM file of certificates") from error
        return http.client.HTTPSConnection(parts.hostname, port or 443, timeout=self._timeout_s, context=context)


def quoted(name: str) -> str:
    """Return a name as it stands in a URL."""
    return quote(name, safe="")


def _expecting(generation: int | None) -> dict[str, str]:
    return {} if generation is None else {"If-Match": f'"{generation}"'}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the path in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


def _read_token(path: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in lines if line.split() and not line.startswith("#")), "")
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"--token-file {path}: {error}; name the file that admin.token_file names") from error


def _refusal(url: str, status: int, document: Any) -> str:
    found: Mapping[str, Any] = document if isinstance(document, dict) else {}
    problems = [str(problem["text"]) for problem in found.get("problems", ())]
    remedy = "\n".join(("", *problems)) if problems else f" {found.get('remedy', 'see its log')}"
    reason = found.get("error", found.get("reason", "no reason given"))
    return f"{url} answers {status}: {reason}{':' if problems else ';'}{remedy}"
