"""The command line. Each command imports what it needs, so that `--help` answers at once.

Exit codes: 0 done; 1 refused, or something is missing, with the reason on standard error; 2 wrong usage.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from asynclb import __version__
from asynclb.errors import AsynclbError, ConfigError, Problem

Command = TypeVar("Command", bound=Callable[..., Any])

_CONFIG = click.Path(dir_okay=False)


def main() -> None:
    """Run the command line and exit; what an operator can mend is told without a traceback."""
    try:
        cli()
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        click.echo(f"asynclb: the configuration is refused: {_some(len(error.problems), 'problem')}", err=True)
        sys.exit(1)
    except AsynclbError as error:
        click.echo(f"asynclb: {error}", err=True)
        sys.exit(1)


def _some(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Transparent layer-4 load balancer for Linux."""


@cli.command(short_help="run; SIGHUP or a changed file reloads; SIGTERM drains and stops")
@click.argument("config", type=_CONFIG)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    show_default=True,
    envvar="ASYNCLB_LOG_FORMAT",
    help="How events are written to standard output; auto: console on a terminal, else JSON.",
)
def run(config: str, log_format: str) -> None:
    """Run the balancer until SIGTERM; SIGHUP or a changed CONFIG reloads it."""
    from asynclb import app
    from asynclb.observe.log import LogFormat, open_log

    sys.exit(app.main(config, open_log(LogFormat(log_format))))


@cli.command(short_help="validate; every problem with line and remedy; exit 1 if any")
@click.argument("config", type=_CONFIG, required=False)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration, for editors, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(config: str | None, schema: bool, as_json: bool) -> None:
    """Validate CONFIG: every problem with its place, value, rule and remedy; exit 1 if there is any."""
    if schema:
        from asynclb.config import json_schema

        _print_json(json_schema())
        return
    if config is None:
        raise click.UsageError("name a CONFIG to check, or use --schema")
    problems, warnings, summary = _check(config)
    if as_json:
        from asynclb.admin.state import problem_document

        found = {"problems": problems, "warnings": warnings}
        lists = {kind: [problem_document(problem) for problem in some] for kind, some in found.items()}
        _print_json({"ok": not problems, **lists})
    else:
        for warning in warnings:
            click.echo(f"warning: {warning}")
        for problem in problems:
            click.echo(problem)
        click.echo(f"{config}: {_some(len(problems), 'problem')}" if problems else summary)
    sys.exit(1 if problems else 0)


def _check(config: str) -> tuple[tuple[Problem, ...], tuple[Problem, ...], str]:
    """Return problems, warnings, and what to say when all is well."""
    from asynclb.config import load
    from asynclb.control.prepare import prepare
    from asynclb.kinds import static_candidates
    from asynclb.model import Model

    warnings: tuple[Problem, ...] = ()
    try:
        parsed = load(config)
        warnings = parsed.warnings
        prepared = prepare(parsed, static_candidates(), Model())
    except ConfigError as error:
        return error.problems, warnings, ""
    members = sum(len(pool.members) for pool in prepared.model.backend_pools.values())
    pools = len(prepared.model.backend_pools)
    counted = (_some(len(prepared.rows), "rule"), _some(pools, "pool"), _some(members, "member"))
    return (), warnings, f"{config}: fine ({', '.join(counted)})"


@cli.command(short_help="show the main job on this machine, live (root)")
@click.option("--fast", is_flag=True, help="Take about half the time.")
def demo(fast: bool) -> None:
    """Show the main job on this machine: a lab of namespaces, real clients, a member that fails (needs root)."""
    import asyncio

    from asynclb.lab.demo import demo as play

    sys.exit(asyncio.run(play(fast=fast)))


def _client_options(command: Command) -> Command:
    """Add the options of every command that asks a running process."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--token-file",
            envvar="ASYNCLB_TOKEN_FILE",
            help="The file that the running process has as admin.token_file. [env: ASYNCLB_TOKEN_FILE]",
        ),
        click.option(
            "--url",
            envvar="ASYNCLB_URL",
            default="http://127.0.0.1:9180",
            show_default=True,
            help="Where the running process listens (admin.listen): http://host:port or unix:/path. [env: ASYNCLB_URL]",
        ),
    ):
        command = option(command)
    return command


@cli.command(short_help="say where a flow goes and why")
@click.argument("words", nargs=-1, required=True, metavar="[CONFIG] FLOW")
@click.option("--live", is_flag=True, help="Ask the running process, which knows the members' health.")
@_client_options
def explain(words: tuple[str, ...], live: bool, url: str, token_file: str | None, as_json: bool) -> None:
    """Say where a FLOW would go and why, as in 'tcp 198.51.100.7:41000 > 203.0.113.10:443'.

    From a CONFIG every member is assumed up; --live asks the running process instead.
    """
    if len(words) != (1 if live else 2):
        raise click.UsageError("give a CONFIG and a FLOW in quotes, or --live and a FLOW in quotes")
    if live:
        from asynclb.admin.client import AdminClient

        found = AdminClient(url, token_file).get("/api/v1/explain", flow=words[0])
    else:
        found = _explain(*words)
    from asynclb.admin.columns import explanation

    _print_json(found) if as_json else click.echo(explanation(found))


def _explain(config: str, text: str) -> dict[str, Any]:
    import os
    from dataclasses import asdict

    from asynclb.config import load
    from asynclb.control import explain as flows
    from asynclb.control.nat_ports import read_ports
    from asynclb.control.prepare import prepare
    from asynclb.control.seed import known_seed, state_directory
    from asynclb.kinds import static_candidates
    from asynclb.model import Model
    from asynclb.tables.compile import compile_tables

    try:
        flow = flows.parse_flow(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        ports = read_ports(state_directory(os.environ))
    except (OSError, ValueError):
        ports = {}
    prepared = prepare(load(config), static_candidates(), Model(), ports)
    seed, seed_from = known_seed(prepared.model.hash_seed, state_directory(os.environ))
    health = flows.all_up(prepared.model)
    tables = compile_tables(prepared.rows, health, seed=seed, generation=0)
    found = flows.explain(tables, health, flows.by_rule(tables, prepared.choices), flow)
    return asdict(found) | {"seed": seed_from}


@cli.command(short_help="print what is active in the running process")
@click.argument("what", type=click.Choice(["rules", "members", "frontends", "datapaths", "state"]))
@_client_options
def show(what: str, url: str, token_file: str | None, as_json: bool) -> None:
    """Print what is active in the running process: rules, members, frontends, datapaths or a summary of its state."""
    from asynclb.admin import columns
    from asynclb.admin.client import AdminClient

    state = AdminClient(url, token_file).get("/api/v1/state")
    if as_json:
        _print_json(state if what == "state" else state["pools" if what == "members" else what])
        return
    tables = {
        "rules": columns.rules_table,
        "members": columns.members_table,
        "frontends": columns.frontends_table,
        "datapaths": columns.datapaths_table,
        "state": columns.summary,
    }
    click.echo(tables[what](state))


@cli.command(short_help="have the running process read its file again")
@_client_options
def reload(url: str, token_file: str | None, as_json: bool) -> None:
    """Have the running process read its configuration again; exit 1 with every problem if it refuses."""
    from asynclb.admin.client import AdminClient

    status, found = AdminClient(url, token_file).post("/api/v1/reload")
    if as_json:
        _print_json(found)
    else:
        for warning in found["warnings"]:
            click.echo(f"warning: {warning['text']}")
        for problem in found["problems"]:
            click.echo(problem["text"], err=True)
        click.echo(f"{found['result']}: generation {found['generation']} is active")
    sys.exit(0 if status == 200 else 1)


@cli.command(short_help="remove what a stopped instance left forwarding in the kernel (root)")
def detach() -> None:
    """Remove the programs that forward in this network namespace, and everything pinned for them.

    For after `on_stop: leave`, or an instance that was killed and is not to be started again. A running instance is
    left alone.
    """
    from asynclb.datapath.kernel.leftovers import detach_here

    removed = detach_here()
    click.echo(f"removed {_some(len(removed), 'pin')}: {', '.join(removed)}" if removed else "nothing is attached here")


@cli.command(short_help="print the version")
def version() -> None:
    """Print the version."""
    click.echo(__version__)


def _print_json(document: Any) -> None:
    import json

    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
