// The page of one run: one question at a time brings all that is new on it.
import { Curves, style } from "./chart.js";
import { LogView } from "./log.js";
import { awaken, duration, element, fetchJson, fetchPage, onKeys, poll } from "./page.js";

const MOST_SAMPLES = 3600; // of its usage: as many as the server has

const root = document.querySelector("[data-run-page]");
const run = root.dataset.run;
const log = new LogView(root.querySelector("[data-log]"));
const section = root.querySelector("[data-curves]");
const curves = section.hidden ? null : new Curves(section);
const usage = startUsage(root.querySelector("[data-usage]"));
let digest = root.dataset.digest;
let known = curves ? curves.figures.length : 0;

onKeys([
  ["f", "follow the log", () => log.toggleFollowing()],
  ["n", "next match in the log", () => log.step(-1)], ["p", "previous match in the log", () => log.step(1)],
]);

if (root.hasAttribute("data-active")) {
  poll(async () => {
    const asked = curves?.having() || { x: "step", points: {} };
    const have = Object.entries(asked.points).map((pair) => pair.join(":"));
    const query = new URLSearchParams({ head: digest, log: log.known, x: asked.x, have, usage: usage.last() });
    const told = await fetchJson(`/runs/${run}/live.json?${query}`);
    if (told.head) showHead(told);
    if (told.log) log.take(told.log);
    if (told.curves) curves?.extend(told.curves, asked);
    if (told.usage) usage.add(told.usage);
    if (told.metrics > known) { await newMetrics(); known = told.metrics; }
    if (told.active || (told.log && told.log.end < told.log.size)) return 500;
    if (root.hasAttribute("data-active")) {
      await refreshRest(); // again at the next turn if it fails
      root.removeAttribute("data-active");
      return 500; // once more: the last points and lines
    }
    return null;
  });
}

function showHead(told) {
  const place = root.querySelector("[data-head]");
  place.innerHTML = told.head; // made by the server's templates, which escape what comes from runs
  digest = told.digest;
  awaken(place);
}

/** What the page shows beside curves and log: taken from the page as it is now. */
async function refreshRest() {
  const fresh = (await fetchPage(location.pathname)).querySelector("[data-run-page]");
  if (!fresh) throw new Error("the server answered with another page");
  for (const selector of [".columns", ".asked", ".tabs"]) {
    const mine = root.querySelector(selector), theirs = fresh.querySelector(selector);
    const hasFocus = mine.contains(document.activeElement);
    if (hasFocus && selector !== ".asked") continue;
    mine.replaceWith(theirs);
    awaken(theirs);
    if (hasFocus) theirs.querySelector("button")?.focus(); // the one that had it may be for active runs only
  }
}

/** The first point of a metric that the page does not show yet. */
async function newMetrics() {
  if (!curves) { location.reload(); return; }
  const page = await fetchPage(location.pathname), place = section.querySelector("[data-figures]");
  for (const figure of [...page.querySelectorAll("figure[data-metric]")].slice(curves.figures.length)) {
    place.append(figure);
    curves.adopt(figure);
  }
}

function startUsage(part) {
  const samples = JSON.parse(part.dataset.samples || "[]");
  const place = part.querySelector("[data-usage-figures]");
  const kinds = [["CPU, % of a core", 1, (value) => `${Math.round(value)}`], ["Memory, MB", 2, (value) => `${Math.round(value / 1e6)}`], ["GPU memory, MB", 3, (value) => `${Math.round(value / 1e6)}`]];
  const drawn = new Map();
  function draw() {
    for (const [title, column, text] of kinds) {
      if (!samples.some((sample) => sample[column] !== null)) continue;
      let figure = drawn.get(title);
      if (!figure) {
        figure = { caption: element("figcaption"), plot: element("div", { class: "plot", role: "img", "aria-label": title }) };
        place.append(element("figure", { class: "curve" }, element("h3", {}, title), figure.plot, figure.caption));
        drawn.set(title, figure);
      }
      const scale = column === 1 ? 1 : 1e-6, start = samples[0][0];
      const data = [samples.map((sample) => sample[0] - start), samples.map((sample) => sample[column] === null ? null : sample[column] * scale)];
      const highest = samples.reduce((most, sample) => Math.max(most, sample[column] ?? 0), 0);
      figure.caption.textContent = `now ${text(samples[samples.length - 1][column] ?? 0)} · highest ${text(highest)} · over ${duration(data[0][data[0].length - 1])}`;
      if (figure.chart) { figure.chart.setData(data); continue; }
      const axis = { stroke: style("--quiet"), font: "12px system-ui", grid: { stroke: style("--line"), width: 1 }, ticks: { show: false } };
      figure.chart = new uPlot({
        width: figure.plot.clientWidth, height: figure.plot.clientHeight, legend: { show: false }, cursor: { drag: { x: false, y: false } },
        scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } }, axes: [{ ...axis, size: 34 }, axis],
        series: [{}, { stroke: style(`--s${column}`), width: 1.5, fill: `${style(`--s${column}`)}22` }],
      }, data, figure.plot);
      new ResizeObserver(() => figure.chart.setSize({ width: figure.plot.clientWidth, height: figure.plot.clientHeight })).observe(figure.plot);
    }
  }
  if (samples.length > 1) addEventListener("load", draw);
  return {
    last: () => samples.length ? samples[samples.length - 1][0] : 0,
    add: (more) => {
      samples.push(...more);
      samples.splice(0, samples.length - MOST_SAMPLES);
      if (samples.length > 1) draw();
    },
  };
}
