"""What a kubelet does with the pod of conf/kubernetes.yaml, said to a Docker Engine: volumes made, containers run.

A key that this knows no meaning of is an error, so nothing of the manifest is passed over that makes a difference here.
Source: Kubernetes' documentation of pods: security contexts, volumes, init containers, probes.
"""

from dataclasses import dataclass
from typing import Any

from tests.deploy.engine.engine import Engine

Spec = dict[str, Any]

_WITHOUT_EFFECT = frozenset(
    {
        "automountServiceAccountToken",  # what follows is about the cluster: accounts, scheduling, names of services
        "dnsPolicy",
        "enableServiceLinks",
        "nodeSelector",
        "priorityClassName",
        "serviceAccountName",
        "tolerations",
    }
)
_POD = frozenset(
    {"containers", "hostNetwork", "initContainers", "securityContext", "terminationGracePeriodSeconds", "volumes"}
)
_CONTAINER = frozenset(
    {"command", "image", "livenessProbe", "name", "readinessProbe", "resources", "securityContext", "startupProbe"}
    | {"volumeMounts"}
)
_SECURITY = frozenset(
    {"allowPrivilegeEscalation", "capabilities", "privileged", "readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot"}
    | {"runAsUser"}
)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a node. `files` are the contents of its config maps: name -> file -> text."""

    spec: Spec
    files: dict[str, dict[str, str]]

    async def start(self, engine: Engine) -> str:
        """Make the volumes, run the init containers one after the other, start the container; return its name.

        Raises: LabError -> an init container failed; with what it said.
        """
        _known(self.spec, "pod", _WITHOUT_EFFECT, _POD)
        assert self.spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}  # the engine's own
        for volume in self.spec["volumes"]:
            await self._make(engine, volume)
        for container in self.spec["initContainers"]:
            await engine.run(self._words(container, "--rm"))
        (container,) = self.spec["containers"]
        await engine.run(self._words(container, "--detach"))
        return str(container["name"])

    async def stop(self, engine: Engine) -> None:
        """End and remove the container as a kubelet does: its signal, the grace period, SIGKILL."""
        (container,) = self.spec["containers"]
        grace_s = self.spec["terminationGracePeriodSeconds"]
        await engine.run(f"docker stop --time {grace_s} {container['name']} && docker rm {container['name']}")

    async def probe(self, engine: Engine, kind: str) -> None:
        """Ask what a probe asks, until it is answered with success, as often as the probe may fail."""
        (container,) = self.spec["containers"]
        asked = container[f"{kind}Probe"]
        get = asked["httpGet"]
        patience_s = asked["periodSeconds"] * asked.get("failureThreshold", 3)
        url = f"http://{get['host']}:{get['port']}{get['path']}"
        await engine.until(f"curl -sS -o /dev/null -w '%{{http_code}}' {url}", "200", timeout_s=patience_s)

    async def _make(self, engine: Engine, volume: Spec) -> None:
        """Make a volume as root has it: what is there already stays as it is."""
        match volume:
            case {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}:
                await engine.run(f"mkdir -p -m 755 {path}")
            case {"configMap": {"name": name}}:
                await engine.run(f"mkdir -p {_config(name)}")
                for file, text in self.files[name].items():
                    await engine.run(f"cat >{_config(name)}/{file} <<'END'\n{text}END")
            case {"emptyDir": {"medium": "Memory"}}:
                pass  # it is made with the container, of which the pod has one
            case _:
                raise ValueError(f"no such volume is known here: {volume}")

    def _words(self, container: Spec, *options: str) -> str:
        """Return the command that runs a container."""
        _known(container, "container", _CONTAINER)
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        mounts = [_mount(volumes[mount["name"]], mount) for mount in container["volumeMounts"]]
        entry, *arguments = container.get("command", [""])
        network = "host" if self.spec["hostNetwork"] else "none"
        words = ["docker run", *options, f"--name {container['name']}", f"--network {network}", *mounts]
        words += [*_security(container["securityContext"]), f"--entrypoint {entry}" if entry else ""]
        return " ".join([*words, container["image"], *arguments])


def _config(name: str) -> str:
    return f"/run/config-maps/{name}"


def _mount(volume: Spec, mount: Spec) -> str:
    """Return the option that mounts a volume."""
    where = mount["mountPath"]
    match volume:
        case {"hostPath": {"path": path}}:
            source = path
        case {"configMap": {"name": name}}:
            source = _config(name)
        case {"emptyDir": {"sizeLimit": size}}:
            return f"--tmpfs {where}:mode=1777,size={size.removesuffix('i')}"
    return f"-v {source}:{where}{':ro' if mount.get('readOnly') else ''}"


def _security(context: Spec) -> list[str]:
    """Return the options that a security context stands for."""
    _known(context, "securityContext", _SECURITY)
    assert not context.get("privileged", False)
    assert context["runAsUser"] != 0 or not context.get("runAsNonRoot", False)
    options = [f"--user {context['runAsUser']}:{context['runAsGroup']}"]
    options += [f"--cap-drop {name}" for name in context["capabilities"]["drop"]]
    options += [f"--cap-add {name}" for name in context["capabilities"]["add"]]
    options += ["--read-only"] if context["readOnlyRootFilesystem"] else []
    return options + ([] if context["allowPrivilegeEscalation"] else ["--security-opt no-new-privileges"])


def _known(found: Spec, what: str, *keys: frozenset[str]) -> None:
    """Make sure that every key has a meaning here."""
    unknown = found.keys() - frozenset().union(*keys)
    assert not unknown, f"{what}: {', '.join(unknown)}: what a kubelet does with it is not known here"
