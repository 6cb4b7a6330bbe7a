"""`asynclb explain --live` beside a real instance: what tables and datapath say, and when they differ."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from asynclb.datapath.core import layout
from asynclb.datapath.kernel.bpffs import find_bpffs
from asynclb.datapath.kernel.leftovers import CONTROL
from asynclb.datapath.kernel.pins import HOME, Pins, namespace_cookie
from asynclb.lab import Site
from asynclb.native.libbpf import Libbpf
from tests.faults.test_kernel_life import ROOT, config, site, start

__all__ = ["site"]

pytestmark = pytest.mark.netns


async def explained(site: Site, port: int, *options: str) -> tuple[int, str, str]:
    """Ask about a client's flow; return the exit code, what was printed, and what was complained of."""
    words = ("explain", "--live", *options, f"tcp 10.0.1.11:{port} > 203.0.113.10:80")
    process = await site.lb.run(sys.executable, "-m", "asynclb", *words, env={"PYTHONPATH": str(ROOT)})
    return await process.wait(), process.stdout, process.stderr


@contextmanager
def image_before(site: Site) -> Iterator[None]:
    """Let the programs read the image before the present one."""
    with site.lb.entered():
        bpf, cookie = Libbpf(), namespace_cookie()
        fd = Pins(bpf, find_bpffs(f"{HOME}/{cookie}"), cookie).open(CONTROL)

    def flip() -> None:
        value = bpf.lookup(fd, bytes(4), 64)
        assert value is not None
        control = layout.KernelControl.from_buffer_copy(value)
        control.active = 1 - control.active
        bpf.update(fd, bytes(4), bytes(control))

    flip()
    try:
        yield
    finally:
        flip()


async def test_the_program_agrees_or_it_is_an_error(site: Site) -> None:
    """The loaded program is run on the packet; when it reads other tables than those in force, the exit code is 1."""
    process = await start(site, config(site))
    config(site, hosts=site.members[:1])
    await process.wait_for_log('"trigger": "watch"')
    code, said, _ = await explained(site, 41_000)
    assert (code, "the loaded program says be1 of pool web" in said) == (0, True)
    with image_before(site):
        answers = [await explained(site, port) for port in range(41_000, 41_006)]
    differing = [(said, complaint) for code, said, complaint in answers if code == 1]
    assert differing
    assert {code for code, *_ in answers} <= {0, 1}
    for said, complaint in differing:
        assert "DIFFERENT: the loaded program says be" in said
        assert "the tables say be1: `asynclb reload`" in complaint
    assert (await explained(site, 41_000))[0] == 0
    assert await process.stop() == 0


@pytest.mark.parametrize(("datapath", "asked"), [("packet", "the packet core"), ("proxy", "")])
async def test_datapaths_without_a_program(site: Site, datapath: str, asked: str) -> None:
    """The packet core is asked in the same way; of the proxy it is said that there is nothing to ask."""
    path = config(site)
    path.write_text(path.read_text().replace("datapath: kernel", f"datapath: {datapath}"))
    process = await start(site, path)
    code, said, _ = await explained(site, 41_000, "--json")
    found: dict[str, Any] = json.loads(said)
    assert (code, found["live"]["asked"], found["live"]["agrees"]) == (0, asked, True)
    assert found["live"]["member"] == (found["member"] if asked else "")
    assert asked or "there is no program to ask" in found["live"]["why"]
    assert await process.stop() == 0
