"""What every probe kind is: one way to ask a member whether it is healthy."""

from typing import Protocol

from asynclb.health.outcome import Outcome
from asynclb.health.sockets import Sockets
from asynclb.model import Probe
from asynclb.net.address import Address


class ProbeKind(Protocol):
    """Makes single checks; keeps no state about members, so checks of many members run side by side."""

    async def check(self, address: Address, probe: Probe, sockets: Sockets) -> Outcome:
        """Ask the member at `address` once and return within the probe's timeout.

        Whatever the member and the network do is an outcome; an exception is a bug and ends the prober.
        Cancel: no socket stays open but those handed to `sockets.retire`.
        """
