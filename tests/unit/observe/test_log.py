"""Events as lines."""

import io
import json
import os
from datetime import datetime

import pytest

from asynclb.errors import Problem
from asynclb.events import Event
from asynclb.observe import log as observed
from asynclb.observe.log import Log, LogFormat


def lines(log_format: LogFormat, event: Event, **fields: object) -> str:
    """Return what an event becomes."""
    stream = io.StringIO()
    Log(stream, log_format)(event, **fields)
    return stream.getvalue()


def test_json_is_one_line_with_time_level_and_name() -> None:
    """An event is one JSON object on one line, its time in UTC with a zone."""
    (line,) = lines(LogFormat.JSON, Event.MEMBER_DOWN, pool="web", member="web-1", after_s=1.5).splitlines()
    found = json.loads(line)
    assert list(found) == ["timestamp", "level", "event", "pool", "member", "after_s"]
    assert (found["level"], found["event"], found["after_s"]) == ("warning", "member_down", 1.5)
    assert datetime.fromisoformat(found["timestamp"]).tzinfo is not None


def test_values_that_json_lacks_are_written_as_text() -> None:
    """Problems, addresses and exceptions appear as their `str`."""
    problem = Problem(("rules", 0), "x", "is wrong", "mend it")
    found = json.loads(lines(LogFormat.JSON, Event.CONFIG_REFUSED, problems=(problem,), error=OSError("gone")))
    assert found["problems"] == ["rules[0]: 'x': is wrong; mend it"]
    assert found["error"] == "gone"


def test_console_puts_problems_below_each_other() -> None:
    """For people, each problem of a refused configuration is on a line of its own."""
    shown = lines(LogFormat.CONSOLE, Event.CONFIG_REFUSED, trigger="signal", problems=("one", "two"))
    assert shown.splitlines()[0].find("config_refused") > 0
    assert "    one\n    two" in shown


@pytest.mark.parametrize("event", list(Event))
def test_every_event_can_be_written_in_both_formats(event: Event) -> None:
    """No event has a name or a level that one of the formats cannot write; a field may be called anything."""
    for log_format in (LogFormat.JSON, LogFormat.CONSOLE):
        assert str(event) in lines(log_format, event, name="x", error="y", address="z", method="m", msg="text")


def test_auto_is_json_where_there_is_no_terminal() -> None:
    """A file or a pipe gets JSON without being asked for."""
    assert lines(LogFormat.AUTO, Event.STARTING, pid=1).startswith("{")


def test_a_reader_that_has_gone_stops_nothing() -> None:
    """When the pipe is broken, events are discarded and nothing is raised, also at the end."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        log = Log(stream, LogFormat.JSON)
        log(Event.STARTING, pid=1)
        os.close(reading)
        for _ in range(3):
            log(Event.STARTED, rules=1)


def test_a_closed_stream_stops_nothing() -> None:
    """A stream that was closed under us is as good as a broken pipe."""
    stream = io.StringIO()
    log = Log(stream, LogFormat.JSON)
    stream.close()
    log(Event.STARTED)
    log(Event.STOPPED)


def test_levels_name_real_events() -> None:
    """Every event with a level of its own is in the list of events."""
    assert set(observed._LEVELS) <= set(Event)
