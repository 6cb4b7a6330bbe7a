"""Addresses and prefixes as values."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

PRIVATE_PREFIXES: tuple[Prefix, ...] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"),  # shared address space, RFC 6598
    IPv4Network("169.254.0.0/16"),
    IPv4Network("127.0.0.0/8"),
    IPv6Network("fc00::/7"),
    IPv6Network("fe80::/10"),
    IPv6Network("::1/128"),
)
"""What counts as inside: the sources that an internal frontend accepts by default.

Source: RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291.
"""


def is_private(address: Address) -> bool:
    """Return whether the address lies in one of `PRIVATE_PREFIXES`."""
    return any(address.version == prefix.version and address in prefix for prefix in PRIVATE_PREFIXES)


def endpoint(address: Address | str, port: int) -> str:
    """Write an address and a port as operators do: `192.0.2.1:80`, `[2001:db8::1]:80`."""
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def name_of_address(address: Address) -> str:
    """Return an address as a name: no two addresses have the same one."""
    return str(address).replace(":", "-")
