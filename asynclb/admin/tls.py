"""TLS for the API, from certificate files that may be replaced while the process runs.

Whoever renews certificates (certbot, cert-manager, a cron job) replaces files and tells nobody. So each handshake asks
whether they are other files than before, which costs two `stat`; files that do not fit together, as in the moment
between the two replacements, are left until they do, and the ones before stay in use.
"""

import os
import ssl
from contextlib import suppress

from asynclb.errors import HostError
from asynclb.model import AdminTls

_Seen = tuple[tuple[int, int], ...]


def server_context(tls: AdminTls) -> ssl.SSLContext:
    """Return the context. Raises: HostError -> the files cannot be read or do not fit together."""
    context = _context(tls)
    context.sni_callback = _Renewal(tls, context)
    return context


def _context(tls: AdminTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate_file, tls.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise HostError(
            f"admin.tls: {tls.certificate_file} and {tls.key_file} cannot be used: {error}; "
            "name a PEM certificate with its chain, and its key without a passphrase, readable for this process"
        ) from error
    return context


class _Renewal:
    """Takes up replaced files. Owner: the context. `ssl` calls it in every handshake, with or without a name."""

    def __init__(self, tls: AdminTls, context: ssl.SSLContext) -> None:
        self._tls = tls
        self._context = context
        self._seen = self._look()

    def __call__(self, handshake: ssl.SSLObject, _name: str | None, context: ssl.SSLContext) -> None:
        found = self._look()
        if found and found != self._seen:
            with suppress(HostError):
                self._context, self._seen = _context(self._tls), found
        if self._context is not context:
            handshake.context = self._context

    def _look(self) -> _Seen:
        try:
            files = [os.stat(path) for path in (self._tls.certificate_file, self._tls.key_file)]  # noqa: PTH116
        except OSError:
            return ()
        return tuple((file.st_mtime_ns, file.st_ino) for file in files)
