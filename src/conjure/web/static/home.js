// The first page: shown anew when something has begun or ended.
import { fetchJson, poll } from "./page.js";

let cursor = null;
poll(async () => {
  const told = await fetchJson(`/runs.json?since=${cursor ?? ""}&shown=status`);
  if (cursor !== null && told.cursor !== cursor && !document.querySelector("dialog[open]")) {
    const text = await (await fetch("/")).text();
    const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("main");
    const focused = document.activeElement?.getAttribute?.("href");
    document.getElementById("main").replaceChildren(...fresh.childNodes);
    if (focused) document.querySelector(`main a[href="${CSS.escape(focused)}"]`)?.focus();
    const { awaken } = await import("./page.js");
    awaken(document.getElementById("main"));
  }
  cursor = told.cursor;
  return told.active ? 1000 : 5000;
}, 0);
