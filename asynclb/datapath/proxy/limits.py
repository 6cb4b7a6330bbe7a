"""What the proxy can carry, by its nature and on this host."""

from asynclb.datapath.base import Refusal
from asynclb.datapath.proxy.sockfilter import MAX_INSTRUCTIONS, allow_program, instructions
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, Row


def static_refusal(row: Row) -> Refusal | None:
    """Return why no proxy on any host can carry the row, or None."""
    if row.key.protocol is Protocol.ALL:
        why = "HA ports need every packet of every protocol, and the proxy has sockets only: TCP and UDP, port by port"
        return Refusal(why, "use datapath `packet` or `kernel`, or one rule per port")
    if row.delivery is Delivery.FLOATING:
        why = "floating IP delivers packets with the frontend's address, and the proxy opens connections of its own"
        return Refusal(why, "set `floating_ip: false`, or use datapath `packet` or `kernel`")
    if row.delivery is Delivery.ROUTED:
        why = "a routed frontend passes packets to other addresses on, and the proxy terminates flows"
        return Refusal(why, "set `routed: false`, or use datapath `packet` or `kernel`")
    program = allow_program(row.frontend.allow, row.key.address.version)
    if program is not None and instructions(program) > MAX_INSTRUCTIONS:
        why = (
            f"frontend {row.frontend.name!r} allows {len(row.frontend.allow)} prefixes, {instructions(program)} filter "
            f"instructions; a socket takes {MAX_INSTRUCTIONS}"
        )
        return Refusal(why, "merge prefixes; about 1,000 IPv4 or 300 IPv6 prefixes fit")
    return None


def host_refusal(row: Row, *, transparent: bool) -> Refusal | None:
    """Return why this host's proxy cannot carry the row although a proxy could, or None."""
    if row.rule.transparent and not transparent:
        why = "`transparent: true` speaks with the client's address, which needs CAP_NET_ADMIN"
        remedy = (
            "run as root or with that capability (systemd: AmbientCapabilities=CAP_NET_ADMIN; docker: --cap-add "
            "NET_ADMIN), or set `transparent: false`: members then see this host's address (`proxy_protocol: v2` tells "
            "them the client's)"
        )
        return Refusal(why, remedy)
    return None
