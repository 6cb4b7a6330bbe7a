"""Members of a source, behind datapaths that forward packets: told of they serve, taken back they do not."""

import asyncio
from collections.abc import Sequence

import pytest

from asynclb.lab.lab import Lab
from asynclb.lab.stage import VIP_PORT, Stage
from asynclb.lab.topology import STANDARD, VIP4, client_addresses

NAMES = ("web-1", "web-2", "web-3")
VISITS = 48  # of a Maglev table over two or three members: none stays without, but once in 10^8 runs


class Told(Stage):
    """The demo's stage, on one datapath, with a pool whose members a file tells of."""

    datapath = "auto"

    def tell(self, names: Sequence[str]) -> str:
        """Say in the source that these are the members; return where it is."""
        lines = [f"- {{name: {name}, address: {self.addresses[name]}}}\n" for name in names]
        return str(self.site.lb.write("members.yaml", "".join(lines)))

    def config_text(self) -> str:
        """Return the configuration."""
        before, _, rest = super().config_text().partition("    members:\n")
        _, probes, after = rest.partition("probes:\n")
        text = f"{before}    members_from: {{file: {self.tell(NAMES[:2])}}}\n{probes}{after}"
        return text.replace("datapath: auto", f"datapath: {self.datapath}")

    async def visits(self) -> list[int]:
        """Make new connections; return how many of them each member had."""
        client, address = self.site.clients[0], client_addresses(1)[0]
        for log in self.logs.values():
            log.read()
        before = [self.logs[name].clients[address] for name in NAMES]
        for _ in range(VISITS):
            await client.check_output("curl", "-sS", "--fail", f"http://{VIP4}:{VIP_PORT}/")
        await asyncio.sleep(0.5)  # nginx writes its log
        for log in self.logs.values():
            log.read()
        return [self.logs[name].clients[address] - count for name, count in zip(NAMES, before, strict=True)]


@pytest.mark.netns
@pytest.mark.parametrize("datapath", ["packet", "kernel"])
async def test_members_of_a_source_come_and_go(datapath: str) -> None:
    """Two members are told of and serve; a third joins them; the first is taken back and has no new connection."""
    async with Lab() as lab:
        stage = Told(await STANDARD.build(lab), dict.fromkeys(NAMES, 1))
        stage.datapath = datapath
        for name in NAMES:
            await stage.start_member(name)
        await stage.start_balancer()
        for told in (NAMES[:2], NAMES, NAMES[1:]):
            stage.tell(told)
            wanted = dict.fromkeys(told, "up")
            state = await stage.until(lambda state, wanted=wanted: state.health == wanted, f"{told} up")
            assert state.datapath.startswith(datapath)
            found = await stage.visits()
            assert [count > 0 for count in found] == [name in told for name in NAMES], found
            assert sum(found) == VISITS
