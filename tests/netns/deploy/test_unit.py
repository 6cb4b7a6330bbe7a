"""conf/asynclb.service under a real systemd: its sandbox, user and capabilities are enough, and not too much."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asynclb.lab import VIP4, Host, Site
from tests.netns.deploy.systemd import CONF, Machine, booted, why_not
from tests.netns.proxy_site import address_of

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=f"systemd cannot be booted: {why_not()}"), pytest.mark.slow]

MOST_EXPOSED = 25  # tenths of what systemd-analyze counts; a service without any sandbox has 96
CAPABILITIES = {10: "NET_BIND_SERVICE", 12: "NET_ADMIN", 13: "NET_RAW", 38: "PERFMON", 39: "BPF"}  # linux/capability.h


def config(site: Site, datapath: str = "proxy", **keys: str) -> str:
    """Return a configuration of one rule over one member."""
    more = "".join(f"{key}: {value}\n" for key, value in keys.items())
    return f"""version: 1
datapath: {datapath}
shutdown_drain: 1s
{more}frontends: {{web: {{address: {VIP4}, allow: [0.0.0.0/0]}}}}
backend_pools: {{web: {{members: [{{name: be1, address: {address_of(site.members[0])}}}]}}}}
rules: [{{name: web, frontend: web, protocol: tcp, frontend_port: 80, backend_port: 8080, backend_pool: web}}]
"""


async def page(client: Host) -> str:
    """Return what the member answers to a client of the VIP."""
    return (await client.check_output("curl", "-sS", "-m", "5", f"http://{VIP4}/")).strip()


async def start(machine: Machine) -> int:
    """Start the unit and return its process."""
    code, said = await machine.systemctl("start", "asynclb")
    assert code == 0, f"{said}\n{machine.journal()}"
    return int(await machine.show("MainPID"))


def capabilities(status: str, which: str) -> set[str]:
    """Return the names of a process's capabilities, from its /proc/.../status."""
    (mask,) = re.findall(rf"^{which}:\s+(\w+)$", status, re.MULTILINE)
    return {CAPABILITIES.get(bit, str(bit)) for bit in range(64) if int(mask, 16) >> bit & 1}


def named_in_the_unit(setting: str) -> set[str]:
    """Return the capabilities that a setting of the unit names."""
    (names,) = re.findall(rf"^{setting}=(.*)$", (CONF / "asynclb.service").read_text(), re.MULTILINE)
    return {name.removeprefix("CAP_") for name in names.split()}


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """`systemd-analyze verify` is content with every line, where the program is installed."""
    unit = tmp_path / "asynclb.service"
    program = Path(sys.executable).with_name("asynclb")
    unit.write_text((CONF / "asynclb.service").read_text().replace("/opt/asynclb/bin/asynclb", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_sandbox_leaves_little() -> None:
    """`systemd-analyze security` counts no more than what the datapaths need: sockets, netlink, four capabilities."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager"]
    done = subprocess.run([*command, CONF / "asynclb.service"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("datapath", ["proxy", "packet", "kernel"])
async def test_it_forwards_in_its_sandbox(site: Site, datapath: str) -> None:
    """Every datapath serves clients as the unit's user, with the capabilities that the unit names and no other."""
    await site.members[0].nginx()
    async with booted(site.lb, config(site, datapath)) as machine:
        pid = await start(machine)
        assert await page(site.clients[0]) == "be1"
        status = machine.path(f"/proc/{pid}/status").read_text()
        assert (
            capabilities(status, "CapEff") == capabilities(status, "CapBnd") == named_in_the_unit("AmbientCapabilities")
        )
        assert re.search(r"^Uid:\s+999\b", status, re.MULTILINE)
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
        assert await machine.show("StatusText") == "generation 1: 1 rule"
        assert "bpffs that this user may write to" not in machine.journal()
        assert (await machine.systemctl("stop", "asynclb"))[0] == 0
        assert await machine.show("Result") == "success"
        assert await machine.show("NRestarts") == "0"


async def test_the_commands_of_the_document(site: Site) -> None:
    """`systemctl enable --now` starts it now and at each boot; a drop-in, as DEPLOYMENT.md has it, leaves it fewer."""
    await site.members[0].nginx()
    async with booted(site.lb, config(site)) as machine:
        for command in ("daemon-reload", "enable --now asynclb"):
            assert f"    systemctl {command}\n" in (CONF / "DEPLOYMENT.md").read_text()
            code, said = await machine.systemctl(*command.split())
            assert code == 0, said
        assert await page(site.clients[0]) == "be1"
        assert machine.path("/etc/systemd/system/multi-user.target.wants/asynclb.service").is_symlink()
        few = "CAP_NET_ADMIN CAP_NET_BIND_SERVICE"
        lines = [f"{key}={value}" for value in ("", few) for key in ("AmbientCapabilities", "CapabilityBoundingSet")]
        text = "\n".join(["[Service]", *lines, ""])
        machine.write("/etc/systemd/system/asynclb.service.d/override.conf", text)  # what `systemctl edit` writes
        await machine.systemctl("daemon-reload")
        assert (await machine.systemctl("restart", "asynclb"))[0] == 0, machine.journal()
        status = machine.path(f"/proc/{await machine.show('MainPID')}/status").read_text()
        assert capabilities(status, "CapEff") == {"NET_ADMIN", "NET_BIND_SERVICE"}
        assert await page(site.clients[0]) == "be1"


async def test_reload(site: Site) -> None:
    """A good file is active when `systemctl reload` is done; a bad one fails it, is explained, and changes nothing."""
    await site.members[0].nginx()
    async with booted(site.lb, config(site)) as machine:
        pid = await start(machine)
        machine.write("/etc/asynclb/asynclb.yaml", config(site).replace("frontend_port: 80", "frontend_port: 81"))
        assert (await machine.systemctl("reload", "asynclb"))[0] == 0
        await machine.until("StatusText", "generation 2: 1 rule")
        await machine.until("ActiveState", "active")
        machine.write("/etc/asynclb/asynclb.yaml", config(site).replace("backend_pool: web", "backend_pool: nobody"))
        assert (await machine.systemctl("reload", "asynclb"))[0] != 0
        assert "nobody" in machine.journal()
        await machine.until("ActiveState", "active")
        assert int(await machine.show("MainPID")) == pid


async def test_the_watchdog(site: Site) -> None:
    """A process whose loop is held is ended and started anew; one that is well is left alone for many periods."""
    await site.members[0].nginx()
    async with booted(site.lb, config(site), "WatchdogSec=1500ms\nTimeoutAbortSec=1s") as machine:
        pid = await start(machine)
        await asyncio.sleep(4)
        assert int(await machine.show("MainPID")) == pid
        os.kill(outside(machine, pid), signal.SIGSTOP)
        await machine.until("NRestarts", "1")
        await machine.until("StatusText", "generation 1: 1 rule")
        assert await page(site.clients[0]) == "be1"


def outside(machine: Machine, pid: int) -> int:
    """Return the number that a process of the machine has here."""
    inode = machine.path(f"/proc/{pid}/ns/pid").stat().st_ino
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and _numbers(path)[-1:] == [str(pid)]:
            try:
                if (path / "ns" / "pid").stat().st_ino == inode:
                    return int(path.name)
            except OSError:
                continue
    raise AssertionError(f"process {pid} is not seen from here")


def _numbers(path: Path) -> list[str]:
    try:
        found = re.findall(r"^NSpid:\s+(.*)$", (path / "status").read_text(), re.MULTILINE)
    except OSError:
        return []
    return found[0].split() if found else []


async def test_the_kernel_goes_on(site: Site) -> None:
    """Killed or stopped with `on_stop: leave`, the kernel forwards on; the next start takes over what was left."""
    await site.members[0].nginx()
    async with booted(site.lb, config(site, "kernel", on_stop="leave")) as machine:
        pid = await start(machine)
        os.kill(outside(machine, pid), signal.SIGKILL)
        assert await page(site.clients[0]) == "be1"
        await machine.until("NRestarts", "1")
        await machine.until("ActiveState", "active")
        assert "datapath_adopted" in machine.journal()
        assert (await machine.systemctl("stop", "asynclb"))[0] == 0
        assert await page(site.clients[0]) == "be1"
        code, said = await machine.run("/opt/asynclb/bin/asynclb", "detach")
        assert (code, "removed" in said) == (0, True), said
