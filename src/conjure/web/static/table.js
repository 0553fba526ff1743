// The table of runs: kept up to date without moving anything, selected and walked through by keys.
import { act, element, fetchJson, onKeys, poll, toast } from "./page.js";

const table = document.querySelector("[data-runs]");
const form = document.querySelector("[data-selection]");
let at = -1;

for (const each of document.querySelectorAll("[data-filters] select, [data-filters] input[name=archived]")) {
  each.addEventListener("change", () => submit());
}
const filters = document.querySelector("[data-filters]");
function submit() {
  // Columns belong in the address only once they were chosen.
  if (!new URLSearchParams(location.search).has("column")) {
    for (const box of filters.querySelectorAll("[name=column]")) box.disabled = true;
  }
  for (const field of filters.querySelectorAll("[name=q], [name=status]")) field.disabled = !field.value;
  filters.submit();
}
filters?.addEventListener("submit", (event) => {
  if (event.submitter?.closest(".menu")) return;
  event.preventDefault();
  submit();
});

function rows() { return [...table.querySelectorAll("tbody tr")]; }
function picked() { return [...form.querySelectorAll("[name=runs]:checked")].map((box) => Number(box.value)); }

function count() {
  const many = picked().length;
  form.querySelector("[data-count]").textContent = many ? `${many} selected` : "";
  form.querySelector("[data-compare]").disabled = many < 2 || many > Number(form.dataset.most);
  for (const button of form.querySelectorAll("[data-act]")) button.disabled = !many;
}

function goTo(place) {
  const all = rows();
  if (!all.length) return;
  all[at]?.classList.remove("at");
  at = Math.max(0, Math.min(place, all.length - 1));
  all[at].classList.add("at");
  all[at].querySelector("a").focus();
  all[at].scrollIntoView({ block: "nearest" });
}

if (form) {
  form.addEventListener("change", count);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (picked().length > 1) location.href = `/compare?runs=${picked().join(",")}`;
  });
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) act(button.dataset.act, picked());
  });
  count();
  onKeys([
    ["j", "next run", () => goTo(at + 1)],
    ["k", "previous run", () => goTo(at - 1)],
    ["x", "select", () => { const box = rows()[at]?.querySelector("[name=runs]"); if (box) { box.checked = !box.checked; count(); } }],
    ["c", "compare the selected", () => { if (picked().length > 1) form.requestSubmit(); else toast("Select two runs or more with x"); }],
    ["Enter", "open", () => { if (at < 0 || document.activeElement?.closest("button, a")) return false; location.href = `/runs/${rows()[at].dataset.run}`; }],
  ]);
}

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

function update(told) {
  const body = table.querySelector("tbody");
  const known = new Map(rows().map((row) => [row.dataset.run, row]));
  for (const [number, cells] of Object.entries(told.changed)) {
    const row = known.get(number) || newRow(number, cells.length);
    known.set(number, row);
    cells.forEach((html, place) => patch(row.children[place + 2], html));
  }
  const wanted = told.order.map((number) => known.get(String(number))).filter(Boolean);
  const marked = rows()[at];
  wanted.forEach((row, place) => { if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null); });
  while (body.childElementCount > wanted.length) body.lastElementChild.remove();
  at = marked ? wanted.indexOf(marked) : -1;
  const total = document.querySelector("[data-total]");
  if (total && !total.textContent.includes(" of ")) total.textContent = `${told.total.toLocaleString("en")} run${told.total === 1 ? "" : "s"}`;
}

function newRow(number, cells) {
  const keys = JSON.parse(table.dataset.columns), sample = rows()[0];
  const row = element("tr", { "data-run": number },
    element("td", { class: "pick" }, element("input", { type: "checkbox", name: "runs", value: number, "aria-label": `Select run ${number}` })),
    element("td", { class: "right number" }, element("a", { href: `/runs/${number}` }, number)));
  for (let place = 0; place < cells; place++) {
    row.append(element("td", { class: sample?.children[place + 2]?.className || `c-${keys[place].split(":")[0]}` }));
  }
  return row;
}

if (table) {
  poll(async () => {
    const shown = table.dataset.columns ? JSON.parse(table.dataset.columns) : [];
    const query = new URLSearchParams(table.dataset.query);
    query.set("since", table.dataset.cursor);
    for (const key of shown) query.append("shown", key);
    const told = await fetchJson(`/runs.json?${query}`);
    if (told.order) {
      if (table.hasAttribute("data-empty")) { if (told.order.length) location.reload(); } else update(told);
    }
    table.dataset.cursor = told.cursor;
    return told.active ? 700 : 3000;
  });
}
