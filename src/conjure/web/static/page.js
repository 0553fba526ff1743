// What every page does: times that tick, copy buttons, keys, actions. Exports what the other modules share.

const toastPlace = document.getElementById("toast");
let toastTimer = 0;

/** Say something short at the foot of the page. */
export function toast(text) {
  toastPlace.textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { toastPlace.textContent = ""; }, 4000);
}

/** An answer as JSON; an error's words as an exception. */
export async function fetchJson(address, options = {}) {
  return (await fetchAnswer(address, options)).json();
}

/** An answer as bytes; an error's words as an exception. */
export async function fetchBytes(address) {
  return (await fetchAnswer(address)).arrayBuffer();
}

async function fetchAnswer(address, options = {}) {
  const answer = await fetchAny(address, options);
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.error?.message || `the server answered ${answer.status}`);
}

async function fetchAny(address, options = {}) {
  try {
    return await fetch(address, { credentials: "same-origin", ...options });
  } catch (error) { throw new Error("No answer from the server", { cause: error }); }
}

/** A page as the server shows it now. */
export async function fetchPage(address) {
  const text = await (await fetchAny(address)).text();
  return new DOMParser().parseFromString(text, "text/html");
}

/** An element with attributes and children; texts stay texts. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/**
 * Call `ask` again and again: never twice at once, never while the tab is hidden.
 * It returns how many milliseconds to wait, or null to end.
 */
export function poll(ask, first = 500) {
  let timer = 0, asking = false, over = false, failures = 0;
  async function turn() {
    if (asking || over || document.hidden) return;
    asking = true;
    let wait = 5000;
    try {
      wait = await ask();
      failures = 0;
      sayStale(null);
    } catch (error) {
      failures += 1; // the server may be restarting: once is nothing
      if (failures > 1) sayStale(error);
    }
    asking = false;
    if (wait === null) over = true;
    else timer = setTimeout(turn, wait);
  }
  document.addEventListener("visibilitychange", () => { clearTimeout(timer); if (!document.hidden) turn(); });
  timer = setTimeout(turn, first);
}

let staleNote = null;

/** Keep it said at the top of the page that what it shows may have changed; with null, no more. */
function sayStale(error) {
  if (error && !staleNote) {
    staleNote = element("p", { class: "stale", role: "alert" });
    document.getElementById("main").before(staleNote);
  } else if (!error) {
    staleNote?.remove();
    staleNote = null;
  }
  if (staleNote) set(staleNote, `${error.message[0].toUpperCase()}${error.message.slice(1)}. This page may be out of date.`);
}

export function duration(seconds) {
  if (seconds < 59.95) return `${Math.max(seconds, 0).toFixed(1)}s`;
  const minutes = Math.floor(Math.round(seconds) / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  const units = [[days, "d"], [hours % 24, "h"], [minutes % 60, "m"], [Math.round(seconds) % 60, "s"]];
  const largest = units.findIndex(([count]) => count);
  return units.slice(largest, largest + 2).filter(([count]) => count).map(([count, unit]) => count + unit).join(" ");
}

function age(seconds) {
  for (const [length, unit] of [[31536000, "y"], [86400, "d"], [3600, "h"], [60, "m"]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)}${unit}`;
  }
  return `${Math.max(Math.floor(seconds), 0)}s`;
}

function tick() {
  if (document.hidden) return;
  const now = Date.now() / 1000;
  if (!staleNote) for (const each of document.querySelectorAll("time[data-since]")) set(each, duration(now - Number(each.dataset.since)));
  for (const each of document.querySelectorAll("time[data-age]")) set(each, age(now - Date.parse(each.dateTime) / 1000));
}
function set(place, text) { if (place.textContent !== text) place.textContent = text; }
tick();
setInterval(tick, 1000);

/** Make what needs scripts visible and working, in the page or in a new part of it. */
export function awaken(root = document) {
  for (const each of root.querySelectorAll("[data-scripted], [data-copy], [data-help]")) each.hidden = false;
}
awaken();

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.copy !== undefined) {
    await copy(button.dataset.copy);
  } else if (button.dataset.act && button.dataset.on) {
    await act(button.dataset.act, [Number(button.dataset.on)]);
  } else if (button.dataset.help !== undefined) help();
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    const field = element("textarea", { readonly: true });
    field.value = text;
    document.body.append(field);
    field.select();
    toast(document.execCommand("copy") ? "Copied" : "This browser does not allow copying");
    field.remove();
  }
}

const QUESTIONS = {
  kill: "Kill without saving its outputs?",
  stop: "Stop and save its outputs?",
  archive: null, unarchive: null, rerun: null,
};

function named(runs) { return runs.length === 1 ? `run ${runs[0]}` : `${runs.length} runs`; }

/** What is said of runs that were to end; those that had ended are not among them. */
function ending(action, runs) {
  if (!runs.length) return "Nothing to do: not active any more";
  return `${action === "stop" ? "Stopping" : "Killing"} ${named(runs)}`;
}

/** Do one thing to some runs, after asking where it cannot be taken back. */
export async function act(action, runs) {
  let label = null;
  const which = named(runs);
  if (action === "label") {
    label = await ask(`Label for ${which}`, true);
    if (!label) return;
  } else if (QUESTIONS[action] && !await ask(`${which[0].toUpperCase()}${which.slice(1)}: ${QUESTIONS[action]}`)) return;
  try {
    const told = await fetchJson("/actions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(label === null ? { action, runs } : { action, runs, label }),
    });
    if (action === "rerun") {
      if (told.notes.length) await tell(`Run ${told.runs[0]} was started`, told.notes);
      location.href = `/runs/${told.runs[0]}`;
    } else if (action === "stop" || action === "kill") toast(ending(action, told.runs));
    else location.reload();
  } catch (error) { toast(error.message); }
}

/** Sentences to be read before anything goes on; resolves when they are closed. */
function tell(title, sentences) {
  return new Promise((resolve) => {
    const dialog = element("dialog", { "aria-label": title }, element("h2", {}, title),
      ...sentences.map((sentence) => element("p", {}, sentence)),
      element("form", { method: "dialog", class: "row" }, element("button", {}, "Close")));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A question with yes and no, or for a text; resolves to the text, true, or null. */
function ask(question, wantsText = false) {
  return new Promise((resolve) => {
    const field = wantsText ? element("input", { type: "text", "aria-label": question, maxlength: 80 }) : "";
    const dialog = element("dialog", { "aria-label": question }, element("form", { method: "dialog" },
      element("h2", {}, question), field,
      element("p", { class: "row" }, element("button", { value: "no", formnovalidate: true }, "Cancel"), element("button", { value: "yes" }, "OK"))));
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue !== "yes" ? null : wantsText ? field.value.trim() : true);
      dialog.remove();
    });
    // Enter in the field means OK, though Cancel comes first.
    if (wantsText) field.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); dialog.close("yes"); } });
    document.body.append(dialog);
    dialog.showModal();
    if (wantsText) field.focus(); else dialog.querySelector("button[value=yes]").focus();
  });
}

const KEYS = [["/", "search"], ["g r", "runs"], ["g h", "home"], ["g c", "compare"], ["g l", "lineage"], ["?", "this list"], ["Esc", "close, leave a field"]];

/** Add keys to the list that `?` shows, and what they do. */
const handlers = new Map();
export function onKeys(entries) {
  for (const [key, text, handler] of entries) { KEYS.push([key, text]); handlers.set(key, handler); }
}

function help() {
  const list = element("dl", { class: "keys" });
  for (const [keys, text] of KEYS) list.append(element("dt", {}, ...keys.split(" ").flatMap((key) => [element("kbd", {}, key), " "])), element("dd", {}, text));
  const dialog = element("dialog", { "aria-label": "Keyboard shortcuts" }, element("h2", {}, "Keyboard shortcuts"), list,
    element("form", { method: "dialog", class: "row" }, element("button", {}, "Close")));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

let went = 0;
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]");
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const going = Date.now() - went < 1000;
  went = 0;
  const to = { r: "/runs", h: "/", c: "/compare", l: "/lineage" }[event.key];
  if (going && to) location.href = to;
  else if (event.key === "g") went = Date.now();
  else if (event.key === "/") { event.preventDefault(); (document.querySelector("[data-main-search]") || document.querySelector(".find input"))?.focus(); }
  else if (event.key === "?") help();
  else if (handlers.has(event.key)) { if (handlers.get(event.key)(event) !== false) event.preventDefault(); }
});
