// The charts: each takes what is to be shown and draws it with plotly.js, in the page's own colours.

import { number, plain } from "./text.js";

const VERSION_COLOURS = ["blue", "orange", "green", "purple", "red", "teal", "pink", "olive"];
const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset", showTips: false };
const GAP = 1.5; // steps apart, and there is one missing between them

let colours = {};

/** Reads the page's colours, which are others in the dark. */
export function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["card", "edge", "ink", "soft", "grid", "grey", ...VERSION_COLOURS];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** The name of the colour of a version: the same everywhere on the page. */
export const versionColour = (version) => VERSION_COLOURS[(version - 1 + VERSION_COLOURS.length) % VERSION_COLOURS.length];

/** A colour of the page that one can see through. */
function faint(name, share) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colours[name].slice(at, at + 2), 16));
  return `rgba(${red}, ${green}, ${blue}, ${share})`;
}

function draw(place, summary, traces, layout = {}) {
  const axis = {
    gridcolor: colours.grid, zeroline: false, linecolor: colours.edge, tickcolor: colours.edge,
    automargin: true, fixedrange: matchMedia("(pointer: coarse)").matches,
  };
  const whole = {
    margin: { l: 44, r: 12, t: 8, b: 28 },
    paper_bgcolor: "rgba(0, 0, 0, 0)",
    plot_bgcolor: "rgba(0, 0, 0, 0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours.soft },
    hovermode: "x unified",
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.edge, font: { color: colours.ink } },
    legend: { orientation: "h", traceorder: "normal", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0, 0, 0, 0)" },
    ...layout,
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
  };
  place.setAttribute("aria-label", summary);
  return globalThis.Plotly.react(place, traces, whole, CONFIG);
}

/** Columns beside times, with a hole wherever steps are missing, so that no line is drawn over it. */
function withHoles(times, stepMs, ...columns) {
  const x = [], found = columns.map(() => []);
  times.forEach((time, at) => {
    if (at > 0 && time - times[at - 1] > GAP * stepMs) {
      x.push(times[at - 1] + stepMs);
      found.forEach((column) => column.push(null));
    }
    x.push(time);
    found.forEach((column, number) => column.push(columns[number][at]));
  });
  return [x, ...found];
}

const line = (x, y, name, colour, more = {}) => ({
  x, y, name, mode: "lines", type: "scatter", line: { color: colour, width: 2, ...more.line }, hovertemplate: "%{y:.4~g}",
  ...Object.fromEntries(Object.entries(more).filter(([key]) => key !== "line")),
});

/** What lies between two columns: an outline around each stretch without holes. */
function band(x, lower, upper, colour, share) {
  const outline = { x: [], y: [] };
  const known = x.map((_, at) => lower[at] !== null && upper[at] !== null);
  for (let first = 0, end; first < x.length; first = end + 1) {
    end = known.indexOf(false, first);
    if (end < 0) end = x.length;
    if (end === first) continue;
    const [times, low, high] = [x, lower, upper].map((column) => column.slice(first, end));
    outline.x.push(...times, ...times.toReversed(), null);
    outline.y.push(...high, ...low.toReversed(), null);
  }
  return {
    ...outline, mode: "lines", type: "scatter", line: { width: 0 }, fill: "toself", fillcolor: faint(colour, share),
    hoverinfo: "skip", showlegend: false,
  };
}

const upright = (x, dash, colour) => ({
  type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: colour, width: 1.5, dash },
});
const flag = (x, text, colour) => ({
  x, y: 1, yref: "paper", yanchor: "top", xanchor: "left", text: plain(text), showarrow: false, font: { color: colour, size: 11 },
});

/** Actual values, what was predicted of them, and the next horizon. */
export function drawForecasts(place, { series, lead, stepMs, unit, fromMs, view }) {
  const since = (times, ...columns) => {
    const first = times.findIndex((time) => time >= fromMs);
    return first < 0 ? [[], ...columns.map(() => [])] : [times.slice(first), ...columns.map((one) => one.slice(first))];
  };
  const { actual, forecast, newest } = series;
  const [forecastX, mean, lower, upper] =
    withHoles(...insert(since(forecast.time_ms, forecast.mean, forecast.lower, forecast.upper), stepMs));
  const [actualX, values] = withHoles(...insert(since(actual.time_ms, actual.value), stepMs));
  const traces = [];
  if (lower.some((value) => value !== null)) {
    traces.push(band(forecastX, lower, upper, "blue", 0.16));
  }
  traces.push(line(forecastX, mean, "predicted", colours.blue, { legendrank: 2 }));
  const shapes = [], annotations = [];
  if (newest) {
    for (const { lower: low, upper: high } of newest.bands) {
      traces.push(band(newest.time_ms, low, high, "orange", 0.17));
    }
    traces.push(line(newest.time_ms, newest.mean, "next horizon", colours.orange, { legendrank: 3, line: { dash: "6px,3px", width: 2.5 } }));
    shapes.push(upright(newest.origin_ms, "dot", colours.grey));
  }
  traces.push(line(actualX, values, "actual", colours.ink, { legendrank: 1 }));
  for (const swap of series.swaps) {
    if (swap.time_ms < fromMs) continue;
    const colour = colours[versionColour(swap.version)];
    shapes.push(upright(swap.time_ms, "dash", colour));
    annotations.push(flag(swap.time_ms, ` v${swap.version}`, colour));
  }
  const last = (list) => list.findLast((value) => value !== null);
  const summary = `Actual values up to ${number(last(values))} ${unit}, predictions ${lead} steps ahead` +
    (newest ? `, and a forecast of the next ${newest.mean.length} steps from ${number(newest.mean[0])} to ` +
      `${number(newest.mean.at(-1))} ${unit}.` : ".");
  return draw(place, summary, traces, {
    shapes, annotations, uirevision: view,
    xaxis: { type: "date" },
    yaxis: { title: { text: plain(unit), standoff: 8 } },
  });
}

const insert = ([times, ...columns], stepMs) => [times, stepMs, ...columns];

/** The error at each scored step of the horizon, by version and role, beside that of persistence. */
export function drawSteps(place, scores, unit) {
  const steps = scores.steps.map(String);
  const traces = scores.groups.map((group) => ({
    ...line(steps, group.by_step.map((step) => step.mae), groupName(group), colours[versionColour(group.version)]),
    mode: "lines+markers",
    marker: { size: 8, symbol: group.role === "champion" ? "circle" : "diamond-open" },
  }));
  traces.forEach((trace, at) => {
    if (scores.groups[at].role !== "champion") trace.line.dash = "dot";
  });
  const newest = scores.groups.findLast((group) => group.role === "champion");
  if (newest) {
    const persistence = newest.by_step.map((step) => step.mae_persistence);
    traces.push(line(steps, persistence, `persistence (v${newest.version})`, colours.grey, { line: { dash: "dash" } }));
  }
  const summary = scores.groups
    .map((group) => `${groupName(group)}: ${group.by_step.map((step) => number(step.mae)).join(", ")} ${unit}`)
    .join("; ");
  return draw(place, `Mean absolute error at the steps ${steps.join(", ")}. ${summary}`, traces, {
    xaxis: { type: "category", title: { text: "steps ahead", standoff: 6 } },
    yaxis: { rangemode: "tozero", title: { text: plain(`MAE ${unit}`), standoff: 8 } },
    margin: { l: 48, r: 12, t: 8, b: 40 },
  });
}

/** The name of a version in a role. */
export const groupName = ({ version, role }) => (role === "champion" ? `v${version}` : `v${version} ${plain(role)}`);

/** The champions' errors over event time, with the swaps and what was told as drift. */
export function drawErrors(place, scores, triggers, unit) {
  const champions = scores.groups.filter((group) => group.role === "champion");
  const shapes = [], annotations = [];
  const traces = champions.map((group, at) => {
    const { time_ms: times, mae } = group.over_time;
    const colour = colours[versionColour(group.version)];
    if (at > 0) {
      shapes.push(upright(times[0], "dash", colour));
      annotations.push(flag(times[0], ` v${group.version}`, colour));
    }
    return { ...line(times, mae, groupName(group), colour), mode: "lines+markers", marker: { size: 4 } };
  });
  const persistence = new Map();
  for (const { over_time: told } of champions) {
    told.time_ms.forEach((time, at) => persistence.set(time, told.mae_persistence[at]));
  }
  const order = [...persistence.keys()].sort((one, other) => one - other);
  traces.push(line(order, order.map((time) => persistence.get(time)), "persistence", colours.grey, { line: { dash: "dash", width: 1.5 } }));
  const shown = triggers.filter((trigger) => order.length && trigger.time_ms >= order[0]);
  if (shown.length) {
    const top = Math.max(...traces.flatMap((trace) => trace.y.filter((value) => value !== null)));
    traces.push({
      x: shown.map((trigger) => trigger.time_ms), y: shown.map(() => top * 1.06), name: "drift told",
      text: shown.map((trigger) => plain(trigger.reason)), hovertemplate: "%{text}", type: "scatter", mode: "markers",
      marker: { symbol: "triangle-down", size: 11, color: colours.red },
    });
  }
  const summary = champions.map((group) => `${groupName(group)} ${number(group.mae)} ${unit}`).join(", ");
  return draw(place, `Mean absolute error over time: ${summary}.`, traces, {
    shapes, annotations, hovermode: "closest", xaxis: { type: "date" },
    yaxis: { rangemode: "tozero", title: { text: plain(`MAE ${unit}`), standoff: 8 } },
  });
}

/** A few series of the last minutes, by the wall clock. */
export function drawHistory(place, times, lines, summary) {
  const most = Math.max(1, ...lines.flatMap(({ values }) => values.filter((value) => value !== null)));
  const traces = lines.map(({ values, name, colour, filled }) =>
    line(times, values, name, colours[colour], {
      line: { width: 1.75 }, hovertemplate: "%{y:,.3~r}", ...(filled ? { fill: "tozeroy", fillcolor: faint(colour, 0.15) } : {}),
    }));
  return draw(place, summary, traces, {
    xaxis: { type: "date", nticks: 5 },
    yaxis: { range: [0, 1.08 * most], nticks: 4, tickformat: ",.3~r" },
    showlegend: lines.length > 1,
  });
}

/** What share of the predictions each class has, in the order in which they came. */
export function drawShares(place, { labels, others, upto }) {
  const area = (name, shares, colour) => ({
    ...line(upto, shares, plain(name), colour), stackgroup: "one", line: { color: colour, width: 0.75 }, hovertemplate: "%{y:.1%}",
  });
  const traces = labels.map(({ label, shares }, at) => area(label, shares, colours[VERSION_COLOURS[at % VERSION_COLOURS.length]]));
  if (others) traces.push(area("others", others, colours.grey));
  const summary = labels.map(({ label, count }) => `${label} ${count}`).join(", ");
  return draw(place, `Predictions by class: ${summary}.`, traces, {
    xaxis: { title: { text: "predictions so far", standoff: 6 } }, yaxis: { tickformat: ".0%", range: [0, 1] },
    margin: { l: 44, r: 12, t: 8, b: 40 },
  });
}

/** How sure the model was, in the order in which predictions came. */
export function drawConfidence(place, { confidence, upto }) {
  return draw(place, `Mean confidence, last ${number(confidence.at(-1))}.`, [
    line(upto, confidence, "confidence", colours.blue, { hovertemplate: "%{y:.1%}" }),
  ], {
    xaxis: { title: { text: "predictions so far", standoff: 6 } }, yaxis: { tickformat: ".0%", range: [0, 1.02] },
    margin: { l: 44, r: 12, t: 8, b: 40 },
  });
}
