// A page that is shown anew when something on it has changed: the first page, a sweep.
import { awaken, fetchJson, fetchPage, poll } from "./page.js";

const place = document.querySelector("[data-refresh]");
let cursor = null;

if (place) {
  poll(async () => {
    const told = await fetchJson(place.dataset.refresh);
    if (cursor !== null && told.cursor !== cursor && !document.querySelector("dialog[open]")) await show();
    cursor = told.cursor;
    return told.active ? 1000 : 5000;
  }, 0);
}

async function show() {
  const fresh = (await fetchPage(location.href)).getElementById("main");
  const main = document.getElementById("main");
  const focused = document.activeElement?.getAttribute?.("href");
  main.replaceChildren(...fresh.childNodes);
  if (focused) main.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  awaken(main);
}
