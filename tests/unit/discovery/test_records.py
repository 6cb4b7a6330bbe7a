"""What name servers answer, as members."""

from ipaddress import ip_address

from asynclb.discovery.records import Service, parts_of_addresses, parts_of_services


def test_addresses_are_members_once_in_their_order() -> None:
    """Rotated and repeated answers give the same members, so tables do not move."""
    addresses = [ip_address(text) for text in ("10.0.0.10", "10.0.0.2", "10.0.0.10")]
    parts = parts_of_addresses(addresses)
    assert list(parts) == ["10.0.0.2", "10.0.0.10"]
    assert parts == parts_of_addresses(reversed(addresses))


def test_a_target_with_several_addresses_names_each_by_its_address() -> None:
    """Two members cannot have one name, and each keeps its own when the other goes."""
    addresses = {"web.test": [ip_address("10.0.0.2"), ip_address("10.0.0.1")]}
    parts = parts_of_services([Service(0, 5, 80, "web.test")], addresses)
    assert [part["name"] for part in parts.values()] == ["web.test_10.0.0.1", "web.test_10.0.0.2"]


def test_an_address_behind_two_records_is_one_member_by_the_better_one() -> None:
    """The lower priority number wins, then the larger weight."""
    address = {name: [ip_address("10.0.0.1")] for name in ("a.test", "b.test", "c.test")}
    services = [Service(1, 90, 80, "a.test"), Service(0, 5, 80, "b.test"), Service(0, 7, 80, "c.test")]
    assert list(parts_of_services(services, address).values()) == [
        {"name": "c.test", "address": "10.0.0.1", "weight": 7, "priority": 0}
    ]


def test_large_weights_and_priorities_keep_their_order_and_proportion() -> None:
    """SRV knows 16 bits of each; a weight of 0 is very little there and nothing here."""
    addresses = {f"{name}.test": [ip_address(f"10.0.0.{number}")] for number, name in enumerate("abcd", 1)}
    services = [
        Service(10, 60_000, 80, "a.test"),
        Service(10, 30_000, 80, "b.test"),
        Service(10, 0, 80, "c.test"),
        Service(20, 60, 80, "d.test"),
    ]
    parts = parts_of_services(services, addresses)
    assert [(part["weight"], part["priority"]) for part in parts.values()] == [(1000, 0), (500, 0), (1, 0), (1, 1)]


def test_targets_whose_names_are_none_here_are_called_by_their_address() -> None:
    """A label of more than 80 characters, or one with other characters, is no name of a member."""
    long, odd = "x" * 60 + "." + "y" * 60, "a\\032b.test"
    addresses = {long: [ip_address("fd00::1")], odd: [ip_address("fd00::2")]}
    parts = parts_of_services([Service(0, 1, 80, long), Service(0, 1, 80, odd)], addresses)
    assert [part["name"] for part in parts.values()] == ["fd00--1", "fd00--2"]
