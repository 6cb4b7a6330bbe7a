// Line charts of the last two minutes, by uPlot: four large ones for the totals, and one for each rule that is shown.

import { byId, make, say } from "./dom.js";
import { bits, count, short } from "./format.js";
import { LONG } from "./store.js";

const SHORT = 20; // seconds that a chart has at least, so that its first points do not fill it

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function series(stroke, fill) {
  return { stroke: () => colour(stroke), fill: fill ? () => colour(fill) : undefined, width: 1.6, points: { show: false }, spanGaps: false };
}

function options(width, height, lines, range) {
  return {
    width, height,
    padding: [4, 0, 2, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false, range: (chart, low, high) => [high - Math.max(SHORT, Math.min(LONG, high - low)), high] }, y: { range } },
    axes: [{ show: false }, { show: false }],
    series: [{}, ...lines],
  };
}

// The least that fills a chart: an idle line lies at the bottom, and noise does not look like a mountain.
const above = (least) => (chart, low, high) => [0, Math.max(high * 1.1, least)];

// Lines break between parts alone.
const unbroken = (text) => text.replaceAll(" ", "\u00a0");

const TILES = {
  bits: {
    columns: [3, 4], lines: [series("--in", "--in-fill"), series("--out", "--out-fill")], least: 1000,
    big: (row) => bits(row[3] + row[4]), sub: (row) => [`in ${bits(row[3])}`, `out ${bits(row[4])}`, ...(row[5] ? [`${short(row[5])} packets/s`] : [])].map(unbroken).join(" · "),
  },
  fresh: { columns: [2], lines: [series("--in", "--in-fill")], least: 5, big: (row) => `${short(row[2])}/s`, sub: () => "connections and sessions begun" },
  flows: { columns: [1], lines: [series("--out", "--out-fill")], least: 5, big: (row) => count(row[1]), sub: () => "in the flow tables now" },
  drops: { columns: [6], lines: [series("--down", "--down-fill")], least: 5, big: (row) => `${short(row[6])}/s`, sub: (row, total) => `${count(total)} since the start` },
};

export class Charts {
  #tiles = new Map();
  #rules = new Map();

  constructor() {
    for (const tile of document.querySelectorAll(".tile")) {
      const kind = TILES[tile.dataset.chart];
      const plot = tile.querySelector(".plot");
      plot.title = "the last two minutes";
      this.#tiles.set(tile, { kind, plot, chart: null, big: tile.querySelector(".big b"), sub: tile.querySelector(".sub") });
    }
    new ResizeObserver(() => this.#resize()).observe(byId("verdict"));
  }

  /** Draws the totals. */
  totals(store) {
    const dropped = store.drops.reduce((sum, drop) => sum + drop.count, 0);
    for (const tile of this.#tiles.values()) {
      say(tile.big, tile.kind.big(store.total));
      say(tile.sub, tile.kind.sub(store.total, dropped));
      const data = [store.totals.map((row) => row[0]), ...tile.kind.columns.map((column) => store.totals.map((row) => row[column]))];
      const width = tile.plot.clientWidth;
      if (!tile.chart && width) tile.chart = new uPlot(options(width, tile.plot.clientHeight, tile.kind.lines, above(tile.kind.least)), data, tile.plot);
      else tile.chart?.setData(data);
    }
  }

  /** Returns the element that a rule's chart is in. */
  cell(rule) {
    const found = this.#rules.get(rule);
    if (found) return found.plot;
    const plot = make("div", { class: "spark" });
    this.#rules.set(rule, { plot, chart: null });
    return plot;
  }

  /** Draws the charts of the rules that are shown. */
  rules(store, shown) {
    for (const name of shown) {
      const found = this.#rules.get(name);
      if (!found?.plot.isConnected) continue;
      const rows = store.past.get(name) || [];
      const [first, last] = [store.totals[0]?.[0] ?? store.at, store.at];
      const times = store.totals.map((row) => row[0]);
      const by = new Map(rows.map((row) => [row[0], row]));
      const at = times.length ? times : [first, last];
      const data = [at, at.map((time) => by.get(time)?.[1] ?? 0), at.map((time) => by.get(time)?.[2] ?? 0)];
      const lines = [series("--in"), series("--out")];
      if (!found.chart) found.chart = new uPlot(options(128, 28, lines, above(1000)), data, found.plot);
      else found.chart.setData(data);
    }
  }

  /** Draws everything again, in other colours. */
  repaint() {
    for (const { chart } of [...this.#tiles.values(), ...this.#rules.values()]) chart?.redraw(true, true);
  }

  #resize() {
    for (const { chart, plot } of this.#tiles.values()) {
      if (chart && plot.clientWidth && plot.clientWidth !== chart.width) chart.setSize({ width: plot.clientWidth, height: plot.clientHeight });
    }
  }
}
