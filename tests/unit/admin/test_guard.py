"""Who may ask for what."""

from pathlib import Path

import pytest

from asynclb.admin.guard import Guard
from asynclb.errors import HostError


@pytest.mark.parametrize(
    ("method", "peer", "status"),
    [
        ("GET", "198.51.100.7", None),
        ("POST", "127.0.0.1", None),
        ("POST", "::1", None),
        ("POST", None, None),
        ("POST", "198.51.100.7", 403),
        ("DELETE", "fe80::1%eth0", 403),
    ],
)
def test_without_a_token_commands_are_local(method: str, peer: str | None, status: int | None) -> None:
    """Reads are open; writes are taken from the loopback and the UNIX socket."""
    denied = Guard(None).decide(method, {}, peer)
    assert (denied.status if denied else None) == status


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: str | None) -> None:
    """A missing or empty token file is a mistake that is told at the start, not an open door."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(HostError, match="cannot be read or is empty"):
        Guard(str(path))
