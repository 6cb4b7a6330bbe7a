"""Keeps the ports of inbound NAT rules over a restart, so that clients find the members where they left them.

Laws:
  1. What was assigned is written after it became active, whole or not at all.
  2. Without a readable file, members take ports in the order of the configuration, and the process says so.
  3. Nodes that are to agree are given the same configurations in the same order, or the same file to begin with.
"""

import json
from pathlib import Path
from typing import Protocol

from asynclb.control.keep import keep
from asynclb.events import Emit, Event
from asynclb.rules import NatPorts

FILE_NAME = "nat_ports.json"


class PortMemory(Protocol):
    """Where the controller keeps assigned ports between two lives of the process."""

    def read(self) -> NatPorts:
        """Return what was kept last; nothing if nothing was, or if it cannot be read."""

    def keep(self, ports: NatPorts) -> None:
        """Keep these ports instead."""


class _Forgetful:
    def read(self) -> NatPorts:
        return {}

    def keep(self, ports: NatPorts) -> None:
        """Keep nothing."""


FORGETFUL: PortMemory = _Forgetful()
"""Keeps nothing: every life of the process begins with ports in the order of the configuration."""


class PortFile:
    """A `PortMemory` in the state directory. Does I/O: call it in a thread."""

    def __init__(self, directory: Path, emit: Emit) -> None:
        self._path = directory / FILE_NAME
        self._emit = emit

    def read(self) -> NatPorts:
        """Return what was kept last."""
        try:
            return read_ports(self._path.parent)
        except (OSError, ValueError) as error:
            self._tell("the ports of inbound NAT rules cannot be read, so members get them afresh", error)
            return {}

    def keep(self, ports: NatPorts) -> None:
        """Write the ports, readable for everybody: they are no secret."""
        try:
            keep(self._path, json.dumps(ports, indent=1))
        except OSError as error:
            self._tell("the ports of inbound NAT rules cannot be kept, so they may change at the next restart", error)

    def _tell(self, what: str, error: Exception) -> None:
        remedy = f"make {self._path} a file that this process can read and write ($STATE_DIRECTORY), or remove it"
        self._emit(Event.HOST_LIMIT, what=what, value=f"{self._path}: {error}", remedy=remedy)


def read_ports(directory: Path) -> NatPorts:
    """Return the ports that are kept in a directory, none where there is no file.

    Raises: OSError -> it cannot be read; ValueError -> the file holds something else.
    """
    try:
        found = json.loads((directory / FILE_NAME).read_text(encoding="ascii"))
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or not all(isinstance(ports, dict) for ports in found.values()):
        raise ValueError("it is no mapping of rules to members to ports")
    if not all(type(port) is int and 0 < port < 1 << 16 for ports in found.values() for port in ports.values()):
        raise ValueError("a port is not a number from 1 to 65535")
    if any(len(set(ports.values())) != len(ports) for ports in found.values()):
        raise ValueError("two members of a rule have the same port")
    return found
