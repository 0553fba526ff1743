// The playground: texts come token by token, coloured by how likely each was.
import { duration, element, fetchJson, toast } from "./page.js";

const form = document.querySelector("[data-play]");
const texts = document.querySelector("[data-texts]");
const stop = document.querySelector("[data-stop]");
const about = document.querySelector("[data-about]");
let going = null;

const query = new URLSearchParams(location.search);
for (const field of form.elements) if (field.name && query.has(field.name)) field.value = query.get(field.name);

form.addEventListener("submit", (event) => { event.preventDefault(); start(generate); });
form.querySelector("[data-score]").addEventListener("click", () => start(score));
form.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); } });
stop.addEventListener("click", () => going?.abort());

async function start(what) {
  going?.abort();
  const control = going = new AbortController();
  remember();
  const models = [...new Set([form.model.value, form.other.value].filter(Boolean))];
  stop.hidden = false;
  texts.replaceChildren();
  const panes = models.map((model) => {
    const place = element("div", { class: "tokens", role: "group", "aria-label": `Text of ${model}` });
    const note = element("p", { class: "quiet", role: "status" }, "loading the model…");
    texts.append(element("section", {}, element("h2", {}, model), place, note));
    return { model, place, note };
  });
  await Promise.all(panes.map((pane) => what(pane, control.signal).catch((error) => {
    pane.note.textContent = error.name === "AbortError" ? "stopped" : error.message;
  })));
  if (going === control) stop.hidden = true;
}

function remember() {
  const address = new URL(location.href);
  for (const field of form.elements) if (field.name && field.name !== "go") address.searchParams.set(field.name, field.value);
  if (address.href.length < 4000) history.replaceState(null, "", address);
}

async function generate(pane, signal) {
  const body = { model: pane.model, prompt: form.prompt.value };
  for (const name of ["max_tokens", "temperature", "top_k", "top_p", "seed"]) body[name] = Number(form[name].value);
  const answer = await fetch("/playground/generate", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  pane.place.append(element("span", { class: "given" }, form.prompt.value));
  pane.note.textContent = "writing…";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const begun = performance.now();
  let waiting = "", count = 0, reason = null;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    waiting += value;
    const events = waiting.split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const told = JSON.parse(event.slice(6));
      if (told.error) throw new Error(told.error.message);
      for (const token of told.tokens) { pane.place.append(shown(token)); count += 1; }
      reason = told.finish_reason ?? reason;
    }
  }
  const seconds = (performance.now() - begun) / 1000;
  pane.note.textContent = `${count} tokens in ${duration(seconds)}; ended by ${reason === "stop" ? "the model" : "the limit"}`;
}

async function score(pane, signal) {
  const told = await fetchJson("/playground/score", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: pane.model, prompt: form.prompt.value }), signal });
  pane.place.replaceChildren(...told.tokens.map(shown));
  pane.note.textContent = `${told.tokens.length} tokens; loss ${told.loss.toFixed(4)} nats per token, perplexity ${told.perplexity.toPrecision(5)}`;
}

function shown(token) {
  const probability = token.logprob === null ? null : Math.exp(token.logprob);
  const level = probability === null ? "" : probability < 0.05 ? "q0" : probability < 0.2 ? "q1" : probability < 0.5 ? "q2" : probability < 0.8 ? "q3" : "q4";
  const made = element("span", { class: `tok ${level}`, tabindex: 0 }, token.text);
  made.token = token;
  return made;
}

function tell(event) {
  const token = event.target.token;
  if (!token) return;
  document.querySelector("[data-detail]").hidden = false;
  const row = ([text, logprob], mark) => element("tr", {}, element("td", {}, element("code", {}, JSON.stringify(text))), element("td", { class: "right" }, `${(100 * Math.exp(logprob)).toFixed(1)} %`), element("td", {}, mark));
  const chosen = token.top.some(([text]) => text === token.token);
  about.replaceChildren(token.logprob === null ? "The first token: it has no context." : element("table", {},
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Token"), element("th", { scope: "col", class: "right" }, "Probability"), element("th", { scope: "col" }, element("span", { class: "hidden" }, "Choice")))),
    element("tbody", {}, ...token.top.map((each) => row(each, each[0] === token.token ? "taken" : "")), ...(chosen ? [] : [row([token.token, token.logprob], "taken")]))));
}
texts.addEventListener("pointerover", tell);
texts.addEventListener("focusin", tell);
texts.addEventListener("keydown", (event) => {
  if (!event.target.token) return;
  const to = { ArrowRight: event.target.nextElementSibling, ArrowLeft: event.target.previousElementSibling }[event.key];
  if (to) { to.focus(); event.preventDefault(); }
});
addEventListener("error", (event) => toast(event.message));
