"""The installation's hash seed, for configurations that name none.

Law: flows keep their members over a restart, so the seed is made once and kept. Where it cannot be kept, this
process uses a random one and says so.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from asynclb.events import Emit, Event

DEFAULT_DIRECTORY = Path("/var/lib/asynclb")
FILE_NAME = "hash_seed"
_SEED_BITS = 64


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return where state is kept: systemd's `$STATE_DIRECTORY` (its first entry), else /var/lib/asynclb."""
    named = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(named) if named else DEFAULT_DIRECTORY


def read_seed(directory: Path) -> int | None:
    """Return the seed that is kept in the directory, or None where there is none yet.

    Raises: OSError -> it cannot be read; ValueError -> the file holds something else.
    """
    try:
        text = (directory / FILE_NAME).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    seed = int(text, 16)
    if not 0 <= seed < 1 << _SEED_BITS:
        raise ValueError(f"{text!r} has more than {_SEED_BITS} bits")
    return seed


def installation_seed(directory: Path, emit: Emit) -> int:
    """Return the seed of this installation, made at the first call and kept with mode 0600.

    Two processes that make it at once end with the same one: the file appears whole, by link(2), or not at all.
    """
    try:
        return _read_or_make(directory)
    except (OSError, ValueError) as error:
        emit(
            Event.HOST_LIMIT,
            what="the hash seed cannot be kept, so flows change members at the next restart",
            value=f"{directory / FILE_NAME}: {error}",
            remedy="set hash_seed in the configuration, or make the state directory writable ($STATE_DIRECTORY)",
        )
        return secrets.randbits(_SEED_BITS)


def _read_or_make(directory: Path) -> int:
    kept = read_seed(directory)
    if kept is not None:
        return kept
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    target = directory / FILE_NAME
    draft = directory / f".{FILE_NAME}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.randbits(_SEED_BITS):016x}\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was quicker: its seed is the one
            os.link(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    made = read_seed(directory)
    if made is None:
        raise FileNotFoundError(f"{target} vanished as it was made")
    return made


def known_seed(configured: int | None, directory: Path) -> tuple[int, str]:
    """Return the seed that a process here would use, and where it is from, without making one."""
    if configured is not None:
        return configured, "from the configuration"
    try:
        kept = read_seed(directory)
    except (OSError, ValueError):
        kept = None
    if kept is not None:
        return kept, f"from {directory / FILE_NAME}"
    return 0, "not known here: hash and slot are those of seed 0; set hash_seed, or ask with --live"
