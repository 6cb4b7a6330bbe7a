"""The dashboards and the alerts before a real Prometheus, which scrapes a balancer at work.

Every query of every dashboard must find something; alerts must fire when members die, be readable, and end when they
are back.
"""

import asyncio
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asynclb.lab import Host
from asynclb.lab.lab import Lab
from asynclb.lab.load import HttpLoad
from asynclb.lab.stage import ADMIN_PORT, MEMBER_PORT, VIP_PORT, Stage
from asynclb.lab.topology import STANDARD, VIP4, client_addresses

FOLDER = Path(__file__).parents[2] / "conf" / "grafana"
PORT = 9090
SCRAPES_S = 12.0
"""A rate needs two scrapes; some samples more smooth what starts and ends."""
HURRY = 60
"""How much sooner than in the file alerts fire here: a second is a minute. Everything else is the file's."""
PATIENCE_S = 60.0
RULES = FOLDER.parent / "prometheus"
ABOUT_MEMBERS = {"AsynclbMemberDown", "AsynclbNoHealthyMembers"}

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


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


class WayOut(Stage):
    """The demo's stage, whose members also go out by an outbound rule, with a pool that a file tells of."""

    def config_text(self) -> str:
        """Return the configuration."""
        file = self.site.lb.write("members.yaml", "[{name: told-1, address: 10.0.2.11}]\n")
        before, pools, after = super().config_text().partition("backend_pools:\n")
        return f"{before}{pools}  told: {{members_from: {{file: {file}}}}}\n{after}{OUTBOUND}"


OUTBOUND = """\
outbound_rules:
  - {name: out, frontends: [web], backend_pool: web, protocol: tcp, allocated_ports: 1024, direct: []}
"""


async def get(host: Host, path: str, *words: str) -> Any:
    """Ask the Prometheus on a host."""
    answer = json.loads(await host.check_output("curl", "-sS", f"http://127.0.0.1:{PORT}/api/v1/{path}", *words))
    assert answer["status"] == "success", answer
    return answer["data"]


async def ask(host: Host, expression: str) -> Any:
    """Put a query to it, with every variable of a dashboard as Grafana's "All"."""
    asked = re.sub(r"\$\w+", ".*", expression)
    return (await get(host, "query", "--data-urlencode", f"query={asked}"))["result"]


async def start_prometheus(host: Host, rules: Path) -> None:
    """Start a Prometheus that scrapes the balancer every second, with the rules in a folder."""
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


@asynccontextmanager
async def at_work(stage_kind: type[Stage]) -> AsyncIterator[Stage]:
    """Run a lab with three members that are up."""
    async with Lab() as lab:
        stage = stage_kind(await STANDARD.build(lab), {"web-1": 1, "web-2": 1, "web-3": 1})
        for name in stage.weights:
            await stage.start_member(name)
        await stage.start_balancer()
        await stage.until(lambda state: set(state.health.values()) == {"up"}, "all members up")
        yield stage


@pytest.mark.slow
@needs_prometheus
async def test_every_query_finds_something() -> None:
    """No panel stays empty beside a balancer at work, with clients that come in and members that go out."""
    async with at_work(WayOut) as stage:
        lb, (client, outside), stop = stage.site.lb, stage.site.clients, asyncio.Event()
        await start_prometheus(lb, RULES)
        await outside.nginx(MEMBER_PORT)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(HttpLoad(client, VIP4, VIP_PORT).run(stop))
            tasks.create_task(HttpLoad(stage.site.members[0], client_addresses(2)[0], MEMBER_PORT).run(stop))
            tasks.create_task(refused_datagrams(client, stop))
            await asyncio.sleep(SCRAPES_S)
            empty = [
                f"{name}: {panel}: {expression}"
                for name in NAMES
                for panel, expression in queries(name)
                if not await ask(lb, expression)
            ]
            used = await ask(lb, 'sum(asynclb_snat_ports_used{pool="web", member="web-1"})')
            stop.set()
    assert not empty, "\n".join(empty)
    assert float(used[0]["value"][1]) > 0, "the member's connections have no SNAT port"


async def refused_datagrams(client: Host, stop: asyncio.Event) -> None:
    """Send what no rule takes, so that there are drops."""
    with client.udp(VIP4, 81) as sock:
        while not stop.is_set():
            sock.send(b"?")
            await asyncio.sleep(0.1)


@pytest.mark.slow
@needs_prometheus
async def test_alerts_fire_when_members_die_and_end_when_they_are_back(tmp_path: Path) -> None:
    """One dead member is a warning, a dead pool is critical; both name what is dead and the command to begin with."""
    for file in RULES.glob("*.yml"):
        (tmp_path / file.name).write_text(re.sub(r"\bfor: (\d+)(m|s)$", hurried, file.read_text(), flags=re.MULTILINE))
    async with at_work(Stage) as stage:
        lb = stage.site.lb
        await start_prometheus(lb, tmp_path)
        await until_fired(lb, {})
        await stage.kill_member("web-2")
        await until_fired(lb, {"AsynclbMemberDown": "Member web-2 of pool web has been down for five minutes."})
        for name in ("web-1", "web-3"):
            await stage.kill_member(name)
        fired = await until_fired(lb, {"AsynclbNoHealthyMembers": "No member of pool web is healthy."})
        for alert in fired:
            text = " ".join(alert["annotations"].values())
            assert "Begin with: asynclb show" in text
            assert not re.search(r"[{}<>]|no value", text), text
        critical = next(alert for alert in fired if alert["labels"]["alertname"] == "AsynclbNoHealthyMembers")
        assert critical["labels"]["severity"] == "critical"
        for name in stage.weights:
            await stage.start_member(name)
        await until_fired(lb, {})


def hurried(found: re.Match[str]) -> str:
    """Return how long an alert holds before it fires, a second for each minute."""
    seconds = int(found[1]) * (60 if found[2] == "m" else 1)
    return f"for: {round(1000 * seconds / HURRY)}ms"


async def until_fired(host: Host, wanted: dict[str, str]) -> list[Any]:
    """Wait until alerts with these summaries fire, or with none wanted until nothing about members does."""
    seen: list[Any] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                seen = (await get(host, "alerts"))["alerts"]
                firing = [alert for alert in seen if alert["state"] == "firing"]
                found = {alert["labels"]["alertname"]: alert["annotations"]["summary"] for alert in firing}
                if wanted.items() <= found.items() and (wanted or not ABOUT_MEMBERS & found.keys()):
                    return firing
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise AssertionError(f"wanted {wanted}, seen {seen}") from None
