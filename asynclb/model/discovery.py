"""Where a pool's members are asked for while the process runs, as the configuration says it."""

from dataclasses import dataclass
from enum import StrEnum


class Record(StrEnum):
    """What a name server is asked for."""

    A = "a"
    AAAA = "aaaa"
    SRV = "srv"
    """Then the addresses of the targets: of the family that the source names."""


class SourceKind(StrEnum):
    """The kinds of source, as they are called in metrics."""

    FILE = "file"
    DNS = "dns"
    ETCD = "etcd"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of members in YAML or JSON; a relative path begins at the configuration's directory."""

    path: str

    kind = SourceKind.FILE

    def __str__(self) -> str:
        return f"file {self.path}"


@dataclass(frozen=True, slots=True)
class DnsSource:
    """Names that are looked up again when their answers expire.

    `servers` are addresses and ports to ask instead of those of /etc/resolv.conf. `version` is the address family of
    SRV targets. The bounds hold whatever the answer's TTL says.
    """

    names: tuple[str, ...]
    record: Record = Record.A
    servers: tuple[tuple[str, int], ...] = ()
    version: int = 4
    min_interval_s: float = 1.0
    max_interval_s: float = 300.0
    timeout_s: float = 5.0

    kind = SourceKind.DNS

    def __str__(self) -> str:
        return f"dns {self.record.upper()} {', '.join(self.names)}"


@dataclass(frozen=True, slots=True)
class EtcdSource:
    """Keys under a prefix of an etcd, one for each member. The paths are of PEM files, and of one with the password."""

    endpoints: tuple[str, ...]
    prefix: str
    timeout_s: float = 5.0
    user: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None

    kind = SourceKind.ETCD

    def __str__(self) -> str:
        return f"etcd {self.prefix} at {', '.join(self.endpoints)}"


MemberSource = FileSource | DnsSource | EtcdSource


@dataclass(frozen=True, slots=True)
class MembersFrom:
    """A pool's source. `allow_empty`: whether an answer without members may take the last ones away."""

    source: MemberSource
    allow_empty: bool = False

    def __str__(self) -> str:
        return f"{self.source}, which may be empty" if self.allow_empty else str(self.source)
