"""The loop: look, draw, take keys, look again."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field

from asynclb.admin.client import AdminClient
from asynclb.errors import HostError
from asynclb.top.keys import Ui, press, read_keys
from asynclb.top.model import Look, Rates, View, rates
from asynclb.top.terminal import Terminal
from asynclb.top.view import as_document, draw, page_of

CLIENTS = 200  # rows of the busiest clients: more than anybody reads
REST = 5  # looks take at most a fifth of the time: thousands of members are not to be rendered all the time
PLAIN_WIDTH, PLAIN_HEIGHT = 200, 1000  # without a terminal there is no edge to fit


def look_at(client: AdminClient, view: View) -> Look:
    """Look once. Raises: HostError -> nobody answers, or the answer is no."""
    clients = client.get("/api/v1/clients", limit=str(CLIENTS)) if view is View.CLIENTS else {}
    return Look(client.get("/api/v1/state"), client.get("/api/v1/counters"), clients)


def print_once(client: AdminClient, view: View, interval_s: float, *, as_json: bool) -> str:
    """Return one screen without a terminal, with the rates of one interval. Raises: HostError -> as `look_at`."""
    before = client.get("/api/v1/counters")
    time.sleep(interval_s)
    look = look_at(client, view)
    found = rates(before, look.counters)
    if as_json:
        return json.dumps(as_document(look, found, view), indent=2, ensure_ascii=False)
    lines = draw(look, found, Ui(view, place=-1), PLAIN_WIDTH, PLAIN_HEIGHT).lines
    return "\n".join(line.text for line in lines[:-1]).rstrip()


@dataclass(slots=True)
class _Seen:
    """The last looks. Owner: the loop."""

    look: Look | None = None
    rates: Rates = field(default_factory=Rates)
    trouble: str = ""

    def again(self, client: AdminClient, view: View) -> None:
        """Look; where nobody answers, say so and keep what was seen."""
        try:
            look = look_at(client, view)
        except HostError as error:
            self.trouble = str(error)
            return
        if self.look is not None:
            self.rates = rates(self.look.counters, look.counters)
        self.look, self.trouble = look, ""


def watch(client: AdminClient, view: View, interval_s: float) -> None:
    """Show until the user has seen enough."""
    seen, ui = _Seen(), Ui(view)
    with suppress(KeyboardInterrupt), Terminal.opened() as terminal:
        due_s = time.monotonic()
        while not ui.quit and not terminal.is_interrupted:
            began_s = time.monotonic()
            if began_s >= due_s:
                if not ui.paused:
                    seen.again(client, ui.view)
                took_s = time.monotonic() - began_s
                due_s = began_s + max(interval_s, REST * took_s)
            width, height = terminal.size
            picture = draw(seen.look, seen.rates, ui, width, height, seen.trouble)
            terminal.show(picture.lines)
            before = ui.view
            for key in read_keys(terminal.keys(due_s - time.monotonic())):
                ui = press(ui, key, page_of(height), picture.rows)
            if ui.view is not before and ui.view is View.CLIENTS:
                due_s = time.monotonic()  # clients are asked for only while they are shown
