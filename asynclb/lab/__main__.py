"""List the labs of this machine, or remove those whose owner is dead: `python -m asynclb.lab list|clean`."""

import sys

from asynclb.errors import AsynclbError
from asynclb.lab.registry import living, sweep
from asynclb.lab.tools import require_root


def main(words: list[str]) -> int:
    """Carry out one command and return the exit code."""
    if words not in (["list"], ["clean"]):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    try:
        require_root("network namespaces")
        for entry in living() if words == ["list"] else sweep():
            done = "" if words == ["list"] else "removed "
            sys.stdout.write(f"{done}{entry.name}: {entry.title} (process {entry.pid}, files in {entry.directory})\n")
    except AsynclbError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
