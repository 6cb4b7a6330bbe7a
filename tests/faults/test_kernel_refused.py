"""Hosts that cannot run BPF programs: the next datapath serves, and everybody who asks is told why and what mends it.

A real `asynclb run` in the balancer's host of a lab, behind what takes something away from it.
"""

import json
import sys
from pathlib import Path

import pytest

from asynclb.datapath.kernel.bpffs import EVERYWHERE, USUAL
from asynclb.lab import Process, Site
from tests.faults.test_kernel_life import ROOT, another_user, config, site, start
from tests.netns.proxy_site import serves

__all__ = ["site"]

pytestmark = pytest.mark.netns

REFUSING = (sys.executable, str(Path(__file__).with_name("refusing.py")), "bpf")
LIBRARIES = [path for path in Path("/usr/lib").glob("*/libbpf.so.1") if path.exists()]
WITHOUT_LIBRARY = (
    *("unshare", "--mount", "sh", "-c"),
    "".join(f"mount --bind /dev/null {path.resolve()} && " for path in LIBRARIES) + 'exec "$@"',
    "sh",
)
WITHOUT_BPFFS = (
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"),
    f'umount {USUAL}; umount {EVERYWHERE}; exec "$@"',
    "sh",
)
LACKS = [
    pytest.param((*REFUSING, "EPERM"), "though this process has the capabilities", "seccomp", id="bpf: EPERM"),
    pytest.param((*REFUSING, "ENOSYS"), "has no bpf(2)", "seccomp", id="bpf: ENOSYS"),
    pytest.param(WITHOUT_LIBRARY, "libbpf.so.1 cannot be loaded", "apt install libbpf1", id="no libbpf"),
]


def events(process: Process, name: str) -> list[dict[str, object]]:
    """Return the fields of the events of one name so far."""
    found = (json.loads(line) for line in process.stdout.splitlines() if line.startswith("{"))
    return [event for event in found if event["event"] == name]


async def run(site: Site, *words: str | Path) -> Process:
    """Run the program without waiting for anything."""
    return await site.lb.run(*words, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(("words", "why", "mend"), LACKS)
async def test_the_next_datapath(site: Site, words: tuple[str, ...], why: str, mend: str) -> None:
    """Under `auto` the proxy serves, and the event of the start says why not the kernel, and what mends it."""
    path = config(site)
    path.write_text(path.read_text().replace("datapath: kernel", "datapath: auto"))
    process = await start(site, path, *words)
    (chosen,) = events(process, "datapath_chosen")
    assert chosen["datapath"] == "proxy"
    assert why in str(chosen["why"])
    assert mend in str(chosen["why"])
    await serves(site)
    assert await process.stop() == 0


@pytest.mark.parametrize(("words", "why", "mend"), LACKS)
async def test_a_datapath_that_is_named(site: Site, words: tuple[str, ...], why: str, mend: str) -> None:
    """With `datapath: kernel` the start is refused with one error: the rule, the reason, what mends it."""
    process = await run(site, *words, sys.executable, "-m", "asynclb", "run", config(site))
    assert await process.wait() == 1
    assert why in process.stderr
    assert mend in process.stderr
    assert "rules" in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stderr.count(why) == 1


@pytest.mark.parametrize(("words", "why", "mend"), LACKS)
async def test_the_doctor_names_it(site: Site, words: tuple[str, ...], why: str, mend: str) -> None:
    """It is in the way of a configuration that names the datapath, with what mends it."""
    process = await run(site, *words, sys.executable, "-m", "asynclb", "doctor", config(site))
    assert await process.wait() == 1
    line, following = _finding(process.stdout, "datapath kernel")
    assert line.startswith("FAIL")
    assert why in line
    assert mend in following


def _finding(text: str, subject: str) -> tuple[str, str]:
    """Return a finding's line and the one after it, with the command."""
    lines = text.splitlines()
    number = next(number for number, line in enumerate(lines) if subject in line)
    return lines[number], lines[number + 1]


async def test_a_user_without_any_capability(site: Site) -> None:
    """He is told which ones the kernel datapath needs, and that before anything is tried."""
    path, words = another_user(site)
    process = await run(site, *words, sys.executable, "-m", "asynclb", "run", path)
    assert await process.wait() == 1
    assert "BPF programs need CAP_NET_ADMIN and CAP_BPF" in process.stderr
    assert "run as root or with CAP_NET_ADMIN and CAP_BPF" in process.stderr


async def test_a_host_without_a_bpffs(site: Site) -> None:
    """It is mounted, at its usual place, and holds what outlives the process; nobody need be told."""
    process = await start(site, config(site), *WITHOUT_BPFFS)
    assert not [event for event in events(process, "host_limit") if "bpffs" in str(event["what"])]
    await serves(site)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    mounted = Path(f"/proc/{child}/mountinfo").read_text(encoding="ascii").splitlines()
    assert [line for line in mounted if f" {USUAL} " in line and " - bpf " in line]
    assert list(Path(f"/proc/{child}/root{USUAL}/asynclb").glob("*/program-tc"))
    await process.kill()


async def test_a_bpffs_that_cannot_be_mounted(site: Site) -> None:
    """Without the capability to mount one everything works, and it is told what that costs and what mends it."""
    words = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    process = await start(site, config(site), *WITHOUT_BPFFS, *words)
    (told,) = [event for event in events(process, "host_limit") if "bpffs" in str(event["what"])]
    assert "forwarding ends with the process" in str(told["remedy"])
    assert f"mount -t bpf bpf {USUAL}" in str(told["remedy"])
    await serves(site)
    await process.kill()
