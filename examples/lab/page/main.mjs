// The page: shows an experiment of the list, has a worker compute it, draws what comes back.
//
//   idle → running ⇄ paused → finished      any other experiment or a restart: idle
//
// `window.lab` tells the state to tests. IN_SITE is true in the page that the documentation's site has beside its own; there
// links lead to its pages.

import "uplot/dist/uPlot.min.css";
import "./style.css";
import { version } from "../../../package.json";
import { Collected } from "../experiment.mjs";
import { EXPERIMENTS } from "../experiments/index.mjs";
import { checked, fromQuery, toQuery } from "../values.mjs";
import { Chart, cssColor, onScheme, scheme } from "./chart.mjs";
import { download, toJson, toPng } from "./save.mjs";

const $ = (id) => document.getElementById(id);

const state = { experiment: undefined, values: {}, phase: "idle", collected: undefined, charts: [], error: undefined };
let worker;
let dirty = false;

window.lab = {
  get state() {
    const { experiment, values, phase, collected, error } = state;
    const { charts, facts, done, total } = collected;
    return { id: experiment.id, values, phase, error, charts, facts, done, total };
  },
};

// ---- showing --------------------------------------------------------------------------------------------------------

const say = (text, problem = false) => {
  $("status").textContent = text;
  $("status").classList.toggle("problem", problem);
};

const linkTo = (href, textContent) => Object.assign(document.createElement("a"), { href, textContent });

const listed = (items) => items.flatMap((item, i) => (i ? [", ", item] : [item]));

function show({ experiment, values }) {
  Object.assign(state, { experiment, values });
  document.title = `${experiment.title} · Batch norm lab`;
  $("title").textContent = experiment.title;
  $("text").textContent = experiment.text;
  $("method").textContent = experiment.method ?? "";
  $("sources").replaceChildren(...listed(experiment.sources.map(({ text, url }) => linkTo(url, text))));
  $("guides").replaceChildren(
    ...listed(
      experiment.guides.map(({ text, path }) =>
        IN_SITE ? linkTo(`../${path}.html`, text) : `${text} (docs/${path}.md)`,
      ),
    ),
  );
  for (const link of $("list").querySelectorAll("a")) {
    if (link.dataset.id === experiment.id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("controls").replaceChildren(...experiment.controls.map(field));
  reset();
}

function field(control) {
  const { id, label, kind, choices = [], hint, min, max, step } = control;
  const input = document.createElement(kind === "choice" ? "select" : "input");
  if (kind === "choice") input.append(...choices.map((text) => new Option(text, text)));
  else Object.assign(input, { type: "number", inputMode: "decimal", min, max, step: step ?? "any", required: true });
  Object.assign(input, { id: `control-${id}`, name: id, value: `${state.values[id]}` });
  input.addEventListener("change", () => change(control, input));
  const box = document.createElement("div");
  box.append(Object.assign(document.createElement("label"), { htmlFor: input.id, textContent: label }), input);
  if (hint) {
    const text = Object.assign(document.createElement("span"), {
      className: "hint",
      id: `hint-${id}`,
      textContent: hint,
    });
    input.setAttribute("aria-describedby", text.id);
    box.append(text);
  }
  return box;
}

function change({ id }, input) {
  const { values, problems } = checked(state.experiment, { [id]: input.value });
  input.value = `${values[id]}`;
  state.values = { ...state.values, ...values };
  history.replaceState(null, "", `#${toQuery(state.experiment, state.values)}`);
  if (state.phase !== "idle") reset();
  say(problems.length ? `${problems.join("; ")}: ${input.value} is used instead.` : "", problems.length > 0);
}

/** Back to nothing computed. */
function reset() {
  worker?.terminate();
  worker = undefined;
  const charts = state.experiment.charts(state.values);
  for (const chart of state.charts) chart.dispose();
  Object.assign(state, {
    collected: new Collected(charts),
    charts: charts.map((chart) => new Chart(chart)),
    error: undefined,
  });
  $("charts").replaceChildren(...state.charts.map(({ figure }) => figure));
  enter("idle");
  draw();
}

const LABELS = { idle: "Start", running: "Stop", paused: "Resume", finished: "Start again" };
const NEWS = { idle: "", running: "Running.", paused: "Stopped.", finished: "Finished." };

function enter(phase) {
  state.phase = phase;
  $("start").textContent = LABELS[phase];
  $("restart").disabled = phase === "idle";
  for (const id of ["json", "png"]) $(id).disabled = phase === "idle";
  say(NEWS[phase]);
}

function draw() {
  dirty = false;
  const { collected, charts } = state;
  for (const chart of charts) chart.draw(collected.charts[chart.chart.id]);
  $("progress").value = collected.done / collected.total;
  const facts = Object.entries(collected.facts);
  $("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: `${value}` }),
    ]),
  );
}

/** Once a frame at most. */
function drawSoon() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(draw);
}

// ---- running --------------------------------------------------------------------------------------------------------

function start() {
  reset();
  const { experiment, values } = state;
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { updates = [], finished, error } }) => {
    for (const update of updates) state.collected.add(update);
    if (error) fail(error);
    else if (finished) enter("finished");
    drawSoon();
  };
  worker.onerror = ({ message }) => fail(message || "the worker did not start");
  worker.postMessage({ start: { id: experiment.id, values } });
  enter("running");
}

function fail(message) {
  enter("finished");
  state.error = message;
  say(`It failed: ${message}`, true);
}

function toggle() {
  if (state.phase === "running") {
    worker.postMessage({ pause: true });
    enter("paused");
  } else if (state.phase === "paused") {
    worker.postMessage({ pause: false });
    enter("running");
  } else start();
}

// ---- taking away ----------------------------------------------------------------------------------------------------

const address = () => `${location.href.replace(/#.*/, "")}#${toQuery(state.experiment, state.values)}`;

async function copyLink() {
  history.replaceState(null, "", address());
  try {
    await navigator.clipboard.writeText(address());
    say("The link is copied.");
  } catch {
    // without permission or https: the address bar has it
    say("The link is in the address bar.");
  }
}

function saveJson() {
  const text = toJson({ ...state, version, url: address() });
  download(`${state.experiment.id}.json`, new Blob([text], { type: "application/json" }));
}

async function savePng() {
  const colors = { background: cssColor("--surface"), text: cssColor("--text"), muted: cssColor("--muted") };
  download(`${state.experiment.id}.png`, await toPng({ ...state, scheme: scheme(), colors }));
}

// ---- beginning ------------------------------------------------------------------------------------------------------

function open() {
  const asked = fromQuery(location.hash.slice(1), EXPERIMENTS);
  show(asked);
  if (asked.run) start();
  if (asked.problems.length) say(`Corrected what the link said: ${asked.problems.join("; ")}.`, true);
}

$("home").hidden = !IN_SITE;
$("list").append(
  ...EXPERIMENTS.map(({ id, title }) => {
    const link = Object.assign(document.createElement("a"), {
      href: `#experiment=${id}`,
      textContent: title.split(":")[0],
    });
    link.dataset.id = id;
    const item = document.createElement("li");
    item.append(link);
    return item;
  }),
);
// the address is the experiment's, so it cannot be the target's
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("experiment").focus();
});
$("start").addEventListener("click", toggle);
$("restart").addEventListener("click", start);
$("link").addEventListener("click", copyLink);
$("json").addEventListener("click", saveJson);
$("png").addEventListener("click", () => savePng().catch((error) => say(`No picture: ${error.message}`, true)));
$("controls").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", open);
onScheme(() => {
  for (const chart of state.charts) chart.dispose();
  state.charts = state.charts.map(({ chart }) => new Chart(chart));
  $("charts").replaceChildren(...state.charts.map(({ figure }) => figure));
  draw();
});
open();
