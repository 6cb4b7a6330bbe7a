"""What conf/ has for containers and Kubernetes: valid by the schemas of those who read it, and true to the rest."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from asynclb import config
from asynclb.admin.guard import Guard
from asynclb.admin.ready import ANSWER_S
from asynclb.control.prepare import prepare
from asynclb.kinds import static_candidates
from asynclb.model import Model
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
COMPOSE = yaml.safe_load((CONF / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((CONF / "kubernetes.yaml").read_text()))
DAEMON_SET = next(found for found in MANIFESTS if found["kind"] == "DaemonSet")
POD = DAEMON_SET["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCUMENT = (CONF / "DEPLOYMENT.md").read_text()
UNIT = (CONF / "asynclb.service").read_text()


def tool(name: str, *words: str | Path) -> None:
    """Run a tool that came with the locked requirements, and fail with what it says."""
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_is_one() -> None:
    """The Compose specification's own schema accepts it."""
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", CONF / "compose.yaml")


def test_the_manifests_are_some() -> None:
    """The schemas of the Kubernetes API accept every object, with no key that they do not know."""
    tool("kubernetes-validate", "--strict", "--quiet", CONF / "kubernetes.yaml")


def named() -> Iterator[tuple[str, set[str]]]:
    """Yield who names capabilities, and which."""
    (carried,) = re.findall(r"setcap (\S+)=p", DOCKERFILE)
    yield "Dockerfile", {name.upper() for name in carried.split(",")}
    for setting in ("AmbientCapabilities", "CapabilityBoundingSet"):
        (names,) = re.findall(rf"^{setting}=(.*)$", UNIT, re.MULTILINE)
        yield f"asynclb.service: {setting}", set(names.split())
    yield "compose.yaml", {f"CAP_{name}" for name in COMPOSE["services"]["asynclb"]["cap_add"]}
    yield "kubernetes.yaml", {f"CAP_{name}" for name in CONTAINER["securityContext"]["capabilities"]["add"]}


@pytest.mark.parametrize(("where", "names"), [*named()], ids=lambda value: value if isinstance(value, str) else "")
def test_all_ask_for_the_same_capabilities(where: str, names: set[str]) -> None:
    """Who reads the table of DEPLOYMENT.md knows what every way of running asynclb asks for."""
    assert names == set(re.findall(r"^\| (CAP_\w+) \|", DOCUMENT, re.MULTILINE)), where


def test_the_unit_explains_each_capability() -> None:
    """Each capability has a line of its own above the setting."""
    explained = re.findall(r"^# ([A-Z_]+)  +\w", UNIT, re.MULTILINE)
    assert {f"CAP_{name}" for name in explained} == dict(named())["asynclb.service: AmbientCapabilities"]


def test_what_compose_mounts_is_there() -> None:
    """Every file and folder of this repository that a service mounts exists, read-only; every volume is declared."""
    for name, service in COMPOSE["services"].items():
        for volume in service["volumes"]:
            source = volume["source"]
            if volume["type"] == "volume":
                assert source in COMPOSE["volumes"], name
            elif source.startswith("."):
                assert (CONF / source).exists(), f"{name}: {source}"
                assert volume["read_only"], f"{name}: {source}"
    build = COMPOSE["services"]["asynclb"]["build"]
    assert (CONF / build["context"] / build["dockerfile"]).resolve() == ROOT / "Dockerfile"


def test_every_service_says_how_it_is() -> None:
    """Prometheus and Grafana have a health check here, asynclb has one in its image."""
    without = {name for name, service in COMPOSE["services"].items() if "healthcheck" not in service}
    assert without == {"asynclb"}
    assert re.search(r"^HEALTHCHECK ", DOCKERFILE, re.MULTILINE)


def test_a_busy_host_has_time_for_a_check() -> None:
    """A check has 20 s to be started; the image's own ends itself: an engine that has to end one tells no reason."""
    (limit,) = re.findall(r"^HEALTHCHECK .*--timeout=(\d+)s", DOCKERFILE, re.MULTILINE)
    assert int(limit) >= ANSWER_S + 20
    assert {COMPOSE["services"][name]["healthcheck"]["timeout"] for name in ("prometheus", "grafana")} == {"30s"}
    assert {CONTAINER[f"{kind}Probe"]["timeoutSeconds"] for kind in ("startup", "readiness", "liveness")} == {5}


def test_grafana_finds_dashboards_and_prometheus() -> None:
    """Where the provider looks is where the dashboards are mounted; the data source is the service beside it."""
    folder = CONF / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "asynclb.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    mounted = {volume["target"]: volume["source"] for volume in COMPOSE["services"]["grafana"]["volumes"]}
    assert mounted[provider["options"]["path"]] == "./grafana"
    assert mounted["/etc/grafana/provisioning"] == "./grafana/provisioning"
    listen = next(word for word in COMPOSE["services"]["prometheus"]["command"] if "listen-address" in word)
    assert source["url"] == f"http://{listen.partition('=')[2]}"
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (CONF / "grafana" / Path(home).name).exists()


def mapped(words: list[str], storage: Path) -> list[str]:
    """Return the words of a container's command with the paths that its mounts have on this host."""
    service = COMPOSE["services"]["prometheus"]
    places = {
        volume["target"]: str(storage if volume["type"] == "volume" else (CONF / volume["source"]).resolve())
        for volume in service["volumes"]
    }
    return [next((word.replace(t, s) for t, s in places.items() if word.endswith(f"={t}")), word) for word in words]


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_prometheus_starts_as_it_is_started_there(tmp_path: Path) -> None:
    """With the very arguments and files of the Compose file it becomes healthy where the health check asks."""
    service = COMPOSE["services"]["prometheus"]
    port = str(free_port())
    words = [word.replace("9090", port) for word in mapped(service["command"], tmp_path)]
    url = service["healthcheck"]["test"][-1].replace("9090", port)
    process = subprocess.Popen(["prometheus", *words, "--log.level=warn"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not healthy(url):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        said = process.communicate()[1]
    assert "err=" not in said


def healthy(url: str) -> bool:
    """Return whether a health check succeeds."""
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310  # the file's own URL
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_config_map_is_a_configuration(tmp_path: Path) -> None:
    """What the ConfigMap has is accepted without a warning, and listens where the probes ask."""
    (found,) = [found for found in MANIFESTS if found["kind"] == "ConfigMap"]
    (name,) = found["data"]
    file = tmp_path / name
    file.write_text(found["data"][name])
    parsed = config.load(str(file))
    assert parsed.warnings == ()
    assert prepare(parsed, static_candidates(), Model()).rows
    asked = {
        f"{CONTAINER[f'{kind}Probe']['httpGet']['host']}:{CONTAINER[f'{kind}Probe']['httpGet']['port']}"
        for kind in ("startup", "readiness", "liveness")
    }
    assert asked == {f"{parsed.model.admin.host}:{parsed.model.admin.port}"}
    assert POD["terminationGracePeriodSeconds"] > parsed.model.shutdown_drain_s + 15


def scraped() -> Iterator[tuple[str, str]]:
    """Yield (file, host) for whatever asks an instance over HTTP: targets of Prometheus, and probes of pods."""
    for job in yaml.safe_load((CONF / "prometheus.yml").read_text())["scrape_configs"]:
        for group in job["static_configs"]:
            yield from (("prometheus.yml", target.rpartition(":")[0]) for target in group["targets"])
    for name, probe in CONTAINER.items():
        if name.endswith("Probe"):
            yield f"kubernetes.yaml: {name}", probe["httpGet"]["host"]


@pytest.mark.parametrize(("where", "host"), [*scraped()])
def test_nobody_is_misdirected(where: str, host: str) -> None:
    """Who asks is not answered with 421: each calls the instance by an address, or by a name in `admin.hosts`."""
    configured = [found["data"] for found in MANIFESTS if found["kind"] == "ConfigMap"]
    names = yaml.safe_load(configured[0]["asynclb.yaml"]).get("admin", {}).get("hosts", ())
    assert Guard(None, names=names).misdirected(f"{host}:9180") is None, where
    assert Guard(None).misdirected("asynclb:9180") is not None, "a service's name has to be in admin.hosts"


def test_prometheus_reaches_the_api_beside_it() -> None:
    """The Compose file's services share the host's network: the target's loopback is where asynclb listens."""
    modes = {name: service.get("network_mode") for name, service in COMPOSE["services"].items()}
    assert set(modes.values()) == {"host"}


def test_pods_have_no_more_than_they_need() -> None:
    """No container is privileged or writes to its image; the one that serves is not root; the other may only chown."""
    (first,) = POD["initContainers"]
    for container in (first, CONTAINER):
        security = container["securityContext"]
        assert not security.get("privileged", False)
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"]["drop"] == ["ALL"]
    assert CONTAINER["securityContext"]["runAsUser"] == 65532
    assert CONTAINER["securityContext"]["runAsNonRoot"]
    assert first["securityContext"]["capabilities"]["add"] == ["CHOWN"]
    assert POD["automountServiceAccountToken"] is False
    kinds = {found["kind"] for found in MANIFESTS}
    assert kinds == {"Namespace", "ServiceAccount", "ConfigMap", "DaemonSet"}


def test_names_hold_together() -> None:
    """Mounts have volumes, the pod has the account, the selector finds the pods, and all are in the namespace."""
    volumes = {volume["name"] for volume in POD["volumes"]}
    used = {mount["name"] for container in (*POD["initContainers"], CONTAINER) for mount in container["volumeMounts"]}
    assert used == volumes
    assert DAEMON_SET["spec"]["selector"]["matchLabels"] == DAEMON_SET["spec"]["template"]["metadata"]["labels"]
    names = {found["metadata"]["name"] for found in MANIFESTS}
    spaces = {found["metadata"]["namespace"] for found in MANIFESTS if found["kind"] != "Namespace"}
    assert names == spaces == {"asynclb"} == {POD["serviceAccountName"]}
