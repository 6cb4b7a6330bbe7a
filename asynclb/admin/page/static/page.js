// The page: frames in, elements out. What is wrong stands in the first line; when frames stop, that is the first line.

import { Charts } from "./charts.js";
import { arrange, byId, make, put, say } from "./dom.js";
import { clock, count, instant, span } from "./format.js";
import { Live, token } from "./live.js";
import { Map_ } from "./map.js";
import { MemberBox, Rules, drops, events, explain, ports, tips } from "./panels.js";
import { Store } from "./store.js";

const SIGNS = { ok: "✓", warning: "!", critical: "✕", lost: "✕", none: "…" };

const store = new Store();
const charts = new Charts();
const box = new MemberBox(store);
const map = new Map_(store, (key) => box.open(key));
const rules = new Rules(store, charts);
const example = explain(store);
let link = { state: "connecting", text: "", since: Date.now() };
let version = null;
let heardAt = 0; // by this machine's clock, which need not be the instance's

const live = new Live((event, frame) => {
  const afresh = event === "state";
  if (afresh && version !== null && frame.instance.version !== version) { location.reload(); return; }
  const changed = afresh ? (store.state(frame), null) : store.tick(frame);
  if (afresh) version = frame.instance.version;
  heard();
  if (afresh) { map.build(); rules.follow(); } else { map.refresh(changed); if (changed.rules.length) rules.follow(); }
  example();
  events(store, afresh);
  drops(store);
  ports(store);
  charts.totals(store);
  rules.tick();
  box.tick();
  about();
}, (state, text) => {
  link = { state, text, since: link.state === state ? link.since : Date.now() };
  if (state === "locked") login(text);
  first();
});

function heard() {
  heardAt = Date.now();
  link = { state: "live", text: "", since: Date.now() };
  first();
}

/** The first line. What the instance said last is told with its time when it says nothing any more. */
function first() {
  const known = store.at > 0;
  const isLive = link.state === "live";
  put(document.body, "link", link.state);
  say(byId("link"), { live: `live · ${known ? `${clock(store.at)} UTC` : ""}`, lost: "no answer", crowded: "waiting for a place", locked: "token needed", connecting: "connecting" }[link.state]);
  const verdict = isLive ? store.verdict : { state: "lost", line: away(known), findings: known ? store.verdict.findings : [] };
  put(byId("verdict"), "state", verdict.state);
  say(byId("sign"), SIGNS[verdict.state] || "…");
  say(byId("line"), verdict.line);
  const notes = verdict.findings.filter((finding) => finding.text !== verdict.line);
  say(byId("under"), isLive ? beneath(notes) : below(known));
  const more = byId("more");
  more.hidden = notes.length < 2 || !isLive;
  if (more.hidden) fold(false);
  say(more, `${count(notes.length)} more`);
  arrange(byId("findings"), notes.map((finding) => make("li", { "data-severity": finding.severity }, finding.text)));
  document.title = `${isLive ? { ok: "", warning: "! ", critical: "✕ " }[verdict.state] ?? "" : "✕ "}${isLive ? verdict.line : "no answer"} · asynclb`;
}

const beneath = (notes) => (notes.length ? notes[0].text : `Generation ${store.generation} of the tables is active since ${instant(store.since)}.`);

function away(known) {
  if (link.state === "crowded") return "The instance has as many listeners as it takes.";
  if (link.state === "locked") return "This instance wants a token.";
  if (link.state === "connecting") return "Connecting…";
  return known ? `The instance does not answer: last data at ${instant(store.at)}.` : "The instance does not answer.";
}

function below(known) {
  if (link.state === "connecting") return "";
  if (link.state === "locked") return "Reload the page to be asked for it again.";
  const reason = link.text ? `${link.text[0].toUpperCase()}${link.text.slice(1)}. ` : "";
  return `${reason}${known ? `What stands below is ${span((Date.now() - heardAt) / 1000)} old. ` : ""}Trying again.`;
}

function about() {
  const { config, started, version: number, pid } = store.instance;
  say(byId("about"), `${config} · up ${span(store.at - started)} · generation ${store.generation}`);
  const paths = store.datapaths.filter((path) => path.rules).map((path) => `${path.name} (${path.mode})`);
  say(byId("datapaths"), `asynclb ${number}, pid ${pid}${paths.length ? `, datapaths: ${paths.join(", ")}` : ""}`);
}

function fold(open) {
  byId("more").setAttribute("aria-expanded", String(open));
  byId("findings").hidden = !open;
}

function login(why) {
  if (why) say(byId("login-why"), why);
  if (!byId("login").open) byId("login").showModal();
}

function themes() {
  const button = byId("theme");
  const root = document.documentElement;
  const names = { auto: "as the system has them", light: "light", dark: "dark" };
  const label = () => {
    const now = root.dataset.theme || "auto";
    button.setAttribute("aria-label", `Colours: ${names[now]}`);
    button.title = button.getAttribute("aria-label");
    say(button, { auto: "◐", light: "☀", dark: "☾" }[now]);
  };
  button.addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[root.dataset.theme || "auto"];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    try { localStorage.setItem("asynclb.theme", next); } catch { /* kept for this page only */ }
    label();
    charts.repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.repaint());
  label();
}

byId("more").addEventListener("click", () => fold(byId("findings").hidden));
byId("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  byId("token").value = "";
  byId("login").close();
  live.hurry();
});
byId("login").addEventListener("cancel", (event) => event.preventDefault());
addEventListener("online", () => live.hurry());
setInterval(() => { if (link.state !== "live") first(); }, 1000);
tips(store);
themes();
live.run();
