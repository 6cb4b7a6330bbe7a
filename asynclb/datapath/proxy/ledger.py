"""Counters that only grow, and the frozen snapshots that readers get.

Hot code increments plain attributes of these objects; nothing is summed until somebody asks.
Owner: the datapath. A rule or member that is gone keeps its counters, so that rates stay right.
"""

from asynclb.datapath.base import Counters, MemberCounters, RuleCounters
from asynclb.net.drop import Drop


class Meter:
    """Bytes and packets one way."""

    __slots__ = ("bytes", "packets")

    def __init__(self) -> None:
        self.bytes = 0
        self.packets = 0


class Account:
    """What passed through one rule or one member: from clients, to clients, and flows."""

    __slots__ = ("flows", "inbound", "new_flows", "outbound", "syn")

    def __init__(self) -> None:
        self.inbound = Meter()
        self.outbound = Meter()
        self.new_flows = 0
        self.flows = 0
        self.syn = 0


class Ledger:
    """Every account and the drops by reason."""

    def __init__(self) -> None:
        self._rules: dict[str, Account] = {}
        self._members: dict[tuple[str, str], Account] = {}
        self.drops: dict[Drop, int] = dict.fromkeys(Drop, 0)

    def rule(self, name: str) -> Account:
        """Return the account of a rule, opening it at first use."""
        return self._rules.setdefault(name, Account())

    def member(self, pool: str, name: str) -> Account:
        """Return the account of a pool's member, opening it at first use."""
        account = self._members.get((pool, name))
        if account is None:
            account = self._members[pool, name] = Account()
        return account

    def drop(self, reason: Drop, count: int = 1) -> None:
        """Count something that was not forwarded."""
        self.drops[reason] += count

    def snapshot(self) -> Counters:
        """Return all counters as they are now."""
        return Counters(
            rules={name: _rule_counters(account) for name, account in self._rules.items()},
            members={key: _member_counters(account) for key, account in self._members.items()},
            drops=dict(self.drops),
            flows=sum(account.flows for account in self._rules.values()),
        )


def _rule_counters(account: Account) -> RuleCounters:
    return RuleCounters(
        bytes_in=account.inbound.bytes,
        bytes_out=account.outbound.bytes,
        packets_in=account.inbound.packets,
        packets_out=account.outbound.packets,
        syn=account.syn,
        new_flows=account.new_flows,
        flows=account.flows,
    )


def _member_counters(account: Account) -> MemberCounters:
    return MemberCounters(
        bytes_in=account.inbound.bytes,
        bytes_out=account.outbound.bytes,
        new_flows=account.new_flows,
        flows=account.flows,
    )
