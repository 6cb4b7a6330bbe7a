"""What a frame says of its ends. Pure: a look at the headers that is never wrong about which bytes are there."""

from ipaddress import ip_address

from asynclb.net.flow import Flow

_VLAN_TYPES = (b"\x81\x00", b"\x88\xa8")
_PORTS = (6, 17, 132)


def ends_of(frame: bytes) -> Flow | None:
    """Return the flow that a frame is of, as it goes; None for what is neither IPv4 nor IPv6. Ports are 0 without any.

    Later fragments have no ports, and extension headers are not looked behind.
    """
    at = 12
    while frame[at : at + 2] in _VLAN_TYPES:
        at += 4
    kind, at = frame[at : at + 2], at + 2
    if kind == b"\x08\x00" and len(frame) >= at + 20:
        protocol, source, destination = frame[at + 9], frame[at + 12 : at + 16], frame[at + 16 : at + 20]
        body = at + 4 * (frame[at] & 15)
        later = int.from_bytes(frame[at + 6 : at + 8], "big") & 0x1FFF
    elif kind == b"\x86\xdd" and len(frame) >= at + 40:
        protocol, source, destination = frame[at + 6], frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        body, later = at + 40, 0
    else:
        return None
    ports = frame[body : body + 4] if protocol in _PORTS and not later else b""
    ports = ports if len(ports) == 4 else bytes(4)
    first, last = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
    return Flow(ip_address(source), first, ip_address(destination), last, protocol)
