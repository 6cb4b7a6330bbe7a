"""Builds the core with ASan and UBSan and feeds it damaged conversations: `python tests/fuzz/run.py [seconds [seed]]`.

The system's compiler is used, clang with libFuzzer if it has it, else any with the driver of this folder: the compiler
that builds the package brings no sanitizer runtime. `--corpus` writes the corpus anew.
"""

import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from asynclb.datapath.core import build_image
from asynclb.native.build import write_layout
from asynclb.net.flowhash import Distribution
from tests.property.test_core_oracle import make_world
from tests.unit.core.world import Packet, icmp_error, tcp, udp

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
VIP, ALICE = "203.0.113.10", "198.51.100.7"
FLAGS = ("-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra")


def conversation(*frames: tuple[int, bytes], seconds: int = 0) -> bytes:
    """Return an input for the target: frames with their kinds."""
    return b"".join(struct.pack("!BBH", kind, 4 * seconds, len(frame)) + frame for kind, frame in frames)


def seeds() -> dict[str, bytes]:
    """Return the corpus: a conversation for everything that the core looks at."""
    answers = [bytes(tcp(f"10.1.0.{i}", 8080, ALICE, 4000, 18)) for i in (11, 12, 13)]
    whole = bytes(udp(ALICE, 5353, VIP, 53, b"y" * 40))[34:]
    parts = [Packet(ALICE, VIP, 17, p, fragment=f, raw=True) for p, f in ((whole[24:], 3), (whole[:24], 0x2000))]
    six = tcp("2001:db8:9::7", 4000, "2001:db8::10", 80)
    request = bytes(tcp(ALICE, 4000, VIP, 80))
    inward = bytes(tcp("10.1.0.11", 9, VIP, 80)), bytes(tcp("10.1.0.11", 8080, VIP, 61500))
    spokes = bytes(tcp("10.8.0.1", 1, "10.9.0.1", 80)), bytes(tcp("10.9.0.1", 80, "10.8.0.1", 1))
    others = (bytes(Packet(ALICE, "203.0.113.20", number, bytes(12))) for number in (1, 47, 50, 51, 132))
    return {
        "tcp": conversation((0, request), *((1, answer) for answer in answers), (4, request)),
        "partial": conversation((2, request)),
        "tcp6": conversation((0, bytes(six)), (1, bytes(tcp("2001:db8:1::11", 8080, "2001:db8:9::7", 4000, 18)))),
        "fragments": conversation(*((0, bytes(part)) for part in parts)),
        "fragments6": conversation((0, bytes(Packet("2001:db8::1", "2001:db8::20", 17, whole, fragment=0x2000)))),
        "error": conversation((0, request), (0, bytes(icmp_error("192.0.2.1", VIP, answers[0][14:])))),
        "error6": conversation((0, bytes(icmp_error("2001:db8::1", "2001:db8:9::7", bytes(six)[14:])))),
        "hairpin": conversation((1, inward[0]), (1, inward[1])),
        "routed": conversation((0, spokes[0]), (1, spokes[1])),
        "chain": conversation((0, bytes(Packet("2001:db8::7", "2001:db8::10", 60, (b"\x3c\0" + bytes(6)) * 9)))),
        "options": conversation((0, bytes(tcp(ALICE, 4000, VIP, 80, options=b"\1" * 40)))),
        "vlan": conversation((0, bytes(tcp(ALICE, 4000, VIP, 80, vlan=b"\x88\xa8\0\5\x81\0\0\6")))),
        "others": conversation(*((0, frame) for frame in others)),
        "arp": conversation((0, b"\xff" * 12 + b"\x08\6\0\1\x08\0\6\4\0\1" + bytes(16) + bytes((203, 0, 113, 10)))),
        "image": conversation((8, image()[:2000])),
    }  # fmt: skip


def image() -> bytes:
    """Return the image of a world that has a bit of everything."""
    made = make_world(7, Distribution.FIVE_TUPLE)
    return build_image(made.tables, made.plan)


def build(directory: Path) -> list[str]:
    """Compile the target; returns the command that runs it for `seconds`."""
    write_layout(ROOT / "asynclb", directory)
    (directory / "image").write_bytes(image())
    include = [f"-I{directory}", f"-I{ROOT / 'asynclb' / 'datapath' / 'core'}"]
    output = str(directory / "fuzz")
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        sys.exit("no C compiler with sanitizers: install clang or gcc")
    fuzzer = [compiler, *FLAGS, "-fsanitize=fuzzer", *include, str(HERE / "target.c"), "-o", output]
    if subprocess.run(fuzzer, capture_output=True, check=False).returncode == 0:
        return [output, "-max_total_time={seconds}", "-seed={seed}", str(directory / "found"), str(CORPUS)]
    files = [str(HERE / "target.c"), str(HERE / "drive.c")]
    subprocess.run([compiler, *FLAGS, *include, *files, "-o", output], check=True)
    return [output, "{seconds}", "{seed}", *map(str, sorted(CORPUS.iterdir()))]


def main() -> int:
    """Build and run."""
    if "--corpus" in sys.argv:
        for name, content in seeds().items():
            (CORPUS / name).write_bytes(content)
        return 0
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1, 2**31)
    with tempfile.TemporaryDirectory(prefix="asynclb-fuzz-") as name:
        command = build(Path(name))
        (Path(name) / "found").mkdir()
        values = {"seconds": seconds, "seed": seed}
        environment = {**os.environ, "ASYNCLB_FUZZ_IMAGE": str(Path(name) / "image")}
        return subprocess.run([part.format(**values) for part in command], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
