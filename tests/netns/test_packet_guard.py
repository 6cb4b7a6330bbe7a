"""The guard of the AF_PACKET datapath: the kernel's own parser accepts its text."""

import pytest

from asynclb.datapath.nft import Nftables
from asynclb.datapath.packet.guard import guarded
from asynclb.datapath.packet.ruleset import NO_TABLE, TABLE, ruleset, watches_egress
from asynclb.lab import Lab
from asynclb.lab.tools import find_tool
from asynclb.tables.row import Row
from tests.unit.packet.test_guard import DEVICES, OWN, ROWS


@pytest.mark.skipif(find_tool("nft") is None, reason="nft is not installed")
@pytest.mark.parametrize("rows", [ROWS, ()], ids=["rules", "none"])
async def test_the_kernel_accepts_it(lab: Lab, rows: tuple[Row, ...]) -> None:
    """Each form replaces each other one in one transaction, and what was seen of flows outlasts that."""
    found = guarded(rows, DEVICES, OWN)
    host, other = lab.host("host"), lab.host("front")
    lab.link(host, "10.0.1.1/24", other, "10.0.1.2/24")
    back = lab.host("back")
    lab.link(host, "10.0.2.1/24", back, "10.0.2.2/24")
    await lab.up()
    for text in (ruleset(found), ruleset(found), ruleset(found, egress=False), ruleset(found)):
        await host.check_output("nft", text)
    element = f"{TABLE} direct4 {{ 10.0.2.11 . 10.0.1.2 . tcp . 8080 . 40000 }}"
    await host.check_output("nft", f"add element netdev {element}")
    await host.check_output("nft", ruleset(guarded(rows[:1], DEVICES[:1], OWN)))
    await host.check_output("nft", f"get element netdev {element}")
    with host.entered():
        assert watches_egress(Nftables())
    await host.check_output("nft", NO_TABLE)
    assert await host.check_output("nft", "list", "ruleset") == ""
