"""The Grafana dashboards: every query is put to a Prometheus that scraped a balancer under load.

Outbound rules are not in this lab, so the queries about SNAT are only parsed here.
"""

import asyncio
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asynclb.lab import Host
from asynclb.lab.lab import Lab
from asynclb.lab.load import HttpLoad
from asynclb.lab.stage import ADMIN_PORT, VIP_PORT, Stage
from asynclb.lab.topology import STANDARD, VIP4

FOLDER = Path(__file__).parents[2] / "conf" / "grafana"
PORT = 9090
SCRAPES_S = 12.0
"""A rate needs two scrapes; some samples more smooth what starts and ends."""


def generator() -> ModuleType:
    """Import the program that writes the dashboards."""
    spec = importlib.util.spec_from_file_location("generate_dashboards", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


GENERATE = generator()
NAMES = [make.__name__ for make in GENERATE.DASHBOARDS]


def queries(name: str) -> list[tuple[str, str]]:
    """Return (panel, expression) of a dashboard's file."""
    document = json.loads((FOLDER / f"{name}.json").read_text())
    return [(panel["title"], target["expr"]) for panel in document["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("name", NAMES)
def test_files_are_what_the_code_writes(name: str) -> None:
    """A dashboard that was changed by hand, or code that was changed without writing, is found."""
    made = GENERATE.rendered(getattr(GENERATE, name)())
    assert (FOLDER / f"{name}.json").read_text() == made


@pytest.mark.parametrize("name", NAMES)
def test_panels_do_not_overlap(name: str) -> None:
    """Panels fill their rows of 24 columns, have different numbers, and lie beside or below one another."""
    panels = json.loads((FOLDER / f"{name}.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


async def ask(host: Host, expression: str) -> Any:
    """Put a query to the Prometheus on a host."""
    asked = re.sub(r"\$\w+", ".*", expression)
    url = f"http://127.0.0.1:{PORT}/api/v1/query"
    answer = json.loads(await host.check_output("curl", "-sS", url, "--data-urlencode", f"query={asked}"))
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


async def start_prometheus(host: Host) -> None:
    """Start a Prometheus that scrapes the balancer every second, with the rules of conf/."""
    rules = FOLDER.parent / "prometheus"
    config = host.write(
        "prometheus.yml",
        f"""global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}/recording.yml", "{rules}/alerts.yml"]
scrape_configs: [{{job_name: asynclb, static_configs: [{{targets: ["127.0.0.1:{ADMIN_PORT}"]}}]}}]
""",
    )
    process = await host.run(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={host.directory}/prometheus",
        f"--web.listen-address=127.0.0.1:{PORT}",
        "--log.level=warn",
    )
    await host.wait_listening(process, PORT)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
async def test_every_query_finds_something() -> None:
    """No panel stays empty beside a balancer at work; and when its members die, an alert fires."""
    async with Lab() as lab:
        stage = Stage(await STANDARD.build(lab), {"web-1": 1, "web-2": 1, "web-3": 1})
        for name in stage.weights:
            await stage.start_member(name)
        await stage.start_balancer()
        await stage.until(lambda state: set(state.health.values()) == {"up"}, "all members up")
        lb, client, stop = stage.site.lb, stage.site.clients[0], asyncio.Event()
        await start_prometheus(lb)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(HttpLoad(client, VIP4, VIP_PORT).run(stop))
            tasks.create_task(refused_datagrams(client, stop))
            await asyncio.sleep(SCRAPES_S)
            empty = [
                f"{name}: {panel}: {expression}"
                for name in NAMES
                for panel, expression in queries(name)
                if not await ask(lb, expression) and "snat" not in expression
            ]
            stop.set()
        assert not empty, "\n".join(empty)
        for name in stage.weights:
            await stage.kill_member(name)
        await until_firing(lb, "AsynclbNoHealthyMembers")


async def refused_datagrams(client: Host, stop: asyncio.Event) -> None:
    """Send what no rule takes, so that there are drops."""
    with client.udp(VIP4, 81) as sock:
        while not stop.is_set():
            sock.send(b"?")
            await asyncio.sleep(0.1)


async def until_firing(host: Host, alert: str) -> None:
    """Wait until an alert fires: it holds for 15 s first."""
    async with asyncio.timeout(60):
        while not await ask(host, f'ALERTS{{alertname="{alert}", alertstate="firing"}}'):
            await asyncio.sleep(1)
