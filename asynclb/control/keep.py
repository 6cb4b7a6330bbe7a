"""Writes small files of the state directory: whole or not at all."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def keep(path: Path, text: str) -> None:
    """Put a file in place of the one before, for everybody to read. Raises: OSError -> the one before is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft.write_text(text, encoding="ascii")
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
