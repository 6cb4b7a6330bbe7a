"""A documentation page as a reader would try it: its files written, its commands run in order, what it shows compared.

The kind of a fenced block says what it is:

    ```yaml NAME     a file of this name, in the folder that the commands run in
    ```sh            commands, run by one bash for the whole page, which ends at the first that fails
    ```text          what the commands before it print; `...` stands for anything
    ```sh elsewhere  commands for other machines, which are not run

Everything happens in namespaces of its own (network, mounts, processes): nothing outlives the page, whatever it does.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PRIVATE = (
    "mount -t tmpfs tmpfs /run && mkdir /run/netns && mount -t bpf bpf /sys/fs/bpf && ip link set lo up"
    " && exec bash -eu page.sh"
)
_CUT = "--- the output of block"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its kind, the word behind that (or ""), its text."""

    kind: str
    word: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the page's fenced blocks in order."""
    return [Block(kind, word, text) for kind, word, text in _FENCE.findall(page.read_text())]


def tried(page: Path, folder: Path, timeout_s: float = 120) -> Iterator[tuple[str, str]]:
    """Follow the page in `folder`; yield what each block of commands was to print, as the page has it, and printed.

    Raises: AssertionError -> a command failed; with all that was said until then.
    """
    found = blocks(page)
    for block in found:
        if block.kind == "yaml" and block.word:
            (folder / block.word).write_text(block.text)
    shown = {
        index: found[index + 1].text if index + 1 < len(found) and found[index + 1].kind == "text" else None
        for index, block in enumerate(found)
        if block.kind == "sh" and not block.word
    }
    script = "".join(f"echo '{_CUT} {index}'\n{found[index].text}" for index in shown)
    said = _run(script, folder, timeout_s)
    for index, expected in shown.items():
        if expected is not None:
            yield expected, said[index]


def matches(expected: str, said: str) -> bool:
    """Whether the output is what the page shows: `...` is anything, and runs of blanks are equal."""
    parts = (re.escape(" ".join(part.split())) for part in expected.split("..."))
    return re.fullmatch(r"\s*".join(_glued(parts)), " ".join(said.split())) is not None


def _glued(parts: Iterator[str]) -> Iterator[str]:
    yield next(parts)
    for part in parts:
        yield ".*?"
        yield part


def _run(script: str, folder: Path, timeout_s: float) -> dict[int, str]:
    """Run the commands where nothing can outlive them, and return what each block of them said."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin",
        "STATE_DIRECTORY": str(folder / "state"),
        "PYTHONUNBUFFERED": "1",
    }
    (folder / "state").mkdir()
    (folder / "page.sh").write_text(script)
    unshare = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    done = subprocess.run(
        (*unshare, "sh", "-c", _PRIVATE),
        cwd=folder,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"exit code {done.returncode} after:\n{done.stdout}"
    pieces = re.split(rf"^{_CUT} (\d+)\n", done.stdout, flags=re.MULTILINE)[1:]
    return {int(index): said for index, said in zip(pieces[::2], pieces[1::2], strict=True)}
