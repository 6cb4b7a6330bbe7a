"""The TCP probe: healthy if the handshake completes; then the connection is ended in order.

The member may send a banner or nothing, and may keep its side open: neither changes the outcome.

Source: Azure Load Balancer, health probes, "TCP probe".
"""

import asyncio

from asynclb.health.outcome import Outcome, OutcomeKind
from asynclb.health.sockets import Sockets
from asynclb.model import Probe, Reason
from asynclb.net.address import Address

_CONNECTED = Outcome(OutcomeKind.SUCCESS, Reason.UP_PROBE_SUCCESS, "connected")


class TcpProbe:
    """Opens and closes a connection.

    Cost: about 100 us of CPU a check, scheduling included; tests/bench/health_bench.py.
    """

    async def check(self, address: Address, probe: Probe, sockets: Sockets) -> Outcome:
        """Connect once."""
        deadline = asyncio.get_running_loop().time() + probe.timeout_s
        connected = await sockets.connect(address, probe, deadline)
        if isinstance(connected, Outcome):
            return connected
        sockets.retire(connected)
        return _CONNECTED
