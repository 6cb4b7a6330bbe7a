"""PROXY protocol version 2: the client's address ahead of the bytes, where it cannot be kept on the wire.

Source: haproxy.org, The PROXY protocol, versions 1 and 2, section 2.2.
"""

import struct

from asynclb.net.flow import Flow

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_2_PROXY = 0x21
_FAMILIES = {(4, 6): 0x11, (4, 17): 0x12, (6, 6): 0x21, (6, 17): 0x22}


def header_v2(flow: Flow) -> bytes:
    """Return the header that tells a member who the client is and which frontend it reached.

    Shape: 28 bytes for IPv4, 52 for IPv6.
    Raises: KeyError -> the flow is neither TCP nor UDP.
    """
    family = _FAMILIES[flow.source.version, flow.protocol]
    addresses = flow.source.packed + flow.destination.packed
    ports = struct.pack("!HH", flow.source_port, flow.destination_port)
    length = len(addresses) + len(ports)
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, family, length) + addresses + ports
