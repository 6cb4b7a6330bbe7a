"""What datapaths that work on frames can carry, by their nature."""

from collections.abc import Callable, Collection, Iterable

from asynclb.datapath.base import Refusal
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.errors import Problem
from asynclb.model import ProxyProtocol
from asynclb.net.address import Address
from asynclb.tables.row import Delivery, Row
from asynclb.tables.snat import SnatRule

CLASH_CODE = "RulesOfSameLoadBalancerTypeUseSameBackendPortProtocolAndIPConfig"
"""Azure's name for it. Source: the common deployment errors of Azure Load Balancer."""

MAX_INTERFACES = CONSTANTS["EGRESSES"] - 1
"""One place is the host's routing's."""


def static_refusal(row: Row) -> Refusal | None:
    """Return why no packet datapath on any host can carry the row, or None."""
    if row.rule.proxy_protocol is not ProxyProtocol.NONE:
        why = "`proxy_protocol` puts bytes into the stream, and packets are passed on as they are"
        return Refusal(why, "set `proxy_protocol: none`: members see the client's address; or use `datapath: proxy`")
    if not row.rule.transparent:
        why = "`transparent: false` speaks with this host's address, and packets keep the client's"
        return Refusal(why, "set `transparent: true`, or `datapath: proxy`")
    return None


def outbound_refusal(_rule: SnatRule) -> Refusal | None:
    """Return why no packet datapath on any host can carry an outbound rule: it can."""
    return None


def too_many_interfaces(count: int) -> tuple[Problem, ...]:
    """Return a problem if the core cannot send by so many interfaces."""
    if count <= MAX_INTERFACES:
        return ()
    rule = f"the packet datapath takes in every Ethernet interface that is up, and has room for {MAX_INTERFACES}"
    remedy = (
        "run it in a network namespace that has only the balancer's, set down what is not used, or use another datapath"
    )
    return (Problem(("interfaces",), f"{count} interfaces", rule, remedy),)


def own_sources(rules: Iterable[SnatRule], own: Collection[Address]) -> tuple[Problem, ...]:
    """Return a problem for each outbound rule that uses an address of the host itself.

    The host's own connections leave from there, and its stack would reset what comes back to the members.
    """
    remedy = "remove the address from the host's interface: the balancer answers for it; or use another frontend"
    return tuple(
        Problem(("rules", rule.name), str(address), "an outbound rule cannot use an address of the host itself", remedy)
        for rule in rules
        for address in rule.sources
        if address in own
    )


def clash_judge() -> Callable[[Row], Refusal | None]:
    """Return a judge that is shown rows one after the other, and refuses those that `clashes` would tell of.

    What it refused does not count for the rows after it.
    """
    taken: dict[tuple[Address, str, int], Row] = {}

    def judge(row: Row) -> Refusal | None:
        sources = _sources(row)
        for address in sources:
            first = taken.get((address, str(row.key.protocol), row.member_port), row)
            if first is not row:
                problem = _clash(row, first, address)
                return Refusal(problem.rule, problem.remedy)
        taken.update(((address, str(row.key.protocol), row.member_port), row) for address in sources)
        return None

    return judge


def clashes(rows: Iterable[Row]) -> tuple[Problem, ...]:
    """Return a problem for every rule whose replies come from where another rule's come from already.

    A reply says only which address and port it comes from; with two rules behind them nobody could tell which frontend
    it belongs to. Frontends that lead to one member need floating IP, or ports of their own.
    """
    taken: dict[tuple[Address, str, int], Row] = {}
    problems: dict[str, Problem] = {}
    for row in rows:
        for address in _sources(row):
            first = taken.setdefault((address, str(row.key.protocol), row.member_port), row)
            if first is not row and row.rule.name not in problems:
                problems[row.rule.name] = _clash(row, first, address)
    return tuple(problems.values())


def _sources(row: Row) -> tuple[Address, ...]:
    """Return where a row's replies come from; the VIP also where its port is kept: another's may be changed to it."""
    return (row.key.address,) if row.delivery is Delivery.FLOATING else row.answers_from


def _clash(row: Row, first: Row, address: Address) -> Problem:
    port, remedy = row.member_port or "any", "give one of them another `backend_port`"
    if row.delivery is Delivery.FLOATING:
        what = f"has members answer from {address} on port {port}"
    else:
        member = next(member.name for member in row.pool.members if member.address == address)
        what = f"delivers to member {member!r} on port {port}"
        remedy += ", set `floating_ip: true`, or use `datapath: proxy`"
    rule = f"{what}, as rule {first.rule.name!r} does, and replies could not be told apart"
    return Problem(("rules", row.rule.name), row.rule.name, rule, remedy, code=CLASH_CODE)
