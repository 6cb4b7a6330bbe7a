"""What commands have in common: options, exit codes, and how things are printed."""

from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

import click

from asynclb.admin.url import DEFAULT_URL

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG = click.Path(dir_okay=False)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Exit(IntEnum):
    """What the exit code of every command says."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    BUG = 70


EXIT_CODES = (
    "Exit codes: 0 done; 1 refused, or something is missing or wrong, with the reason on standard error; "
    "2 wrong usage; 70 a bug of asynclb."
)


def client_options(command: Command) -> Command:
    """Add the options of every command that asks a running process."""
    for option in (
        json_option,
        click.option(
            "--ca-file",
            envvar="ASYNCLB_CA_FILE",
            help="PEM file of the authorities to trust with https; the system's if not given. [env: ASYNCLB_CA_FILE]",
        ),
        click.option(
            "--token-file",
            envvar="ASYNCLB_TOKEN_FILE",
            help="File with a token of the running process's admin.token_file. [env: ASYNCLB_TOKEN_FILE]",
        ),
        click.option(
            "--url",
            envvar="ASYNCLB_URL",
            default=DEFAULT_URL,
            show_default=True,
            help="Where the running process listens (admin.listen): http[s]://host:port or unix:/path. "
            "[env: ASYNCLB_URL]",
        ),
    ):
        command = option(command)
    return command


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def vip_and_port(text: str) -> tuple[IPv4Address | IPv6Address, int | None]:
    """Read `203.0.113.10`, `203.0.113.10:80`, `2001:db8::10` or `[2001:db8::10]:80`.

    Raises: click.BadParameter -> it is none of them.
    """
    address, port = text, ""
    if text.startswith("[") or text.count(":") == 1:
        address, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    try:
        found = ip_address(address.removeprefix("[").removesuffix("]"))
        number = int(port) if port else None
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no address, as in 203.0.113.10, 203.0.113.10:80 or [2001:db8::10]:80"
        ) from None
    if number is not None and not 1 <= number <= 65_535:
        raise click.BadParameter(f"port {number} of {text!r} is not from 1 to 65535")
    return found, number


def print_json(document: Any) -> None:
    """Print a document for programs."""
    import json

    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def some(number: int, what: str) -> str:
    """Return `1 rule`, `2 rules`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
