"""What the service manager is told: ready, reloading, stopping, a line of status, and that the event loop turns.

    NOTIFY_SOCKET, WATCHDOG_USEC  -->  ServiceManager  -->  datagrams of NAME=value lines

Laws:
  1. Where no manager asks for it (a terminal, most containers) nothing is sent and nothing runs.
  2. Signs of life come from the event loop itself, and stop while the controller is stuck: a loop that is held sends
     none either, and the manager starts the process anew. `/healthz` judges by the same limit.
  3. Nobody waits for the manager: what it does not take at once is lost. The first loss is told.
  4. Children inherit none of it.

Source: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5).
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from asynclb.control.status import STUCK_S, Status
from asynclb.events import Emit, Event

STATUS_PERIOD_S = 5.0  # as fresh as a person at `systemctl status` needs it
SIGNS_PER_LIMIT = 3  # two may be late or lost before the manager acts
NAMED = 5  # rules in a line of status
STOP_MARGIN_S = 15.0  # beyond the drain period: resets, and undoing what was set up in the kernel


class ServiceManager:
    """Tells whoever started the process how it is. Owner: the instance."""

    def __init__(self, address: str, limit_s: float | None, emit: Emit) -> None:
        """`address` is a path, or `@name` for an abstract one; '' for nobody. `limit_s`: the longest silence."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._limit_s = limit_s
        self._emit = emit
        self._status = ""
        self._complained = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], emit: Emit) -> "ServiceManager":
        """Take what the manager asks for out of the environment."""
        address = environ.pop("NOTIFY_SOCKET", "")
        limit, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        limit_s = int(limit) / 1e6 if limit.isdecimal() and int(limit) and whose in ("", str(os.getpid())) else None
        return cls(address, limit_s, emit)

    def ready(self, status: str) -> None:
        """Say that new flows are welcome, for the first time or again after a reload."""
        self._tell("READY=1", *self._changed(status))

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends that, whatever came of it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, drain_s: float) -> None:
        """Say that the end has begun, and how long it may take: longer than managers wait if nobody tells them."""
        patience_s = drain_s + STOP_MARGIN_S
        status = f"stopping: open flows have {drain_s:g} s"
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(patience_s * 1e6)}", *self._changed(status))

    async def run(self, look: Callable[[], Status]) -> None:
        """Keep the status fresh and send signs of life, until cancelled."""
        if not self._address:
            return
        period_s = min(STATUS_PERIOD_S, (self._limit_s or STATUS_PERIOD_S) / SIGNS_PER_LIMIT)
        while True:
            self.sign(look())
            await asyncio.sleep(period_s)

    def sign(self, status: Status) -> None:
        """Send what is due now."""
        alive = ("WATCHDOG=1",) if self._limit_s is not None and status.busy_s <= STUCK_S else ()
        lines = (*alive, *self._changed(status_line(status)))
        if lines:
            self._tell(*lines)

    def _changed(self, status: str) -> tuple[str, ...]:
        if status == self._status:
            return ()
        self._status = status
        return (f"STATUS={status}",)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            self._emit(
                Event.HOST_LIMIT,
                what="the service manager does not hear this process and may end it",
                value=f"NOTIFY_SOCKET={self._address.replace(chr(0), '@')}: {error.strerror or error}",
                remedy="start it with Type=notify, or without NOTIFY_SOCKET in its environment",
            )


def status_line(status: Status) -> str:
    """Return how the process is in one line, what is wrong first."""
    if status.busy_s > STUCK_S:
        return f"the controller is busy since {status.busy_s:.0f} s"
    refused = status.last_reload is not None and status.last_reload.result == "refused"
    aside = "; the last reload was refused" if refused else ""
    number = len(status.rule_states)
    without = sorted(name for name, state in status.rule_states.items() if state in ("silent", "all_down"))
    if without:
        names = ", ".join((*without[:NAMED], "...") if len(without) > NAMED else without)
        return f"{len(without)} of {number} rules without a healthy member: {names}{aside}"
    return f"generation {status.generation}: {number} rule{'' if number == 1 else 's'}{aside}"
