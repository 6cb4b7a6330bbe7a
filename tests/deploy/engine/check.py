"""Every `docker` command of the documentation, run as it stands by a Docker Engine; the DaemonSet's pod beside them.

`make image` runs this. What no registry can be asked for here has a stand-in of the same name (stand-ins.Dockerfile):
the image of Python is this machine's Debian and Python, Prometheus is Debian's, and for Grafana there is a web server
that can read what Grafana would.
"""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from asynclb.errors import HostError
from asynclb.lab import STANDARD, VIP4, Lab, Site, require_tools
from asynclb.lab.tools import find_tool
from tests.deploy.engine.engine import ROOT, Engine, internet
from tests.deploy.engine.pod import Pod
from tests.deploy.engine.programs import unpack_engine
from tests.deploy.image.base import LIMIT_S
from tests.docs.commands import commands
from tests.netns.deploy import cgroup
from tests.netns.proxy_site import address_of

DOCUMENT = (ROOT / "conf" / "DEPLOYMENT.md").read_text()
MANIFEST = ROOT / "conf" / "kubernetes.yaml"
COMPOSE = (ROOT / "conf" / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BUILDS, RUNS, COMPOSES = (
    [line for line in commands("docker") if line.startswith(f"docker {word} ")] for word in ("build", "run", "compose")
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(scope="session")
def docker(request: pytest.FixtureRequest, work: Path) -> Path:
    """Unpack an engine, and give it the stand-ins and the image, built as documented; return its home."""
    if cgroup.why_not():
        pytest.skip(cgroup.why_not())
    try:
        require_tools("runc", "slirp4netns", "iptables", "busybox", "prometheus")
        unpack_engine(work / "docker")
    except HostError as error:
        pytest.skip(str(error))
    request.getfixturevalue("stand_in")
    for program in ("busybox", "prometheus"):
        shutil.copy2(find_tool(program) or "", work)
    asyncio.run(build(work, work / "docker"))
    return work / "docker"


async def build(work: Path, home: Path) -> None:
    """Build the stand-ins and, by the command of the documentation, the image."""
    async with Lab("docker") as lab:
        host = lab.host("lb")
        await lab.up()
        async with internet(host), Engine.running(host, home) as engine:
            await engine.run(f"tar -cC {work}/base . | docker import --change 'ENV PATH={PATH}' - asynclb-base")
            for target, name in stand_ins().items():
                file = Path(__file__).with_name("stand-ins.Dockerfile")
                await engine.run(f"docker build -q --target {target} -t {name} -f {file} {work}")
            for command in BUILDS:
                await engine.run(command, timeout_s=LIMIT_S)


def stand_ins() -> dict[str, str]:
    """Return the names of images that are to be there, by the targets of stand-ins.Dockerfile."""
    python = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    named = re.findall(r"image: (\w+/(\w+):\S+)", COMPOSE)
    return {target: name for name, target in named} | {"python": python["BASE"].replace("${PYTHON}", python["PYTHON"])}


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Give the test the standard lab, with a member that serves."""
    async with Lab(request.node.name) as lab:
        site = await STANDARD.build(lab)
        await site.members[0].nginx()
        yield site


def configuration(site: Site) -> str:
    """Return a configuration of one rule with one member."""
    return f"""version: 1
frontends: {{web: {{address: {VIP4}, allow: [0.0.0.0/0]}}}}
backend_pools: {{web: {{members: [{{name: be1, address: {address_of(site.members[0])}}}]}}}}
rules: [{{name: web, frontend: web, protocol: tcp, frontend_port: 80, backend_port: 8080, backend_pool: web}}]
"""


async def configure(site: Site, engine: Engine) -> None:
    """Write what the commands mount."""
    await engine.run(f"cat >/etc/asynclb/asynclb.yaml <<'END'\n{configuration(site)}END")


async def page(site: Site) -> str:
    """Return what the member answers to a client of the VIP."""
    return (await site.clients[0].check_output("curl", "-sS", "-m", "5", f"http://{VIP4}/")).strip()


def health(container: str) -> str:
    """Return the command that says what a container's health check found."""
    return f"docker inspect --format '{{{{json .State.Health}}}}' {container}"


@pytest.mark.parametrize("command", RUNS)
async def test_docker_run(docker: Path, site: Site, command: str) -> None:
    """The image that `docker build` made forwards, and ends with 0 when it is stopped."""
    async with Engine.running(site.lb, docker) as engine:
        await configure(site, engine)
        container = (await engine.run(command)).strip()
        await engine.until(f"docker logs {container}", '"started"')
        assert await page(site) == "be1"
        await engine.run(f"docker stop {container}")
        assert await engine.run(f"docker inspect --format '{{{{.State.ExitCode}}}}' {container}") == "0\n"


async def test_docker_compose(docker: Path, site: Site) -> None:
    """The image forwards by the datapath `kernel`, all three services become healthy, Prometheus scrapes."""
    (bpffs,) = re.findall(r"once after each boot of the host:\n\n((?: {4}.*\n)+)", DOCUMENT)
    async with Engine.running(site.lb, docker) as engine:
        await configure(site, engine)
        await engine.run(bpffs)
        for command in COMPOSES:
            await engine.run(command)
            await engine.until("docker logs asynclb-asynclb-1", '"started"')
            assert await page(site) == "be1"
        log = await engine.run("docker logs asynclb-asynclb-1 2>&1")
        assert '"datapath_chosen", "rule": "web", "datapath": "kernel"' in log
        for service in ("asynclb", "prometheus", "grafana"):
            await engine.until(health(f"asynclb-{service}-1"), '"Status":"healthy"')
        asked = "curl -sS 'http://127.0.0.1:9090/api/v1/query?query=up'"
        found = json.loads(await engine.until(asked, ',"1"]'))
        assert found["data"]["result"][0]["metric"]["instance"] == "127.0.0.1:9180"
        await engine.run("docker compose -f conf/compose.yaml down")


async def test_the_pod_of_the_daemon_set(docker: Path, site: Site) -> None:
    """It passes its probes and forwards, goes on while no pod runs, and the next pod takes over what is there."""
    found = {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}
    pod = Pod(
        found["DaemonSet"]["spec"]["template"]["spec"],
        {found["ConfigMap"]["metadata"]["name"]: {"asynclb.yaml": f"on_stop: leave\n{configuration(site)}"}},
    )
    async with Engine.running(site.lb, docker) as engine:
        await engine.run(f"docker tag asynclb {pod.spec['containers'][0]['image']}")
        await engine.run("mount -t bpf bpf /sys/fs/bpf")
        for event in ("datapath_attached", "datapath_adopted"):
            name = await pod.start(engine)
            for kind in ("startup", "readiness", "liveness"):
                await pod.probe(engine, kind)
            assert event in await engine.run(f"docker logs {name} 2>&1")
            assert await page(site) == "be1"
            await pod.stop(engine)
            assert await page(site) == "be1"
