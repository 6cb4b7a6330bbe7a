"""The status page in a real Chromium, before a real process: what a person sees, and what the browser complains of."""

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, time
from pathlib import Path

import pytest

from tests.page.site import Site, address, site

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: .ci/setup test")
Page, Browser, expect = api.Page, api.Browser, api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"),
]
PATIENCE_MS = 12_000
AWAY = re.compile(r"ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|401|503")
"""What a browser says by itself of an instance that is away, or that turns the page away."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run one Chromium for all tests."""
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run three members of one pool, all well, with traffic."""
    with site(tmp_path_factory.mktemp("small"), {"web": 3}) as running, running.load():
        yield running


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a pool of 1,000 members, four of them ill, and one of three."""
    directory = tmp_path_factory.mktemp("large")
    with site(directory, {"web": 1000, "mail": 3}, ill=(3, 77, 500, 999)) as running:
        yield running


class View:
    """One page and everything that its browser has complained of."""

    def __init__(self, browser: Browser, url: str, width: int, scheme: str) -> None:
        window = {"width": width, "height": 900}
        self._context = browser.new_context(viewport=window, color_scheme=scheme, timezone_id="Asia/Kolkata")
        self.page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: None if asked.url.startswith(url) else self.elsewhere.append(asked.url))
        self.page.goto(url)

    def close(self, *, ignoring: re.Pattern[str] | None = None) -> None:
        """Close it; it must have asked nobody else, and have had nothing to complain of."""
        self._context.close()
        assert self.elsewhere == []
        assert [text for text in self.complaints if ignoring is None or not ignoring.search(text)] == []

    def says(self, text: str | re.Pattern[str]) -> None:
        """Wait for the first line."""
        expect(self.page.locator("#line")).to_have_text(text, timeout=PATIENCE_MS)


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


_LONGEST = "in\u00a099.9\u00a0Gbit/s · out\u00a099.9\u00a0Gbit/s · 99.9\u00a0M\u00a0packets/s"
_CUT = """longest => [...document.querySelectorAll(".tile .sub")].filter(sub => {
  sub.textContent = longest;
  return sub.scrollWidth > sub.clientWidth || sub.scrollHeight > sub.clientHeight + 1;
}).length"""


@pytest.mark.parametrize("width", [320, 360, 420, 641, 768, 1001, 1024, 1280, 1440, 1920])
def test_nothing_of_a_tile_is_cut(browser: Browser, small: Site, width: int) -> None:
    """The longest line that a tile can have is whole at any width of the window."""
    view = View(browser, small.url, width, "light")
    view.says(re.compile("up"))
    assert view.page.evaluate(_CUT, _LONGEST) == 0
    view.close()


@pytest.mark.parametrize("width", [768, 1024, 1240, 1280, 1440])
def test_no_number_of_the_rules_has_to_be_scrolled_to(browser: Browser, small: Site, width: int) -> None:
    """The table of rules is as wide as there is room, beside the second column too."""
    view = View(browser, small.url, width, "dark")
    view.says(re.compile("up"))
    region = view.page.locator(".scroll:has(#rules)")
    assert region.evaluate("region => region.scrollWidth - region.clientWidth") == 0
    view.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1920, "light")])
def test_three_members_are_shown_with_their_traffic(browser: Browser, small: Site, width: int, scheme: str) -> None:
    """Everything is up and green, the charts are drawn, rates move, and nothing is wider than the window."""
    view = View(browser, small.url, width, scheme)
    page = view.page
    view.says("All is well: 1 rule serves, every member is up.")
    expect(page.locator('.row[data-state="up"]')).to_have_count(3)
    expect(page.locator("#legend")).to_contain_text("3 up")
    expect(page.locator(".tile canvas")).to_have_count(4)
    expect(page.locator("#rules .spark canvas")).to_have_count(1)
    expect(page.locator('[data-chart="fresh"] .big')).to_have_text(re.compile(r"^[1-9][\d.]*/s$"))
    expect(page.locator(".row .strip").first).to_have_attribute("aria-label", re.compile(r"^0 of the last \d+ checks"))
    expect(page.locator("#events li").filter(has_text="started")).to_have_count(1)
    assert overflow(page) <= 0
    view.close()


def test_both_palettes_colour_health_differently(browser: Browser, small: Site) -> None:
    """The colours follow the system, and the button overrules it, also for the next page."""
    view = View(browser, small.url, 1280, "dark")
    page = view.page
    view.says(re.compile("All is well"))
    colour = "getComputedStyle(document.querySelector('.row .dot')).backgroundColor"
    assert page.evaluate(colour) == "rgb(76, 201, 138)"
    page.click("#theme")
    assert page.evaluate(colour) == "rgb(18, 128, 74)"
    page.reload()
    view.says(re.compile("All is well"))
    assert page.evaluate(colour) == "rgb(18, 128, 74)"
    view.close()


def test_a_flow_is_explained(browser: Browser, small: Site) -> None:
    """The box says rule, hash, slot and member of a flow, why one is dropped, and what is no flow."""
    view = View(browser, small.url, 1280, "light")
    page = view.page
    answer = page.locator("#answer")
    page.fill("#flow", f"tcp 10.9.8.7:41000 > 127.0.0.1:{small.front}")
    page.keyboard.press("Enter")
    steps = answer.locator("li")
    expect(steps.nth(1)).to_contain_text("ruleweb")
    expect(steps.nth(2)).to_contain_text(re.compile("hash[0-9a-f]{16}"))
    expect(steps.nth(3)).to_contain_text("of 16,381")
    expect(steps.nth(4)).to_contain_text(re.compile(r"memberweb-[123] +127\.1\.0\.[123]:"))
    expect(answer).to_contain_text("is up by probe http")
    page.fill("#flow", f"tcp 198.51.100.7:41000 > 127.0.0.1:{small.front}")
    page.keyboard.press("Enter")
    expect(answer).to_contain_text("source_not_allowed")
    view.close()
    view = View(browser, small.url, 1280, "light")
    view.page.fill("#flow", "hello")
    view.page.click("#explain button")
    expect(view.page.locator("#answer")).to_contain_text("'hello' is not a flow")
    view.close(ignoring=re.compile("400"))


def test_a_thousand_members_stay_readable(browser: Browser, large: Site) -> None:
    """A large pool is a grid of cells, the unhealthy first and named; arrow keys walk it, and each says what it is."""
    view = View(browser, large.url, 1920, "dark")
    page = view.page
    view.says(
        re.compile(r"^4 of 1,000 members of pool web are down: web-4, web-78, web-501 and 1 more \(all: .*503.*\)\.$")
    )
    expect(page.locator('.cell[data-state="up"]')).to_have_count(996)
    expect(page.locator(".cells .cell").nth(3)).to_have_attribute("aria-label", "web-1000, down")
    expect(page.locator(".ill li")).to_have_count(4)
    expect(page.locator(".row")).to_have_count(3)
    assert page.locator("#lanes").bounding_box()["height"] < 900
    page.locator(".cell").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_contain_text("web-78")
    page.keyboard.press("Enter")
    expect(page.locator("#member-title")).to_have_text("web-78")
    expect(page.locator("#member .strip")).to_have_attribute("aria-label", re.compile(r"^(\d+) of the last \1 checks"))
    page.keyboard.press("Escape")
    expect(page.locator("#member")).to_be_hidden()
    page.fill("#find", address(640))
    expect(page.locator(".cell.hit")).to_have_count(1)
    view.close()


def test_a_thousand_members_fit_a_telephone(browser: Browser, large: Site) -> None:
    """At 360 pixels nothing is cut off or wider than the window."""
    view = View(browser, large.url, 360, "light")
    view.says(re.compile("^4 of 1,000 members"))
    expect(view.page.locator(".cell")).to_have_count(1000)
    assert overflow(view.page) <= 0
    assert view.page.locator(".cells").bounding_box()["height"] < 900
    view.close()


_PORTS = """async rows => {
  (await import("./page/panels.js")).ports({ports: rows});
  const found = [...document.querySelectorAll("#ports tbody tr")];
  return {
    rows: found.map(row => [...row.cells].map(cell => cell.textContent)),
    states: found.map(row => row.cells[2].dataset.state ?? null),
    overflow: document.documentElement.scrollWidth - innerWidth,
  };
}"""


@pytest.mark.parametrize("width", [360, 1280])
def test_snat_ports_in_use(browser: Browser, small: Site, width: int) -> None:
    """Members without a free port are red, almost none amber; the part is not there where nobody calls out."""
    view = View(browser, small.url, width, "light")
    page = view.page
    view.says(re.compile("All is well"))
    expect(page.locator("#ports-part")).to_be_hidden()
    use = {"pool": "web", "rule": "out", "ports": 64, "failed": 0, "high": False}
    rows = [
        {**use, "member": "a", "used": {"tcp": 64, "udp": 0}, "free": 0, "failed": 1200, "high": True},
        {**use, "member": "b", "used": {"tcp": 50}, "free": 14, "high": True},
        {**use, "member": "c", "used": {"tcp": 5}, "free": 59},
    ]
    shown = page.evaluate(_PORTS, rows)
    assert shown == {
        "rows": [
            ["web/a", "tcp 64 · udp 0", "0", "64", "1,200", "out"],
            ["web/b", "tcp 50", "14", "64", "0", "out"],
            ["web/c", "tcp 5", "59", "64", "0", "out"],
        ],
        "states": ["down", "partly", None],
        "overflow": 0,
    }
    expect(page.locator("#ports-part")).to_be_hidden()  # with the next frame, which has none
    view.close()


_WHY_CUT = """() => [...document.querySelectorAll('.row[data-state="down"] .why')].filter(
  why => why.scrollWidth > why.clientWidth || why.scrollHeight > why.clientHeight + 1
).length"""


def test_times_are_in_utc_wherever_the_reader_is(browser: Browser, small: Site) -> None:
    """The page's own times are those of the first line and of the logs; the reader's own is told where one points."""
    view = View(browser, small.url, 1280, "dark")
    page = view.page
    view.says(re.compile("All is well"))
    expect(page.locator("#link")).to_have_text(re.compile(r"^live · \d\d:\d\d:\d\d UTC$"))
    shown = time.fromisoformat(page.locator("#link").inner_text().split()[2])
    now = datetime.now(UTC)
    assert (now - datetime.combine(now.date(), shown, UTC)).total_seconds() % 86_400 < 30
    expect(page.locator("#under")).to_have_text(re.compile(r"active since \d\d:\d\d:\d\d UTC\.$"))
    started = page.locator("#events li").filter(has_text="started").locator("time")
    assert started.get_attribute("datetime")[11:19] == started.inner_text()
    assert re.search(r" UTC = .*(GMT\+5:30|IST)$", started.get_attribute("title"))
    view.close()


def test_what_happens_is_told_until_the_end(browser: Browser, tmp_path: Path) -> None:
    """A member dies and is named, all die and it is critical, the process dies and comes back; nothing jumps about."""
    with site(tmp_path, {"web": 3}) as running:
        view = View(browser, running.url, 1280, "light")
        page = view.page
        view.says(re.compile("All is well"))
        below = page.locator(".tiles").bounding_box()
        running.members.ill = {address(1)}
        view.says(re.compile(r"^web-2 of pool web is down since .* UTC: .*answered 503, expected 200\.$"))
        expect(page.locator('.row[data-state="down"]')).to_contain_text("web-2")
        assert page.evaluate(_WHY_CUT) == 0
        expect(page.locator('#rules td[data-state="partly"]')).to_have_text("web 2/3")
        expect(page.locator('#events [data-level="warning"]').first).to_contain_text("member down")
        running.members.ill = {address(number) for number in range(3)}
        view.says("Rule web drops every new flow: no member of pool web is eligible.")
        expect(page.locator("#verdict")).to_have_attribute("data-state", "critical")
        assert page.title().startswith("✕ Rule web")
        running.kill()
        view.says(re.compile(r"^The instance does not answer: last data at \d\d:\d\d:\d\d UTC\.$"))
        expect(page.locator("#under")).to_contain_text(re.compile(r"What stands below is \d+ s old\. Trying again\."))
        assert page.locator(".tiles").bounding_box() == below
        running.members.ill = set()
        running.start()
        view.says(re.compile("All is well"))
        expect(page.locator("#link")).to_contain_text("live")
        view.close(ignoring=AWAY)


def test_a_token_is_asked_for_once(browser: Browser, tmp_path: Path) -> None:
    """Where the API wants a token the page asks for it, says when it is wrong, and keeps it for the tab."""
    with site(tmp_path, {"web": 1}, token="s3cret-of-the-lab") as running:
        view = View(browser, running.url, 1280, "light")
        page = view.page
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#login-why")).to_have_text("That token is wrong.")
        page.fill("#token", "s3cret-of-the-lab")
        page.keyboard.press("Enter")
        view.says(re.compile("All is well"))
        page.reload()
        view.says(re.compile("All is well"))
        expect(page.locator("#login")).to_be_hidden()
        view.close(ignoring=AWAY)
