"""A bound on costly work in one turn of the event loop, which forwards clients' bytes between the turns."""

import asyncio
from collections import deque


class Turns:
    """Lets about `steps` costly steps run in one turn of the loop; those over it wait for a later one, in order.

    A lock would not do: it would be held by members that are silent in the middle of a handshake.
    """

    __slots__ = ("_left", "_steps", "_waiting")

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._left = steps
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait until a step may run; it has to run before the next await."""
        loop = asyncio.get_running_loop()
        if self._left:
            self._spend(loop)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _spend(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._left == self._steps:
            loop.call_soon(self._renew, loop)
        self._left -= 1

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._steps
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # its check may have been cancelled
                self._spend(loop)
                turn.set_result(None)
