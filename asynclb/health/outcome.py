"""The outcome of one check, as a value: what a member's silence, refusal or answer says of its health.

Whatever a member or the network can do is an `Outcome`, never an exception. Three of the four kinds are
about the member; `ERROR` is about this host (no descriptor, no local port), and says nothing of the member.
"""

import errno
import os
from dataclasses import dataclass
from enum import StrEnum

from asynclb.model import Reason


class OutcomeKind(StrEnum):
    """How a check ended; also the `result` label of `asynclb_probe_results_total`."""

    SUCCESS = "success"
    FAILURE = "failure"
    """The member refused, reset, or gave the wrong answer."""
    TIMEOUT = "timeout"
    """The member was silent for the probe's timeout."""
    ERROR = "error"
    """This host could not make the check."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one check.

    `decisive` outcomes flip the state at once, others count towards `rise` and `fall`. `detail` is for people and is
    the same text for the same cause, so that a steady state leaves the health snapshot untouched.
    """

    kind: OutcomeKind
    reason: Reason
    detail: str = ""
    decisive: bool = False


_OUR_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN})
"""Out of descriptors, memory or ephemeral ports: marking every member down for it would turn a limit into an outage."""

_REFUSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN})


def failure(reason: Reason, detail: str, *, decisive: bool = False) -> Outcome:
    """Return a failed check."""
    return Outcome(OutcomeKind.FAILURE, reason, detail, decisive)


def timeout(reason: Reason, detail: str) -> Outcome:
    """Return a check that met only silence."""
    return Outcome(OutcomeKind.TIMEOUT, reason, detail)


def from_os_error(error: OSError, where: str, refused: Reason, silent: Reason) -> Outcome:
    """Say what the kernel's answer about `where` means.

    `refused` is the reason for an RST or a port unreachable, `silent` for the kernel's own timeout.
    """
    text = os.strerror(error.errno).lower() if error.errno else str(error) or type(error).__name__
    if error.errno in _OUR_FAULT:
        return Outcome(OutcomeKind.ERROR, Reason.NA, f"{where}: the check could not be made: {text}")
    if error.errno == errno.ETIMEDOUT:
        return timeout(silent, f"{where}: {text}")
    if error.errno in _REFUSED:
        return failure(refused, f"{where}: {text}")
    return failure(Reason.DOWN_PROBE_UNREACHABLE, f"{where}: {text}")
