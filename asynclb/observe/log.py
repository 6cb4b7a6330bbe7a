"""Events as lines: JSON for machines, columns for people.

structlog is used without its global configuration: the logger is made here and lives in the returned `Emit`.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable, MutableMapping
from enum import StrEnum
from typing import Any, TextIO

import structlog

from asynclb.events import Emit, Event

_LEVELS = {
    Event.HOST_LIMIT: logging.WARNING,
    Event.CONFIG_WARNING: logging.WARNING,
    Event.WORKER_DIED: logging.WARNING,
    Event.CONFIG_WATCH_FAILED: logging.WARNING,
    Event.SOURCE_FAILED: logging.WARNING,
    Event.SOURCE_WARNING: logging.WARNING,
    Event.RULE_SILENT: logging.WARNING,
    Event.ALL_MEMBERS_DOWN: logging.WARNING,
    Event.MEMBER_DOWN: logging.WARNING,
    Event.PROBE_STARVED: logging.WARNING,
    Event.ACCEPT_PAUSED: logging.WARNING,
    Event.CONFIG_REFUSED: logging.ERROR,
    Event.SOURCE_REFUSED: logging.ERROR,
    Event.DATAPATH_FAILED: logging.ERROR,
    Event.TASK_FAILED: logging.ERROR,
}
"""What is not `info`: warning = somebody should look, error = what was asked for is not done."""


class LogFormat(StrEnum):
    """How a line is written. `auto`: console on a terminal, JSON elsewhere."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class Log:
    """Implements `Emit` on a stream. Any thread may call it: a line is one write."""

    def __init__(self, stream: TextIO, log_format: LogFormat = LogFormat.AUTO) -> None:
        """Write to `stream`; once it is broken (its reader has gone) events are discarded."""
        self._stream = stream
        self._broken = False
        as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not stream.isatty())
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        style: list[Any] = [_as_json] if as_json else [_Console(stream)]
        self._logger: Any = structlog.wrap_logger(
            structlog.WriteLogger(stream),
            processors=[structlog.processors.add_log_level, stamp, *style],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )

    def __call__(self, event: Event, /, **fields: object) -> None:
        """Write one event as one line."""
        if self._broken:
            return
        try:
            self._logger.log(_LEVELS.get(event, logging.INFO), str(event), **fields)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._broken = True
            _silence(self._stream)


def level_of(event: Event) -> str:
    """Return how an event is ranked: `info`, `warning` or `error`."""
    return logging.getLevelName(_LEVELS.get(event, logging.INFO)).lower()


def open_log(log_format: LogFormat = LogFormat.AUTO) -> Emit:
    """Return the `Emit` that writes to standard output."""
    return Log(sys.stdout, log_format)


def _as_json(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> str:
    """Render with the name first, so that a line can be read without a tool; what JSON lacks is written as text."""
    stamp, level, event = fields.pop("timestamp"), fields.pop("level"), fields.pop("event")
    line = {"timestamp": stamp, "level": level, "event": event, **fields}
    return json.dumps(line, default=str, ensure_ascii=False)


class _Console:
    """Renders an event in columns, and each problem of a configuration on a line of its own below it."""

    def __init__(self, stream: TextIO) -> None:
        colors = stream.isatty() and not os.environ.get("NO_COLOR")
        self._render = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=22, sort_keys=False)

    def __call__(self, logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
        problems: Iterable[object] = fields.pop("problems", ())
        return "\n    ".join((self._render(logger, method, fields), *map(str, problems)))


def _silence(stream: TextIO) -> None:
    """Point a broken stream at /dev/null, or the interpreter complains when it flushes it at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        return  # a stream without a descriptor of its own needs no silencing
