"""Every `kubectl` command of the documentation, run as it stands by the real kubectl; its API has the real schemas."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from aiohttp.test_utils import TestServer

from tests.deploy.kubernetes_api import Api
from tests.docs.commands import ROOT, commands

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed (Debian: apt-get install kubernetes-client)"
)
APPLY, LABEL = "kubectl apply -f conf/kubernetes.yaml", "kubectl label node NODE asynclb="
MANIFEST = ROOT / "conf" / "kubernetes.yaml"
NODE = "/api/v1/nodes/worker"


@dataclass
class Cluster:
    """An API with one node, and kubectl that was told of it."""

    api: Api
    home: Path

    async def run(self, command: str) -> tuple[int, str]:
        """Run a command in the checkout; return its exit code and what it said."""
        child = await asyncio.create_subprocess_shell(
            command,
            cwd=ROOT,
            env=os.environ | {"HOME": str(self.home), "KUBECONFIG": str(self.home / "config")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            said, _ = await child.communicate()
        return child.returncode or 0, said.decode()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Serve the API on the loopback."""
    api = Api({NODE: {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker", "labels": {}}}})
    async with TestServer(api.application()) as server:
        context = {"cluster": "lab", "user": "lab"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": str(server.make_url("/"))}}],
            "contexts": [{"name": "lab", "context": context}],
            "users": [{"name": "lab", "user": {}}],
            "current-context": "lab",
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        yield Cluster(api, tmp_path)


def test_there_is_no_other_command() -> None:
    """The commands of the documents are those that are run below."""
    assert commands("kubectl") == [APPLY, LABEL]


async def test_apply(cluster: Cluster) -> None:
    """The four objects are taken in their order, each in its namespace; applied again, nothing changes."""
    names = ["namespace/asynclb", "serviceaccount/asynclb", "configmap/asynclb", "daemonset.apps/asynclb"]
    assert await cluster.run(APPLY) == (0, "".join(f"{name} created\n" for name in names))
    assert await cluster.run(APPLY) == (0, "".join(f"{name} unchanged\n" for name in names))
    for sent in yaml.safe_load_all(MANIFEST.read_text()):
        (stored,) = [found for found in cluster.api.objects.values() if found["kind"] == sent["kind"]]
        assert stored.get("spec") == sent.get("spec")
        assert stored.get("data") == sent.get("data")


async def test_label(cluster: Cluster) -> None:
    """The label is the one that the DaemonSet selects nodes by: after it, the node is one of them."""
    await cluster.run(APPLY)
    daemons = cluster.api.objects["/apis/apps/v1/namespaces/asynclb/daemonsets/asynclb"]
    wanted = daemons["spec"]["template"]["spec"]["nodeSelector"]
    labels = cluster.api.objects[NODE]["metadata"]["labels"] | {"kubernetes.io/os": "linux"}
    assert not wanted.items() <= labels.items()
    assert await cluster.run(LABEL.replace("NODE", "worker")) == (0, "node/worker labeled\n")
    labels = cluster.api.objects[NODE]["metadata"]["labels"] | {"kubernetes.io/os": "linux"}
    assert wanted.items() <= labels.items()


async def test_the_api_is_strict(cluster: Cluster, tmp_path: Path) -> None:
    """What the schemas do not know is refused, so that accepting the manifest means something."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MANIFEST.read_text().replace("hostNetwork:", "hostNetworking:"))
    code, said = await cluster.run(f"kubectl apply -f {wrong}")
    assert code == 1
    assert "hostNetworking" in said
