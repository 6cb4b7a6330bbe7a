"""What a lab needs of the machine, and what to do where it is missing."""

import os
import shutil

from asynclb.errors import HostError

_PACKAGES = {
    "curl": "curl",
    "ethtool": "ethtool",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nft": "nftables",
    "nginx": "nginx-light",
    "setpriv": "util-linux",
    "tcpdump": "tcpdump",
    "wrk": "wrk",
}
"""Program -> Debian package."""

_EXTRA_PATH = "/usr/sbin:/sbin:/usr/local/sbin"  # not on the path of an ordinary shell, but where Debian keeps these


def find_tool(name: str) -> str | None:
    """Return the program's path, or None."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_EXTRA_PATH}")


def require_tools(*names: str) -> None:
    """Make sure that the programs are installed.

    Raises: HostError -> some are not; the text has the one command that installs them all.
    """
    missing = [name for name in names if find_tool(name) is None]
    if missing:
        packages = " ".join(sorted({_PACKAGES.get(name, name) for name in missing}))
        raise HostError(f"the lab needs {', '.join(missing)}, which is not installed; run `apt-get install {packages}`")


def require_root(what: str) -> None:
    """Make sure that this process may do privileged things.

    Raises: HostError -> it may not.
    """
    if os.geteuid() != 0:
        raise HostError(f"the lab needs root for {what}; run the command with sudo")
