// The table of runs: kept up to date without moving anything, selected and walked through by keys.
import { act, element, fetchJson, fetchPage, onKeys, poll, toast } from "./page.js";

const results = document.querySelector("[data-results]");
const filters = document.querySelector("[data-filters]");
const search = filters.querySelector("[name=q]");
let at = -1; // the row that keys have come to
let wanted = null; // the address whose rows are asked for
let typing = false; // whether the newest entry of the history is of the word being typed

const theTable = () => results.querySelector("[data-runs]");
const theForm = () => results.querySelector("[data-selection]");
const rows = () => [...results.querySelectorAll("tbody tr")];
const picked = () => [...results.querySelectorAll("[name=runs]:checked")].map((box) => Number(box.value));

/** Show the table of another address in place of this one: only its rows are exchanged. */
async function show(address) {
  const isAsking = wanted !== null;
  wanted = address;
  if (isAsking) return; // whoever asks will find it
  let fresh = null;
  for (let asked = null; asked !== wanted;) {
    asked = wanted;
    try { fresh = await fetchPage(asked); } catch (error) { toast(error.message); fresh = null; }
  }
  const place = fresh?.querySelector("[data-results]");
  const last = wanted;
  wanted = null;
  if (place) exchange(fresh, place); else if (fresh) location.assign(last); // it says what is wrong
}

function exchange(fresh, place) {
  const chosen = new Set(picked()), heading = document.activeElement?.closest("[data-results] th");
  const focused = heading ? heading.cellIndex : -1, marked = rows()[at], isInRow = marked?.contains(document.activeElement);
  results.replaceChildren(...place.childNodes);
  document.querySelector("[data-total]").textContent = fresh.querySelector("[data-total]").textContent;
  // The form that chooses columns sends the order, too.
  for (const old of filters.querySelectorAll("[type=hidden]")) old.remove();
  filters.append(...fresh.querySelectorAll("[data-filters] [type=hidden]"));
  at = marked ? rows().findIndex((row) => row.dataset.run === marked.dataset.run) : -1; // keys go on from there
  rows()[at]?.classList.add("at");
  if (isInRow) rows()[at]?.querySelector("a").focus();
  for (const box of results.querySelectorAll("[name=runs]")) box.checked = chosen.has(Number(box.value));
  if (focused >= 0) results.querySelectorAll("thead th")[focused]?.querySelector("a")?.focus();
  count();
}

/** Go to another table: by a new entry of the history unless it only goes on with the last. */
function go(address, { replaces = false } = {}) {
  if (address.href === location.href) return;
  history[replaces ? "replaceState" : "pushState"](null, "", address);
  show(address.href);
}

/** The address with other filters; the first page of it. */
function filtered() {
  const address = new URL(location.href);
  for (const name of ["q", "status", "project", "archived"]) {
    const field = filters.elements[name];
    address.searchParams.delete(name);
    if (field?.value && (field.type !== "checkbox" || field.checked)) address.searchParams.set(name, field.value);
  }
  address.searchParams.delete("page");
  return address;
}

search.addEventListener("input", () => { go(filtered(), { replaces: typing }); typing = true; });
search.addEventListener("blur", () => { typing = false; });
for (const each of filters.querySelectorAll("select, [name=archived]")) {
  each.addEventListener("change", () => { typing = false; go(filtered()); });
}
filters.addEventListener("submit", (event) => {
  if (event.submitter?.closest(".menu")) return;
  event.preventDefault();
  typing = false;
  go(filtered());
});
addEventListener("popstate", () => {
  const asked = new URLSearchParams(location.search);
  typing = false;
  for (const name of ["q", "status", "project"]) if (filters.elements[name]) filters.elements[name].value = asked.get(name) || "";
  filters.elements.archived.checked = asked.get("archived") === "1";
  show(location.href);
});
results.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) { act(button.dataset.act, picked()); return; }
  const link = event.target.closest("thead a, .pager a");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  typing = false;
  if (link.closest(".pager")) scrollTo(0, 0);
  go(new URL(link.href));
});
results.addEventListener("change", count);
results.addEventListener("submit", (event) => {
  event.preventDefault();
  if (picked().length > 1) location.href = `/compare?runs=${picked().join(",")}`;
});

function count() {
  const form = theForm(), many = picked().length;
  if (!form) return;
  form.querySelector("[data-count]").textContent = many ? `${many} selected` : "";
  form.querySelector("[data-compare]").disabled = many < 2 || many > Number(form.dataset.most);
  for (const button of form.querySelectorAll("[data-act]")) button.disabled = !many;
  for (const each of form.querySelectorAll("[data-scripted]")) each.hidden = false;
}
count();

function goTo(place) {
  const all = rows();
  if (!all.length) return;
  all[at]?.classList.remove("at");
  at = Math.max(0, Math.min(place, all.length - 1));
  all[at].classList.add("at");
  all[at].querySelector("a").focus();
  all[at].scrollIntoView({ block: "nearest" });
}

onKeys([
  ["j", "next run", () => goTo(at + 1)],
  ["k", "previous run", () => goTo(at - 1)],
  ["x", "select", () => { const box = rows()[at]?.querySelector("[name=runs]"); if (box) { box.checked = !box.checked; count(); } }],
  ["c", "compare the selected", () => { if (picked().length > 1) theForm().requestSubmit(); else toast("Select two runs or more with x"); }],
  ["Enter", "open", () => { if (at < 0 || document.activeElement?.closest("button, a")) return false; location.href = `/runs/${rows()[at].dataset.run}`; }],
]);

/** Put the new content of a cell in place of the old, touching only what differs. */
function patch(cell, html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html; // made by the server's templates, which escape what comes from runs
  const image = cell.querySelector("img"), next = fresh.content.querySelector("img");
  if (image && next) {
    if (image.getAttribute("src") !== next.getAttribute("src")) image.src = next.getAttribute("src");
    return;
  }
  if (cell.contains(document.activeElement)) return;
  cell.replaceChildren(fresh.content);
}

function update(table, told) {
  const body = table.querySelector("tbody");
  const known = new Map(rows().map((row) => [row.dataset.run, row]));
  for (const [number, cells] of Object.entries(told.changed)) {
    const row = known.get(number) || newRow(table, number, cells.length);
    known.set(number, row);
    cells.forEach((html, place) => patch(row.children[place + 2], html));
  }
  const wanted = told.order.map((number) => known.get(String(number))).filter(Boolean);
  const marked = rows()[at];
  wanted.forEach((row, place) => { if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null); });
  while (body.childElementCount > wanted.length) body.lastElementChild.remove();
  at = marked ? wanted.indexOf(marked) : -1;
  document.querySelector("[data-total]").textContent = told.heading;
  const pager = results.querySelector("[data-pager]"), way = pager.contains(document.activeElement) ? document.activeElement.rel : "";
  pager.innerHTML = told.pager; // made by the server's templates, as the cells
  if (way) pager.querySelector(`[rel=${way}]`)?.focus();
}

function newRow(table, number, cells) {
  const keys = JSON.parse(table.dataset.columns), sample = rows()[0];
  const row = element("tr", { "data-run": number },
    element("td", { class: "pick" }, element("input", { type: "checkbox", name: "runs", value: number, "aria-label": `Select run ${number}` })),
    element("td", { class: "right number" }, element("a", { href: `/runs/${number}` }, number)));
  for (let place = 0; place < cells; place++) {
    row.append(element("td", { class: sample?.children[place + 2]?.className || `c-${keys[place].split(":")[0]}` }));
  }
  return row;
}

poll(async () => {
  const table = theTable();
  if (!table) return 3000;
  const query = new URLSearchParams(table.dataset.query);
  query.set("since", table.dataset.cursor);
  for (const key of table.dataset.columns ? JSON.parse(table.dataset.columns) : []) query.append("shown", key);
  const told = await fetchJson(`/runs.json?${query}`);
  if (table !== theTable()) return 700; // another took its place meanwhile
  if (told.order) {
    // Without rows there is another page in place of a table.
    if (table.hasAttribute("data-empty") || !told.order.length) { await show(location.href); return 700; }
    update(table, told);
  }
  table.dataset.cursor = told.cursor;
  return told.active ? 700 : 3000;
});
