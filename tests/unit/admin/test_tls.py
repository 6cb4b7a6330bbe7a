"""The API over TLS: real certificates, also replaced ones."""

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from asynclb.admin.tls import server_context
from asynclb.errors import HostError
from asynclb.lab import PATIENCE_S
from asynclb.model import Admin, AdminTls
from tests.unit.admin.test_api import site

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def certify(directory: Path, name: str) -> AdminTls:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    tls = AdminTls(str(directory / "cert.pem"), str(directory / "key.pem"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", tls.key_file, "-out", tls.certificate_file, "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return tls


async def test_https_with_files_that_are_replaced(tmp_path: Path) -> None:
    """The client trusts the certificate; a replaced one is served from the next connection on, without a restart."""
    tls = certify(tmp_path, "first")
    async with site(Admin(port=0, tls=tls)) as here:
        place = "127.0.0.1", int(here.address.rpartition(":")[2])

        async def ask() -> str:
            trust = ssl.create_default_context(cafile=tls.certificate_file)
            url = f"https://{here.address}/healthz"
            async with aiohttp.ClientSession() as session, session.get(url, ssl=trust) as answer:
                assert answer.status == 200
            return await asyncio.to_thread(ssl.get_server_certificate, place)

        first = await ask()
        certify(tmp_path, "second")
        second = await ask()
        Path(tls.key_file).write_text("not a key")
        third = await asyncio.to_thread(ssl.get_server_certificate, place)
    assert first != second
    assert third == second


async def test_the_command_line_over_https(tmp_path: Path) -> None:
    """`--ca-file` names the authority; without it the command ends with 1 and says so."""
    tls = certify(tmp_path, "lb")

    async def show(url: str, *words: str) -> tuple[int | None, str]:
        found = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "asynclb", "show", "rules", "--url", url, *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ},
        )
        out, _ = await asyncio.wait_for(found.communicate(), PATIENCE_S)
        return found.returncode, out.decode()

    async with site(Admin(port=0, tls=tls)) as here:
        right = await show(f"https://{here.address}", "--ca-file", tls.certificate_file)
        untrusted = await show(f"https://{here.address}")
        plain = await show(f"http://{here.address}")
    assert right[0] == 0
    assert "web-0" in right[1]
    assert (untrusted[0], "--ca-file" in untrusted[1]) == (1, True)
    assert plain[0] == 1


def test_files_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """A missing or broken file, or a key of another certificate, is one message with both names."""
    tls = certify(tmp_path, "lb")
    Path(tls.key_file).write_text("nonsense")
    for bad in (tls, AdminTls(str(tmp_path / "absent"), tls.key_file)):
        with pytest.raises(HostError, match=r"admin\.tls: .*cannot be used"):
            server_context(bad)
