"""What one packet costs where nothing unusual happens, in one checkout: `python common_path.py CHECKOUT` prints JSON.

It is the checkout's own code that is measured, by its own worlds; this file asks it for nothing that came later than
the datapaths themselves, so that an old one can be compared with a new one (`against`).
"""

import json
import sys
from pathlib import Path

CHECKOUT = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests/bench")]

import core_bench  # noqa: E402  after the path

import asynclb  # noqa: E402
from asynclb.datapath.core import Core  # noqa: E402
from asynclb.tables.row import Delivery  # noqa: E402
from tests.unit.core.loaded import loaded, unavailable  # noqa: E402
from tests.unit.core.world import CLIENTS, SECOND, World, ha, pool, row, tcp, world  # noqa: E402

VIP, CLIENT = core_bench.VIP, "198.51.100.7"
PACKETS = 300_000
REPEAT = 300_000
MEMBERS = tuple(f"10.1.0.{number}" for number in range(1, 101))


def core() -> dict[str, float]:
    """Return ns a packet of the core alone, by what packets meet."""
    found = {}
    for flows in (1, 1_000, 100_000):
        made: Core = world(row(pool("web", *MEMBERS), VIP)).core(1_000_000)
        first, _ = core_bench.whole(made, flows, max(flows, core_bench.FRAMES), SECOND)
        found[f"core, {flows:,} {'flow' if flows == 1 else 'flows'}"], _ = core_bench.whole(
            made, flows, PACKETS, SECOND
        )
        if flows == 100_000:
            found["core, a new flow"] = first
        made.close()
    return found


def kernel() -> dict[str, float]:
    """Return ns a packet of the BPF programs; frames that stay what they are, so that they can be repeated."""
    if unavailable():
        return {}
    found = {}
    floating = world(row(pool("web", *MEMBERS), VIP, delivery=Delivery.FLOATING))
    every = world(ha(pool("web", *MEMBERS), VIP, delivery=Delivery.FLOATING))
    with loaded() as programs:
        for hook in ("xdp", "tc"):
            programs.hook = hook
            for name, shown in (("one port", floating), ("HA ports", every)):
                found[f"kernel, {hook}, {name}"] = repeated(programs, shown)
    return found


def repeated(programs: object, shown: World) -> float:
    """Return ns of a packet of an open connection."""
    programs.show(shown)  # type: ignore[attr-defined]  # tests.unit.core.loaded.Loaded, of that checkout
    for flags in (2, 16):
        programs.run(bytes(tcp(CLIENT, 41_000, VIP, 80, flags)), CLIENTS)  # type: ignore[attr-defined]
    return float(programs.time(bytes(tcp(CLIENT, 41_000, VIP, 80, 16)), CLIENTS, REPEAT))  # type: ignore[attr-defined]


if __name__ == "__main__":
    if not Path(asynclb.__file__).is_relative_to(CHECKOUT):
        sys.exit(f"{CHECKOUT} was to be measured, and Python found {asynclb.__file__}")
    print(json.dumps(core() | kernel()))
