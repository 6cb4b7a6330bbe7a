// Everything beside the topology: rules, drops, events, the explain box, and one member in full.

import { arrange, byId, make, put, say } from "./dom.js";
import { bits, clock, count, field, instant, local, many, percent, short, span } from "./format.js";
import { ask } from "./live.js";
import { RULE_WORDS, matches, strip, why } from "./map.js";
import { STATES } from "./store.js";

const RULES = 50; // rows at first

export class Rules {
  #rows = new Map();
  #all = false;
  shown = [];

  constructor(store, charts) {
    this.store = store;
    this.charts = charts;
    byId("all-rules").addEventListener("click", () => { this.#all = !this.#all; this.follow(); this.tick(); });
  }

  /** Follows rules that came, went or changed. */
  follow() {
    const rules = [...this.store.rules.values()];
    rules.sort((one, other) => (one.state === "serving") - (other.state === "serving"));
    this.shown = (this.#all ? rules : rules.slice(0, RULES)).map((rule) => rule.name);
    arrange(byId("rules").tBodies[0], this.shown.map((name) => this.#row(this.store.rules.get(name))));
    const button = byId("all-rules");
    button.hidden = rules.length <= RULES;
    say(button, this.#all ? "Show fewer rules" : `Show all ${count(rules.length)} rules`);
  }

  /** Follows the rates. */
  tick() {
    for (const name of this.shown) {
      const [flows, fresh, bitsIn, bitsOut] = this.store.rates[name] || [0, 0, 0, 0];
      const cells = this.#rows.get(name).cells;
      [count(flows), short(fresh), bits(bitsIn), bits(bitsOut)].forEach((text, index) => say(cells[5 + index], text));
    }
    this.charts.rules(this.store, this.shown);
  }

  #row(rule) {
    let row = this.#rows.get(rule.name);
    if (!row) {
      row = make("tr", {}, make("th", { scope: "row" }, rule.name), ...Array.from({ length: 8 }, (_, index) => make("td", { class: index > 3 ? "n" : "" })),
        make("td", {}, this.charts.cell(rule.name)));
      ["", "", "", "", "", "flows", "new/s", "in", "out"].forEach((label, index) => { if (label) row.cells[index].dataset.label = label; });
      this.#rows.set(rule.name, row);
    }
    const cells = row.cells;
    say(cells[1], `${rule.address} ${matches(rule)}`);
    say(cells[2], `${rule.pool} ${rule.eligible}/${rule.members}`);
    if (rule.eligible < rule.members) put(cells[2], "state", "partly"); else delete cells[2].dataset.state;
    say(cells[3], RULE_WORDS[rule.state] || rule.state);
    put(cells[3], "state", rule.state === "serving" ? "up" : rule.state === "waiting" ? "waiting" : "down");
    say(cells[4], rule.mode ? `${rule.datapath} · ${rule.mode}` : rule.datapath || "–");
    return row;
  }
}

/** Draws drops by reason, each with its meaning. */
export function drops(store) {
  const found = store.drops;
  const most = Math.max(1, ...found.map((drop) => drop.count));
  const rows = found.map((drop) => {
    const bar = make("i");
    bar.style.width = `${Math.max(1, Math.round((drop.count / most) * 100))}%`;
    return make("div", { class: "drop" }, make("b", {}, drop.reason), make("span", { class: "n" }, `${count(drop.count)}${drop.per_s ? ` · ${short(drop.per_s)}/s` : ""}`),
      make("span", { class: "track" }, bar), make("small", {}, `${drop.meaning} (${drop.datapath})`));
  });
  byId("drops").replaceChildren(...(rows.length ? rows : [make("p", { class: "none" }, "Nothing has been dropped.")]));
}

/** Draws the SNAT ports of members that call out, those with the least room first; nothing where nobody does. */
export function ports(store) {
  const found = store.ports;
  byId("ports-part").hidden = !found.length;
  const rows = found.map((use) => {
    const used = Object.entries(use.used).map(([protocol, number]) => `${protocol} ${count(number)}`).join(" · ");
    const free = make("td", { class: "n", "data-label": "free" }, count(use.free));
    if (use.high) free.dataset.state = use.free ? "partly" : "down";
    return make("tr", {}, make("th", { scope: "row" }, `${use.pool}/${use.member}`), make("td", {}, used), free,
      make("td", { class: "n", "data-label": "ports" }, count(use.ports)), make("td", { class: "n", "data-label": "failed" }, count(use.failed)), make("td", {}, use.rule));
  });
  byId("ports").tBodies[0].replaceChildren(...rows);
}

/** Adds events, the newest on top. */
export function events(store, afresh) {
  const list = byId("events");
  if (afresh) list.replaceChildren();
  for (const event of afresh ? store.events : store.fresh) {
    const fields = Object.entries(event.fields).filter(([, value]) => value !== null && value !== "");
    list.prepend(make("li", { "data-level": event.level }, make("time", { datetime: new Date(event.at * 1000).toISOString(), title: `${instant(event.at)} = ${local(event.at)}` }, clock(event.at)),
      make("b", {}, event.event.replaceAll("_", " ")),
      make("span", {}, ...fields.map(([name, value]) => field(name, value)).flatMap(([name, value]) => [make("em", {}, name), ` ${value}  `]))));
  }
  while (list.children.length > 200) list.lastElementChild.remove();
}

/** Asks where a flow would go, and draws the way. */
export function explain(store) {
  const [form, flow, answer] = [byId("explain"), byId("flow"), byId("answer")];
  let asked = 0; // the generation whose tables have answered
  const find = async () => {
    asked = store.generation;
    try {
      answer.replaceChildren(...way(await ask(`api/v1/explain?flow=${encodeURIComponent(flow.value)}`)));
    } catch (error) {
      answer.replaceChildren(make("p", { class: "bad" }, error.message));
    }
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); find(); });
  return () => { // an example that fits this instance, and an answer that fits its present tables
    if (answer.hasChildNodes() && asked !== store.generation) find();
    const rule = [...store.rules.values()].find((one) => one.protocol !== "all") || [...store.rules.values()][0];
    if (!rule || flow.value || document.activeElement === flow) return;
    const [source, target] = [store.frontends.get(rule.frontend)?.client || "198.51.100.7", rule.address].map((one) => (one.includes(":") ? `[${one}]` : one));
    const port = Number.parseInt(rule.port, 10) || 443;
    flow.placeholder = `${rule.protocol === "udp" ? "udp" : "tcp"} ${source}:41000 > ${target}:${port}`;
    flow.value = flow.placeholder;
    find();
  };
}

function way(found) {
  const step = (what, value, more, state = "") => make("li", { "data-state": state }, make("span", { class: "what" }, what), make("b", {}, value), make("small", {}, more));
  const steps = [step("flow", found.flow, "")];
  if (found.rule) steps.push(step("rule", found.rule, found.frontend ? `frontend ${found.frontend}, ${found.matched}` : found.matched));
  if (found.flow_hash) steps.push(step("hash", found.flow_hash, found.distribution), step("slot", `${count(found.slot)} of ${count(found.slots)}`, `pool ${found.pool}`));
  if (found.verdict === "member") steps.push(step("member", `${found.member}  ${found.target}`, `${found.delivery} · ${found.datapath} · takes ${percent(found.share)} of new flows`, "up"));
  else if (found.delivery) steps.push(step(found.verdict, found.target, "", "up"));
  else steps.push(step("dropped", found.verdict, "", "down"));
  return [make("ol", { class: "way" }, ...steps), make("p", { class: found.delivery ? "because" : "because bad" }, found.why)];
}

/** Shows one member in full. */
export class MemberBox {
  #key = null;
  #strips = new Map();

  constructor(store) {
    this.store = store;
    byId("member").addEventListener("close", () => { this.#key = null; });
  }

  open(key) {
    this.#key = key;
    this.#strips = this.store.checks.get(key) || new Map();
    this.tick();
    byId("member").showModal();
    this.#fetch(key);
  }

  /** Follows the member that is shown. */
  tick() {
    const member = this.store.members.get(this.#key);
    if (!member) return;
    const known = this.store.checks.get(this.#key);
    if (known) this.#strips = known;
    else if (byId("member").open) this.#fetch(this.#key);
    const rate = this.store.traffic.get(this.#key);
    const facts = [
      ["pool", member.pool], ["address", member.address], ["state", why(member, this.store.at)],
      ["weight", `${member.weight}${member.priority ? `, priority ${member.priority}` : ""}${member.zone ? `, zone ${member.zone}` : ""}`],
      ["admin state", member.by ? `${member.admin}, laid over the file by ${member.by}` : member.admin],
      ["share", `${percent(member.share)} of new flows`],
      ["told of by", member.source ? `the pool's source, ${member.source}` : "the configuration"],
    ];
    if (rate) facts.push(["traffic", `${many(rate[0], "open flow")}, ${short(rate[1])} new/s, in ${bits(rate[2])}, out ${bits(rate[3])}`]);
    say(byId("member-title"), member.name);
    put(byId("member"), "state", member.state);
    byId("member-body").replaceChildren(
      make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
      ...member.health.map((health) => this.#probe(health)));
  }

  #probe(health) {
    const bars = make("span", { class: "strip large", role: "img" });
    const checks = this.#strips.get(health.probe);
    strip(bars, checks ? new Map([["", checks]]) : null);
    const times = checks?.ms.length ? `last ${checks.ms.at(-1)} ms, longest ${Math.max(...checks.ms)} ms` : "";
    return make("section", { class: "probe" }, make("h3", {}, `probe ${health.probe}`),
      make("p", {}, `${health.probed}${health.since ? ` for ${span(this.store.at - health.since)}` : ""} · ${health.reason}${health.detail ? ` · ${health.detail}` : ""}`),
      bars, make("small", {}, `the last ${checks?.ms.length || 0} checks, the newest on the right; ${times}`));
  }

  async #fetch(key) {
    const [pool, member] = key.split("\n");
    try {
      const found = await ask(`api/v1/checks?pool=${encodeURIComponent(pool)}&member=${encodeURIComponent(member)}`);
      if (this.#key === key) this.#strips = new Map(found.checks.map((one) => [one.probe, one]));
    } catch { /* the first line says that the instance is away */ }
  }
}

/** What a cell says when it is pointed at or has the focus. */
export function tips(store) {
  const tip = byId("tip");
  const show = (cell) => {
    const member = store.members.get(cell?.dataset?.member);
    tip.hidden = !member;
    if (!member) return;
    tip.replaceChildren(make("b", {}, member.name), make("span", { class: "mono" }, member.address), make("span", { "data-state": member.state }, why(member, store.at)),
      make("span", {}, `${STATES[member.state].word === "up" ? `${percent(member.share)} of new flows, ` : ""}weight ${member.weight}`));
    const [at, size] = [cell.getBoundingClientRect(), tip.getBoundingClientRect()];
    const left = Math.max(8, Math.min(innerWidth - size.width - 8, at.left + at.width / 2 - size.width / 2));
    const over = at.top - size.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${over > 8 ? over : at.bottom + 8}px`;
  };
  const lanes = byId("lanes");
  lanes.addEventListener("pointerover", (event) => show(event.target.closest(".cell")));
  lanes.addEventListener("pointerleave", () => show(null));
  lanes.addEventListener("focusin", (event) => show(event.target.closest(".cell")));
  lanes.addEventListener("focusout", () => show(null));
  addEventListener("scroll", () => show(null), { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") show(null); });
}
