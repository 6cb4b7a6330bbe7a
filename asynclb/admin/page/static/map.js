// The topology: one lane for each pool, with the frontends and rules that lead to it and its members. Small pools show
// a row for each member with its checks; large ones a grid of cells, the unhealthy first.

import { arrange, byId, draw, make, put, say } from "./dom.js";
import { bits, count, many, percent, short, span } from "./format.js";
import { STATES, memberKey, rank } from "./store.js";

const LANES = 12; // drawn at first: more are behind a button
const RULES = 5; // of one pool, drawn as boxes
const ILL = 6; // members of a large pool that are named above its cells
const STRIP = 20; // checks that the prober remembers

export class Map_ {
  #lanes = new Map();
  #all = false;
  #sought = "";

  /** `onMember(key)` is called for a member that somebody wants to see. */
  constructor(store, onMember) {
    this.store = store;
    this.onMember = onMember;
    byId("all-lanes").addEventListener("click", () => { this.#all = !this.#all; this.#order(); });
    byId("find").addEventListener("input", (event) => { this.#sought = event.target.value.trim().toLowerCase(); this.#search(); });
  }

  /** Builds everything anew. */
  build() {
    for (const lane of this.#lanes.values()) lane.close();
    this.#lanes = new Map([...this.store.pools.keys()].map((pool) => [pool, new Lane(pool, this.store, this.onMember)]));
    this.#order();
    this.#search();
    this.refresh({ members: [], rules: [], checks: [] });
  }

  /** Follows what has changed. */
  refresh(changed) {
    const pools = new Set(changed.members.map((key) => this.store.members.get(key).pool));
    for (const name of changed.rules) pools.add(this.store.rules.get(name).pool);
    for (const pool of pools) this.#lanes.get(pool)?.follow();
    if (changed.members.length) { this.#order(); this.#search(); }
    for (const lane of this.#lanes.values()) if (lane.element.isConnected) lane.tick(changed.checks);
    this.#legend();
  }

  #order() {
    const worst = (pool) => Math.min(9, ...this.store.membersOf(pool).map(rank));
    const pools = [...this.#lanes.keys()].map((pool, index) => [pool, worst(pool), index]);
    pools.sort((one, other) => Math.min(one[1], 3) - Math.min(other[1], 3) || one[2] - other[2]);
    const shown = this.#all ? pools : pools.slice(0, LANES);
    arrange(byId("lanes"), shown.map(([pool]) => this.#lanes.get(pool).element));
    const button = byId("all-lanes");
    button.hidden = pools.length <= LANES;
    say(button, this.#all ? "Show fewer pools" : `Show all ${count(pools.length)} pools`);
    byId("lanes").dataset.empty = pools.length ? "" : "There are no pools yet.";
  }

  #legend() {
    const counts = this.store.counts();
    const shown = Object.entries(STATES).filter(([state]) => counts[state] || state === "up" || state === "down");
    arrange(byId("legend"), shown.map(([state, { word }]) => make("li", { "data-state": counts[state] ? state : "none" }, make("i", { class: "dot" }), `${count(counts[state] || 0)} ${word}`)));
  }

  #search() {
    const words = this.#sought;
    for (const [, lane] of this.#lanes) lane.find((member) => !words || `${member.name} ${member.address} ${STATES[member.state].word}`.toLowerCase().includes(words), Boolean(words));
  }
}

class Lane {
  #rows = new Map();
  #nodes = new Map();

  constructor(pool, store, onMember) {
    this.pool = pool;
    this.store = store;
    this.onMember = onMember;
    this.small = store.cards.has(pool);
    this.links = draw("svg", { class: "links", "aria-hidden": "true" });
    this.sources = make("div", { class: "sources" });
    this.hub = make("div", { class: "node pool" }, make("b", {}, pool), make("span"), make("i", { class: "bar" }));
    this.members = this.small ? make("ul", { class: "rows", "aria-label": `Members of pool ${pool}` })
      : make("div", { class: "cells", role: "group", "aria-label": `Members of pool ${pool}; arrow keys go from one to the next` });
    this.ill = make("ul", { class: "ill", "aria-label": `Members of pool ${pool} that are not up` });
    this.right = this.small ? this.members : make("div", { class: "large" }, this.ill, this.members);
    this.element = make("article", { class: "lane", "aria-label": `Pool ${pool}` }, this.links, this.sources, this.hub, this.right);
    if (!this.small) this.#keys();
    this.watch = new ResizeObserver(() => this.#link());
    this.watch.observe(this.element);
    this.follow();
  }

  close() { this.watch.disconnect(); }

  /** Follows states: of rules, of members. */
  follow() {
    const members = this.store.membersOf(this.pool);
    this.#sources();
    const counts = this.store.counts(this.pool);
    const up = counts.up || 0;
    say(this.hub.querySelector("span"), `${count(up)} of ${count(members.length)} up`);
    put(this.hub, "state", !members.length ? "off" : up === members.length ? "up" : up ? "partly" : "down");
    this.#bar(counts, members.length);
    if (this.small) arrange(this.members, members.map((member) => this.#row(member)));
    else this.#cells([...members].sort((one, other) => rank(one) - rank(other)));
    if (!this.small && !this.members.querySelector('[tabindex="0"]')) this.members.firstElementChild?.setAttribute("tabindex", "0");
    this.members.classList.toggle("few", this.small && members.length <= 8);
    this.element.classList.toggle("tall", members.length > 8);
    this.#link();
  }

  /** Follows numbers: traffic, and the checks of these members. */
  tick(checks) {
    for (const [name, node] of this.#nodes) {
      const rate = this.store.rates[name];
      say(node.querySelector(".rate"), rate ? `${short(rate[1])} new/s · ${bits(rate[2] + rate[3])}` : "idle");
      put(node, "busy", rate && rate[2] + rate[3] > 0 ? "yes" : "no");
    }
    for (const told of this.ill.querySelectorAll("span")) say(told, why(this.store.members.get(told.dataset.of), this.store.at));
    if (!this.small) return;
    const fresh = new Set(checks);
    for (const [key, row] of this.#rows) {
      const rate = this.store.traffic.get(key);
      say(row.querySelector(".rate"), rate ? `${short(rate[1])} new/s · ${bits(rate[2] + rate[3])}` : "idle");
      put(row, "busy", rate && rate[2] + rate[3] > 0 ? "yes" : "no");
      const member = this.store.members.get(key);
      say(row.querySelector(".why"), why(member, this.store.at));
      if (fresh.has(key) || !row.dataset.checked) { strip(row.querySelector(".strip"), this.store.checks.get(key)); row.dataset.checked = "yes"; }
    }
    for (const path of this.links.querySelectorAll("path")) put(path, "busy", document.getElementById(path.dataset.of)?.dataset.busy || "no");
  }

  /** Marks members that are sought; a lane without any steps back. */
  find(matches, seeking) {
    let found = 0;
    for (const [key, row] of this.#rows) {
      const hit = matches(this.store.members.get(key));
      row.classList.toggle("other", seeking && !hit);
      row.classList.toggle("hit", seeking && hit);
      found += hit;
    }
    this.element.classList.toggle("other", seeking && !found);
  }

  #sources() {
    const rules = this.store.rulesOf(this.pool);
    rules.sort((one, other) => (one.state === "serving") - (other.state === "serving"));
    const shown = rules.length > RULES + 1 ? rules.slice(0, RULES) : rules;
    const groups = new Map();
    for (const rule of shown) groups.set(rule.frontend, [...(groups.get(rule.frontend) || []), rule]);
    this.#nodes = new Map();
    const children = [...groups].map(([name, some]) => {
      const frontend = this.store.frontends.get(name);
      return make("div", { class: "group" },
        make("div", { class: "node frontend" }, make("b", {}, name), make("span", { class: "mono" }, frontend?.address || some[0].address)),
        make("div", { class: "rules" }, ...some.map((rule) => this.#rule(rule))));
    });
    if (rules.length > shown.length) children.push(make("a", { class: "rest", href: "#rules-title" }, `and ${many(rules.length - shown.length, "more rule")}`));
    if (!rules.length) children.push(make("p", { class: "none" }, "no rule leads here"));
    this.sources.replaceChildren(...children);
  }

  #rule(rule) {
    const node = make("div", { class: "node rule", "data-state": RULE_COLOURS[rule.state] || "waiting", id: `rule-${rule.name}` },
      make("b", {}, rule.name), make("span", { class: "mono" }, matches(rule)),
      make("span", { class: "said" }, rule.state === "serving" ? "" : RULE_WORDS[rule.state] || rule.state), make("span", { class: "rate" }, "idle"));
    this.#nodes.set(rule.name, node);
    return node;
  }

  #bar(counts, total) {
    const parts = Object.keys(STATES).filter((state) => counts[state]).reverse();
    const bar = this.hub.querySelector(".bar");
    bar.replaceChildren(...parts.map((state) => {
      const part = make("i", { "data-state": state });
      part.style.flexGrow = String(Math.max(counts[state], total / 50));
      return part;
    }));
  }

  #row(member) {
    const key = memberKey(member.pool, member.name);
    let row = this.#rows.get(key);
    if (!row) {
      row = make("li", { class: "row", id: `member-${key.replace("\n", "-")}` },
        make("button", { type: "button", class: "name", onclick: () => this.onMember(key) }, make("i", { class: "dot" }), make("b", {}, member.name)),
        make("span", { class: "mono address" }), make("span", { class: "why" }), make("span", { class: "strip", role: "img" }),
        make("span", { class: "share" }, make("i", { class: "fill" }), make("em")), make("span", { class: "rate" }));
      this.#rows.set(key, row);
    }
    put(row, "state", member.state);
    row.querySelector("button").setAttribute("aria-label", `${member.name}, ${STATES[member.state].word}: details`);
    say(row.querySelector(".dot"), STATES[member.state].sign);
    say(row.querySelector(".address"), member.source ? `${member.address} · ${member.source}` : member.address);
    say(row.querySelector(".share em"), `${percent(member.share)} · weight ${member.weight}`);
    row.querySelector(".share .fill").style.width = `${Math.round(member.share * 100)}%`;
    return row;
  }

  /** The members of a large pool, and above them the first of those that are not up by name. */
  #cells(members) {
    arrange(this.members, members.map((member) => this.#cell(member)));
    const ill = members.filter((member) => member.state !== "up");
    const named = ill.slice(0, ILL).map((member) => make("li", { "data-state": member.state }, make("button", { type: "button", onclick: () => this.onMember(memberKey(member.pool, member.name)) },
      make("i", { class: "dot" }, STATES[member.state].sign), make("b", {}, member.name), make("span", { "data-of": memberKey(member.pool, member.name) }, why(member, this.store.at)))));
    if (ill.length > ILL) named.push(make("li", {}, make("p", {}, `and ${count(ill.length - ILL)} more, first among the cells`)));
    this.ill.replaceChildren(...named);
  }

  #cell(member) {
    const key = memberKey(member.pool, member.name);
    let cell = this.#rows.get(key);
    if (!cell) {
      cell = make("button", { type: "button", class: "cell", tabindex: "-1", onclick: () => this.onMember(key) });
      cell.dataset.member = key;
      this.#rows.set(key, cell);
    }
    put(cell, "state", member.state);
    say(cell, STATES[member.state].sign);
    cell.setAttribute("aria-label", `${member.name}, ${STATES[member.state].word}`);
    return cell;
  }

  /** One cell is in the order of the tab key; arrows go from it to its neighbours. */
  #keys() {
    this.members.addEventListener("focusin", (event) => {
      for (const other of this.members.querySelectorAll('[tabindex="0"]')) other.setAttribute("tabindex", "-1");
      event.target.setAttribute("tabindex", "0");
    });
    this.members.addEventListener("keydown", (event) => {
      const cells = [...this.members.children];
      const here = cells.indexOf(document.activeElement);
      const top = cells[0]?.offsetTop;
      const across = Math.max(1, cells.findIndex((cell) => cell.offsetTop !== top));
      const there = { ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + across, ArrowUp: here - across, Home: 0, End: cells.length - 1 }[event.key];
      if (there === undefined || here < 0) return;
      event.preventDefault();
      cells[Math.min(cells.length - 1, Math.max(0, there))].focus();
    });
  }

  /** Draws the lines between what leads to what, where the lane is wide enough for columns. */
  #link() {
    const box = this.element.getBoundingClientRect();
    const wide = getComputedStyle(this.links).display !== "none" && box.width > 0;
    if (!wide) { this.links.replaceChildren(); return; }
    this.links.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    const paths = [];
    const join = (from, to, state, of) => {
      const [a, b] = [from.getBoundingClientRect(), to.getBoundingClientRect()];
      const tall = to === this.right; // a line to a block of members goes straight into it
      const y = (of) => of.top + of.height / 2 - box.top;
      const [x1, y1, x2, y2] = [a.right - box.left, y(a), b.left - box.left, tall ? y(a) : y(b)];
      const bend = Math.max(12, (x2 - x1) / 2);
      const path = draw("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
      path.dataset.state = state;
      path.dataset.of = of.id;
      path.dataset.busy = of.dataset.busy || "no";
      paths.push(path);
    };
    for (const group of this.sources.querySelectorAll(".group")) {
      for (const rule of group.querySelectorAll(".rule")) {
        join(group.querySelector(".frontend"), rule, rule.dataset.state, rule);
        join(rule, this.hub, rule.dataset.state, rule);
      }
    }
    if (this.members.classList.contains("few")) for (const row of this.members.children) join(this.hub, row, row.dataset.state, row);
    else if (this.members.children.length) join(this.hub, this.right, this.hub.dataset.state, this.hub);
    this.links.replaceChildren(...paths);
  }
}

const RULE_COLOURS = { serving: "up", silent: "down", all_down: "down", waiting: "waiting" };
export const RULE_WORDS = { serving: "serving", silent: "drops new flows", all_down: "all members down", waiting: "waiting for checks" };

export function matches(rule) {
  const port = rule.port === "any" ? "any port" : `:${rule.port}`;
  const to = rule.delivery === "routed" ? "routed" : rule.backend_port && String(rule.backend_port) !== rule.port ? `→ :${rule.backend_port}` : "";
  return `${rule.protocol === "all" ? "every protocol" : rule.protocol} ${port} ${to}`.trim();
}

/** Why a member is as it is, in one line. */
export function why(member, at) {
  const { word } = STATES[member.state];
  const found = member.health.find((one) => one.state === "down") || member.health[0];
  const since = found?.since ? ` for ${span(at - found.since)}` : "";
  if (member.state === "drain" || member.state === "off") return member.by ? `${word}, by ${member.by}` : word;
  if (!found) return "no probe asks it";
  if (member.state === "up") return found.shaky ? `up${since}, but its last check failed` : `up${since}`;
  const detail = found.detail.replace(/^\S+:\d+: /, ""); // the address stands beside it
  return `${word}${since}${detail ? `: ${detail}` : ""}`;
}

const KINDS = { s: "success", f: "failure", t: "timeout", e: "error" };

/** Draws the last checks as bars: colour by outcome, height by duration. */
export function strip(element, probes) {
  const found = probes ? [...probes.values()][0] : null;
  const kinds = found?.kinds || "";
  const bars = [];
  for (let index = 0; index < STRIP; index += 1) {
    const place = index - (STRIP - kinds.length);
    const bar = make("i", { "data-kind": place < 0 ? "none" : KINDS[kinds[place]] });
    if (place >= 0) bar.style.height = `${Math.round(Math.min(100, 30 + 70 * Math.log10(1 + found.ms[place]) / 3.3))}%`;
    bars.push(bar);
  }
  element.replaceChildren(...bars);
  const failed = [...kinds].filter((kind) => kind !== "s").length;
  element.setAttribute("aria-label", kinds ? `${failed} of the last ${kinds.length} checks failed` : "no checks yet");
  element.title = kinds ? `${failed} of the last ${kinds.length} checks failed; the last took ${found.ms.at(-1)} ms` : "no checks yet";
}
