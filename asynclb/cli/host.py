"""Commands about this host and this process: run, demo, detach, doctor, top, completion, version."""

import sys
from ipaddress import IPv4Address, IPv6Address

import click

from asynclb import __version__
from asynclb.cli.options import CONFIG, EXIT_CODES, client_options, json_option, print_json, some, vip_and_port


@click.command(short_help="run; SIGHUP or a changed file reloads; SIGTERM drains and stops", epilog=EXIT_CODES)
@click.argument("config", type=CONFIG)
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


@click.command(short_help="show the main job on this machine, live (root)", epilog=EXIT_CODES)
@click.option("--fast", is_flag=True, help="Take about half the time.")
@click.option("--serve", is_flag=True, help="Keep a lab with load and failures until Ctrl-C; print its page's URL.")
def demo(fast: bool, serve: bool) -> None:
    """Show the main job on this machine: a lab of namespaces, real clients, a member that fails (needs root).

    --serve is for looking at the status page: a lab goes on until Ctrl-C, and its page is reached from this host.
    """
    import asyncio

    if serve:
        from asynclb.lab.serve import serve as go_on

        asyncio.run(go_on())
        return
    from asynclb.lab.demo import demo as play

    code = asyncio.run(play(fast=fast))
    click.echo("to see it in a browser: asynclb demo --serve")
    sys.exit(code)


@click.command(short_help="remove what a stopped instance left forwarding in the kernel (root)", epilog=EXIT_CODES)
def detach() -> None:
    """Remove the programs that forward in this network namespace, and everything pinned for them.

    For after `on_stop: leave`, or an instance that was killed and is not to be started again. A running instance is
    left alone.
    """
    from asynclb.datapath.kernel.leftovers import detach_here

    removed = detach_here()
    click.echo(f"removed {some(len(removed), 'pin')}: {', '.join(removed)}" if removed else "nothing is attached here")


@click.command(short_help="say what this host lacks, each with the command that mends it", epilog=EXIT_CODES)
@click.argument("config", type=CONFIG, required=False)
@click.option(
    "--member",
    metavar="VIP[:PORT]",
    callback=lambda _context, _option, value: value and vip_and_port(value),
    help="On a member: whether it fits a rule of that VIP, and whether somebody serves the (backend) port.",
)
@click.option("--floating", is_flag=True, help="With --member: the rule has floating_ip (direct server return).")
@click.option(
    "--frontend-port",
    type=click.IntRange(1, 65_535),
    metavar="PORT",
    help="With --floating: the port that clients ask, if it is not the one that the member serves.",
)
@json_option
def doctor(
    config: str | None,
    member: tuple[IPv4Address | IPv6Address, int | None] | None,
    floating: bool,
    frontend_port: int | None,
    as_json: bool,
) -> None:
    """Say what this host and this user lack for each datapath, and for CONFIG, with the command that mends it.

    With --member it is run on a member of a pool and says what that one lacks. Changes nothing. Exit code 0: nothing is
    in the way; 1: something is, or CONFIG is refused.
    """
    from asynclb.doctor import Level, Role, examine, examine_member
    from asynclb.doctor.text import finding_document, findings_text

    if floating and member is None:
        raise click.UsageError("--floating says something of a member; add --member VIP")
    if frontend_port is not None and (not floating or member is None or member[1] is None):
        raise click.UsageError("--frontend-port is the other port of a floating rule; add --member VIP:PORT --floating")
    if config is not None and member is not None:
        raise click.UsageError("--member is about the host it runs on; leave CONFIG out")
    if member is None:
        findings = examine(config)
    else:
        findings = examine_member(Role(member[0], floating, member[1], frontend_port))
    print_json([finding_document(one) for one in findings]) if as_json else click.echo(findings_text(findings))
    sys.exit(1 if any(one.level is Level.FAIL for one in findings) else 0)


@click.command(short_help="live view: rules, members, clients, drops, outbound; keys as in htop", epilog=EXIT_CODES)
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Print one screen, with rates over the interval, and exit.")
@click.option(
    "--view",
    type=click.Choice(["rules", "members", "clients", "drops", "outbound"]),
    default="rules",
    show_default=True,
)
@client_options
def top(interval: float, once: bool, view: str, url: str, token_file: str, ca_file: str, as_json: bool) -> None:
    """Watch the running process: what is wrong, rates, health, drops, SNAT ports in use.

    Keys: Tab or 1-5 view, arrows move, < > column to sort by, I other way round, F4 or / filter, space pause,
    F1 or ? help, F10 or q quit.
    """
    from asynclb.admin.client import AdminClient
    from asynclb.top.run import print_once, watch
    from asynclb.top.view import View

    client = AdminClient(url, token_file, ca_file)
    if once or as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        found = print_once(client, View(view), interval, as_json=as_json)
        click.echo(found)
        return
    watch(client, View(view), interval)


@click.command(short_help="print the script that completes commands in a shell", epilog=EXIT_CODES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and members in SHELL.

    bash: asynclb completion bash > /etc/bash_completion.d/asynclb

    zsh: asynclb completion zsh > "${fpath[1]}/_asynclb"

    fish: asynclb completion fish > ~/.config/fish/completions/asynclb.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(root.command, {}, "asynclb", "_ASYNCLB_COMPLETE").source())


@click.command(short_help="print the version")
def version() -> None:
    """Print the version."""
    click.echo(__version__)
