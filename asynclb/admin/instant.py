"""Times in documents. Pure."""

from datetime import UTC, datetime


def instant(epoch_s: float) -> str | None:
    """Return a time as people and programs read it; None for 0."""
    if not epoch_s:
        return None
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
