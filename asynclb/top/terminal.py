"""The terminal: raw keys in, whole screens out. What was set is put back, whatever happens."""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from asynclb.top.keys import ESCAPE
from asynclb.top.view import Line

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l\x1b[0m"  # alternate screen, cursor off; and back
_LOOKS = {"bad": "1;31", "warn": "33", "good": "32", "head": "1;7", "tab": "1", "chosen": "7", "bar": "7", "plain": "0"}
_SETTLE_S = 0.02  # the rest of an escape sequence comes within this, also over a slow line


class Terminal:
    """A terminal in raw mode. Owner: whoever opened it."""

    def __init__(self, keys: int, colors: bool) -> None:
        self._keys = keys
        self._colors = colors
        self._shown: Sequence[Line] = ()
        self._size = (0, 0)
        self.is_interrupted = False
        """Whether Ctrl-C was pressed. The interpreter loses its exception where a finalizer happens to run."""

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator["Terminal"]:
        """Take the terminal of this process for the context."""
        keys = sys.stdin.fileno()
        before = termios.tcgetattr(keys)
        terminal = cls(keys, colors="NO_COLOR" not in os.environ)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()
        handler = signal.signal(signal.SIGINT, terminal._interrupt)
        try:
            tty.setcbreak(keys)
            yield terminal
        finally:
            signal.signal(signal.SIGINT, handler)
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.is_interrupted = True
        raise KeyboardInterrupt

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        try:
            found = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    def keys(self, wait_s: float) -> str:
        """Return what was typed; '' if nothing was within `wait_s`, or when the terminal's size changes."""
        if not self._readable(wait_s):
            return ""
        text = os.read(self._keys, 1024)
        while text.endswith(ESCAPE.encode()) and self._readable(_SETTLE_S):
            text += os.read(self._keys, 64)
        return text.decode("utf-8", "replace")

    def _readable(self, wait_s: float) -> bool:
        try:
            return bool(select.select([self._keys], [], [], max(0.0, wait_s))[0])
        except InterruptedError:
            return False

    def show(self, lines: Sequence[Line]) -> None:
        """Show a screen: only lines that are other than before are written, so that nothing flickers."""
        size = self.size
        before = self._shown if size == self._size else ()
        parts = [] if before else ["\x1b[2J"]
        for number, line in enumerate(lines):
            if number >= len(before) or before[number] != line:
                parts.append(f"\x1b[{number + 1};1H{self._painted(line, size[0])}\x1b[0m\x1b[K")
        self._shown, self._size = lines, size
        sys.stdout.write("".join(parts))
        sys.stdout.flush()

    def _painted(self, line: Line, width: int) -> str:
        text = line.text.ljust(width) if line.look in ("head", "chosen", "bar") else line.text
        look = _LOOKS[line.look]
        if not self._colors:
            look = ";".join(part for part in look.split(";") if len(part) == 1)
        return f"\x1b[{look or 0}m{text}"
