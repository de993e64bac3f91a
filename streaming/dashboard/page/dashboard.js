// The page: asks for the state every two seconds and shows it. What one chooses is in the address, so that it can be kept.

import * as charts from "./charts.js";
import { count, duration, element, fillTable, number, percent, signed, time } from "./text.js";

const EVERY_MS = 2_000;
const TIMEOUT_MS = 10_000;
const RECENT_HORIZONS = 6;
const LEAST_STEPS = 48;
const WORDS = { good: "Live", idle: "Waiting", warn: "Look", bad: "Stopped" };

const by = (id) => document.getElementById(id);
const choices = { key: by("key"), target: by("target"), lead: by("lead"), range: by("range") };
const drawn = new Map();
let state = null;

// --- what is chosen ---

const chosen = () => new URLSearchParams(location.hash.slice(1));

function choose(name, value) {
  const found = chosen();
  found.set(name, value);
  history.replaceState(null, "", `#${found}`);
  if (name !== "range") ask();
  else show();
}

for (const [name, select] of Object.entries(choices)) {
  select.addEventListener("change", () => choose(name, select.value));
}
by("choices").addEventListener("submit", (event) => event.preventDefault());
by("other").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = by("other-key").value;
  if (key) choose("key", key);
});
addEventListener("hashchange", () => ask());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  drawn.clear();
  show();
});

/** Brings a select up to date, and leaves one alone that is as it should be: somebody may be using it. */
function offer(select, options, value) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options !== wanted) {
    select.replaceChildren(...options.map(([name, text]) => element("option", { value: name }, text)));
    select.dataset.options = wanted;
  }
  if (select.value !== value) select.value = value;
}

// --- asking ---

let asked = 0;

async function ask() {
  const turn = ++asked;
  const query = new URLSearchParams();
  for (const name of ["key", "target", "lead"]) {
    if (chosen().has(name)) query.set(name, chosen().get(name));
  }
  try {
    const answer = await fetch(`api/state?${query}`, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`answered ${answer.status}`);
    const found = await answer.json();
    if (turn !== asked) return; // something else was chosen meanwhile
    state = found;
    show();
  } catch (problem) {
    if (turn !== asked) return;
    showStatus("bad", `The dashboard's own process does not answer: ${problem.message}`);
  }
}

async function askAgainAndAgain() {
  for (;;) {
    if (!document.hidden) await ask();
    await new Promise((later) => setTimeout(later, EVERY_MS));
  }
}
document.addEventListener("visibilitychange", () => document.hidden || ask());

// --- showing ---

/** Does something unless it was done before with the same content. */
function ifChanged(name, content, show_) {
  const told = JSON.stringify(content);
  if (drawn.get(name) === told) return;
  drawn.set(name, told);
  show_();
}

function show() {
  if (state === null) return;
  charts.readColours();
  const { stream, status } = state;
  document.title = `${stream.name} · Tidegauge`;
  by("stream").textContent = stream.name;
  by("description").textContent = stream.description;
  showStatus(status.level, status.sentence);
  by("updated").textContent = `As of ${time(state.now_ms)}.`;
  showTiles();
  showSeries();
  showClasses();
  showHistory();
  showVersions();
  showDrift();
  showLetters();
  showSources();
}

function showStatus(level, sentence) {
  const place = by("status");
  if (place.dataset.level === level && by("sentence").textContent === sentence) return; // it is read aloud when it changes
  place.dataset.level = level;
  by("word").textContent = WORDS[level];
  by("sentence").textContent = sentence;
}

const unitOf = (target) => (target?.unit ? target.unit : "");
const champion = () => state.scores?.groups.findLast((group) => group.role === "champion");
const currentVersion = () => state.versions.find((version) => version.role === "champion");

function showTiles() {
  const { vitals, letters, stream } = state;
  const tiles = [];
  const tile = (name, value, unit, small, level = "") => tiles.push([name, value, unit, small, level]);
  const best = champion();
  if (stream.kind === "forecasts") {
    const unit = unitOf(stream.targets[state.shown.target]);
    tile("Live error (MAE)", number(best?.mae), best ? unit : "", best ? `skill ${signed(best.skill)} against persistence` : "no scores yet");
  } else {
    const { confidence } = state.classes;
    tile("Confidence", percent(confidence.at(-1)), "", "of the newest predictions");
  }
  const version = currentVersion();
  tile("Model", version ? `v${version.version}` : "–", "", version ? `since ${time(version.first_ms)}` : "no predictions yet");
  const behind = vitals.lag_s ? `${duration(1_000 * vitals.lag_s)} in event time` : "events behind";
  tile("Lag", number(vitals.lag_records, 6), "", vitals.lag_records === null ? "nothing committed yet" : behind, vitals.lag_records > 10_000 ? "warn" : "");
  tile("Throughput", number(vitals.events_per_s), "events/s", `${number(vitals.predictions_per_s)} predictions/s`);
  tile("Latency", number(vitals.latency_ms), "ms", `model server, median; p99 ${number(vitals.latency_high_ms)} ms`);
  const outcomes = vitals.outcomes;
  const late = outcomes?.late ?? letters.late, dead = outcomes?.dead ?? letters.dead;
  const isText = stream.kind === "texts";
  const of = outcomes ? `of ${number(outcomes.in, 9)} events` : isText ? "in their topic" : "in their topics";
  const amounts = isText ? number(dead, 6) : `${number(late, 6)} · ${number(dead, 6)}`;
  tile(isText ? "Dead letters" : "Late · dead", amounts, "", of, dead > 0 ? "warn" : "");
  ifChanged("tiles", tiles, () => {
    by("tiles").replaceChildren(...tiles.map(([name, value, unit, small, level]) => {
      const tile_ = element("dl", { className: "tile" }, element("dt", {}, name),
        element("dd", { className: "value" }, value, unit ? element("span", { className: "unit" }, ` ${unit}`) : null),
        element("dd", { className: "small" }, small));
      tile_.dataset.level = level;
      return tile_;
    }));
  });
}

function showSeries() {
  const { stream, series, scores, shown } = state;
  const has = stream.kind === "forecasts";
  for (const id of ["forecasts", "steps", "errors"]) by(id).hidden = !has;
  if (!has) return;
  const target = stream.targets[shown.target], unit = unitOf(target);
  offer(choices.key, state.keys.map((key) => [key, key]), shown.key ?? "");
  offer(choices.target, stream.targets.map(({ name }, at) => [String(at), name]), String(shown.target));
  by("target-label").hidden = stream.targets.length < 2;
  offer(choices.lead, stream.leads.map((lead) => [String(lead), lead === 1 ? "1 step ahead" : `${lead} steps ahead`]), String(shown.lead));
  const range = chosen().get("range") === "all" ? "all" : "recent";
  choices.range.value = range;
  by("other").hidden = !state.more_keys;
  by("forecasts-title").textContent = shown.key === null ? "Actual and predicted" : `Actual and predicted: ${target.name}, ${shown.key}`;

  if (series === null) {
    by("forecast-note").textContent = shown.key === null
      ? "Nothing has been predicted yet: start tidegauge stream."
      : "Nothing of this key has come since it is followed.";
  } else {
    const ends = [series.actual.time_ms.at(-1), series.forecast.time_ms.at(-1), series.newest?.origin_ms].filter((end) => end !== undefined);
    const steps = Math.max(RECENT_HORIZONS * stream.horizon, LEAST_STEPS);
    const fromMs = range === "all" ? -Infinity : Math.max(...ends) - steps * stream.step_ms;
    const view = `${shown.key}|${target.name}|${range}`;
    ifChanged("forecasts", [series, shown, range], () => {
      charts.drawForecasts(by("forecast-chart"), {
        series, lead: shown.lead, stepMs: stream.step_ms, unit, fromMs, view,
      });
      by("forecast-note").textContent = forecastNote(series, shown.lead, unit);
      showHorizon(series.newest, unit);
    });
  }
  const anything = scores.groups.length > 0;
  ifChanged("scores", [scores, state.drift.triggers, unit], () => {
    by("step-note").textContent = anything
      ? `Of all keys; of the newest version over ${duration(scores.groups.at(-1).over_time.time_ms.length * scores.block_ms)}.`
      : "No prediction has been scored: start tidegauge accuracy.";
    by("error-note").textContent = anything ? errorNote(scores) : "";
    by("step-chart").hidden = by("error-chart").hidden = !anything;
    if (!anything) return;
    charts.drawSteps(by("step-chart"), scores, unit);
    charts.drawErrors(by("error-chart"), scores, state.drift.triggers, unit);
  });
}

function forecastNote(series, lead, unit) {
  const ahead = lead === 1 ? "1 step" : `${lead} steps`;
  const parts = [];
  if (series.compared) parts.push(`This key, ${ahead} ahead: MAE ${number(series.mae)} ${unit} over ${count(series.compared, "step")}.`);
  const { newest } = series;
  if (newest) parts.push(`The next horizon is version ${newest.version}'s, from ${time(newest.origin_ms)} on.`);
  const widest = newest?.bands.map((band) => percent(band.coverage, 0));
  if (widest?.length) parts.push(`Shaded: where ${widest.join(" and ")} of what comes should lie.`);
  return parts.join(" ");
}

function errorNote(scores) {
  const best = champion();
  if (!best) return "";
  const inside = best.coverage === undefined || best.coverage === null ? ""
    : ` ${percent(best.coverage)} of what came lay within the interval of ${percent(scores.coverage, 0)}.`;
  return `Version ${best.version}: MAE ${number(best.mae)}, skill ${signed(best.skill)} against persistence.${inside}`;
}

function showHorizon(newest, unit) {
  if (!newest) return;
  const widest = newest.bands[0];
  const columns = ["Time", { text: `Forecast ${unit}`, kind: "number" }];
  if (widest) columns.push({ text: `${percent(widest.coverage, 0)} interval`, kind: "number" });
  fillTable(by("horizon"), `Of version ${newest.version}`, columns, newest.mean.map((mean, at) => [
    { text: time(newest.time_ms[at]), kind: "time" },
    { text: number(mean, 4), kind: "number" },
    ...(widest ? [{ text: `${number(widest.lower[at], 4)} to ${number(widest.upper[at], 4)}`, kind: "number" }] : []),
  ]));
}

function showClasses() {
  const { classes, stream } = state;
  for (const id of ["shares", "confidence", "classified"]) by(id).hidden = !classes;
  if (!classes) return;
  ifChanged("classes", classes, () => {
    by("share-note").textContent = classes.labels.length
      ? classes.labels.map(({ label, count: amount }) => `${label} ${number(amount, 6)}`).join(" · ")
      : "Nothing has been predicted yet: start tidegauge stream.";
    by("share-chart").hidden = by("confidence-chart").hidden = !classes.labels.length;
    if (classes.labels.length) {
      charts.drawShares(by("share-chart"), classes);
      charts.drawConfidence(by("confidence-chart"), classes);
    }
    const isText = stream.kind === "texts";
    fillTable(by("newest"), "The newest first", [isText ? "Text" : "Key", "Class", { text: "Confidence", kind: "number" }, "Version", isText ? "Where" : "Origin"],
      classes.newest.map((one) => [
        long(isText ? one.text ?? one.key : one.key), long(one.label), { text: percent(one.confidence), kind: "number" }, `v${one.version}`,
        isText ? { text: one.origin, kind: "time" } : { text: time(one.origin_ms), kind: "time" },
      ]));
  });
}

function showHistory() {
  const past = state.history;
  ifChanged("history", past, () => {
    const { time_ms: times } = past;
    charts.drawHistory(by("rate-chart"), times, [
      { values: past.events_per_s, name: "events/s", colour: "blue", filled: true },
      { values: past.predictions_per_s, name: "predictions/s", colour: "orange" },
    ], `Events a second, last ${number(past.events_per_s.at(-1))}; predictions a second, last ${number(past.predictions_per_s.at(-1))}.`);
    charts.drawHistory(by("lag-chart"), times, [
      { values: past.lag_records, name: "events behind", colour: "purple", filled: true },
    ], `Events behind, last ${number(past.lag_records.at(-1), 6)}.`);
    charts.drawHistory(by("latency-chart"), times, [
      { values: past.latency_ms, name: "median, ms", colour: "teal" },
      { values: past.latency_high_ms, name: "p99, ms", colour: "red" },
    ], `Milliseconds of a request to the model server, last ${number(past.latency_ms.at(-1))} at the median.`);
  });
}

function showVersions() {
  const scores = new Map((state.scores?.groups ?? []).map((group) => [`${group.version} ${group.role}`, group]));
  const unit = state.stream.kind === "forecasts" ? unitOf(state.stream.targets[state.shown.target]) : "";
  const scored = state.stream.kind === "forecasts"
    ? [{ text: `MAE ${unit}`, kind: "number" }, { text: "Skill", kind: "number" }, { text: "In interval", kind: "number" }] : [];
  const rows = state.versions.map((one) => {
    const group = scores.get(`${one.version} ${one.role}`);
    return [one, group?.mae, group?.skill, group?.coverage];
  });
  ifChanged("versions", [rows, unit], () => {
    fillTable(by("versions"), rows.length ? "By the times of their predictions, as far as they have been read" : "No predictions yet",
      ["Version", "Role", "From", "To", { text: "Predictions", kind: "number" }, ...scored],
      rows.map(([one, mae, skill, coverage]) => [
        versionChip(one.version), one.role, { text: time(one.first_ms), kind: "time" }, { text: time(one.last_ms), kind: "time" },
        { text: number(one.predictions, 9), kind: "number" },
        ...(scored.length ? [{ text: number(mae), kind: "number" }, { text: signed(skill), kind: "number" }, { text: percent(coverage), kind: "number" }] : []),
      ]));
  });
}

/** A cell whose text may break anywhere. */
const long = (text) => ({ text: text ?? "–", kind: "long" });

function versionChip(version) {
  const chip = element("span", { className: "chip" });
  chip.style.color = `var(--${charts.versionColour(version)})`;
  return element("span", {}, chip, `v${version}`);
}

function showDrift() {
  const { measures, triggers } = state.drift;
  by("drift").hidden = state.stream.kind !== "forecasts";
  ifChanged("drift", [measures, triggers], () => {
    by("measures").replaceChildren(...measures.map(meter));
    by("triggers").hidden = !triggers.length;
    fillTable(by("triggers"), "What was told, the newest first", ["Event time", "What"],
      triggers.map((trigger) => [{ text: time(trigger.time_ms), kind: "time" }, long(trigger.reason)]));
    const what = measures.length ? "The mark is the threshold." : "What is measured comes with the metrics of tidegauge accuracy (--metrics).";
    by("drift-note").textContent = triggers.length ? what : `${what} No drift has been told.`;
  });
}

const MEASURES = { jensen_shannon: "", psi: " (PSI)", page_hinkley: "" };

function meter({ measure, feature, value, threshold }) {
  const name = `${feature || "errors"}${MEASURES[measure] ?? ""}`;
  const most = Math.max(2 * threshold, value);
  const fill = element("div", { className: "fill" }), limit = element("div", { className: "limit" });
  fill.style.width = `${(100 * value) / most}%`;
  limit.style.left = `${(100 * threshold) / most}%`;
  const track = element("div", { className: "track", role: "meter" }, fill, limit);
  for (const [key, told] of Object.entries({ valuemin: 0, valuemax: most, valuenow: value, label: `drift of ${name}` })) {
    track.setAttribute(`aria-${key}`, told);
  }
  return element("div", { className: value > threshold ? "measure above" : "measure" },
    element("span", { className: "label" }, name), track,
    element("span", { className: "figure" }, `${number(value, 2)} of ${number(threshold, 2)}`));
}

function showLetters() {
  const { letters } = state;
  ifChanged("letters", letters, () => {
    const late = state.stream.kind === "texts" ? "" : `${count(letters.late, "late event")} and `;
    const reasons = Object.entries(letters.reasons).map(([reason, amount]) => `${reason} ${number(amount, 6)}`).join(", ");
    by("letters-note").textContent = `${late}${count(letters.dead, "dead letter")} have been read from their topics${reasons ? `: ${reasons}` : ""}.`;
    by("letters").hidden = !letters.newest.length;
    fillTable(by("letters"), "The newest first; tidegauge dead-letters shows them whole", ["Reason", "What was expected", "From"],
      letters.newest.slice(0, 8).map((letter) => [letter.reason, long(letter.detail), long(letter.source)]));
  });
}

function showSources() {
  const { endpoints, topics, broker, foreign } = state;
  ifChanged("sources", [endpoints, topics, broker, foreign], () => {
    by("endpoints").hidden = !endpoints.length;
    fillTable(by("endpoints"), "Processes", ["Metrics", "Of", "State"], endpoints.map((one) => [
      long(one.url), one.kind, one.problem || one.unready ? { text: one.problem || one.unready, kind: "long bad-text" } : "answers",
    ]));
    fillTable(by("topics"), "Topics", ["Topic", { text: "Read", kind: "number" }, { text: "To read", kind: "number" }, { text: "Left out", kind: "number" }],
      topics.map((topic) => [long(topic.name), { text: number(topic.read, 9), kind: "number" },
        { text: topic.behind === null ? "no such topic" : number(topic.behind, 9), kind: "number" }, { text: number(topic.left_out, 9), kind: "number" }]));
    const notes = [];
    if (!endpoints.length) notes.push("No metrics are read: --metrics HOST:PORT names a process.");
    if (broker.problem) notes.push(`The broker has not answered since ${time(broker.since_ms)}; what is shown is from before.`);
    for (const [what, amount] of Object.entries(foreign)) notes.push(`${count(amount, "record")} of the ${what} topic are of another spec, and left out.`);
    by("sources-note").textContent = notes.join(" ");
  });
}

askAgainAndAgain();
