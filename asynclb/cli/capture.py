"""`asynclb capture`: what a rule receives and sends, into a file or a pipe."""

import sys
from contextlib import suppress
from typing import Any

import click

from asynclb.cli.options import EXIT_CODES, client_options


def complete_rule(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the rules of the running process that begin so; none if nobody answers."""
    from asynclb.admin.client import AdminClient
    from asynclb.errors import HostError

    options = context.params
    try:
        client = AdminClient(options["url"], options.get("token_file"), options.get("ca_file"), timeout_s=2.0)
        return [rule["name"] for rule in client.get("/api/v1/rules")["rules"] if rule["name"].startswith(incomplete)]
    except HostError:
        return []


@click.command(short_help="write what a rule receives and sends as pcapng, with verdicts", epilog=EXIT_CODES)
@click.argument("rule", shell_complete=complete_rule)
@click.option("-w", "--write", "target", type=click.File("wb"), required=True, help="The file, `-` for a pipe.")
@click.option("--count", type=click.IntRange(1, 1_000_000), help="At most so many packets.  [default: 10000]")
@click.option("--duration", type=click.IntRange(1, 3_600), help="For so many seconds.  [default: 60]")
@click.option("--member", help="Only packets from or to this member.")
@click.option("--client", help="Only clients of this address or prefix.")
@click.option("--snaplen", type=click.IntRange(64, 65_535), help="Keep so many bytes of each.  [default: all]")
@client_options
def capture(rule: str, target: Any, url: str, token_file: str, ca_file: str, as_json: bool, **wanted: Any) -> None:
    """Write what a rule receives and sends, as the interfaces of the running process see it, in both directions.

    Each packet has a comment: the rule, which way it goes, and its member, or why it is dropped. To look at once:

        asynclb capture web -w - | wireshark -k -i -

        asynclb capture web -w - | tcpdump -nr -

    Ends with Ctrl-C, too. Frames that the reader does not take in time are dropped and counted in the file.
    """
    from asynclb.admin.client import AdminClient

    if as_json:
        raise click.UsageError("--json is not for packets")
    query = {"rule": rule} | {key: str(value) for key, value in wanted.items() if value is not None}
    client = AdminClient(url, token_file, ca_file, timeout_s=float(wanted["duration"] or 60) + 30.0)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        for chunk in client.stream("POST", "/api/v1/capture", **query):
            target.write(chunk)
            target.flush()
    if target is not sys.stdout.buffer:
        target.close()
