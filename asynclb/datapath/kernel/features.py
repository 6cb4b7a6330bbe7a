"""What the kernel says of each device and XDP, by generic netlink (Linux 6.3 or later; before that, nothing).

Source: Documentation/netlink/specs/netdev.yaml; linux/netdev.h; linux/genetlink.h.
"""

import struct
from dataclasses import dataclass

from asynclb.datapath.frames.netlink import asked, attribute, attributes, dumped, open_netlink

_GENERIC = 16  # NETLINK_GENERIC
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_DEVICE_GET, _DEVICE_INDEX, _DEVICE_FEATURES = 1, 1, 3
_BASIC, _REDIRECT, _TRANSMIT = 1, 2, 4
_HEAD = struct.Struct("=BBH")


@dataclass(frozen=True, slots=True)
class XdpFeatures:
    """Interface indexes: whose driver runs programs that redirect, and whose driver frames can be redirected to."""

    native: frozenset[int] = frozenset()
    targets: frozenset[int] = frozenset()


def xdp_features() -> XdpFeatures:
    """Ask for every device of the calling thread's network namespace; nothing where the kernel cannot say."""
    with open_netlink(_GENERIC) as sock:
        try:
            asked_for = _HEAD.pack(_GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, b"netdev\0")
            found = asked(sock, _CONTROL, asked_for)
            if found is None:
                return XdpFeatures()
            family = int.from_bytes(_attributes(found)[_FAMILY_ID], "little")
            devices = [_attributes(body) for body in dumped(sock, family, _HEAD.pack(_DEVICE_GET, 1, 0))]
        except (OSError, KeyError):
            return XdpFeatures()
    said = {
        int.from_bytes(device[_DEVICE_INDEX], "little"): int.from_bytes(device[_DEVICE_FEATURES], "little")
        for device in devices
        if _DEVICE_INDEX in device and _DEVICE_FEATURES in device
    }
    both = _BASIC | _REDIRECT
    return XdpFeatures(
        frozenset(index for index, bits in said.items() if bits & both == both),
        frozenset(index for index, bits in said.items() if bits & _TRANSMIT),
    )


def _attributes(body: bytes) -> dict[int, bytes]:
    return attributes(body[_HEAD.size :])
