"""The command line. Each command imports what it needs, so that `--help` answers at once.

`files` are commands about configurations, `live` those that ask a running process, `host` the others.
"""

import sys
import traceback
from collections.abc import Sequence

import click

from asynclb import __version__
from asynclb.cli import capture, files, host, live
from asynclb.cli.options import CONTEXT, EXIT_CODES, Exit, some
from asynclb.errors import AsynclbError, ConfigError

__all__ = ["cli", "main"]


def main(words: Sequence[str] | None = None) -> None:
    """Run the process's command line, or these words, and exit; what can be mended is told without a traceback."""
    try:
        cli(words, prog_name="asynclb", complete_var="_ASYNCLB_COMPLETE")
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        click.echo(f"asynclb: the configuration is refused: {some(len(error.problems), 'problem')}", err=True)
        sys.exit(Exit.REFUSED)
    except AsynclbError as error:
        click.echo(f"asynclb: {error}", err=True)
        sys.exit(Exit.REFUSED)
    except Exception:  # noqa: BLE001  # the end of the process is the handling
        traceback.print_exc()
        click.echo("asynclb: this is a bug of asynclb; please report it with what stands above", err=True)
        sys.exit(Exit.BUG)


@click.group(context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Transparent layer-4 load balancer for Linux."""


for _module in (capture, files, host, live):
    for _command in vars(_module).values():
        if isinstance(_command, click.Command):
            cli.add_command(_command)
