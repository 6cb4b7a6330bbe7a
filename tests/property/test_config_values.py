"""What is written and what is read are the same thing."""

from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from asynclb.config import values
from asynclb.config.reader import read, scalar
from asynclb.model import StatusRange


def attempt(parser: Callable[[object], object], value: object) -> object:
    """Return what a parser gives or raises."""
    try:
        return parser(value)
    except PydanticCustomError as error:
        return error


def is_refusal(outcome: object) -> bool:
    """Return whether an outcome is a refusal with rule and remedy."""
    if not isinstance(outcome, PydanticCustomError) or outcome.type != values.WRONG:
        return False
    return bool(outcome.context and outcome.context["rule"] and outcome.context["remedy"])


@given(st.integers(0, 86_400_000))
def test_durations_survive_being_written(milliseconds: int) -> None:
    """A duration is read back as it was written, to the millisecond."""
    seconds = milliseconds / 1000
    assert values.duration(0, 86_400)(values.show_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.integers(0, 2**64 - 1))
def test_seeds_survive_being_written(seed: int) -> None:
    """A seed is read back from hexadecimal with and without prefix."""
    assert values.seed(f"{seed:x}") == values.seed(f"0x{seed:016X}") == seed


@given(st.ip_addresses())
def test_addresses_are_read_or_refused(address: object) -> None:
    """An address is what the standard library says, or is refused for what it is."""
    outcome = attempt(values.address, str(address))
    assert outcome == ip_address(str(address)) or is_refusal(outcome)


@given(st.lists(st.tuples(st.integers(100, 599), st.integers(0, 99)), min_size=1, max_size=5))
def test_statuses_survive_being_written(pairs: list[tuple[int, int]]) -> None:
    """Statuses and ranges are read back as they were written."""
    ranges = tuple(StatusRange(first, min(599, first + width)) for first, width in pairs)
    assert values.statuses(values.show_statuses(ranges)) == ranges


@given(st.binary(max_size=100))
def test_bytes_survive_being_written(data: bytes) -> None:
    """Bytes are read back from hexadecimal with and without blanks."""
    assert values.hex_bytes(data.hex()) == values.hex_bytes(data.hex(" ")) == data


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.text()), st.dictionaries(st.text(), st.text())
    )
)
def test_parsers_refuse_in_one_way(value: object) -> None:
    """Every parser gives a value or the one kind of refusal, for every kind of input."""
    parsers = (
        values.flag, values.whole(0, 9, "x"), values.text("x"), values.choice(Word), values.duration(0, 9),
        values.address, values.prefix, values.source_addresses, values.statuses, values.ports, values.hex_bytes,
        values.utf8_bytes, values.seed, values.host, values.listen,
    )  # fmt: skip
    for parser in parsers:
        outcome = attempt(parser, value)
        assert is_refusal(outcome) or not isinstance(outcome, Exception)


class Word(StrEnum):
    """An enumeration to choose from."""

    ONE = "one"
    TWO = "two"


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20))
def test_quoted_text_is_text(text: str) -> None:
    """Text in single quotes is that text, whatever it looks like."""
    written = "'" + text.replace("'", "''") + "'"
    if any(character in text for character in "\u2028\u2029\ufeff\ufffe\uffff"):
        return
    root = read(f"a: {written}\n".encode(), file="x").root
    assert root.value == {"a": text}
    assert scalar(text, plain=False) == text
