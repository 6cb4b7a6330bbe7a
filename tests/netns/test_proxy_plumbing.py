"""What the proxy sets up in a host and takes down again, beside others who do the same, and after a violent end."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from asynclb.errors import ApplyError
from asynclb.events import Event
from asynclb.lab import PATIENCE_S, VIP4, VIP6, Host, Process, Site
from asynclb.lab.namespace import ip_batch
from asynclb.lab.topology import ON_LINK_VIP6
from asynclb.net.drop import Drop
from tests.netns.balancer import Balancer, balancer
from tests.netns.proxy_site import Capture, Members, address_of, rule
from tests.unit.proxy.wire import Listener, connect
from tests.unit.proxy.world import local, member, row

CONFIG = """\
version: 1
datapath: proxy
admin: {{listen: 127.0.0.1:9180}}
frontends:
  web: {{address: {vip}, allow: [0.0.0.0/0]}}
  web6: {{address: "{vip6}", allow: ["::/0"]}}
backend_pools:
  web: {{members: [{{name: be1, address: {be1}}}]}}
  web6: {{members: [{{name: be1, address: "{be16}"}}]}}
rules:
  - {{name: web, frontend: web, protocol: tcp, frontend_port: {port}, backend_port: 8080, backend_pool: web}}
  - {{name: web6, frontend: web6, protocol: tcp, frontend_port: {port}, backend_port: 8080, backend_pool: web6}}
"""


@pytest.fixture
async def proxy(site: Site) -> AsyncIterator[Balancer]:
    """Give the test a proxy on the balancer's host."""
    async with balancer(site.lb) as found:
        yield found


async def state_of(host: Host) -> str:
    """Return everything that the proxy might change in a host: rules, routes, addresses, packet filter."""
    commands = [
        "ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all",
        "ip -o addr", "nft list ruleset",
    ]  # fmt: skip
    parts = [await host.check_output("sh", "-c", command) for command in commands]
    return "\n".join(parts)


async def serves(site: Site, vip: str, port: int = 80, *, source_port: int = 0) -> bool:
    """Return whether a client is joined to a member that sees its address."""
    version = 6 if ":" in vip else 4
    source = (address_of(site.clients[0], version), source_port)
    with Members(site, version) as members:
        async with members.joined(site.clients[0], vip, port, source=source) as (client, accepted):
            await client.send(b"x")
            assert await accepted.exactly(1) == b"x"
            return accepted.peer[0] == source[0]


async def start(site: Site, *, port: int = 80, wrapper: tuple[str, ...] = ()) -> Process:
    """Run `asynclb run` on the balancer's host with a rule for each family."""
    values = {"vip": VIP4, "vip6": ON_LINK_VIP6, "port": port}
    values |= {"be1": address_of(site.members[0]), "be16": address_of(site.members[0], 6)}
    config = site.lb.write("asynclb.yaml", CONFIG.format(**values))
    config.chmod(0o644)
    site.lb.directory.chmod(0o755)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "STATE_DIRECTORY": str(site.lb.directory / "state")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    program = (sys.executable, "-m", "asynclb", "run", str(config), "--log-format", "json")
    return await site.lb.run(*wrapper, *program, name="asynclb", env=env)


async def test_closing_leaves_the_host_as_it_was(site: Site) -> None:
    """Rules, routes, addresses and packet filter are byte for byte what they were, with others' entries among them."""
    others = ["rule add fwmark 0x1 table 77 pref 500", "route add blackhole 198.51.100.0/24 table 77"]
    ip_batch(others, namespace=site.lb.namespace)
    await site.lb.check_output(
        "nft",
        "table inet mine { chain in { type filter hook prerouting priority mangle; meta mark set 0x1 counter; }; }",
    )
    before = without_counters(await state_of(site.lb))
    async with balancer(site.lb) as proxy:
        await proxy.apply(
            rule(site), rule(site, 6, name="web6"), rule(site, 6, name="link", address=ON_LINK_VIP6),
        )  # fmt: skip
        during = without_counters(await state_of(site.lb))
        assert set(before.splitlines()) <= set(during.splitlines())
        assert await serves(site, VIP4)
        await proxy.apply()
        await proxy.close()
    assert without_counters(await state_of(site.lb)) == before


def without_counters(text: str) -> str:
    """Return the state without what traffic changes, and in a fixed order of lines."""
    lines = [line.split("counter packets")[0].rstrip() for line in text.splitlines()]
    return "\n".join(line.split(" expires")[0] for line in lines)


async def test_marks_of_others_pass_through(site: Site, proxy: Balancer) -> None:
    """A whole mark that another table sets does not take the proxy's bit away, nor the proxy the other's bits."""
    await site.lb.check_output(
        "nft",
        "table inet mine {"
        " chain first { type filter hook prerouting priority mangle; tcp dport 80 meta mark set 0x5; };"
        " chain last { type filter hook input priority 0; tcp dport 80 meta mark & 0xf == 0x5 counter; };"
        "}",
    )
    await proxy.apply(rule(site))
    assert await serves(site, VIP4)
    listing = await site.lb.check_output("nft", "list", "chain", "inet", "mine", "last")
    assert "packets 0" not in listing


async def test_a_second_proxy_in_a_host_is_refused(site: Site, proxy: Balancer) -> None:
    """Only one proxy may have transparent rules in a namespace; the other one is told so, and the first goes on."""
    await proxy.apply(rule(site))
    async with balancer(site.lb) as second:
        with pytest.raises(ApplyError, match="another asynclb uses the datapath `proxy`"):
            await second.apply(rule(site, port=81))
        await second.apply(row(local(9), 81, [member("self", "127.0.0.1")], 82, transparent=False))
    assert await serves(site, VIP4)


async def test_others_who_flush_the_rules_of_the_host(site: Site, proxy: Balancer) -> None:
    """After `nft flush ruleset` and the loss of the routing rules the proxy mends itself, and says so once each."""
    await proxy.apply(rule(site), rule(site, 6, name="web6"))
    for flush in ("nft flush ruleset", "ip rule del pref 9179; ip -6 rule del pref 9180"):
        said = len(proxy.events.of(Event.DATAPATH_FAILED))
        await site.lb.check_output("sh", "-c", flush)
        async with asyncio.timeout(PATIENCE_S):
            while len(proxy.events.of(Event.DATAPATH_FAILED)) == said:
                await asyncio.sleep(0.02)
        assert await serves(site, VIP4)
        assert await serves(site, VIP6)
    await site.lb.check_output("nft", "flush", "ruleset")
    await proxy.apply(rule(site), rule(site, 6, name="web6"), rule(site, name="more", port=81))
    assert await serves(site, VIP4, 81)


async def test_a_route_that_the_kernel_refuses_changes_nothing(site: Site, proxy: Balancer) -> None:
    """A host without IPv6 refuses an IPv6 frontend with a remedy; the rule before goes on, and nothing new listens."""
    for name in ("all", "default", "lo"):
        await site.lb.check_output("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    await proxy.apply(rule(site))
    before = await state_of(site.lb)
    with pytest.raises(ApplyError, match="IPv6"):
        await proxy.apply(rule(site), rule(site, 6, name="web6"), rule(site, name="more", port=81))
    assert without_counters(await state_of(site.lb)) == without_counters(before)
    assert await serves(site, VIP4)
    with Capture(site.clients[0]) as capture:
        with pytest.raises(TimeoutError):
            await connect(VIP4, 81, host=site.clients[0], wait_s=0.3)
        assert [text for text in capture.received(port=81) if " tcp " in text] == []


async def test_a_taken_port_changes_nothing(site: Site, proxy: Balancer) -> None:
    """A program of the host that listens everywhere on a port keeps a rule from it; the old rules still serve."""
    await proxy.apply(rule(site))
    with Listener("0.0.0.0", 443, host=site.lb):
        with pytest.raises(ApplyError, match="443"):
            await proxy.apply(rule(site, name="tls", port=443), rule(site, name="more", port=81))
        assert await serves(site, VIP4)
    await proxy.apply(rule(site, name="tls", port=443))
    assert await serves(site, VIP4, 443)


async def test_kill_and_start_again(site: Site) -> None:
    """After kill -9 the next start finds and removes what was left, serves, and leaves the host clean when stopped."""
    before = without_counters(await state_of(site.lb))
    first = await start(site)
    await first.wait_for_log('"event": ?"started"')
    assert await serves(site, VIP4)
    first.signal(signal.SIGKILL)
    await first.wait()
    assert "9180" in await site.lb.check_output("ip", "rule")
    second = await start(site)
    await second.wait_for_log('"event": ?"leftovers_removed"')
    await second.wait_for_log('"event": ?"started"')
    assert await serves(site, VIP4)
    assert await serves(site, ON_LINK_VIP6)
    assert await second.stop() == 0
    assert without_counters(await state_of(site.lb)) == before


async def test_a_user_with_one_capability(site: Site) -> None:
    """With CAP_NET_ADMIN alone, as another user, the proxy is transparent, for clients of low ports too."""
    admin = "+net_admin"
    wrapper = (
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        f"--inh-caps={admin}", f"--ambient-caps={admin}", "--bounding-set=-all,+net_admin", "--",
    )  # fmt: skip
    process = await start(site, port=8000, wrapper=wrapper)
    await process.wait_for_log('"event": ?"started"')
    assert await serves(site, VIP4, 8000)
    assert await serves(site, VIP4, 8000, source_port=1000)
    assert await process.stop() == 0


async def test_a_user_without_capabilities_is_told_what_to_do(site: Site) -> None:
    """Without capabilities a transparent rule is refused with the capability to give and the setting to change."""
    wrapper = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--")
    process = await start(site, port=8000, wrapper=wrapper)
    assert await process.wait() == 1
    said = process.stdout + process.stderr
    assert "CAP_NET_ADMIN" in said
    assert "transparent: false" in said


async def test_rules_change_while_thousands_of_descriptors_are_open(site: Site, proxy: Balancer) -> None:
    """With more open descriptors than select(2) knows, the first transparent rule and later ones are set up."""
    with ExitStack() as stack:
        for _ in range(1200):
            stack.enter_context(socket.socket(socket.AF_UNIX))
        await proxy.apply(rule(site))
        await proxy.apply(rule(site), rule(site, name="more", port=81))
        assert await serves(site, VIP4, 81)


async def test_strict_reverse_path_filters_do_not_matter(site: Site, proxy: Balancer) -> None:
    """With rp_filter 1 on every interface clients are served."""
    await site.lb.check_output("sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done")
    await proxy.apply(rule(site))
    assert await serves(site, VIP4)


async def test_a_silent_vip_is_counted_until_the_end(site: Site, proxy: Balancer) -> None:
    """Datagrams to ports that no rule names are counted as they come."""
    await proxy.apply(rule(site))
    with site.clients[0].udp(VIP4, 53) as udp:
        for _ in range(5):
            udp.send(b"?")
    await proxy.until(lambda counters: counters.drops[Drop.NO_RULE] == 5, "five drops")


async def test_nothing_is_touched_without_need(site: Site) -> None:
    """A proxy with privileges whose rules need none leaves rules, routes and packet filter alone."""
    before = await state_of(site.lb)
    async with balancer(site.lb) as proxy:
        await proxy.apply(row(local(9), 81, [member("self", "127.0.0.1")], 82, transparent=False))
        assert await state_of(site.lb) == before
