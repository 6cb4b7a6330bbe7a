"""The image of the Dockerfile: built without a daemon, and run as DEPLOYMENT.md says, by the datapaths' own traffic.

`make image` runs this; it takes minutes and downloads packages, so it is not among the tests that pytest finds by
itself. BASE=... builds over an image of a registry; without it base.py makes one out of what this machine has.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asynclb.errors import HostError
from asynclb.lab import STANDARD, VIP4, Lab, Site, require_tools
from tests.deploy.image.base import LIMIT_S
from tests.deploy.image.container import ROOT, Container, Image, bpffs
from tests.netns.proxy_site import address_of

DOCUMENT = (ROOT / "conf" / "DEPLOYMENT.md").read_text()
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest, work: Path) -> Image:
    """Build and unpack the image once. What runs meanwhile ends with this process, and so do its mounts."""
    try:
        require_tools("buildah")
    except HostError as error:
        pytest.fail(str(error), pytrace=False)
    base = os.environ.get("BASE", "")
    if not base:
        request.getfixturevalue("stand_in")
    alone = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    script = Path(__file__).with_name("build.sh")
    subprocess.run([*alone, "sh", script, ROOT, work, PYTHON, *filter(None, [base])], check=True, timeout=LIMIT_S)
    settings = json.loads((work / "image.json").read_text())["Docker"]["config"]
    return Image(work / "rootfs", settings)


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Give the test the standard lab, with a member that serves."""
    async with Lab(request.node.name) as lab:
        site = await STANDARD.build(lab)
        await site.members[0].nginx()
        yield site


def documented(datapath: str) -> set[str]:
    """Return the capabilities that DEPLOYMENT.md has a use for in the column of a datapath."""
    rows = [[cell.strip(" `") for cell in line.split("|")] for line in DOCUMENT.splitlines() if line.startswith("|")]
    column = rows[0].index(datapath)
    return {
        row[1] for row in rows if row[1].startswith("CAP_") and row[column].isascii()
    }  # it is a dash where there is none


def prepared(site: Site, image: Image, datapath: str, **keys: str) -> dict[str, Path]:
    """Make what the Compose file mounts: a configuration, a volume as a runtime makes it, an ordinary directory."""
    more = "".join(f"{key}: {value}\n" for key, value in keys.items())
    home = site.lb.directory / "container"
    for name in ("etc", "bpf"):
        (home / name).mkdir(parents=True)
    (home / "etc" / "asynclb.yaml").write_text(f"""version: 1
datapath: {datapath}
{more}frontends: {{web: {{address: {VIP4}, allow: [0.0.0.0/0]}}}}
backend_pools: {{web: {{members: [{{name: be1, address: {address_of(site.members[0])}}}]}}}}
rules: [{{name: web, frontend: web, protocol: tcp, frontend_port: 80, backend_port: 8080, backend_pool: web}}]
""")
    subprocess.run(["cp", "-a", image.root / "var/lib/asynclb", home / "state"], check=True)
    return {"/etc/asynclb": home / "etc", "/var/lib/asynclb": home / "state", "/run/asynclb/bpf": home / "bpf"}


async def page(site: Site) -> str:
    """Return what the member answers to a client of the VIP."""
    return (await site.clients[0].check_output("curl", "-sS", "-m", "5", f"http://{VIP4}/")).strip()


@pytest.mark.parametrize("datapath", ["proxy", "packet", "kernel"])
async def test_it_serves_and_drains(image: Image, site: Site, datapath: str) -> None:
    """With what DEPLOYMENT.md names for a datapath it forwards, is healthy, and on SIGTERM lets a connection end."""
    wanted = documented(datapath)
    container = await Container.start(site.lb, image, wanted, prepared(site, image, datapath))
    await container.process.wait_for_log('"started"', timeout_s=60)
    assert await page(site) == "be1"
    assert container.status("Uid").split() == ["65532"] * 4
    assert container.capabilities("CapEff") == container.capabilities("CapBnd") == wanted
    assert (await container.run("touch", "/opt/file")).stderr.strip().endswith("Read-only file system")
    healthy = await container.run(*image.health)
    assert healthy.returncode == 0, healthy.tail()
    async with site.clients[0].connection(VIP4, 80) as (reader, writer):
        writer.write(b"GET / HTTP/1.0\r\n")
        await writer.drain()
        ending = asyncio.create_task(container.stop(image.settings["StopSignal"]))
        await container.process.wait_for_log('"drain')
        writer.write(b"\r\n")
        assert (await reader.read()).endswith(b"be1\n")
    assert await ending == 0, container.process.tail()


async def test_the_kernel_goes_on(image: Image, site: Site) -> None:
    """With the BPF file system of DEPLOYMENT.md, forwarding outlives a killed container; the next one takes it over."""
    (commands,) = re.findall(r"once after each boot of the host:\n\n((?: {4}.*\n)+)", DOCUMENT)
    sources = prepared(site, image, "kernel", on_stop="leave") | {"/run/asynclb/bpf": Path("/run/asynclb/bpf")}
    inside = await bpffs(site.lb, commands)
    wanted = documented("kernel")
    container = await Container.start(site.lb, image, wanted, sources, inside=inside)
    await container.process.wait_for_log('"started"', timeout_s=60)
    await container.kill()
    assert await page(site) == "be1"
    container = await Container.start(site.lb, image, wanted, sources, inside=inside)
    await container.process.wait_for_log('"datapath_adopted"', timeout_s=60)
    await container.process.wait_for_log('"started"')
    assert await page(site) == "be1"
    assert await container.stop(image.settings["StopSignal"]) == 0
    assert await page(site) == "be1"


async def test_without_capabilities(image: Image, site: Site) -> None:
    """A container that was given none starts nevertheless, says which it lacks, and that is its exit code."""
    container = await Container.start(site.lb, image, set(), prepared(site, image, "proxy"))
    assert await container.process.wait() == 1
    assert "CAP_NET_ADMIN" in container.process.stderr
