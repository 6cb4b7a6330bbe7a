"""Asks a running process: the command line's side of the API. Blocking, and of the standard library only."""

import http.client
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from asynclb.errors import HostError

DEFAULT_URL = "http://127.0.0.1:9180"
_TIMEOUT_S = 30.0  # a reload of a big configuration takes seconds


class AdminClient:
    """Speaks to one process, at `http://host:port` or `unix:/path`."""

    def __init__(self, url: str = DEFAULT_URL, token_file: str | None = None) -> None:
        """Raise HostError where the URL or the token file is unusable."""
        self._url = url
        self._headers = {"Accept": "application/json", "Host": "localhost"}
        if token_file:
            self._headers["Authorization"] = f"Bearer {_read_token(token_file)}"

    def get(self, path: str, **query: str) -> Any:
        """Return the decoded answer. Raises: HostError -> nobody answers there, or it says no."""
        text = "&".join(f"{key}={quote(value)}" for key, value in query.items())
        status, document = self._ask("GET", f"{path}?{text}" if text else path)
        if status != 200:
            raise HostError(_refusal(self._url, status, document))
        return document

    def post(self, path: str) -> tuple[int, Any]:
        """Return the status and the decoded answer; 422 is an answer, not an error."""
        status, document = self._ask("POST", path)
        if status not in (200, 422):
            raise HostError(_refusal(self._url, status, document))
        return status, document

    def _ask(self, method: str, target: str) -> tuple[int, Any]:
        connection = _connect(self._url)
        try:
            connection.request(method, target, headers=self._headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
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


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the path in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def _connect(url: str) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(os.path.normpath(url.removeprefix("unix:").replace("//", "/")))
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or port == 0:
        raise HostError(f"--url {url!r} is neither http://host:port nor unix:/path")
    return http.client.HTTPConnection(parts.hostname, port or 80, timeout=_TIMEOUT_S)


def _read_token(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"--token-file {path}: {error}; name the file that admin.token_file names") from error


def _refusal(url: str, status: int, document: Any) -> str:
    found: Mapping[str, Any] = document if isinstance(document, dict) else {}
    return f"{url} answers {status}: {found.get('error', 'no reason given')}; {found.get('remedy', 'see its log')}"
