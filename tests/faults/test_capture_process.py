"""`asynclb capture` against a real process: a rule that is a next hop, from the command to what tcpdump reads."""

import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from asynclb.errors import HostError
from asynclb.lab import Lab, require_root, require_tools
from tests.netns.kernel_site import needs_kernel
from tests.netns.spokes import Spokes, Talks

pytestmark = pytest.mark.netns

ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}
CONFIG = """
version: 1
datapath: {datapath}
shutdown_drain: 0s
hash_seed: "7"
frontends:
  one: {{address: 10.0.0.200, interface: end1, routed: true}}
  two: {{address: 10.0.0.201, interface: end2, routed: true}}
backend_pools:
  nva: {{members: [{{name: nva1, address: 10.0.0.11}}, {{name: nva2, address: 10.0.0.12}}]}}
rules:
  - {{name: one, frontend: one, protocol: all, frontend_port: 0, backend_port: 0, backend_pool: nva}}
  - {{name: two, frontend: two, protocol: all, frontend_port: 0, backend_port: 0, backend_pool: nva}}
"""


@pytest.fixture
async def spokes(request: pytest.FixtureRequest) -> AsyncIterator[Spokes]:
    """Give the test two networks with firewalls in between."""
    try:
        require_root("network namespaces")
        require_tools("ip", "setpriv", "nft", "tcpdump")
    except HostError as error:
        pytest.skip(str(error))
    async with Lab(request.node.name) as lab:
        yield await Spokes.build(lab)


@pytest.mark.parametrize("datapath", ["packet", "kernel"])
async def test_a_next_hops_packets(spokes: Spokes, datapath: str) -> None:
    """The file has a ping's eight frames, from the client over a firewall to the server and back again."""
    if datapath == "kernel":
        needs_kernel()
    hub = spokes.hub
    config, file = hub.write("asynclb.yaml", CONFIG.format(datapath=datapath)), hub.directory / "one.pcapng"
    process = await hub.run(sys.executable, "-m", "asynclb", "run", config, env=ENVIRONMENT)
    await process.wait_for_log("started")
    with ExitStack() as stack:
        talks = Talks(spokes, 4, stack)
        warm = await talks.begin(0, 1)
        assert await talks.all_answered(warm)
        words = ("capture", "one", "-w", file, "--count", "8", "--client", spokes.address(0, 4))
        capture = await hub.run(sys.executable, "-m", "asynclb", *words, env=ENVIRONMENT)
        await capture.ready(lambda: file.exists() and file.stat().st_size > 0, "the file's head")
        (ping,) = [flow for flow in warm if flow.protocol == 1]
        assert await talks.exchange(ping)
        assert await capture.wait() == 0
    said = file.read_bytes()
    for leg in ("from client", "to member", "from member", "to server", "from server", "to client"):
        assert f"rule one: {leg}".encode() in said
    printed = await hub.check_output("tcpdump", "-nr", file)
    assert (printed.count("echo request"), printed.count("echo reply")) == (4, 4)
    assert await process.stop() == 0
