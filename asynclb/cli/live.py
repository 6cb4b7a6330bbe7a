"""Commands that ask, or change, the running process: show, set, drain, reload."""

import sys
from typing import Any

import click

from asynclb.cli.options import EXIT_CODES, client_options, print_json

SHOWN = (
    "rules",
    "members",
    "outbound",
    "flows",
    "clients",
    "drops",
    "datapaths",
    "frontends",
    "tables",
    "generations",
    "state",
)
_LISTED = {"members": "pools", "outbound": "snat"}
_WHOLE = ("state", "generations")
_OF_STATE = ("rules", "members", "outbound", "datapaths", "frontends", "state")


@click.command(short_help="print what is active in the running process", epilog=EXIT_CODES)
@click.argument("what", type=click.Choice(SHOWN))
@click.option("--rule", help="flows: of this rule only.")
@click.option("--member", help="flows: to this member only.")
@click.option("--client", help="flows: of this address or prefix only.")
@click.option("--protocol", help="flows: of this protocol only.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="flows, clients: at most so many."
)
@client_options
def show(what: str, url: str, token_file: str, ca_file: str, as_json: bool, limit: int, **wanted: str | None) -> None:
    """Print what is active in the running process. What is wrong comes first, before the table."""
    from asynclb.admin.client import AdminClient

    client = AdminClient(url, token_file, ca_file)
    given = {key: value for key, value in wanted.items() if value is not None}
    if given and what != "flows":
        raise click.UsageError(f"--{next(iter(given))} is for `show flows`")
    if as_json:
        found = client.get("/api/v1/counters") if what == "outbound" else _fetch(client, what, limit, given)
        print_json(found if what in _WHOLE else found[_LISTED.get(what, what)])
        return
    from asynclb.admin.tables_text import table_text

    counters = client.get("/api/v1/counters") if what in _OF_STATE else {}
    click.echo(table_text(what, _fetch(client, what, limit, given), counters))


def _fetch(client: Any, what: str, limit: int, wanted: dict[str, str]) -> Any:
    match what:
        case "flows":
            return _flows(client, limit, wanted)
        case "clients":
            return client.get("/api/v1/clients", limit=str(min(limit, 1000)))
        case "drops" | "tables" | "generations":
            return client.get(f"/api/v1/{what}")
        case _:
            return client.get("/api/v1/state")


def _flows(client: Any, limit: int, wanted: dict[str, str]) -> Any:
    """Turn pages until there are enough, or no more."""
    found: dict[str, Any] = {"flows": [], "matching": 0, "open": 0}
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/api/v1/flows", limit=str(min(limit - len(found["flows"]), 1000)), **wanted, **cursor)
        found["matching"] = len(found["flows"]) + page["matching"]
        found["open"] = page["open"]
        found["flows"] += page["flows"]
        if page["next"] is None or len(found["flows"]) >= limit:
            return found
        cursor = {"cursor": page["next"]}


def complete_member(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the members of the running process that begin so; none if nobody answers."""
    from asynclb.admin.client import AdminClient
    from asynclb.errors import HostError

    options = context.params
    try:
        client = AdminClient(options["url"], options.get("token_file"), options.get("ca_file"), timeout_s=2.0)
        pools = client.get("/api/v1/pools")["pools"]
    except HostError:
        return []
    names = (f"{pool['name']}/{member['name']}" for pool in pools for member in pool["members"])
    return [name for name in names if name.startswith(incomplete)]


_MEMBER = click.argument("member", metavar="POOL/MEMBER", shell_complete=complete_member)
_GENERATION = click.option("--generation", type=int, help="Refuse if another generation than this one is active.")


@click.command("set", short_help="say something of a member: admin state, weight", epilog=EXIT_CODES)
@_MEMBER
@click.option("--admin-state", type=click.Choice(["none", "up", "down", "drain"]), help="none: the probe decides.")
@click.option("--weight", type=click.IntRange(0, 1000), help="Share of new flows; 0 takes none.")
@click.option("--reset", is_flag=True, help="Let the file's word hold again.")
@_GENERATION
@client_options
def set_member(
    member: str,
    admin_state: str | None,
    weight: int | None,
    reset: bool,
    generation: int | None,
    url: str,
    token_file: str,
    ca_file: str,
    as_json: bool,
) -> None:
    """Say something of a member that holds over reloads, until the file changes that member or the process ends."""
    change = {key: value for key, value in (("admin_state", admin_state), ("weight", weight)) if value is not None}
    if reset == bool(change):
        raise click.UsageError("give --admin-state, --weight or both; or --reset alone")
    method, tail = ("DELETE", "/override") if reset else ("PATCH", "")
    _change(member, method, tail, change or None, generation, (url, token_file, ca_file), as_json)


@click.command(short_help="give a member no new flows; open ones go on for the drain period", epilog=EXIT_CODES)
@_MEMBER
@click.option("--undo", is_flag=True, help="Let the file's word on the member hold again.")
@_GENERATION
@client_options
def drain(
    member: str, undo: bool, generation: int | None, url: str, token_file: str, ca_file: str, as_json: bool
) -> None:
    """Give a member no new flows; open ones go on for the pool's drain period and are then reset.

    `asynclb show flows --member NAME` shows what is left. Holds as `asynclb set` does.
    """
    method, tail = ("DELETE", "/override") if undo else ("POST", "/drain")
    _change(member, method, tail, None, generation, (url, token_file, ca_file), as_json)


def _change(
    name: str,
    method: str,
    tail: str,
    change: dict[str, Any] | None,
    generation: int | None,
    where: tuple[str, str, str],
    as_json: bool,
) -> None:
    from asynclb.admin.client import AdminClient, quoted

    pool, slash, member = name.partition("/")
    if not (pool and slash and member):
        raise click.UsageError(f"{name!r} is no member; write POOL/MEMBER, as `asynclb show members` prints them")
    path = f"/api/v1/pools/{quoted(pool)}/members/{quoted(member)}{tail}"
    found = AdminClient(*where).write(method, path, change, generation)
    if as_json:
        print_json(found)
        return
    now = found["member"]
    said = "as in the file" if now["override"] is None else f"overridden by {now['override']['by']}"
    state = f"admin state {now['admin_state']}, weight {now['weight']}, {said}"
    click.echo(f"{found['result']}: {name}: {state}; generation {found['generation']} is active")


@click.command(short_help="have the running process read its file again", epilog=EXIT_CODES)
@_GENERATION
@client_options
def reload(generation: int | None, url: str, token_file: str, ca_file: str, as_json: bool) -> None:
    """Have the running process read its configuration again; exit 1 with every problem if it refuses."""
    from asynclb.admin.client import AdminClient

    status, found = AdminClient(url, token_file, ca_file).post("/api/v1/reload", generation=generation)
    if as_json:
        print_json(found)
    else:
        for warning in found["warnings"]:
            click.echo(f"warning: {warning['text']}")
        for problem in found["problems"]:
            click.echo(problem["text"], err=True)
        click.echo(f"{found['result']}: generation {found['generation']} is active")
    sys.exit(0 if status == 200 else 1)
