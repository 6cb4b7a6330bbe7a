"""The largest texts that are read at all, made of one thing over and over."""

import contextlib
import time

import pytest

from asynclb.config.reader import MAX_BYTES, read
from asynclb.errors import ConfigError


@pytest.mark.parametrize(
    "unit",
    [b"- a\n", b"a,", b"[]\n", b"a: &a b\n", b'"', b"a\n", b"%", b"? a\n", b"\xf0\x9f\x98\x80", b": ", b"a: 1\n"],
)
def test_ten_megabytes_of_garbage_are_refused(unit: bytes) -> None:
    """The largest text that is read at all ends in a refusal or a tree, within seconds and without a crash."""
    start = time.perf_counter()
    text = unit * (MAX_BYTES // len(unit))
    with contextlib.suppress(ConfigError):
        read(text, file="x.yaml")
    assert time.perf_counter() - start < 30
