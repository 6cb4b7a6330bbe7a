"""What the kernel says of each device and XDP, by generic netlink (Linux 6.3 or later; before that, nothing).

Source: Documentation/netlink/specs/netdev.yaml; linux/netdev.h; linux/genetlink.h.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_GENERIC = 16  # NETLINK_GENERIC
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_DEVICE_GET, _DEVICE_INDEX, _DEVICE_FEATURES = 1, 1, 3
_REQUEST, _DUMP = 1, 0x300
_ERROR, _DONE = 2, 3
_BASIC, _REDIRECT, _TRANSMIT = 1, 2, 4
_MESSAGE = struct.Struct("=IHHII")
_GENERIC_HEAD = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class XdpFeatures:
    """Interface indexes: whose driver runs programs that redirect, and whose driver frames can be redirected to."""

    native: frozenset[int] = frozenset()
    targets: frozenset[int] = frozenset()


def xdp_features() -> XdpFeatures:
    """Ask for every device of the calling thread's network namespace; nothing where the kernel cannot say."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as sock:
        sock.settimeout(1.0)
        try:
            found = list(_ask(sock, _CONTROL, _GET_FAMILY, 0, _attribute(_FAMILY_NAME, b"netdev\0")))
            if not found:
                return XdpFeatures()
            family = int.from_bytes(found[0][_FAMILY_ID], "little")
            devices = list(_ask(sock, family, _DEVICE_GET, _DUMP, b""))
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


def _ask(sock: socket.socket, family: int, command: int, flags: int, body: bytes) -> Iterator[dict[int, bytes]]:
    payload = _GENERIC_HEAD.pack(command, 1, 0) + body
    sock.send(_MESSAGE.pack(_MESSAGE.size + len(payload), family, _REQUEST | flags, 1, 0) + payload)
    while True:
        data = sock.recv(1 << 16)
        while data:
            size, kind, _, _, _ = _MESSAGE.unpack_from(data)
            if kind in (_ERROR, _DONE):
                return
            yield _attributes(data[_MESSAGE.size + _GENERIC_HEAD.size : size])
            data = data[-(-size // 4) * 4 :]
        if not flags & _DUMP:
            return


def _attribute(kind: int, value: bytes) -> bytes:
    head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind)
    return head + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : size]
        data = data[-(-size // 4) * 4 :]
    return found
