"""Network namespaces by name: enter one, set its sysctls, see its sockets, end its processes, delete it.

Laws:
  1. Only the calling thread changes namespace, and it is back where it was when `entered` ends.
  2. A process is ended because it lives in the namespace, never because of its name; it is held by a pidfd
     and looked at again before the signal, so a recycled process id is never hit.

The names are those of `ip netns`, so every namespace of a lab can be entered by hand with `ip netns exec`.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from asynclb.errors import AsynclbError

NETNS_DIRECTORY = Path("/run/netns")
"""Where iproute2 keeps a file for every named namespace."""

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>; `os.setns` exists from Python 3.12 only
_SIOCGIFFLAGS = 0x8913  # <linux/sockios.h>
_IFF_RUNNING = 0x40  # <linux/if.h>
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(AsynclbError):
    """Something in a lab did not come about: a command failed, a server did not get ready."""


def namespace_path(name: str) -> Path:
    """Return the file that stands for the namespace."""
    return NETNS_DIRECTORY / name


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Put the calling thread into the namespace until the block ends.

    Sockets opened inside stay in the namespace for good. The block must not await: other tasks of this thread would
    run in the wrong namespace. Cost: 5 us.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(namespace_path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def write_sysctls(name: str, values: Mapping[str, str | int]) -> None:
    """Set sysctls inside the namespace; keys as in `net.ipv4.ip_forward`, a `/` stands for a dot in a device's name."""
    with entered(name):
        for key, value in values.items():
            if not key.startswith("net."):
                raise ValueError(f"{key}: only net.* belongs to a namespace; anything else would change the host")
            path = Path("/proc/sys", *(part.replace("/", ".") for part in key.split(".")))
            path.write_text(str(value))


def listening(name: str, protocol: str, port: int) -> bool:
    """Return whether a socket in the namespace listens on the port (tcp) or is bound to it (udp).

    Asks the kernel's socket table, so that the server sees no trial connection. Source: proc_net_tcp.rst.
    """
    wanted_state = "0A" if protocol == "tcp" else "07"
    with entered(name):
        for table in (protocol, f"{protocol}6"):
            try:
                lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
            except FileNotFoundError:
                continue  # this kernel has no IPv6
            for line in lines:
                _, local, _, state, *_ = line.split()
                if state == wanted_state and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False


def interface_runs(name: str, device: str) -> bool:
    """Return whether frames can pass the interface: it is up, its other end too, and the kernel has taken note."""
    with entered(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", device.encode(), 0)
        flags: int = struct.unpack("16sH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
    return bool(flags & _IFF_RUNNING)


def create_namespaces(names: Iterable[str], *, hold_fd: int) -> None:
    """Create the namespaces. Cost: 1 ms each.

    The program that creates them inherits `hold_fd`, the lock of the lab's entry: if this process is killed meanwhile,
    nobody takes the lab for dead while namespaces still appear.

    Raises: LabError -> `ip` refused, as in a container without CAP_SYS_ADMIN.
    """
    ip_batch([f"netns add {name}" for name in names], hold_fd=hold_fd)


def delete_namespaces(names: Iterable[str]) -> None:
    """End every process in the namespaces and delete them; the kernel takes their links, routes and rules along."""
    present = [name for name in names if namespace_path(name).exists()]
    end_processes(present)
    ip_batch([f"netns del {name}" for name in present])


def ip_batch(lines: list[str], *, namespace: str | None = None, hold_fd: int | None = None) -> None:
    """Run many `ip` commands in one process, which keeps `hold_fd` open as long as it runs.

    Raises: LabError -> one of them failed; those before it were carried out.
    """
    if not lines:
        return
    where = ["-netns", namespace] if namespace else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"],
        input="\n".join(lines) + "\n",
        text=True,
        capture_output=True,
        check=False,
        pass_fds=() if hold_fd is None else (hold_fd,),
    )
    if done.returncode:
        raise LabError(f"ip {' '.join(where)}: {_failed_line(done.stderr, lines)}{done.stderr.strip()}")


def _failed_line(stderr: str, lines: list[str]) -> str:
    _, found, rest = stderr.partition("Command failed -:")
    number = rest.split(maxsplit=1)[0] if found and rest else ""
    return f"`{lines[int(number) - 1]}`: " if number.isdigit() else ""


def processes_in(names: Iterable[str]) -> list[int]:
    """Return the processes whose main thread is in one of the namespaces, this process left out."""
    inodes = {namespace_path(name).stat().st_ino for name in names if namespace_path(name).exists()}
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in found if pid != os.getpid() and _inode(pid) in inodes] if inodes else []


def end_processes(names: list[str], *, patience_s: float = 5.0) -> None:
    """Kill every process in the namespaces and wait until none is left.

    Raises: LabError -> something is still there after `patience_s` (stuck in the kernel).
    """
    deadline = time.monotonic() + patience_s
    while pids := processes_in(names):
        if time.monotonic() > deadline:
            raise LabError(f"processes {pids} in {', '.join(names)} do not end; look at them with `ps -fp`")
        with ExitStack() as stack:
            for pid in pids:
                _kill_and_wait(pid, stack)


def _kill_and_wait(pid: int, stack: ExitStack) -> None:
    inode = _inode(pid)
    try:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        if inode is not None and _inode(pid) == inode:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    gone = select.poll()
    gone.register(pidfd, select.POLLIN)
    gone.poll(1000)  # a killed process is gone within a millisecond unless it is stuck; the caller looks again


def _inode(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:  # it is gone, or it is a zombie and has no namespace any more
        return None
