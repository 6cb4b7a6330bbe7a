"""Forwarding without the process: killed, left, taken over, replaced by another version, removed.

A real `asynclb run` in the balancer's host of a lab; the clients and members are sockets of real hosts.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from asynclb.datapath.kernel.bpffs import USUAL, find_bpffs
from asynclb.datapath.kernel.leftovers import CONTROL
from asynclb.datapath.kernel.pins import HOME, Pins, namespace_cookie
from asynclb.datapath.kernel.programs import last_generation
from asynclb.datapath.kernel.remembered import Remembered, remember
from asynclb.errors import HostError
from asynclb.lab import PATIENCE_S, STANDARD, VIP4, Host, Lab, Process, Site, require_root, require_tools
from asynclb.native.libbpf import Libbpf
from tests.netns.kernel_site import directory_of, needs_kernel, pins_of
from tests.netns.proxy_site import Members, address_of, greet, serves
from tests.unit.proxy.wire import Wire, connect

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
DYING = Path(__file__).with_name("dying.py")
KERNEL = "asynclb.datapath.kernel"
DEATHS = (
    (f"{KERNEL}.forwarding:Forwarding._pin_tails", 1),
    (f"{KERNEL}.attach:Attachments.switch", 1),
    (f"{KERNEL}.attach:Attachments._replace", 2),
    (f"{KERNEL}.forwarding:Forwarding._pin", 1),
    (f"{KERNEL}.forwarding:Forwarding._let_go", 1),
    (f"{KERNEL}.forwarding:Forwarding._keep_tails", 1),
)
"""Where a process may die while its programs take the places of another one's."""
CONFIG = """
version: 1
datapath: kernel
on_stop: {on_stop}
shutdown_drain: {drain}
hash_seed: "7"
frontends: {{web: {{address: 203.0.113.10, allow: [10.0.0.0/8]}}}}
backend_pools: {{web: {{members: [{members}], drain_period: {drain_period}}}}}
rules:
  - {{name: web, frontend: web, protocol: tcp, frontend_port: 80, backend_port: 8080, backend_pool: web}}
"""


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Give the test the standard lab."""
    try:
        require_root("network namespaces")
        require_tools("ip", "setpriv", "bpftool")
    except HostError as error:
        pytest.skip(str(error))
    needs_kernel()
    async with Lab(request.node.name) as lab:
        yield await STANDARD.build(lab)


def config(
    site: Site,
    *,
    on_stop: str = "drain",
    drain: str = "0s",
    drain_period: str = "300s",
    hosts: Sequence[Host] | None = None,
) -> Path:
    """Write the configuration of one rule, whose members are all hosts if nobody says otherwise."""
    found = site.members if hosts is None else hosts
    names = ", ".join(f"{{name: {host.name}, address: {address_of(host)}}}" for host in found)
    text = CONFIG.format(members=names, on_stop=on_stop, drain=drain, drain_period=drain_period)
    return site.lb.write("asynclb.yaml", text)


async def start(site: Site, path: Path, *before: str) -> Process:
    """Run the balancer, and return when it serves."""
    process = await site.lb.run(*before, sys.executable, "-m", "asynclb", "run", path, env={"PYTHONPATH": str(ROOT)})
    await process.wait_for_log("started")
    return process


async def cli(site: Site, command: str) -> str:
    """Run a command of the command line in the balancer's host, and return what it says."""
    words = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "asynclb", command)
    return await site.lb.check_output(*words)


class Requests:
    """Clients that connect, ask, are answered and leave, without a pause. Owner: a test."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._members = Members(site)
        self.served = 0
        self.failed: list[str] = []
        self._done = False
        self._clients = [asyncio.create_task(self._ask(client)) for client in site.clients for _ in range(2)]
        self._serving = asyncio.create_task(self._serve())

    async def more(self, number: int = 50) -> None:
        """Return when so many more were served."""
        wanted = self.served + number
        async with asyncio.timeout(PATIENCE_S):
            while self.served < wanted:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Let every request that was begun come to its end."""
        self._done = True
        await asyncio.wait(self._clients, timeout=PATIENCE_S)
        self._serving.cancel()
        with suppress(asyncio.CancelledError):
            await self._serving
        self._members.close()

    async def _ask(self, client: Host) -> None:
        while not self._done:
            try:
                with await connect(VIP4, 80, host=client, wait_s=5) as wire:
                    async with asyncio.timeout(5):
                        await wire.send(b"?")
                        assert await wire.exactly(1) == b"!"
                    self.served += 1
            except (OSError, AssertionError) as error:
                self.failed.append(repr(error))

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._answer(await self._members.accept()))

    async def _answer(self, wire: Wire) -> None:
        with wire, suppress(OSError, AssertionError):
            if await wire.exactly(1) == b"?":
                await wire.send(b"!")


async def test_killed_under_load_and_started_again(site: Site) -> None:
    """Neither kill -9 nor what is started afterwards costs a request, and open connections notice nothing."""
    path = config(site)
    process = await start(site, path)
    load = Requests(site)
    await load.more()
    await process.kill()
    await load.more()
    process = await start(site, path)
    await load.more()
    await process.kill()
    process = await start(site, path)
    await load.more()
    await load.stop()
    assert load.failed == []
    assert "datapath_adopted" in process.stdout
    assert await process.stop() == 0
    assert pins_of(site.lb) == []


async def test_killed_while_programs_are_replaced(site: Site) -> None:
    """Wherever in it a process dies, interfaces have whole programs, of whichever process: new connections go on."""
    path = config(site)
    process = await start(site, path)
    load = Requests(site)
    await load.more()
    await process.kill()
    for place, call in DEATHS:
        assert await killed_at(site, path, place, call) == -signal.SIGKILL, place
        await load.more(30)
        assert load.failed == [], place
    process = await start(site, path)
    await load.more()
    await load.stop()
    assert load.failed == []
    assert len([name for name in pins_of(site.lb) if name.startswith("tails-")]) == 1
    assert await process.stop() == 0
    assert pins_of(site.lb) == []


async def test_killed_when_programs_are_replaced(site: Site) -> None:
    """Who dies then leaves the generation that forwards for the next one, to whom its flows must not look current."""
    path = config(site)
    process = await start(site, path)
    await process.kill()
    before = generation_of(site)
    assert await killed_at(site, path, f"{KERNEL}.forwarding:Forwarding._keep_tails") == -signal.SIGKILL
    assert generation_of(site) > before
    process = await start(site, path)
    assert await process.stop() == 0


async def test_killed_before_it_forwards(site: Site) -> None:
    """Programs that never got to an interface hold no memory once a process finds that there is nothing to do."""
    path = config(site)
    assert await killed_at(site, path, f"{KERNEL}.attach:Attachments.widen") == -signal.SIGKILL
    assert [name for name in pins_of(site.lb) if name.startswith("tails-")]
    path.write_text("version: 1\ndatapath: kernel\n")
    process = await start(site, path)
    assert pins_of(site.lb) == []
    assert await process.stop() == 0


async def killed_at(site: Site, path: Path, place: str, call: int = 1) -> int:
    """Run the balancer until it is about to make a call, and return how it ended."""
    words = (sys.executable, DYING, place, str(call), "run", path)
    return await (await site.lb.run(*words, env={"PYTHONPATH": str(ROOT)})).wait()


def generation_of(site: Site) -> int:
    """Return the generation that the next process goes on from."""
    with site.lb.entered():
        bpf, cookie = Libbpf(), namespace_cookie()
        control = Pins(bpf, find_bpffs(f"{HOME}/{cookie}"), cookie).open(CONTROL)
    try:
        return last_generation(bpf, control)
    finally:
        os.close(control)


async def test_a_connection_outlives_two_processes(site: Site) -> None:
    """Both ends go on while nobody runs and with the next process, which knows the flow and what it counted."""
    path = config(site)
    process = await start(site, path)
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await greet(client, accepted)
            await process.kill()
            await greet(client, accepted)
            process = await start(site, path)
            await greet(client, accepted)
            async with members.joined(site.clients[1], VIP4) as (other, taken):
                await greet(other, taken)
            await asyncio.sleep(0.6)  # one sweep
            rules = await site.lb.check_output("curl", "-s", "http://127.0.0.1:9180/metrics")
    assert 'asynclb_rule_new_flows_total{rule="web"} 2' in rules
    assert 'asynclb_rule_flows{rule="web"} 2' in rules
    assert await process.stop() == 0


async def test_killed_while_tc_stands_in_for_xdp() -> None:
    """Who is killed in the midst of a capture leaves both ways; frames go on, and the next process is XDP's again."""
    try:
        require_root("network namespaces")
    except HostError as error:
        pytest.skip(str(error))
    needs_kernel()
    async with Lab("killed-watched", offload=False) as lab:
        site = await STANDARD.build(lab)
        path = config(site)
        path.write_text(f"{path.read_text()}interfaces: {{front: {{attach: xdp}}, back: {{attach: xdp}}}}\n")
        process = await start(site, path)
        with Members(site) as members:
            async with members.joined(site.clients[0], VIP4) as (client, accepted):
                await greet(client, accepted)
                words = (sys.executable, "-m", "asynclb", "capture", "web", "-w", site.lb.directory / "web.pcapng")
                capture = await site.lb.run(*words, env={"PYTHONPATH": str(ROOT)})
                await capture.ready(lambda: len(links_of(site)) == 4, "tc beside XDP on both interfaces")
                await greet(client, accepted)
                await process.kill()
                assert len(links_of(site)) == 4
                await greet(client, accepted)
                async with members.joined(site.clients[1], VIP4) as (other, taken):
                    await greet(other, taken)
                process = await start(site, path)
                assert {name.split("-", 2)[2] for name in links_of(site)} <= {"xdp", "xdp-generic"}
                await greet(client, accepted)
        assert await process.stop() == 0
        assert pins_of(site.lb) == []


def links_of(site: Site) -> list[str]:
    """Return the pins of what is attached to interfaces."""
    return [name for name in pins_of(site.lb) if name.startswith("link-")]


async def test_another_configuration_while_nobody_ran(site: Site) -> None:
    """What changed meanwhile takes effect at the start: new flows go to members that are still there."""
    process = await start(site, config(site))
    await process.kill()
    process = await start(site, config(site, hosts=site.members[:1]))
    with Members(site) as members:
        for _ in range(6):
            async with members.joined(site.clients[0], VIP4) as (_, accepted):
                assert accepted.name[0] == address_of(site.members[0])
    assert await process.stop() == 0


async def test_a_member_removed_while_nobody_ran(site: Site) -> None:
    """Its connections have the drain period from the start on, then both ends are reset; what it counted is kept."""
    process = await start(site, config(site, drain_period="4s"))
    async with AsyncExitStack() as stack:
        members = stack.enter_context(Members(site))
        pairs = [await stack.enter_async_context(members.joined(site.clients[0], VIP4)) for _ in range(6)]
        gone = next(host for host in site.members if address_of(host) == pairs[0][1].name[0])
        await process.kill()
        stay = [host for host in site.members if host is not gone]
        process = await start(site, config(site, drain_period="4s", hosts=stay))
        for client, accepted in pairs:
            await greet(client, accepted)
        for client, accepted in pairs:
            if accepted.name[0] == address_of(gone):
                await asyncio.gather(client.expect_reset(), accepted.expect_reset())
            else:
                await greet(client, accepted)
        await process.wait_for_log("connections_reset")
        metrics = await site.lb.check_output("curl", "-s", "http://127.0.0.1:9180/metrics")
    assert 'asynclb_rule_new_flows_total{rule="web"} 6' in metrics
    assert await process.stop() == 0


async def test_killed_while_a_member_leaves(site: Site) -> None:
    """The drain period that was running goes on with the next process, from where it was."""
    process = await start(site, config(site, drain_period="6s"))
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            stay = [host for host in site.members if address_of(host) != accepted.name[0]]
            path = config(site, drain_period="6s", hosts=stay)
            await process.wait_for_log('"trigger": "watch"')
            began = asyncio.get_running_loop().time()
            await process.kill()
            process = await start(site, path)
            await greet(client, accepted)
            await asyncio.gather(client.expect_reset(), accepted.expect_reset())
            assert 3 < asyncio.get_running_loop().time() - began < 9
    assert await process.stop() == 0


async def test_left_behind_on_purpose(site: Site) -> None:
    """`on_stop: leave` keeps forwarding after SIGTERM; `asynclb detach` ends it and leaves nothing."""
    process = await start(site, config(site, on_stop="leave"))
    assert await process.stop() == 0
    assert "datapath_left" in process.stdout
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await greet(client, accepted)
        assert "removed" in await cli(site, "detach")
        assert pins_of(site.lb) == []
        with pytest.raises((TimeoutError, OSError)):
            await connect(VIP4, 80, host=site.clients[0], wait_s=0.3)
    assert "asynclb" not in await site.lb.check_output("bpftool", "net", "show")
    assert "nothing is attached here" in await cli(site, "detach")


async def test_detaching_from_a_running_instance(site: Site) -> None:
    """It is refused, and the instance goes on."""
    process = await start(site, config(site))
    words = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "asynclb", "detach")
    refused = await site.lb.run(*words)
    assert await refused.wait() == 1
    assert "another asynclb uses the datapath `kernel`" in refused.stderr
    await serves(site)
    assert await process.stop() == 0


async def test_pins_of_another_version(site: Site) -> None:
    """Maps of another layout are not used: fresh ones take their place, and requests go on meanwhile."""
    path = config(site)
    process = await start(site, path)
    load = Requests(site)
    await load.more()
    await process.kill()
    with site.lb.entered():
        _forget_layout()
    process = await start(site, path)
    await load.more()
    await load.stop()
    assert len(load.failed) <= 4  # connections that were open at that moment may have met another member
    assert await process.stop() == 0
    assert pins_of(site.lb) == []


@pytest.mark.parametrize("forwards", [True, False])
async def test_what_a_dead_namespace_left(site: Site, forwards: bool) -> None:
    """The pins of a killed instance whose namespace is gone are removed by whoever starts next, wherever."""
    async with Lab("gone") as lab:
        gone = await STANDARD.build(lab)
        if forwards:
            process = await start(gone, config(gone))
            await process.kill()
        else:
            await killed_at(gone, config(gone), f"{KERNEL}.attach:Attachments.widen")
        with gone.lb.entered():
            left = directory_of(namespace_cookie())
        assert left.is_dir()
    process = await start(site, config(site))
    assert not left.exists()
    assert pins_of(site.lb)
    assert await process.stop() == 0


def _forget_layout() -> None:
    """Make the pins look as if another version had written them."""
    bpf, cookie = Libbpf(), namespace_cookie()
    os.close(remember(bpf, Pins(bpf, find_bpffs(f"{HOME}/{cookie}"), cookie), Remembered(1)))


def another_user(site: Site, *capabilities: str) -> tuple[Path, tuple[str, ...]]:
    """Return a configuration that nobody may read, and the words that make a program his, with these capabilities."""
    state, path = site.lb.directory / "state", config(site)
    state.mkdir()
    for readable in (site.lb.directory, path):
        readable.chmod(0o755)
    state.chmod(0o777)
    held = ",".join(f"+{capability}" for capability in capabilities) or "-all"
    words = ("--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={held}", f"--ambient-caps={held}")
    return path, ("env", f"XDG_STATE_HOME={state}", f"STATE_DIRECTORY={state}", "setpriv", *words)


async def test_without_root(site: Site) -> None:
    """With capabilities alone another user carries traffic, and is told what a bpffs would add."""
    path, words = another_user(site, "bpf", "perfmon", "net_admin", "net_raw")
    process = await start(site, path, *words)
    assert "bpffs that this user may write to" in process.stdout
    await serves(site)
    assert await process.stop() == 0


async def test_with_two_capabilities(site: Site) -> None:
    """CAP_BPF and CAP_NET_ADMIN are enough for another user to carry traffic."""
    path, words = another_user(site, "bpf", "net_admin")
    process = await start(site, path, *words)
    assert "CAP_NET_RAW" in process.stdout
    await serves(site)
    assert await process.stop() == 0


async def test_another_users_pins(site: Site) -> None:
    """Where a bpffs may be written to by that user, what it forwards outlives it, with the two capabilities too."""
    path, words = another_user(site, "bpf", "net_admin")
    mount = f'mount -t bpf -o mode=0777 bpf {USUAL} && exec "$@"'
    process = await start(site, path, "unshare", "--mount", "sh", "-c", mount, "sh", *words)
    assert "bpffs that this user may write to" not in process.stdout
    await serves(site)
    with site.lb.entered():
        pins = Path(f"/proc/{process.pid}/root{USUAL}", HOME, str(namespace_cookie()))
    assert {"map-flows4", "program-tc"} <= {path.name for path in pins.iterdir()}
    assert await process.stop() == 0


async def test_without_the_capability(site: Site) -> None:
    """Without CAP_BPF the rule is refused at the start, with the capability's name."""
    words = ("--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin")
    process = await site.lb.run(
        *("setpriv", *words, sys.executable, "-m", "asynclb", "run", config(site)), env={"PYTHONPATH": str(ROOT)}
    )
    assert await process.wait() == 1
    assert "CAP_BPF" in process.stderr
