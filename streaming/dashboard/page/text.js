// Elements, numbers and times. Whatever comes from the data goes into a page as text, never as markup.

/** An element with properties, and children that are elements or texts. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Fills a table: rows are lists of cells, a cell a text, an element, or {text, kind} with the kind as its class. */
export function fillTable(table, caption, columns, rows) {
  const cell = (name, content) =>
    content !== null && typeof content === "object" && "text" in content
      ? element(name, { className: content.kind ?? "", dir: content.kind === "long" ? "auto" : "" }, content.text)
      : element(name, {}, content ?? "–");
  table.replaceChildren(
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...columns.map((column) => cell("th", column)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((content) => cell("td", content))))),
  );
  for (const head of table.querySelectorAll("th")) head.scope = "col";
}

/** A text of the data for a chart: plotly.js reads some HTML in texts, and this leaves it none. */
export const plain = (text) =>
  String(text).slice(0, 120).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const MISSING = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** A number in so many significant digits. */
export function number(value, digits = 3) {
  if (!known(value)) return MISSING;
  const whole = Math.abs(value) >= 10 ** (digits - 1);
  return value.toLocaleString("en", whole ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits });
}

/** A share in per cent. */
export const percent = (value, digits = 1) => (known(value) ? `${(100 * value).toFixed(digits)} %` : MISSING);

/** A share in per cent with its sign. */
export const signed = (value) => (known(value) ? `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)} %` : MISSING);

/** A duration in the unit that fits. */
export function duration(ms) {
  if (!known(ms)) return MISSING;
  for (const [unit, size] of [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1_000]]) {
    if (ms >= 2 * size || (unit === "s" && ms >= size)) return `${number(ms / size, 2)} ${unit}`;
  }
  return `${number(ms)} ms`;
}

/** A time as 2013-09-24 06:00, with seconds where there are any. */
export function time(ms) {
  if (!known(ms) || Math.abs(ms) > 8.64e15) return MISSING;
  const [date, clock] = new Date(ms).toISOString().split("T");
  return `${date} ${clock.endsWith(":00.000Z") ? clock.slice(0, 5) : clock.slice(0, 8)}`;
}

/** One of something, or several. */
export const count = (amount, one, many = `${one}s`) => `${number(amount, 7)} ${amount === 1 ? one : many}`;
