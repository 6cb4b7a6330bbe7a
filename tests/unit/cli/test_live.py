"""Commands that change a running process, plans, completion: before a real API."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from asynclb.admin.plan_text import plan_text
from asynclb.admin.tables_text import duration, size
from asynclb.model import Admin, Compat
from tests.unit.admin.test_api import Site, site
from tests.unit.admin.test_commands import record
from tests.unit.cli.test_cli import GOOD, command, typed
from tests.unit.control.fakes import web_model


async def run(here: Site, *words: str, **environment: str) -> tuple[int, str, str]:
    """Run a command against an API; return its exit code and what it wrote."""
    return await asyncio.to_thread(command, *words, **{"ASYNCLB_URL": here.address, **environment})


async def test_drain_set_and_undo() -> None:
    """Each says what became of the member in one line; a generation that has gone by is refused with code 1."""
    async with site() as here:
        drained = await run(here, "drain", "web/a")
        heavy = await run(here, "set", "web/b", "--weight", "3", "--json")
        stale = await run(here, "set", "web/b", "--weight", "4", "--generation", "2")
        undone = await run(here, "drain", "web/a", "--undo")
        nobody = await run(here, "drain", "web/z")
        shown = await run(here, "show", "members")
    assert drained[:2] == (
        0,
        "applied: web/a: admin state drain, weight 1, overridden by 127.0.0.1; generation 3 is active\n",
    )
    assert json.loads(heavy[1])["member"]["weight"] == 3
    assert (stale[0], stale[1]) == (1, "")
    assert "412: generation 4 is active" in stale[2]
    assert "as in the file" in undone[1]
    assert (nobody[0], "the first ones here are: a, b, c" in nobody[2]) == (1, True)
    assert "none*" in shown[1]


async def test_what_azure_does_not_know_is_told_with_its_remedy() -> None:
    """With `compat: azure` a weight and a drain end with 1, and say what the file's check would say."""
    async with site() as here:
        here.bench.loader.put(replace(web_model("a", "b", "c"), compat=Compat.AZURE))
        await run(here, "reload")
        heavy = await run(here, "set", "web/b", "--weight", "3")
        drained = await run(here, "drain", "web/b")
    assert (heavy[0], drained[0]) == (1, 1)
    assert "409: the change was refused and nothing has changed:\nasynclb.yaml:7:3: backend_pools.web" in heavy[2]
    assert "Azure has no weights: every member takes the same share; remove it, or write `compat:" in heavy[2]
    assert "write `down`, or write `compat: extended`" in drained[2]


@pytest.mark.parametrize(
    "words",
    [
        ("drain", "web"),
        ("set", "web/a"),
        ("set", "web/a", "--reset", "--weight", "1"),
        ("set", "web/a", "--weight", "1001"),
        ("plan", "a", "b", "c"),
        ("show", "rules", "--client", "192.0.2.1"),
        ("completion", "tcsh"),
    ],
)
def test_wrong_usage_is_code_2(words: tuple[str, ...]) -> None:
    """What makes no sense ends with 2 before anybody is asked."""
    assert typed(*words).exit_code == 2


async def test_what_can_be_shown() -> None:
    """Flows, clients, drops, tables and generations are aligned tables, with a summary first; --json has the list."""
    async with site() as here:
        here.bench.datapaths[0].records = [record(number) for number in range(1, 131)]
        flows = await run(here, "show", "flows", "--client", "198.51.100.0/25", "--limit", "3")
        many = await run(here, "show", "flows", "--limit", "120", "--json")
        clients = await run(here, "show", "clients", "--limit", "1")
        drops = await run(here, "show", "drops")
        tables = await run(here, "show", "tables")
        generations = await run(here, "show", "generations", "--json")
        outbound = await run(here, "show", "outbound")
        none_used = await run(here, "show", "outbound", "--json")
        rules = await run(here, "show", "rules")
    lines = flows[1].splitlines()
    assert lines[0] == "3 of 127 flows that match, 130 open"
    assert lines[1].split() == ["RULE", "PROTO", "CLIENT", "MEMBER", "TARGET", "STATE", "IN", "OUT", "AGE", "IDLE"]
    assert len(lines) == 5
    assert len(json.loads(many[1])) == 120
    assert clients[1].startswith("1 of 130 client addresses, 130 flows open\n")
    assert drops[1] == "nothing was dropped since the process started\n"
    assert "16,381" in tables[1]
    assert json.loads(generations[1])["history"][0]["cause"] == "health"
    assert "\nno outbound rule is configured: members leave as the host routes them" in outbound[1]
    assert json.loads(none_used[1]) == []
    assert rules[1].splitlines()[0] == outbound[1].splitlines()[0]
    assert rules[1].startswith("! c of pool web is down since ")


async def test_a_plan_against_the_running_process(tmp_path: Path) -> None:
    """The running process says what a file would change; one that it would refuse ends with 1 and its problems."""
    new, broken = tmp_path / "new", tmp_path / "broken"
    new.write_text("a c")
    broken.write_text("broken")
    async with site() as here:
        here.bench.datapaths[0].records = [record(1, member="b"), record(2)]
        found = await run(here, "plan", str(new))
        refused = await run(here, "plan", str(broken))
        absent = await run(here, "plan", str(tmp_path / "absent"))
    assert found[0] == 0
    assert found[1].splitlines()[0] == "changes: 1 removed, 1 changed"
    assert "  1 stay with their member, 1 end\n" in found[1]
    assert "  1 end: member web/b is removed\n" in found[1]
    assert (refused[0], absent[0]) == (1, 1)
    assert "is wrong" in refused[2]


def test_a_plan_between_two_files(tmp_path: Path) -> None:
    """Objects that differ and shares of slots are listed; equal files have nothing to say."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(GOOD)
    new.write_text(GOOD.replace("address: 10.1.0.12", "address: 10.1.0.12, weight: 3"))
    found = typed("plan", str(old), str(new))
    assert found.exit_code == 0
    lines = found.output.splitlines()
    assert lines[:2] == ["changes: 1 changed", "  ~ member web/web-2  (weight: 1 -> 3)"]
    assert lines[3].split() == ["RULE", "SLOTS", "WHY"]
    assert 20 < float(lines[4].split()[1].rstrip("%")) < 30
    assert typed("plan", str(old), str(old)).output == "nothing changes\n"
    assert json.loads(typed("plan", str(old), str(new), "--json").output)["flows"] is None


async def test_completion_knows_commands_and_members() -> None:
    """The script is printed for each shell; completing asks the running process for its members."""
    for shell in ("bash", "zsh", "fish"):
        assert "_ASYNCLB_COMPLETE" in typed("completion", shell).output
    async with site() as here:
        words = {"_ASYNCLB_COMPLETE": "bash_complete", "COMP_WORDS": "asynclb drain web/", "COMP_CWORD": "2"}
        members = await run(here, **words)
        commands = await run(here, **{**words, "COMP_WORDS": "asynclb d", "COMP_CWORD": "1"})
        nobody = await run(here, **words, ASYNCLB_URL="unix:/nonexistent")
    assert members[1].split() == ["plain,web/a", "plain,web/b", "plain,web/c"]
    assert commands[1].split() == ["plain,demo", "plain,detach", "plain,doctor", "plain,drain"]
    assert nobody[1].strip() == ""


async def test_a_token_is_sent_and_missed(tmp_path: Path) -> None:
    """With a token file commands are let in; without, they end with 1 and say which option is missing."""
    token = tmp_path / "token"
    token.write_text("# mine\ns3cret alice\n")
    async with site(Admin(port=0, token_file=str(token))) as here:
        found = await run(here, "show", "state", "--token-file", str(token))
        missed = await run(here, "show", "state")
    assert found[0] == 0
    assert (missed[0], "--token-file" in missed[2]) == (1, True)


def test_numbers_as_people_read_them() -> None:
    """Sizes and spans have three digits at most, and a unit."""
    assert [size(number) for number in (0, 999, 1000, 12_345, 999_999, 5e12, 5e15)] == [
        *("0", "999", "1.0k", "12k", "1.0M", "5.0T", "5P"),
    ]
    assert [duration(seconds) for seconds in (0, 119, 120, 7200, 200_000)] == ["0s", "119s", "2m", "2h", "2d"]


def test_a_long_plan_is_summed_up() -> None:
    """Of a thousand rules that move, those that move most are listed."""
    moves = [{"rule": f"r{number}", "share": number / 1000, "why": "members"} for number in range(1000)]
    text = plan_text({"differences": [], "moves": moves, "flows": None, "warnings": []})
    assert text.splitlines()[3].split() == ["r999", "99.9%", "members"]
    assert text.splitlines()[-1] == "  and 980 more rules"
