// A line or bar chart of the rows of a query, with a table of the same numbers beside it.

import { h, put, svg } from "../shared/dom.js";

const LEFT = 58;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 26;
const MOST_LINES = 8;
const MOST_BARS = 60;
const isTime = (value) => typeof value === "string" && /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)/.test(value) && !Number.isNaN(Date.parse(value));

/** Axis ticks from 0 (or below) to at least the maximum: `[0, 20, 40, 60]`; `unit` is the smallest step. */
export function ticks(least, most, about = 4, unit = 0) {
  const low = Math.min(0, least);
  const span = most - low || 1;
  const rough = span / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(unit, [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough));
  const found = [];
  for (let n = Math.floor(low / step); n * step < most + step * 0.999; n += 1) found.push(n * step);
  return found;
}

/** Beyond it, the height of an axis is no number any more. */
const MOST = 1e300;
const number = (value) => (Math.abs(value) >= 10_000 ? value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 }) : value.toLocaleString("en", { maximumSignificantDigits: 4 }));

/**
 * What may be drawn of a result: the first column that holds times or words is across, numbers are up; a second column of words is a line each.
 * `{x, names, series: [{name, values}], isTime}` or null.
 */
export function readable(columns, rows) {
  if (!rows.length) return null;
  const kind = columns.map((_, k) => {
    const known = rows.map((row) => row[k]).filter((value) => value !== null);
    if (known.length && known.every((value) => typeof value === "number")) return "number";
    return known.length && known.every(isTime) ? "time" : "word";
  });
  const numbers = kind.flatMap((one, k) => (one === "number" ? [k] : []));
  if (!numbers.length) return null;
  const across = Math.max(kind.indexOf("time"), -1) >= 0 ? kind.indexOf("time") : kind.indexOf("word") >= 0 ? kind.indexOf("word") : numbers.length > 1 ? numbers.shift() : -1;
  const apart = kind.findIndex((one, k) => one === "word" && k !== across);
  const name = (row) => (across < 0 ? "" : String(row[across] ?? "none"));
  const x = [...new Set(rows.map(name))];
  if (kind[across] === "time") x.sort();
  const at = new Map(x.map((value, k) => [value, k]));
  const series = new Map();
  const into = (label, row, value) => {
    if (value !== null && Math.abs(value) > MOST) return;
    if (!series.has(label)) series.set(label, new Array(x.length).fill(null));
    series.get(label)[at.get(name(row))] = value;
  };
  for (const row of rows) {
    if (apart >= 0) into(String(row[apart] ?? "none"), row, row[numbers[0]]);
    else for (const k of numbers) into(columns[k], row, row[k]);
  }
  // By name, so that a name keeps its colour when the rows come in another order.
  const shown = [...series].slice(0, MOST_LINES);
  if (apart >= 0) shown.sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
  return { x, isTime: kind[across] === "time", series: shown.map(([label, values]) => ({ name: label, values })), left: Math.max(0, series.size - MOST_LINES) };
}

/** `kind` is `line` or `bar`; `format` formats a number; `width` and `height` are the natural size. */
export function plot(found, kind, { format = number, label = "Chart", width: WIDTH = 720, height: HEIGHT = 240, unit = 0 } = {}) {
  if (!found?.series.length) return h("p", { class: "tl-soft" }, "There is no column of numbers to draw. A chart takes a column of times or names, and one or more of numbers.");
  const { series } = found;
  const x = kind === "bar" ? found.x.slice(0, MOST_BARS) : found.x;
  const all = series.flatMap(({ values }) => values).filter((value) => value !== null);
  const steps = ticks(Math.min(...all), Math.max(...all), HEIGHT > 200 ? 4 : 2, unit);
  const [low, high] = [steps[0], steps[steps.length - 1]];
  const wide = WIDTH - LEFT - RIGHT;
  const up = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low || 1));
  const middle = (k) => LEFT + (wide * (k + 0.5)) / x.length;
  const colour = (k) => `var(--tl-c${(k % 8) + 1})`;
  const grid = steps.map((value) => [svg("line", { class: "tl-plot-grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up(value), y2: up(value) }), svg("text", { class: "tl-plot-tick", x: LEFT - 6, y: up(value) + 3.5, "text-anchor": "end" }, format(value))]);
  const every = Math.max(1, Math.ceil(x.length / (WIDTH > 500 ? 6 : 3)));
  const words = x.map((value, k) => (k % every ? null : svg("text", { class: "tl-plot-tick", x: middle(k), y: HEIGHT - 8, "text-anchor": "middle" }, across(value, found, x))));
  const marks = kind === "line" ? series.map(({ name, values }, s) => [
    svg("path", { class: "tl-plot-line", stroke: colour(s), d: path(values.slice(0, x.length), middle, up) }),
    values.map((value, k) => (value === null ? null : svg("circle", { cx: middle(k), cy: up(value), r: x.length > 40 ? 1.5 : 2.5, fill: colour(s) }, svg("title", {}, `${name}, ${across(x[k], found, x)}: ${format(value)}`)))),
  ]) : x.map((value, k) => {
    const each = Math.max(1, (wide / x.length) * 0.76) / series.length;
    return series.map(({ name, values }, s) => (values[k] === null ? null : svg("rect", { x: middle(k) - (each * series.length) / 2 + s * each, width: Math.max(1, each - 1), y: Math.min(up(values[k]), up(0)), height: Math.max(1, Math.abs(up(values[k]) - up(0))), fill: colour(s), rx: 1 }, svg("title", {}, `${name}, ${across(value, found, x)}: ${format(values[k])}`))));
  });
  const drawing = svg("svg", { class: "tl-plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${label}: ${series.map(({ name }) => name).join(", ")}` }, grid, words, marks);
  const left = found.left + (kind === "bar" && found.x.length > x.length ? found.x.length - x.length : 0);
  return h("figure", { class: "tl-figure-plot" }, drawing,
    series.length > 1 || left ? h("figcaption", { class: "tl-small" }, series.length > 1 ? series.map(({ name }, s) => h("span", {}, h("i", { style: { background: colour(s) } }), h("bdi", {}, name))) : null, left ? h("span", { class: "tl-soft" }, `${left} more are not shown`) : null) : null);
}

/** A line through all known values, connecting over gaps. */
function path(values, across, up) {
  const known = values.flatMap((value, k) => (value === null ? [] : [`${across(k).toFixed(1)} ${up(value).toFixed(1)}`]));
  return known.length ? `M${known.join("L")}` : "";
}

function across(value, found, x) {
  if (!found.isTime) return value.length > 18 ? `${value.slice(0, 17)}…` : value;
  const at = new Date(/[zZ]|[+-]\d\d:?\d\d$/.test(value) || value.length === 10 ? value : `${value}Z`);
  const span = Date.parse(x[x.length - 1]) - Date.parse(x[0]);
  if (value.length === 10 || x.every((one) => /T00:00:00/.test(one))) return at.toLocaleDateString(undefined, { month: "short", day: "numeric", timeZone: "UTC" });
  return at.toLocaleString(undefined, span > 172_800_000 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" });
}

/** The rows as a table; trace ids are links. */
export function resultTable(columns, rows) {
  const isNumber = columns.map((_, k) => rows.some((row) => typeof row[k] === "number") && rows.every((row) => row[k] === null || typeof row[k] === "number"));
  return h("div", { class: "tl-scroll tl-rows-table", tabindex: 0, role: "region", "aria-label": "Rows" }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((name, k) => h("th", { scope: "col", class: isNumber[k] ? "tl-num" : null }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, k) => h("td", { class: isNumber[k] ? "tl-num" : null }, cell(columns[k], value))))))));
}

function cell(column, value) {
  if (value === null) return h("span", { class: "tl-soft" }, "null");
  const text = typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? String(value) : String(value);
  if (column === "trace_id") return h("a", { class: "tl-mono", href: `/traces/${encodeURIComponent(text)}` }, text);
  return h("bdi", { dir: "auto", title: text.length > 80 ? text.slice(0, 2000) : null }, text.length > 120 ? `${text.slice(0, 119)}…` : text);
}

/** A result as `table`, `line` or `bar`; a chart is drawn for a place of this width. */
export function resultView(result, kind, label, width) {
  const box = h("div", { class: "tl-shown-result" });
  if (!result.rows.length) return put(box, h("p", { class: "tl-soft" }, "No rows."));
  return put(box, kind === "table" ? resultTable(result.columns, result.rows) : plot(readable(result.columns, result.rows), kind, { label, width: Math.min(1100, Math.max(320, width || 720)) }));
}
