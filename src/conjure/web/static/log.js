// A run's log: a window of lines in the page, however long the log is; follows its end, searches, scrolls back.
import { ansiNodes, plainState } from "./ansi.js";
import { element, fetchJson, onKeys, poll } from "./page.js";

const MOST = 2000; // lines in the page
const NEAR = 400; // pixels from an edge at which more is fetched
const lineOf = new WeakMap(); // what is known of the line that a node shows

export class LogView {
  constructor(root) {
    this.root = root;
    this.run = root.dataset.run;
    this.lines = root.querySelector("[data-lines]");
    this.start = Number(root.dataset.start);
    this.end = Number(root.dataset.end);
    this.size = Number(root.dataset.size);
    this.attempt = Number(root.dataset.attempt);
    this.active = root.hasAttribute("data-active");
    this.open = {}; // of each stream, the line whose end has not come
    this.state = plainState();
    this.loading = false;
    this.turn = 0; // counts requests for a place; only the newest is shown
    this.times = false;
    this.matches = [];
    this.match = -1;
    root.querySelector("[data-tools]").hidden = false;
    this.followBox = root.querySelector("[data-follow]");
    this.listen();
    this.tail();
  }

  get following() { return this.followBox.checked; }

  listen() {
    this.lines.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.followBox.addEventListener("change", () => { if (this.following) this.tail(); });
    this.root.querySelector("[data-times]").addEventListener("change", (event) => {
      this.times = event.target.checked;
      for (const each of this.lines.querySelectorAll("time")) each.hidden = !this.times;
    });
    const field = this.root.querySelector("[data-search]");
    let timer = 0;
    field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => this.search(field.value), 250); });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") { event.preventDefault(); this.step(event.shiftKey ? -1 : 1); }
    });
    this.root.querySelector("[data-next]").addEventListener("click", () => this.step(-1));
    this.root.querySelector("[data-previous]").addEventListener("click", () => this.step(1));
    this.lines.addEventListener("keydown", (event) => {
      if (event.key === "End") { this.followBox.checked = true; this.tail(); event.preventDefault(); }
      if (event.key === "Home") { this.followBox.checked = false; this.jump(0); event.preventDefault(); }
    });
  }

  /** Show the end. */
  async tail() {
    this.turn += 1;
    await this.load(() => fetchJson(`/runs/${this.run}/log.json`), (window) => {
      this.show(window);
      this.lines.scrollTop = this.lines.scrollHeight;
    });
    await this.fillBox();
  }

  /** Show what stands around a place; whether that is what was asked for last. */
  async jump(place) {
    this.turn += 1;
    const fetching = () => Promise.all([
      place > 0 ? fetchJson(`/runs/${this.run}/log.json?before=${place}`) : { start: 0, lines: [] },
      fetchJson(`/runs/${this.run}/log.json?after=${place}`),
    ]);
    const isShown = await this.load(fetching, ([before, after]) => {
      this.show({ start: before.start, end: after.end, size: after.size, lines: [...before.lines.slice(-300), ...after.lines] });
      if (before.lines.length > 300) this.start = before.lines[before.lines.length - 300][0];
    });
    if (isShown) await this.fillBox();
    return isShown;
  }

  /** Fetch more while the box has room: what cannot be scrolled asks for nothing, and a fetch may hold one line only. */
  async fillBox() {
    const turn = this.turn;
    for (let held = -1; turn === this.turn && this.hasRoom && this.end - this.start !== held;) {
      held = this.end - this.start;
      if (this.start > 0) await this.older();
      else if (this.end < this.size && !this.following) await this.newer();
    }
  }

  get hasRoom() {
    return !this.loading && this.lines.childElementCount < MOST && this.lines.scrollHeight <= this.lines.clientHeight;
  }

  /** Fetch and show, unless another place was asked for meanwhile; whether it was shown. */
  async load(fetching, showing) {
    const turn = this.turn;
    this.loading = true;
    try {
      const fetched = await fetching();
      if (turn === this.turn) showing(fetched);
      return turn === this.turn;
    } finally { if (turn === this.turn) this.loading = false; }
  }

  show(window) {
    this.start = window.start; this.end = window.end; this.size = window.size;
    this.open = {}; this.state = plainState();
    this.lines.replaceChildren(...this.nodes(window.lines));
  }

  toggleFollowing() {
    this.followBox.checked = !this.following;
    if (this.following) this.tail();
  }

  /** What a poll brought: new lines, or only how long the log is where its end is not in the page. */
  take(window) {
    if (window.attempt !== this.attempt || window.size < this.end) { // another attempt has begun a log of its own
      this.attempt = window.attempt;
      if (!this.loading) this.tail();
      return;
    }
    const atEnd = this.hasEnd;
    this.size = window.size;
    if (!atEnd) return;
    if (this.following && window.size - window.end > 1 << 20) { // too far behind to catch up
      if (!this.loading) this.tail();
      return;
    }
    if (window.start !== this.end) return; // the page has been scrolled away meanwhile
    if (!this.following && this.lines.childElementCount >= MOST) return; // scrolling down will fetch it
    this.end = window.end;
    this.lines.append(...this.nodes(window.lines));
    if (!this.following) return;
    while (this.lines.childElementCount > MOST) this.dropFirst();
    this.lines.scrollTop = this.lines.scrollHeight;
  }

  /** Whether what comes next belongs below the last line of the page. */
  get hasEnd() { return this.end >= this.size || this.following; }

  /** Offset up to which a poll need not tell anything. */
  get known() { return this.hasEnd ? this.end : this.size; }

  dropFirst() {
    const first = this.lines.firstElementChild;
    first.remove();
    for (const [stream, line] of Object.entries(this.open)) if (line.node === first) delete this.open[stream];
    const next = this.lines.firstElementChild;
    if (next) this.start = Number(next.dataset.at);
  }

  nodes(lines) {
    const made = [];
    for (const [at, time, stream, text, ends] of lines) {
      const begun = this.open[stream];
      if (begun) {
        begun.text += text;
        this.fill(begun);
        if (ends) delete this.open[stream];
        continue;
      }
      const node = element("div", { class: stream === "stdout" ? "line" : `line ${stream}`, "data-at": at });
      const line = { node, stream, text, time };
      lineOf.set(node, line);
      this.fill(line);
      if (!ends) this.open[stream] = line;
      made.push(node);
    }
    return made;
  }

  fill(line) {
    const written = line.text.replace(/\r+$/, ""), shown = written.slice(written.lastIndexOf("\r") + 1);
    const stamp = element("time", { hidden: !this.times }, new Date(line.time * 1000).toLocaleTimeString([], { hour12: false }));
    line.node.replaceChildren(stamp, ...ansiNodes(shown, this.state));
    // Of a bar only the newest state is kept, and that it overwrites what stands before it.
    line.text = `${shown === written ? "" : "\r"}${shown}${line.text === written ? "" : "\r"}`;
  }

  async scrolled() {
    const box = this.lines, below = box.scrollHeight - box.scrollTop - box.clientHeight;
    if (below > 40 && this.following && !this.loading) this.followBox.checked = false;
    if (this.loading) return;
    if (box.scrollTop < NEAR && this.start > 0) await this.older();
    else if (below < NEAR && this.end < this.size) await this.newer();
  }

  async older() {
    await this.load(() => fetchJson(`/runs/${this.run}/log.json?before=${this.start}`), (window) => {
      const height = this.lines.scrollHeight, top = this.lines.scrollTop;
      const open = this.open; this.open = {};
      const nodes = this.nodes(window.lines), begun = this.open;
      this.open = open;
      for (const [stream, line] of Object.entries(begun)) this.join(stream, line);
      this.lines.prepend(...nodes);
      this.start = window.start;
      this.lines.scrollTop = top + this.lines.scrollHeight - height;
      while (this.lines.childElementCount > MOST) {
        const last = this.lines.lastElementChild;
        this.end = Number(last.dataset.at);
        // Lines of one entry go together, or the next fetch would repeat some.
        while (this.lines.lastElementChild && Number(this.lines.lastElementChild.dataset.at) === this.end) this.lines.lastElementChild.remove();
        this.open = {};
      }
    });
  }

  /** Put a line that began before what the page has together with its rest. */
  join(stream, line) {
    const node = [...this.lines.children].find((each) => lineOf.get(each).stream === stream);
    if (!node) { this.open[stream] = line; return; }
    const rest = lineOf.get(node);
    line.text += rest.text;
    this.fill(line);
    if (this.open[stream] === rest) this.open[stream] = line;
    node.remove();
  }

  async newer() {
    await this.load(() => fetchJson(`/runs/${this.run}/log.json?after=${this.end}`), (window) => {
      this.size = window.size; this.end = window.end;
      this.lines.append(...this.nodes(window.lines));
      const height = this.lines.scrollHeight;
      while (this.lines.childElementCount > MOST) this.dropFirst();
      this.lines.scrollTop -= height - this.lines.scrollHeight;
    });
  }

  async search(text) {
    const found = this.root.querySelector("[data-found]");
    this.matches = []; this.match = -1; this.text = text;
    for (const each of this.root.querySelectorAll("[data-next], [data-previous]")) each.hidden = true;
    if (!text) { found.textContent = ""; return; }
    found.textContent = "searching…";
    try { await this.find(text); } catch (error) { if (this.text === text) found.textContent = error.message; }
  }

  async find(text) {
    let told = await fetchJson(`/runs/${this.run}/log/search.json?text=${encodeURIComponent(text)}`);
    // A rare text in a long log: each answer goes on for a while.
    while (!told.lines.length && told.before > 0 && this.text === text) {
      told = await fetchJson(`/runs/${this.run}/log/search.json?text=${encodeURIComponent(text)}&before=${told.before}`);
    }
    if (this.text !== text) return;
    this.matches = told.lines;
    this.more = told.before > 0 ? "+" : "";
    this.root.querySelector("[data-found]").textContent = told.lines.length ? `${told.lines.length}${this.more} lines` : "not found";
    for (const each of this.root.querySelectorAll("[data-next], [data-previous]")) each.hidden = !told.lines.length;
    if (told.lines.length) await this.step(1);
  }

  /** The next older match (1) or newer one (-1). */
  async step(by) {
    if (!this.matches.length) return;
    this.match = (this.match + by + this.matches.length) % this.matches.length;
    const [at, , , text] = this.matches[this.match];
    this.followBox.checked = false;
    if (!(await this.jump(at))) return; // another place was asked for meanwhile
    const wanted = this.text.toLowerCase();
    const node = [...this.lines.children].find((each) => Number(each.dataset.at) === at && each.textContent.toLowerCase().includes(wanted));
    node?.classList.add("hit");
    node?.scrollIntoView({ block: "center" });
    this.root.querySelector("[data-found]").textContent = `${this.match + 1} of ${this.matches.length}${this.more}`;
  }
}

/** Of a page that is a log and nothing else. */
const alone = document.querySelector(".log.tall[data-log]");
if (alone) {
  const view = new LogView(alone);
  onKeys([
    ["n", "next match", () => view.step(-1)], ["p", "previous match", () => view.step(1)],
    ["f", "follow the log", () => view.toggleFollowing()],
  ]);
  if (view.active) {
    poll(async () => {
      const told = await fetchJson(`/runs/${view.run}/live.json?log=${view.known}`);
      if (told.log) view.take(told.log);
      return told.active || told.log?.end < told.log?.size ? 500 : null;
    });
  }
}
