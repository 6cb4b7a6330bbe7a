"""One epoll for all flows, nested in the event loop: the loop sees a single readable descriptor.

uvloop's transports cost a Python-visible object and several callbacks per event; here a ready socket costs one
dictionary look-up and one call, and the loop is entered once per batch. Measured on this project's lab against
the transports it replaces: three times the requests per second (tests/bench, ARCHITECTURE.md).

Laws:
  1. Edge-triggered: a handler reads and writes until the kernel says EAGAIN (or a short read), or asks for
     `again`. Nothing is ever re-armed.
  2. A batch is bounded, and between batches the loop runs everything else.
  3. A socket retired during a batch is closed after it, so no descriptor is reused under a pending event.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable, Hashable
from typing import Protocol

from asynclb.datapath.proxy.wheel import Wheel

Handler = Callable[[int], None]

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE = select.EPOLLOUT
ERROR = select.EPOLLERR
HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_INTEREST = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

_BATCH = 128  # events served before the loop gets its turn: about 2 ms of small reads and writes
TICK_S = 0.25  # granularity of idle and connect timeouts


class Timed(Hashable, Protocol):
    """Something that the wheel looks at."""

    def on_time(self, now_s: float) -> float | None:
        """Do what is due; return when to look again, or None for never."""


class Reactor:
    """Serves the sockets and the timers of the proxy. Owner: the datapath.

    `now_s` is the time by `clock` at the start of the current batch: exact enough for activity stamps.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, clock: Callable[[], float] = time.monotonic, tick_s: float = TICK_S
    ) -> None:
        self.now_s = clock()
        self._clock = clock
        self._tick_s = tick_s
        self._loop = loop
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._again: list[Callable[[], None]] = []
        self._retired: list[socket.socket] = []
        self._wheel: Wheel[Timed] = Wheel(tick_s, self.now_s)
        self._ticks: dict[Timed, int] = {}
        loop.add_reader(self._epoll.fileno(), self._serve)
        self._timer = loop.call_later(tick_s, self._tick)

    def watch(self, sock: socket.socket, handler: Handler) -> None:
        """Call `handler(events)` at every edge of the socket from now on."""
        fd = sock.fileno()
        self._handlers[fd] = handler
        self._epoll.register(fd, _INTEREST)

    def hand_over(self, sock: socket.socket, handler: Handler) -> None:
        """Give a watched socket another handler; past edges are not repeated."""
        self._handlers[sock.fileno()] = handler

    def retire(self, sock: socket.socket) -> None:
        """Stop watching a socket and close it once no event of this batch can name it."""
        if self._handlers.pop(sock.fileno(), None) is None:
            return
        if not self._retired:
            self._loop.call_soon(self._close_retired)
        self._retired.append(sock)

    def discard(self, sock: socket.socket) -> None:
        """Stop watching a socket and close it at once; only between batches, when no event names its descriptor."""
        self._handlers.pop(sock.fileno(), None)
        sock.close()

    def again(self, call: Callable[[], None]) -> None:
        """Call back after the other flows had their turn: a handler that has more to do than its share."""
        if not self._again:
            self._loop.call_soon(self._serve_again)
        self._again.append(call)

    def schedule(self, item: Timed, due_s: float) -> None:
        """Look at an item at `due_s`; an earlier mark of the same item is taken off."""
        self.unschedule(item)
        self._ticks[item] = self._wheel.add(item, due_s)

    def unschedule(self, item: Timed) -> None:
        """Forget an item."""
        tick = self._ticks.pop(item, None)
        if tick is not None:
            self._wheel.remove(item, tick)

    def close(self) -> None:
        """Stop serving. Sockets that are still watched stay open: they are their owners' to close."""
        self._timer.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._close_retired()
        self._epoll.close()
        self._handlers.clear()

    def _serve(self) -> None:
        self.now_s = self._clock()
        handlers = self._handlers
        for fd, events in self._epoll.poll(0, _BATCH):
            handler = handlers.get(fd)
            if handler is not None:
                handler(events)

    def _serve_again(self) -> None:
        self.now_s = self._clock()
        calls, self._again = self._again, []
        for call in calls:
            call()

    def _close_retired(self) -> None:
        retired, self._retired = self._retired, []
        for sock in retired:
            sock.close()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        self.now_s = now_s = self._clock()
        for item in self._wheel.due(now_s):
            self._ticks.pop(item, None)
            due_s = item.on_time(now_s)
            if due_s is not None:
                self._ticks[item] = self._wheel.add(item, due_s)
