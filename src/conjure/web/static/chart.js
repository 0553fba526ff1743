// Curves: uPlot draws them; what is drawn, over what and how is kept in the page's address.
import { element, fetchBytes, toast } from "./page.js";

const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 2], [1, 4], [12, 4], [3, 6]];
const MOST_DRAWN = 6400; // points of one run; beyond, the curve is fetched anew
const MOST_PLACES = 4000; // where the cursor can stand on curves of several runs
const PATIENCE_MS = 150;
const SHARP_RUNS = 20; // up to so many, each pixel has its lowest and highest value; beyond, each two, and so on

/** Which dash a curve has: of those with the same colour, each has another. */
const dashOf = (place) => (place + Math.floor(place / 8)) % 8;

/** A value of the style sheet. */
export const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Six digits at most, with an exponent for what is small or large. */
export function number(value) {
  if (value == null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.01 && size < 1e6 ? String(Number(value.toPrecision(6))) : value.toExponential(4).replace(/\.?0+e/, "e").replace("e+", "e");
}

/** All figures of a page: their common settings, and the figures that are in view. */
export class Curves {
  constructor(section) {
    this.section = section;
    this.runs = section.dataset.runs.split(",").map(Number);
    const query = new URLSearchParams(location.search);
    const zoom = (query.get("zoom") || "").split(":").map(Number);
    this.settings = {
      x: query.get("x") || "step",
      logx: query.has("logx"), logy: query.has("logy"),
      smoothing: Math.min(Math.max(Number(query.get("smooth")) || 0, 0), 0.99),
      zoom: zoom.length === 2 && zoom.every(Number.isFinite) ? zoom : null,
      filter: query.get("show") || "",
    };
    this.figures = [...section.querySelectorAll("figure[data-metric]")].map((figure) => new Figure(this, figure));
    this.tools();
    this.filter();
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.target.figure.inView(entry.isIntersecting);
    }, { rootMargin: "200px" });
    for (const each of this.figures) this.seen.observe(each.root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const each of this.figures) each.build(); });
  }

  tools() {
    const place = this.section.querySelector("[data-tools]");
    const names = this.figures.map((each) => each.metric);
    const over = element("select", { "aria-label": "Draw over", onchange: () => this.change({ x: over.value, zoom: null }) },
      ...["step", "time", ...names].map((name) => element("option", { value: name, selected: name === this.settings.x }, name === "time" ? "seconds" : name)));
    const toggle = (key, text) => {
      const box = element("input", { type: "checkbox", checked: this.settings[key], onchange: () => this.change({ [key]: box.checked }) });
      return element("label", {}, box, text);
    };
    const slider = element("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: this.settings.smoothing, "aria-label": "Smoothing",
      onchange: () => this.change({ smoothing: Number(slider.value) }) });
    this.reset = element("button", { type: "button", class: "small", hidden: !this.settings.zoom, onclick: () => this.change({ zoom: null }) }, "Reset zoom");
    const find = element("input", { type: "search", placeholder: "Filter metrics", "aria-label": "Filter metrics", value: this.settings.filter,
      oninput: () => { this.settings.filter = find.value; this.filter(); this.remember(); } });
    place.append(...(names.length > 6 ? [find] : []), element("label", {}, "over", over), toggle("logx", "log x"), toggle("logy", "log y"),
      element("label", {}, "smooth", slider), this.reset, element("a", { href: `/metrics.csv?runs=${this.runs}` }, "CSV"));
    place.hidden = false;
  }

  /** A figure that was added to the page. */
  adopt(root) {
    const figure = new Figure(this, root);
    this.figures.push(figure);
    this.filter();
    this.seen.observe(root);
  }

  filter() {
    const wanted = this.settings.filter.toLowerCase();
    for (const each of this.figures) each.root.hidden = !each.metric.toLowerCase().includes(wanted);
  }

  change(settings) {
    Object.assign(this.settings, settings);
    this.reset.hidden = !this.settings.zoom;
    this.remember();
    for (const each of this.figures) { each.stale = true; if (each.visible) each.load(); }
  }

  remember() {
    const address = new URL(location.href), { x, logx, logy, smoothing, zoom, filter } = this.settings;
    const put = (name, value) => { if (value) address.searchParams.set(name, value); else address.searchParams.delete(name); };
    put("x", x === "step" ? "" : x); put("logx", logx ? "1" : ""); put("logy", logy ? "1" : "");
    put("smooth", smoothing || ""); put("zoom", zoom ? zoom.map((each) => Number(each.toPrecision(8))).join(":") : ""); put("show", filter);
    history.replaceState(null, "", address);
  }

  /** What the poll asks more of: what curves are drawn over and, of those in view, how many points are known. */
  having() {
    const run = this.runs[0], inView = this.figures.filter((each) => each.visible && each.data?.[run]);
    return { x: this.settings.x, points: Object.fromEntries(inView.map((each) => [each.index, each.data[run].points])) };
  }

  /** New points of the one run of this page, and what they were asked by. */
  extend(curves, { x, points }) {
    for (const [index, curve] of Object.entries(curves)) this.figures[index]?.extend(this.runs[0], curve, { x, points: points[index] });
  }
}

class Figure {
  constructor(curves, root) {
    this.curves = curves;
    this.root = root;
    root.figure = this;
    this.metric = root.dataset.metric;
    this.index = Number(root.dataset.index);
    this.plot = root.querySelector("[data-plot]");
    this.caption = root.querySelector("figcaption");
    this.facts = this.caption.cloneNode(true).childNodes;
    this.readout = element("div", { class: "readout", "aria-live": "polite" });
    this.plot.after(this.readout);
    this.visible = false;
    this.stale = true;
    this.loading = false;
    this.isBehind = false; // whether points came while curves were on their way
    this.data = null;
    this.buttons();
    this.keys();
    new ResizeObserver(() => this.drawn?.setSize({ width: this.plot.clientWidth, height: this.plot.clientHeight })).observe(this.plot);
  }

  buttons() {
    const wide = element("button", { type: "button", "aria-pressed": "false", onclick: () => {
      const is = this.root.classList.toggle("wide");
      wide.setAttribute("aria-pressed", is); wide.textContent = is ? "smaller" : "larger";
      this.stale = true; this.load();
    } }, "larger");
    this.tableButton = element("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggleTable() }, "table");
    const svg = element("a", { href: `/curves.svg?runs=${this.curves.runs}&metric=${encodeURIComponent(this.metric)}` }, "SVG");
    this.root.querySelector("h3").append(element("span", { class: "more" }, wide, this.tableButton, svg));
  }

  inView(is) {
    this.visible = is;
    if (is && this.stale) this.load();
  }

  async load() {
    this.stale = this.isBehind = false;
    this.loading = true;
    const turn = this.turn = Symbol(), { zoom } = this.curves.settings;
    clearTimeout(this.meanwhile);
    // Drawing twice takes longer than most answers: only where one is slow, what is known is shown zoomed.
    if (zoom) this.meanwhile = setTimeout(() => this.drawn?.setScale("x", { min: zoom[0], max: zoom[1] }), PATIENCE_MS);
    try {
      let missing = this.curves.runs, known = {};
      while (missing.length) {
        const told = await this.ask(missing);
        if (turn !== this.turn) return;
        clearTimeout(this.meanwhile);
        known = { ...known, ...told.runs };
        missing = told.waiting;
        this.data = known;
        this.missing = missing.length;
        if (!missing.length || Object.keys(told.runs).length) this.build(); else this.say();
      }
    } catch (error) {
      if (turn !== this.turn) return;
      this.stale = true;
      toast(error.message);
    }
    this.loading = false;
    if (this.isBehind && !this.stale) this.load();
  }

  /** The curves of some runs; of those that the server is still reading only their numbers, as `waiting`. */
  async ask(runs) {
    const { x, smoothing, zoom } = this.curves.settings;
    const parts = Math.round(this.plot.clientWidth / Math.ceil(this.curves.runs.length / SHARP_RUNS));
    const query = new URLSearchParams({ runs, metric: this.metric, x, parts: Math.min(Math.max(parts, 50), 2000) });
    if (smoothing) query.set("smoothing", smoothing);
    if (zoom) { query.set("lower", zoom[0]); query.set("upper", zoom[1]); }
    return decode(await fetchBytes(`/curves.bin?${query}`));
  }

  extend(run, curve, asked) {
    const known = this.data?.[run];
    if (!known) return;
    // The points go on from what was there when they were asked for, which may be another curve by now.
    if (this.loading) { this.isBehind = true; return; }
    if (asked.x !== this.curves.settings.x || asked.points !== known.points) { this.load(); return; }
    known.points = curve.points;
    if (this.curves.settings.zoom) return;
    if (curve.from === 0 || this.curves.settings.smoothing || known.x.length > MOST_DRAWN) { this.load(); return; }
    known.x.push(...curve.x); known.y.push(...curve.y);
    known.total += curve.total; known.gaps += curve.gaps;
    if (!this.drawn) { this.build(); return; }
    this.gather();
    this.drawn.setData(this.given());
    this.say();
  }

  /** The lines to draw: of each run its values, pale behind the smoothed ones, if any. */
  gather() {
    const { logx, logy } = this.curves.settings;
    this.lines = [];
    this.hiddenByLog = 0;
    for (const [place, run] of this.curves.runs.entries()) {
      const curve = this.data[run];
      if (!curve?.x.length) continue;
      const kept = [...curve.x.keys()].filter((index) => !logx || curve.x[index] > 0);
      this.hiddenByLog += curve.x.length - kept.length;
      const xs = new Float64Array(kept.length);
      // Two points at one x would be one: later ones are moved by less than can be seen.
      kept.forEach((index, to) => {
        const x = curve.x[index], last = xs[to - 1];
        xs[to] = to && x <= last ? last + Math.max(Math.abs(last), 1) * 1e-12 : x;
      });
      for (const key of curve.smooth ? ["y", "smooth"] : ["y"]) {
        const ys = kept.map((index) => {
          const value = curve[key][index];
          if (logy && value !== null && value <= 0) { this.hiddenByLog += 1; return null; }
          return value;
        });
        this.lines.push({ run, place, key, pale: key === "y" && Boolean(curve.smooth), xs, ys });
      }
    }
    this.isJoint = new Set(this.lines.map(({ run }) => run)).size > 1;
  }

  /** What uPlot is given. Curves of several runs have an x of their own each, so we draw them ourselves. */
  given() {
    if (!this.isJoint) return [this.lines[0]?.xs || [], ...this.lines.map(({ ys }) => ys)];
    return [places(this.lines.filter(({ key }) => key === "y")), ...this.lines.map(() => [])];
  }

  build() {
    if (!this.data) return;
    const reading = this.drawn?.data[0][this.drawn.cursor.idx]; // none where nothing is read
    this.drawn?.destroy();
    this.drawn = null;
    this.gather();
    const data = this.given();
    this.say();
    if (!data[0].length) { this.plot.textContent = "No points to draw."; return; }
    this.plot.textContent = "";
    const { logx, logy, x, zoom } = this.curves.settings;
    const ink = style("--quiet"), line = style("--line");
    const axis = { stroke: ink, font: "12px system-ui", grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    this.drawn = new uPlot({
      width: this.plot.clientWidth, height: this.plot.clientHeight,
      legend: { show: false },
      cursor: { drag: { x: true, y: false }, points: { size: 7 }, y: false },
      scales: {
        x: { time: false, distr: logx ? 3 : 1, ...(zoom || this.isJoint ? { range: () => this.window(data[0]) } : {}) },
        y: { distr: logy ? 3 : 1, ...(this.isJoint ? { range: () => this.heights(this.window(data[0])) } : {}) },
      },
      axes: [
        { ...axis, label: undefined, size: 34, values: (_, ticks) => ticks.map((each) => each === null ? "" : number(each)) },
        { ...axis, size: (_, values) => 20 + 7 * Math.max(3, ...(values || []).map((each) => String(each).length)), values: (_, ticks) => ticks.map((each) => each === null ? "" : number(each)) },
      ],
      series: [{ label: x }, ...this.lines.map(({ run, place, pale }) => ({
        label: `run ${run}`, stroke: style(`--s${place % 8}`) + (pale ? "55" : ""), width: pale ? 1 : 1.75,
        dash: pale ? [] : DASHES[dashOf(place)], points: { show: !this.isJoint && data[0].length < 40 && !pale },
        ...(this.isJoint ? { paths: (drawn, at) => trace(drawn, this.lines[at - 1]) } : {}),
      }))],
      hooks: {
        setSelect: [(drawn) => {
          if (drawn.select.width < 4) return;
          const lower = drawn.posToVal(drawn.select.left, "x"), upper = drawn.posToVal(drawn.select.left + drawn.select.width, "x");
          drawn.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          this.curves.change({ zoom: [lower, upper] });
        }],
        setCursor: [(drawn) => this.tell(drawn.cursor.idx)],
      },
    }, data, this.plot);
    this.drawn.over.addEventListener("dblclick", () => { if (this.curves.settings.zoom) this.curves.change({ zoom: null }); });
    if (reading !== undefined) this.readAgain(reading);
    if (!this.tableShown()) return;
    this.toggleTable(); this.toggleTable();
  }

  /** Between which x the curves are drawn. */
  window(xs) {
    const first = xs[0], last = xs[xs.length - 1];
    return this.curves.settings.zoom || (first < last ? [first, last] : [first - 1, last + 1]);
  }

  /** Between which values they are drawn there. */
  heights([lower, upper]) {
    let low = Infinity, high = -Infinity;
    for (const { xs, ys } of this.lines) {
      for (let index = Math.max(upTo(xs, lower), 0); index < xs.length && xs[index] <= upper; index++) {
        const value = ys[index];
        if (value !== null) { if (value < low) low = value; if (value > high) high = value; }
      }
    }
    const { logy } = this.curves.settings;
    if (low > high) return logy ? [1, 10] : [0, 1]; // there is nothing but gaps
    return logy ? uPlot.rangeLog(low, high, 10, false) : uPlot.rangeNum(low, high, 0.1, true);
  }

  tell(index) {
    const drawn = this.drawn;
    if (index == null || !drawn) { this.readout.replaceChildren(); return; }
    const x = this.curves.settings.x;
    const at = drawn.data[0][index];
    const parts = [element("span", {}, `${x === "time" ? "seconds" : x} ${number(at)}`)];
    for (const { run, pale, place, xs, ys } of this.lines) {
      if (pale) continue;
      const value = ys[upTo(xs, at)];
      const name = this.curves.runs.length > 1 ? `run ${run} ` : "";
      parts.push(element("span", {}, ...(name ? [swatch(place)] : []), ` ${name}${value === null ? "not finite" : number(value)}`));
    }
    this.readout.replaceChildren(...parts);
  }

  say() {
    const drawn = [], { x } = this.curves.settings;
    let shown = 0, total = 0, gaps = 0;
    for (const run of this.curves.runs) {
      const curve = this.data[run];
      if (!curve) continue;
      shown += curve.x.length; total += curve.total; gaps += curve.gaps;
      const finite = curve.y.filter((value) => value !== null);
      if (this.curves.runs.length === 1 && finite.length) {
        let low = Infinity, high = -Infinity;
        for (const value of finite) { if (value < low) low = value; if (value > high) high = value; }
        drawn.push(`last ${number(finite[finite.length - 1])}`, `lowest ${number(low)}`, `highest ${number(high)}`);
      }
    }
    const thousands = (value) => value.toLocaleString("en");
    drawn.push(shown < total ? `${thousands(shown)} of ${thousands(total)} points drawn, extremes included` : `${thousands(total)} point${total === 1 ? "" : "s"}`);
    if (this.missing) drawn.push(`reading ${this.missing} of ${this.curves.runs.length} runs…`);
    if (gaps) drawn.push(`${thousands(gaps)} not finite (gaps)`);
    if (this.hiddenByLog) drawn.push(`${thousands(this.hiddenByLog)} at or below 0, not shown on a log axis`);
    const text = drawn.join(" · ");
    this.caption.textContent = text;
    this.plot.setAttribute("aria-label", `${this.metric} over ${x}: ${text}. Arrow keys read values.`);
  }

  keys() {
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "application");
    this.plot.setAttribute("aria-roledescription", "curve");
    this.plot.setAttribute("aria-label", this.metric);
    this.plot.addEventListener("keydown", (event) => {
      if (!this.drawn || event.ctrlKey || event.metaKey) return;
      const last = this.drawn.data[0].length - 1, now = this.drawn.cursor.idx ?? -1, leap = event.shiftKey ? Math.max(Math.round(last / 20), 1) : 1;
      const to = { ArrowLeft: now < 0 ? last : now - leap, ArrowRight: now + leap, Home: 0, End: last }[event.key];
      if (to !== undefined) this.read(Math.max(0, Math.min(to, last)));
      else if (event.key === "+" || event.key === "-") this.zoomBy(event.key === "+" ? 0.5 : 2);
      else if (event.key === "0") this.curves.change({ zoom: null });
      else if (event.key === "t") this.toggleTable();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  /** Read at an x what was read before the curves were drawn anew: uPlot knows its scales a moment later. */
  readAgain(x) {
    const drawn = this.drawn;
    queueMicrotask(() => { if (this.drawn === drawn) this.read(Math.max(upTo(drawn.data[0], x), 0)); });
  }

  read(index) {
    const left = this.drawn.valToPos(this.drawn.data[0][index], "x");
    this.drawn.setCursor({ left, top: 10 }, false);
    this.drawn.cursor.idx = index;
    this.tell(index);
  }

  zoomBy(factor) {
    const { min, max } = this.drawn.scales.x, at = this.drawn.cursor.idx;
    const middle = at == null ? (min + max) / 2 : this.drawn.data[0][at];
    const half = (max - min) * factor / 2;
    this.curves.change({ zoom: [middle - half, middle + half] });
    this.plot.focus();
  }

  tableShown() { return this.root.querySelector(".values") !== null; }

  toggleTable() {
    const there = this.root.querySelector(".values");
    this.tableButton.setAttribute("aria-pressed", !there);
    if (there) { there.remove(); return; }
    if (!this.drawn) return;
    const head = element("tr", {}, element("th", { scope: "col" }, this.curves.settings.x), ...this.lines.map(({ run, key }) => element("th", { scope: "col" }, `run ${run}${key === "smooth" ? " smoothed" : ""}`)));
    const rows = [];
    for (let index = 0; index < Math.min(this.drawn.data[0].length, 2000); index++) {
      const x = this.drawn.data[0][index];
      const values = this.lines.map(({ xs, ys }) => xs[upTo(xs, x)] === x ? ys[upTo(xs, x)] : undefined);
      rows.push(element("tr", {}, ...[x, ...values].map((value) => element("td", {}, value === null ? "not finite" : value === undefined ? "" : number(value)))));
    }
    this.root.append(element("div", { class: "values", tabindex: "0", role: "region", "aria-label": `Values of ${this.metric}` }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))));
  }
}

/** Curves as the server packs them: a head of JSON, then of each run x, y and perhaps the smoothed y. */
function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const take = (count) => { const part = new Float64Array(buffer, at, count); at += 8 * count; return part; };
  const values = (count) => Array.from(take(count), (value) => Number.isNaN(value) ? null : value);
  const runs = {};
  for (const { run, drawn, smooth, ...curve } of told.runs) {
    runs[run] = { ...curve, x: [...take(drawn)], y: values(drawn), ...(smooth ? { smooth: values(drawn) } : {}) };
  }
  return { runs, waiting: told.waiting };
}

/** The index of the last of ascending numbers that is not above `x`; -1 if none is. */
function upTo(xs, x) {
  let low = 0, high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle + 1; else high = middle;
  }
  return low - 1;
}

/** Where the cursor can stand: every x of the lines or, of very many, some. */
function places(lines) {
  const all = new Float64Array(lines.reduce((sum, { xs }) => sum + xs.length, 0));
  let at = 0;
  for (const { xs } of lines) { all.set(xs, at); at += xs.length; }
  all.sort();
  const single = all.filter((x, index) => !index || x !== all[index - 1]);
  const every = Math.ceil(single.length / MOST_PLACES), last = single.length - 1;
  return single.filter((_, index) => index % every === 0 || index === last);
}

/** A line as uPlot strokes it, with its gaps. */
function trace(drawn, { xs, ys }) {
  const path = new Path2D(), { min, max } = drawn.scales.x, size = devicePixelRatio;
  let joined = false;
  for (let index = Math.max(upTo(xs, min), 0); index < xs.length; index++) {
    const y = ys[index];
    if (y === null) { joined = false; continue; }
    const left = drawn.valToPos(xs[index], "x", true), top = drawn.valToPos(y, "y", true);
    if (joined) path.lineTo(left, top); else path.moveTo(left, top);
    // A point between two gaps is seen, too.
    if (!joined && (ys[index + 1] ?? null) === null) { path.moveTo(left - size, top); path.lineTo(left + size, top); }
    joined = true;
    if (xs[index] > max) break;
  }
  return { stroke: path };
}

function swatch(place) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("class", "swatch"); made.setAttribute("width", "18"); made.setAttribute("height", "8"); made.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("class", `s${place % 8} d${dashOf(place)}`); path.setAttribute("d", "M0 4h18");
  made.append(path);
  return made;
}
