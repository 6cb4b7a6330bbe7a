"""The lab: it builds what was declared, shows who the client was, and leaves nothing behind."""

import asyncio
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from asynclb.lab import PATIENCE_S, STANDARD, VIP4, Host, Lab, LabError, Site, Topology, wait_until
from asynclb.lab.namespace import NETNS_DIRECTORY, processes_in
from asynclb.lab.registry import REGISTER, living, sweep

OWNER = """
import asyncio, sys
from asynclb.lab import STANDARD, Lab

async def main():
    async with Lab("to be killed") as lab:
        print(lab.entry.name, lab.entry.directory, flush=True)
        site = await STANDARD.build(lab)
        await site.members[0].nginx()
        await site.lb.run("sh", "-c", "sleep 1000 & sleep 1000")
        print("built", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


def namespaces_of(name: str) -> list[str]:
    """List the namespaces that belong to a lab by its name in the register."""
    return sorted(path.name for path in NETNS_DIRECTORY.glob(f"{name}-*"))


async def wait_swept(name: str) -> None:
    """Sweep until the lab is gone; another test's sweep, or an `ip` of the dead owner, may hold it for a moment."""

    def swept() -> bool:
        sweep()
        return not (REGISTER / name).exists()

    await wait_until(swept, f"{name} is out of the register")
    assert namespaces_of(name) == []


async def start_owner() -> tuple[asyncio.subprocess.Process, str, Path]:
    """Start another process that owns a lab; return it with the lab's name and directory."""
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, stdout=asyncio.subprocess.PIPE)
    assert owner.stdout is not None
    name, directory = (await owner.stdout.readline()).decode().split()
    return owner, name, Path(directory)


async def test_a_lab_leaves_nothing_behind() -> None:
    """Namespaces, processes, files and the register's entry are gone when the lab ends."""
    async with Lab("nothing left") as lab:
        site = await STANDARD.build(lab)
        web = await site.members[0].nginx()
        await site.lb.run("sh", "-c", "sleep 1000 & sleep 1000")
        name, directory, pid = lab.entry.name, lab.entry.directory, web.process.pid
        assert namespaces_of(name) == sorted(host.namespace for host in lab.hosts.values())
        assert name in [entry.name for entry in living()]
        await wait_until(lambda: len(processes_in(namespaces_of(name))) >= 3, "nginx, sh and sleep run in the lab")
    assert namespaces_of(name) == []
    assert not directory.exists()
    assert not (REGISTER / name).exists()
    assert not Path(f"/proc/{pid}").exists()


async def test_the_host_never_sees_a_link(lab: Lab) -> None:
    """No end of any cable is in the host's namespace, not even for a moment."""
    before = {path.name for path in Path("/sys/class/net").iterdir()}
    await STANDARD.build(lab)
    appeared = {path.name for path in Path("/sys/class/net").iterdir()} - before
    assert not appeared & {"lb", "front", "back", "bridge", "cli1", "cli2", "be1", "be2", "be3"}


async def test_an_error_takes_the_output_of_programs_along() -> None:
    """What the lab's programs wrote last is in the notes of the error that ends the lab."""
    with pytest.raises(RuntimeError) as caught:  # noqa: PT012  # the lab's end is what is tested
        async with Lab("error") as lab:
            host = lab.host("h1")
            await lab.up()
            process = await host.run("sh", "-c", "echo something is wrong >&2; exit 3")
            await process.wait()
            raise RuntimeError("the test failed")
    assert "something is wrong" in "".join(caught.value.__notes__)


async def test_labs_side_by_side_share_nothing() -> None:
    """Two labs have the same addresses at the same time and each client reaches its own member."""
    async with Lab("left") as left, Lab("right") as right:
        sites = [await STANDARD.build(lab) for lab in (left, right)]
        for word, site in zip(("left", "right"), sites, strict=True):
            await site.members[0].nginx(body=word)
        for word, site in zip(("left", "right"), sites, strict=True):
            assert await site.clients[0].check_output("curl", "-s", "http://10.0.2.11:8080/") == word


async def test_a_killed_owner_leaves_nothing_after_a_sweep() -> None:
    """kill -9 of the owner ends its programs, and the next sweep removes the rest."""
    owner, name, directory = await start_owner()
    assert owner.stdout is not None
    assert (await owner.stdout.readline()) == b"built\n"
    assert len(namespaces_of(name)) == 8
    sweep()
    assert len(namespaces_of(name)) == 8, "a sweep leaves the labs of the living alone"
    owner.kill()
    await owner.wait()
    await wait_swept(name)
    assert not directory.exists()


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.01, 0.02, 0.03])
async def test_an_owner_killed_while_it_builds_leaves_nothing(delay_s: float) -> None:
    """Wherever kill -9 hits the set-up, what exists by then is found by the register and removed."""
    owner, name, directory = await start_owner()
    await asyncio.sleep(delay_s)
    owner.kill()
    await owner.wait()
    await wait_swept(name)
    assert not directory.exists()


async def test_the_command_line_lists_and_cleans() -> None:
    """`python -m asynclb.lab list` shows a living lab; `clean` removes it once its owner was killed."""
    owner, name, _ = await start_owner()
    assert owner.stdout is not None
    assert (await owner.stdout.readline()) == b"built\n"

    async def command(word: str) -> str:
        words = (sys.executable, "-m", "asynclb.lab", word)
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    assert f"{name}: to be killed (process {owner.pid}" in await command("list")
    owner.kill()
    await owner.wait()
    await command("clean")
    await wait_until(lambda: not namespaces_of(name), "the lab is gone")
    assert name not in await command("list")


async def test_two_sweeps_at_once_do_not_disturb_each_other() -> None:
    """A dead lab is removed once, by whichever sweep gets its lock."""
    owner, name, _ = await start_owner()
    owner.kill()
    await owner.wait()
    await asyncio.gather(*(asyncio.to_thread(sweep) for _ in range(4)))
    await wait_swept(name)


async def test_setting_up_is_quick() -> None:
    """Eight namespaces with addresses and routes stand in under a second (typically 30 ms)."""
    start = time.monotonic()
    async with Lab("quick") as lab:
        await STANDARD.build(lab)
        assert time.monotonic() - start < 1.0


@pytest.mark.parametrize(
    ("url", "address"), [("http://10.0.2.11:8080/", "10.0.1.11"), ("http://[2001:db8:2::11]:8080/", "2001:db8:1::11")]
)
async def test_nginx_logs_the_client(site: Site, url: str, address: str) -> None:
    """The member's access log has the client's own address, and its answers name the member."""
    web = await site.members[0].nginx()
    output = await site.clients[0].check_output("curl", "-si", url)
    assert "X-Member: be1" in output
    assert [(hit.client, hit.status, hit.number) for hit in web.hits()] == [(address, 200, 1)]


async def test_nginx_serves_files_and_keeps_checks_out_of_its_log(site: Site) -> None:
    """Files are served as they are; `/healthz` answers 200 and is not logged."""
    web = await site.members[0].nginx(port=80, files={"/big": bytes(1_000_000)})
    client = site.clients[0]
    size = await client.check_output("curl", "-so", "/dev/null", "-w", "%{size_download}", "http://10.0.2.11/big")
    assert size == "1000000"
    assert await client.check_output("curl", "-s", "http://10.0.2.11/healthz") == "ok\n"
    assert [hit.uri for hit in web.hits()] == ["/big"]


async def test_a_killed_nginx_answers_nobody(site: Site) -> None:
    """kill -9 of the one nginx process closes its port; a new one takes its place."""
    web = await site.members[0].nginx()
    await web.process.kill()
    with pytest.raises(ConnectionRefusedError):
        await site.clients[0].connect("10.0.2.11", 8080)
    await site.members[0].nginx()
    async with site.clients[0].connection("10.0.2.11", 8080):
        pass


async def test_tcp_servers_behave_as_they_are_called(site: Site) -> None:
    """Echo returns bytes and the end, whoami names member and client, silent says nothing, reset resets."""
    client, member = site.clients[0], site.members[0]
    for port, behaviour in enumerate(("echo", "whoami", "silent", "reset", "flood"), start=7001):
        await member.tcp_server(port, behaviour)
    async with client.connection("10.0.2.11", 7001) as (reader, writer):
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read(-1) == b"hello"
    async with client.connection("2001:db8:2::11", 7002, source=("2001:db8:1::11", 40001)) as (reader, _):
        assert await reader.readline() == b"be1 2001:db8:1::11 40001\n"
    async with client.connection("10.0.2.11", 7003) as (reader, _):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
    async with client.connection("10.0.2.11", 7004) as (reader, writer):
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
    async with client.connection("10.0.2.11", 7005) as (reader, _):
        assert len(await reader.readexactly(1_000_000)) == 1_000_000


async def test_udp_servers_behave_as_they_are_called(site: Site) -> None:
    """Echo returns datagrams, empty ones too; whoami names member and client."""
    client, member = site.clients[0], site.members[0]
    await member.udp_server(7)
    await member.udp_server(8, "whoami")
    loop = asyncio.get_running_loop()
    for address in ("10.0.2.11", "2001:db8:2::11"):
        for payload in (b"hello", b""):
            with client.udp(address, 7) as sock:
                sock.send(payload)  # not sock_sendall: uvloop sends nothing for an empty payload
                assert await asyncio.wait_for(loop.sock_recv(sock, 100), PATIENCE_S) == payload
    with client.udp("10.0.2.11", 8, source=("10.0.1.11", 40001)) as sock:
        sock.send(b"?")
        assert await asyncio.wait_for(loop.sock_recv(sock, 100), PATIENCE_S) == b"be1 10.0.1.11 40001 ?"


async def test_a_socket_stays_in_its_host(site: Site) -> None:
    """A socket that was opened inside a host belongs there; this process stays where it was."""
    home = Path("/proc/self/ns/net").readlink()
    with site.clients[0].entered():
        inside = socket.socket()
        assert Path("/proc/thread-self/ns/net").readlink() != home
    assert Path("/proc/thread-self/ns/net").readlink() == home
    with inside:
        inside.bind(("10.0.1.11", 0))


async def test_programs_die_when_the_lab_says_so(lab: Lab) -> None:
    """`stop` is SIGTERM with its exit code, `kill` is SIGKILL, and the process id is the program's own."""
    host = lab.host("h1")
    await lab.up()
    polite = await host.run("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")
    await polite.wait_for_log("ready")
    assert Path(f"/proc/{polite.pid}/comm").read_text() == "sh\n"
    assert await polite.stop() == 7
    stubborn = await host.run("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    await stubborn.wait_for_log("ready")
    with pytest.raises(LabError, match="still runs"):
        await stubborn.stop(timeout_s=0.1)
    assert stubborn.returncode == -signal.SIGKILL


async def test_a_program_that_ends_early_is_reported_with_its_words(lab: Lab) -> None:
    """Waiting for a log line, or for a port, ends at once with the program's output if the program ended."""
    host = lab.host("h1")
    await lab.up()
    process = await host.run("sh", "-c", "echo no such file >&2; exit 2")
    with pytest.raises(LabError, match=r"(?s)ended with 2.*no such file"):
        await process.wait_for_log("never")
    with pytest.raises(LabError, match=r"(?s)ended with 2.*no such file"):
        await host.wait_listening(process, 80)
    with pytest.raises(LabError, match="exit code 2"):
        await host.check_output("sh", "-c", "exit 2")


async def test_offloads_can_be_turned_off() -> None:
    """A lab without offloads sends frames with complete checksums."""
    async with Lab("plain frames", offload=False) as lab:
        a, b = lab.host("a"), lab.host("b")
        lab.link(a, "10.0.0.1/24", b, "10.0.0.2/24", mtu=9000)
        await lab.up()
        assert "tx-checksumming: off" in await a.check_output("ethtool", "-k", "b")
        assert "generic-segmentation-offload: off" in await b.check_output("ethtool", "-k", "a")
        assert "mtu 9000" in await a.check_output("ip", "link", "show", "dev", "b")


async def test_vips_are_routed_or_on_the_link(lab: Lab) -> None:
    """Clients send routed VIPs to the balancer; the on-link variant answers for its address itself."""
    site = await Topology(own_on_link_vip=True).build(lab)
    client = site.clients[0]
    assert "via 10.0.1.1" in await client.check_output("ip", "route", "get", VIP4)
    await client.check_output("ping", "-c1", "-W1", "10.0.1.100")
    await client.check_output("ping", "-c1", "-W1", "2001:db8:1::100")


async def test_a_lab_can_grow(lab: Lab) -> None:
    """What is declared after `up` is added by the next `up`; sysctls reach interfaces that exist by then."""
    a, b = lab.host("a"), lab.host("b")
    lab.link(a, "10.0.0.1/24", b, "10.0.0.2/24")
    await lab.up()
    c = lab.host("c")
    lab.link(a, "10.0.1.1/24", c, "10.0.1.2/24")
    a.sysctl("net.ipv4.conf.c.rp_filter", 2)
    await lab.up()
    await c.check_output("ping", "-c1", "-W1", "10.0.1.1")
    assert (await a.check_output("sysctl", "-n", "net.ipv4.conf.c.rp_filter")).strip() == "2"


async def test_mistakes_are_named(lab: Lab) -> None:
    """A refused command, a doubled or impossible name and a sysctl of the host are told apart and named."""
    host: Host = lab.host("h1")
    with pytest.raises(LabError, match="h1"):
        lab.host("h1")
    with pytest.raises(LabError, match="15 characters"):
        lab.host("a-name-that-is-too-long")
    host.route("192.0.2.0/24", via="10.9.9.9")
    with pytest.raises(LabError, match=r"route add 192\.0\.2\.0/24"):
        await lab.up()
    host.sysctl("kernel.hostname", "other")
    with pytest.raises(ValueError, match=r"kernel\.hostname"):
        await lab.up()
