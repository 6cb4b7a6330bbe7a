// What the page knows: objects by name, kept up to date by frames. Holds no elements.

export const LONG = 120; // seconds on a chart
const EVENTS = 200;

export const memberKey = (pool, name) => `${pool}\n${name}`;

/** The order in which states are shown, the worst first, with what they are called. */
export const STATES = {
  down: { word: "down", sign: "✕" },
  partly: { word: "down by one probe", sign: "◐" },
  waiting: { word: "not yet checked", sign: "…" },
  drain: { word: "draining", sign: "⇣" },
  off: { word: "out of service", sign: "–" },
  up: { word: "up", sign: "" },
};
const RANK = Object.fromEntries(Object.keys(STATES).map((state, index) => [state, index]));
export const rank = (member) => RANK[member.state] ?? 0;

export class Store {
  constructor() { this.forget(); }

  forget() {
    this.at = 0;
    this.instance = null;
    this.frontends = new Map();
    this.rules = new Map();
    this.pools = new Map(); // name -> member keys, in the file's order
    this.cards = new Set();
    this.members = new Map();
    this.checks = new Map(); // member key -> probe -> checks
    this.totals = [];
    this.rates = {};
    this.past = new Map(); // rule -> [at, bits in, bits out], oldest first
    this.traffic = new Map();
    this.events = [];
  }

  /** Everything anew. */
  state(frame) {
    const past = this.instance?.pid === frame.instance.pid ? this.past : new Map();
    const totals = this.instance?.pid === frame.instance.pid ? this.totals : [];
    this.forget();
    this.instance = frame.instance;
    for (const frontend of frame.frontends) this.frontends.set(frontend.name, frontend);
    for (const pool of frame.pools) this.pools.set(pool, []);
    this.cards = new Set(frame.cards);
    for (const member of frame.members) {
      const key = memberKey(member.pool, member.name);
      this.pools.get(member.pool)?.push(key);
    }
    this.past = past;
    this.totals = frame.past.length > totals.length ? frame.past.slice(0, -1) : totals;
    this.#always(frame);
  }

  /** What has changed; returns the keys of members and rules. */
  tick(frame) { return this.#always(frame); }

  #always(frame) {
    this.at = frame.at;
    this.generation = frame.generation;
    this.since = frame.since;
    this.datapaths = frame.datapaths;
    this.verdict = frame.verdict;
    this.drops = frame.drops;
    this.ports = frame.ports;
    this.rates = frame.rates;
    this.total = frame.total;
    this.totals = keep([...this.totals, frame.total], frame.at);
    for (const [name, [, , bitsIn, bitsOut]] of Object.entries(frame.rates)) {
      if (!this.past.has(name)) this.past.set(name, []);
      this.past.get(name).push([frame.at, bitsIn, bitsOut]);
    }
    for (const [name, rows] of this.past) this.past.set(name, keep(rows, frame.at));
    this.traffic = new Map(frame.traffic.map(([pool, name, ...row]) => [memberKey(pool, name), row]));
    for (const rule of frame.rules) this.rules.set(rule.name, rule);
    for (const member of frame.members) this.members.set(memberKey(member.pool, member.name), member);
    for (const found of frame.checks) {
      const key = memberKey(found.pool, found.member);
      if (!this.checks.has(key)) this.checks.set(key, new Map());
      this.checks.get(key).set(found.probe, found);
    }
    this.fresh = frame.events;
    this.events = [...this.events, ...frame.events].slice(-EVENTS);
    return {
      rules: frame.rules.map((rule) => rule.name),
      members: frame.members.map((member) => memberKey(member.pool, member.name)),
      checks: frame.checks.map((found) => memberKey(found.pool, found.member)),
    };
  }

  membersOf(pool) { return (this.pools.get(pool) || []).map((key) => this.members.get(key)).filter(Boolean); }

  rulesOf(pool) { return [...this.rules.values()].filter((rule) => rule.pool === pool); }

  /** State -> how many members, over all pools or one. */
  counts(pool) {
    const found = {};
    for (const member of pool === undefined ? this.members.values() : this.membersOf(pool)) {
      found[member.state] = (found[member.state] || 0) + 1;
    }
    return found;
  }
}

const keep = (rows, at) => {
  const first = rows.findIndex((row) => row[0] > at - LONG - 2);
  return first > 0 ? rows.slice(first) : rows;
};
