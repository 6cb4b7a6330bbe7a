"""Commands about configurations: check, explain, plan."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from asynclb.cli.options import CONFIG, EXIT_CODES, Exit, client_options, print_json, some
from asynclb.errors import ConfigError, HostError, Problem


@click.command(short_help="validate; every problem with line and remedy; exit 1 if any", epilog=EXIT_CODES)
@click.argument("config", type=CONFIG, required=False)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration, for editors, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(config: str | None, schema: bool, as_json: bool) -> None:
    """Validate CONFIG: every problem with its place, value, rule and remedy; exit 1 if there is any."""
    if schema:
        from asynclb.config import json_schema

        print_json(json_schema())
        return
    if config is None:
        raise click.UsageError("name a CONFIG to check, or use --schema")
    problems, warnings, summary = _check(config)
    if as_json:
        from asynclb.admin.state import problem_document

        found = {"problems": problems, "warnings": warnings}
        lists = {kind: [problem_document(problem) for problem in some] for kind, some in found.items()}
        print_json({"ok": not problems, **lists})
    else:
        for warning in warnings:
            click.echo(f"warning: {warning}")
        for problem in problems:
            click.echo(problem)
        click.echo(f"{config}: {some(len(problems), 'problem')}" if problems else summary)
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
    counted = (some(len(prepared.rows), "rule"), some(pools, "pool"), some(members, "member"))
    return (), warnings, f"{config}: fine ({', '.join(counted)})"


@click.command(short_help="say where a flow goes and why", epilog=EXIT_CODES)
@click.argument("words", nargs=-1, required=True, metavar="[CONFIG] FLOW")
@click.option("--live", is_flag=True, help="Ask the running process, which knows the members' health.")
@client_options
def explain(words: tuple[str, ...], live: bool, url: str, token_file: str, ca_file: str, as_json: bool) -> None:
    """Say where a FLOW would go and why, as in 'tcp 198.51.100.7:41000 > 203.0.113.10:443'.

    From a CONFIG every member is assumed up. --live asks the running process instead, and shows beside its tables what
    the datapath that carries the flow says: the program in the kernel is run on such a packet, which goes nowhere.
    Where that is something else than the tables say, the exit code is 1.
    """
    if len(words) != (1 if live else 2):
        raise click.UsageError("give a CONFIG and a FLOW in quotes, or --live and a FLOW in quotes")
    if live:
        from asynclb.admin.client import AdminClient

        found = AdminClient(url, token_file, ca_file).get("/api/v1/explain", flow=words[0])
    else:
        found = _explain(*words)
    from asynclb.admin.columns import explanation

    print_json(found) if as_json else click.echo(explanation(found))
    if live and not found["live"]["agrees"]:
        click.echo(f"asynclb: {found['live']['why']}", err=True)
        sys.exit(Exit.REFUSED)


def _explain(config: str, text: str) -> dict[str, Any]:
    from dataclasses import asdict

    from asynclb.config import load
    from asynclb.control import explain as flows
    from asynclb.control.prepare import prepare
    from asynclb.control.seed import known_seed, state_directory
    from asynclb.kinds import static_candidates
    from asynclb.model import Model
    from asynclb.tables.compile import compile_tables

    try:
        flow = flows.parse_flow(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    prepared = prepare(load(config), static_candidates(), Model(), _kept_ports())
    seed, seed_from = known_seed(prepared.model.hash_seed, state_directory(os.environ))
    health = flows.all_up(prepared.model)
    tables = compile_tables(prepared.rows, health, seed=seed, generation=0, outbound=prepared.outbound)
    found = flows.explain(tables, health, flows.by_rule(tables, prepared.choices), flow)
    return asdict(found) | {"seed": seed_from}


def _kept_ports() -> Any:
    from asynclb.control.nat_ports import read_ports
    from asynclb.control.seed import state_directory

    try:
        return read_ports(state_directory(os.environ))
    except (OSError, ValueError):
        return {}


@click.command(short_help="say what a reload would change", epilog=EXIT_CODES)
@click.argument("configs", nargs=-1, required=True, metavar="[OLD] NEW", type=CONFIG)
@client_options
def plan(configs: tuple[str, ...], url: str, token_file: str, ca_file: str, as_json: bool) -> None:
    """Say what a reload would change: objects, the share of each rule's table slots that move, and flows.

    With OLD and NEW two files are compared, with every member up. With NEW alone the running process compares it with
    what is active, with the members' health and with the flows that are open. Nothing is changed.
    """
    if len(configs) > 2:
        raise click.UsageError("give an OLD and a NEW configuration, or a NEW one alone")
    found = _plan_files(*configs) if len(configs) == 2 else _plan_live(configs[0], url, token_file, ca_file)
    from asynclb.admin.plan_text import plan_text

    print_json(found) if as_json else click.echo(plan_text(found))


def _plan_files(old: str, new: str) -> Any:
    from asynclb.admin.planning import plan_document
    from asynclb.config import load
    from asynclb.control.planner import plan_files
    from asynclb.control.seed import known_seed, state_directory
    from asynclb.kinds import static_candidates
    from asynclb.model import Model

    def seed_of(model: Model) -> int:
        return known_seed(model.hash_seed, state_directory(os.environ))[0]

    return plan_document(plan_files(load(old), load(new), static_candidates(), seed_of, _kept_ports()))


def _plan_live(new: str, url: str, token_file: str, ca_file: str) -> Any:
    from asynclb.admin.client import AdminClient

    try:
        text = Path(new).read_bytes()
    except OSError as error:
        raise HostError(f"{new}: {error.strerror}; name the configuration to plan for") from None
    status, found = AdminClient(url, token_file, ca_file).post("/api/v1/plan", text)
    if status == 422:
        for problem in found["problems"]:
            parts = {key: problem[key] for key in ("value", "rule", "remedy", "line", "column", "code")}
            path, names = tuple(problem["path"]), tuple(problem["names"])
            click.echo(Problem(path=path, names=names, file=new, **parts), err=True)
        sys.exit(1)
    return found
