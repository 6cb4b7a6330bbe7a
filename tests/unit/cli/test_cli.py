"""The command line as an operator types it."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asynclb import __version__
from asynclb.cli import cli, main

GOOD = """\
version: 1
hash_seed: "8c1f0c6e5f0b4a7d"
frontends:
  web: {address: 203.0.113.10, allow: [0.0.0.0/0]}
backend_pools:
  web:
    members:
      - {name: web-1, address: 10.1.0.11}
      - {name: web-2, address: 10.1.0.12}
rules:
  - {name: web, frontend: web, protocol: tcp, frontend_port: 443, backend_port: 8443, backend_pool: web}
"""
FLOW = "tcp 198.51.100.7:41000 > 203.0.113.10:443"


@pytest.fixture
def good(tmp_path: Path) -> str:
    """Write a configuration without a mistake."""
    path = tmp_path / "asynclb.yaml"
    path.write_text(GOOD)
    return str(path)


def typed(*words: str) -> Result:
    """Type a command."""
    return CliRunner().invoke(cli, words, prog_name="asynclb")


def command(*words: str, **environment: str) -> tuple[int, str, str]:
    """Run a command as a process does that has only this to do; return its exit code and what it wrote."""
    with CliRunner(env=environment).isolation() as (out, err, _):
        with pytest.raises(SystemExit) as ended:
            main(words)
        sys.stdout.flush()
        sys.stderr.flush()
        return int(ended.value.code or 0), out.getvalue().decode(), err.getvalue().decode()


def process(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    return subprocess.run([sys.executable, "-m", "asynclb", *words], capture_output=True, text=True, check=False)


def test_help_names_every_command_in_a_line() -> None:
    """`--help` explains each command that exists, and only those."""
    found = typed("--help")
    assert found.exit_code == 0
    commands = re.findall(r"^  (\w+)  +\S", found.output.partition("Commands:")[2], re.MULTILINE)
    asked = ["drain", "explain", "plan", "reload", "run", "set", "show", "top", "version"]
    assert commands == ["capture", "check", "completion", "demo", "detach", "doctor", *asked]


def test_every_help_says_what_the_exit_codes_mean() -> None:
    """Each command that can fail ends its help with the exit codes."""
    silent = [name for name in cli.commands if "Exit codes:" not in typed(name, "--help").output]
    assert silent == ["version"]


def test_help_imports_nothing_heavy() -> None:
    """Help and version answer without the event loop, HTTP, YAML or netlink being imported."""
    code = (
        "import sys\nfrom asynclb.cli import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print([m for m in ('uvloop', 'aiohttp', 'pydantic', 'yaml', 'pyroute2', 'structlog', 'asyncio') "
        "if m in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"


def test_version_is_printed_alone() -> None:
    """Both spellings print the version and nothing else."""
    assert typed("version").output == typed("--version").output == f"{__version__}\n"


def test_check_of_a_good_file(good: str) -> None:
    """A good configuration is said to be fine, with what is in it."""
    found = typed("check", good)
    assert (found.exit_code, found.output) == (0, f"{good}: fine (1 rule, 1 pool, 2 members)\n")


def test_check_lists_every_problem_with_place_value_rule_and_remedy(tmp_path: Path) -> None:
    """Each problem is a line that begins with file:line:column; the exit code is 1."""
    path = tmp_path / "asynclb.yaml"
    path.write_text(GOOD.replace("203.0.113.10,", "203.0.113.300,").replace("protocol: tcp", "protocol: tpc"))
    found = typed("check", str(path))
    lines = found.output.splitlines()
    assert found.exit_code == 1
    assert lines[0].startswith(f"{path}:4:")
    assert "203.0.113.300" in lines[0]
    assert lines[1].startswith(f"{path}:11:")
    assert lines[-1] == f"{path}: 2 problems"


def test_check_refuses_what_no_datapath_can_execute(tmp_path: Path) -> None:
    """A rule that its datapath cannot carry is a problem with its line, not a surprise at the start."""
    path = tmp_path / "asynclb.yaml"
    path.write_text(GOOD.replace("backend_pool: web}", "backend_pool: web, datapath: kernel, transparent: false}"))
    found = typed("check", str(path))
    assert found.exit_code == 1
    assert found.output.startswith(f"{path}:11:")
    assert "packets keep the client's" in found.output


def test_check_as_json(good: str, tmp_path: Path) -> None:
    """With --json the findings are a document with each problem in its parts."""
    assert json.loads(typed("check", good, "--json").output) == {"ok": True, "problems": [], "warnings": []}
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD + "surplus: 1\n")
    found = json.loads(typed("check", str(path), "--json").output)
    (problem,) = found["problems"]
    assert (found["ok"], problem["line"], problem["where"]) == (False, 12, "surplus")
    assert set(problem) >= {"file", "line", "column", "where", "value", "rule", "remedy", "text"}


def test_check_prints_the_schema() -> None:
    """--schema prints a JSON Schema without a file."""
    assert "$schema" in json.loads(typed("check", "--schema").output)


@pytest.mark.parametrize(
    "words", [("check",), ("explain", "x"), ("explain", "--live", "a", "b"), ("show", "everything"), ("nonsense",)]
)
def test_wrong_usage_is_code_2(words: tuple[str, ...]) -> None:
    """A command line that makes no sense ends with 2 and says how it is used."""
    found = typed(*words)
    assert found.exit_code == 2
    assert "Usage:" in found.output


def test_explain_from_a_file(good: str) -> None:
    """A flow is explained with rule, hash, slot, member, reason and delivery; equal inputs give equal answers."""
    found = typed("explain", good, FLOW)
    assert found.exit_code == 0
    labels = [line.split()[0] for line in found.output.splitlines()]
    assert labels == ["flow", "rule", "hash", "seed", "slot", "member", "reason", "delivery", "datapath"]
    assert found.output == typed("explain", good, FLOW).output
    assert json.loads(typed("explain", good, FLOW, "--json").output)["verdict"] == "member"


def test_explain_of_nonsense(good: str) -> None:
    """Something that is not a flow is wrong usage, with an example."""
    found = typed("explain", good, "hello")
    assert found.exit_code == 2
    assert "write: tcp 198.51.100.7:41000 > 203.0.113.10:443" in found.output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("show", "rules", "--url", "http://127.0.0.1:1"), "no asynclb answers at http://127.0.0.1:1"),
        (("show", "rules", "--url", "unix:/nonexistent/sock"), "no asynclb answers at unix:/nonexistent/sock"),
        (("reload", "--url", "ftp://x"), "is neither http://host:port nor unix:/path"),
        (("reload", "--url", "http://x:99999"), "is neither http://host:port nor unix:/path"),
        (("reload", "--token-file", "/nonexistent"), "name the file that admin.token_file names"),
        (("check", "/nonexistent.yaml"), "/nonexistent.yaml"),
        (("run", "/nonexistent.yaml"), "/nonexistent.yaml"),
        (("explain", "/nonexistent.yaml", FLOW), "/nonexistent.yaml"),
    ],
)
def test_what_can_be_mended_is_told_without_a_traceback(words: tuple[str, ...], complaint: str) -> None:
    """Code 1, one message that names the object, no traceback."""
    code, out, err = command(*words)
    assert code == 1
    assert complaint in out + err
    assert "Traceback" not in err


_DIED = "2027-01-15T12:30:00.000Z"
STATE = {
    "version": "1.2.3",
    "pid": 7,
    "started": "2027-01-15T08:00:00.000Z",
    "uptime_s": 18000.0,
    "ready": True,
    "stopping": False,
    "config": {"path": "asynclb.yaml", "digest": "0123456789abcdef"},
    "generation": 4,
    "since": "2027-01-15T08:00:01.000Z",
    "last_reload": {
        "result": "refused",
        "trigger": "watch",
        "at": "2027-01-15T12:00:00.000Z",
        "problems": [{"text": "p", "file": ""}],
        "warnings": [],
    },
    "datapaths": [
        {
            "name": "kernel",
            "mode": "tc, xdp",
            "generation": 4,
            "since": None,
            "rules": 1,
            "interfaces": [
                {"name": "eth0", "mode": "xdp", "instead": ""},
                {"name": "tun7", "mode": "tcx", "instead": "cannot read packets without a link header"},
            ],
        },
        {"name": "proxy", "mode": "", "generation": 0, "since": None, "rules": 0, "interfaces": []},
    ],
    "frontends": [
        {
            "name": "vip",
            "address": "203.0.113.10",
            "scope": "public",
            "zones": ["1", "2"],
            "zone_affinity": True,
            "allow": [],
        }
    ],
    "rules": [
        {
            "name": "web",
            "kind": "load_balancing",
            "frontend": "vip",
            "address": "203.0.113.10",
            "port": 80,
            "protocol": "tcp",
            "pool": "web",
            "probe": "p",
            "eligible": 1,
            "members": 2,
            "state": "serving",
            "datapath": "proxy",
            "delivery": "nat",
            "distribution": "five_tuple",
            "table": 0,
        }
    ],
    "inbound_nat_rules": [],
    "tables": [{"pool": "web", "size": 3, "members": [{"name": "web-1", "slots": 3, "share": 1.0}]}],
    "pools": [
        {
            "name": "web",
            "members": [
                {
                    "name": name,
                    "address": "10.0.0.1",
                    "zone": "1",
                    "weight": 1,
                    "admin_state": "none",
                    "override": None,
                    "health": [health],
                }
                for name, health in (
                    ("web-1", {"probe": "p", "state": "up", "since": None, "reason": "Up_Probe_Success", "detail": ""}),
                    ("web-2", {"probe": "p", "state": "down", "since": _DIED, "reason": "Down", "detail": "refused"}),
                )
            ],
        }
    ],
}

_PATH = {"name": "proxy", "flows": 90, "capacity": 100, "evictions": 0, "stateless": 0, "drops": {}}
COUNTERS = {"clock_s": 1.0, "pid": 1, "datapaths": [_PATH], "rules": [], "members": [], "snat": []}


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200, COUNTERS if self.path == "/api/v1/counters" else STATE)

    def do_POST(self) -> None:
        problem = {"text": "asynclb.yaml:3:1: web: is wrong; mend it"}
        self._answer(422, {"result": "refused", "generation": 4, "problems": [problem], "warnings": []})

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@contextmanager
def answering() -> Iterator[str]:
    """Answer as a running process would; yield the URL."""
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # how often it looks whether it shall end
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


_WHAT = ("rules", "members", "frontends", "datapaths", "state")


def test_show_aligns_columns() -> None:
    """Each of the tables has a head and a line per object, in aligned columns; state is a summary with problems."""
    with answering() as url:
        shown = {what: typed("show", what, "--url", url).output for what in _WHAT}
    problem, _, full, head, line = shown["rules"].splitlines()
    assert problem == "! web-2 of pool web is down since 12:30:00 UTC: refused."
    assert head.index("POOL") == line.index("web", head.index("POOL"))
    assert "tcp 203.0.113.10 80" in line
    assert "1/2" in line
    assert full == "! The flow table of proxy is nearly full: 90 of 100 entries are taken."
    _, refused, _, _, bad, good = shown["members"].splitlines()
    assert refused == "! The reload of 12:00:00 UTC was refused, the old configuration stays: p"
    assert good.split()[-1] == "Up_Probe_Success"
    assert "100.0%" in good
    assert " 0.0%" in bad
    assert bad.endswith("Down (refused)")
    assert "proxy" in shown["datapaths"]
    heads, eth0, tun7 = shown["datapaths"].splitlines()[-3:]
    assert heads.split() == ["DATAPATH", "INTERFACE", "ATTACHED", "BY", "WHY", "NOT", "NATIVE", "XDP"]
    assert eth0.split() == ["kernel", "eth0", "xdp", "-"]
    assert tun7.endswith("tun7       tcx          cannot read packets without a link header")
    assert shown["frontends"].splitlines()[-1].split() == [
        "vip",
        "203.0.113.10",
        "public",
        "1,2",
        "preferred",
        "nobody",
    ]
    assert "refused by watch" in shown["state"]
    assert shown["state"].splitlines()[-1] == "    p"


@pytest.mark.parametrize(("what", "key"), [("rules", "rules"), ("members", "pools"), ("datapaths", "datapaths")])
def test_show_as_json(what: str, key: str) -> None:
    """--json prints that part of the state."""
    with answering() as url:
        assert json.loads(typed("show", what, "--json", "--url", url).output) == STATE[key]


def test_a_refused_reload_is_code_1_with_every_problem() -> None:
    """The problems come on standard error, what is active on standard output."""
    with answering() as url:
        found = process("reload", "--url", url)
    assert found.returncode == 1
    assert found.stderr == "asynclb.yaml:3:1: web: is wrong; mend it\n"
    assert found.stdout == "refused: generation 4 is active\n"


def test_something_else_answers() -> None:
    """A port where another program answers is told as such."""

    class Other(_Answers):
        def _answer(self, status: int, document: Any) -> None:
            del status, document
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n")

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        found = process("show", "rules", "--url", f"http://127.0.0.1:{server.server_port}")
        thread.join()
    assert found.returncode == 1
    assert "is not asynclb" in found.stderr
