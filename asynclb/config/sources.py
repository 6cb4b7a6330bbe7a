"""Where a pool's members come from, as the operator writes it: a file, a name server or an etcd."""

from typing import Annotated

from pydantic import Field

from asynclb.config import spelling as t
from asynclb.config import values
from asynclb.config.spec import Spec
from asynclb.model import Record
from asynclb.net.address import endpoint

DnsName = Annotated[
    str,
    t.text(
        "a name to look up",
        r"(?=.{1,254}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?",
        "write it in full, as in `web.example.org`; it is looked up without a search list",
    ),
]
NameServer = Annotated[
    tuple[str, int],
    t.Written(
        values.name_server,
        {"type": "string", "examples": ["10.0.0.53", "10.0.0.53:53", "[2001:db8::53]:53"]},
        lambda server: endpoint(*server),
    ),
]
RecordWord = Annotated[Record, t.Written(values.choice(Record), {"enum": [str(word) for word in Record]}, str)]
Family = Annotated[int, t.Written(values.family, {"enum": ["ipv4", "ipv6"]}, lambda version: f"ipv{version}")]
Endpoint = Annotated[
    str,
    t.text(
        "the URL of an etcd",
        r"https?://([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?",
        "write scheme, host and port alone, as in `http://10.0.0.5:2379`",
    ),
]
KeyPrefix = Annotated[str, t.text("a prefix of keys", r"[!-~]{1,1024}", "write it as in `/asynclb/web/`")]
UserName = Annotated[str, t.text("a user name", r"[!-~]{1,256}", "write the name that etcd knows")]
Refresh = Annotated[float, t.duration(0.1, 86_400)]
Patience = Annotated[float, t.duration(0.1, 60)]


class DnsSpec(Spec):
    """Names whose addresses are the members; they are looked up again when the answers expire."""

    names: Annotated[tuple[DnsName, ...], Field(min_length=1)]
    """The names, in full; the pool has the members of all of them."""
    record: RecordWord = Record.A
    """`a`, `aaaa`, or `srv`, which gives weight and priority too; its port is ignored, as rules have `backend_port`."""
    family: Family = 4
    """srv: `ipv4` or `ipv6`, the addresses that are taken of the targets."""
    servers: tuple[NameServer, ...] = ()
    """Name servers to ask, as `address` or `address:port`. Empty: those of /etc/resolv.conf."""
    min_interval: Refresh = 1.0
    """Names are looked up no more often, whatever the TTL says, 100ms to 24h."""
    max_interval: Refresh = 300.0
    """Names are looked up at least so often, whatever the TTL says, up to 24h."""
    timeout: Patience = 5.0
    """How long all servers together may take to answer, 100ms to 1m."""


class EtcdTlsSpec(Spec):
    """Files for https endpoints."""

    ca_file: t.FilePath | None = None
    """PEM file of the authorities to trust. Null: the system's."""
    certificate_file: t.FilePath | None = None
    """PEM file of the certificate that asynclb shows. Null: none."""
    key_file: t.FilePath | None = None
    """PEM file of that certificate's key. Null: it is in `certificate_file`."""


class EtcdSpec(Spec):
    """Keys of an etcd, version 3.4 or later: each under the prefix holds a member as a JSON object."""

    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    """URLs of the etcd's members; the first that answers is watched."""
    prefix: KeyPrefix
    """What the keys begin with; what follows is the member's name, unless the value has a `name`."""
    user: UserName | None = None
    """The user to authenticate as. Null: nobody."""
    password_file: t.FilePath | None = None
    """File with the user's password in its first line."""
    tls: EtcdTlsSpec = EtcdTlsSpec()
    """Who is trusted at https endpoints, and the certificate to show there."""
    timeout: Patience = 5.0
    """How long an endpoint may take to connect and to answer, 100ms to 1m."""


class MembersFromSpec(Spec):
    """A source of members: exactly one of `file`, `dns` and `etcd`."""

    file: t.FilePath | None = None
    """YAML or JSON file with a list of members, in the configuration's directory. Replace it by renaming one."""
    dns: DnsSpec | None = None
    """Names to look up."""
    etcd: EtcdSpec | None = None
    """Keys of an etcd to watch."""
    allow_empty: t.Flag = False
    """Whether an answer without any member may take the last ones away; false refuses it and keeps them."""


SOURCE_PARTS: tuple[type[Spec], ...] = (DnsSpec, EtcdTlsSpec, EtcdSpec, MembersFromSpec)
