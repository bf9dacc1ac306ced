// The verdict as a picture: each candidate's difference to the reference with its interval, and its numbers beside it.

import { h, put, svg } from "../shared/dom.js";
import { cost, duration, short } from "../shared/format.js";
import { badge, number } from "./cell.js";

const WIDTH = 112;
const HALF = 50;
const HEIGHT = 22;

/** `{element, show(model, scorer, reference)}`. */
export function summary() {
  const element = h("div", { class: "tl-sum" });
  return {
    element,
    show(model, scorer, reference) {
      const rows = model.head.summary.length ? model.head.summary : model.soFar();
      const drawn = differences(model, scorer, reference);
      const heads = [["Candidate"], ["Answers", "n"], scorer ? [`${scorer}, 95 % interval`, "n"] : null, scorer && model.width > 1 ? [`Difference to ${model.head.candidates[reference].name}`] : null,
        ["Cost", "n"], ["Time, p50", "n"], ["First token", "n tl-sum-wide"], ["Tokens", "n tl-sum-wide"]].filter(Boolean);
      put(element, h("table", {}, h("thead", {}, h("tr", {}, heads.map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
        h("tbody", {}, rows.map((row, column) => line(row, column, model, scorer, reference, drawn)))),
        model.width > 1 ? h("p", { class: "tl-small tl-soft" }, "● a difference that the test settles, ○ one that it does not; lines are 95 % intervals", model.head.pairs.some((pair) => pair.points && pair.scorer === scorer) ? ", in points of a hundred." : ".") : null);
    },
  };
}

const MEASURES = ["quality", "cost", "time"];

/** `{element, show(head)}`: what to ship. Every candidate beside the first, in quality, cost and time. */
export function decision() {
  const element = h("div", { class: "tl-ship" });
  return {
    element,
    show({ decision: rows }) {
      element.hidden = !rows.length;
      if (!rows.length) return put(element);
      const names = [...new Set(rows.map((row) => row.candidate))];
      const cell = (name, measure) => rows.find((row) => row.candidate === name && row.measure === measure);
      const told = (row) => (row ? [h("strong", {}, row.outcome), h("span", { class: "tl-soft tl-small" }, row.words.slice(row.outcome.length))] : "–");
      put(element, h("table", {}, h("thead", {}, h("tr", {}, [`Beside ${rows[0].reference}`, ...MEASURES.map((name) => name[0].toUpperCase() + name.slice(1))].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row" }, h("bdi", { class: "tl-clip", title: name }, name)), MEASURES.map((measure) => h("td", { "data-label": measure }, told(cell(name, measure)))))))));
    },
  };
}

function line(row, column, model, scorer, reference, drawn) {
  const score = scorer ? row.scores[scorer] : null;
  const sum = row.input_tokens === null || row.output_tokens === null ? null : row.input_tokens + row.output_tokens;
  return h("tr", {},
    h("th", { scope: "row" }, h("div", { class: "tl-sum-name" }, badge(column), h("bdi", { class: "tl-clip", title: row.name }, row.name))),
    h("td", { class: "n", "data-label": "answers" }, row.n.toLocaleString("en"), row.errors ? h("span", { class: "tl-bad", title: `${row.errors} failed` }, ` ✕ ${row.errors}`, h("span", { class: "tl-sr" }, " failed")) : null),
    scorer ? h("td", { class: "n tl-sum-mean" }, meanText(score)) : null,
    scorer && model.width > 1 ? h("td", { class: "tl-sum-diff" }, column === reference ? h("span", { class: "tl-soft tl-small" }, "the one compared with") : drawn(column)) : null,
    h("td", { class: "n", "data-label": "cost" }, cost(row.cost_usd)), h("td", { class: "n", "data-label": "time" }, duration(row.latency_ms_p50)),
    h("td", { class: "n tl-sum-wide", "data-label": "first token" }, row.ttft_ms_p50 === undefined ? "–" : duration(row.ttft_ms_p50)), h("td", { class: "n tl-sum-wide", "data-label": "tokens" }, short(sum)));
}

function meanText(score) {
  if (!score || score.mean === null) return "–";
  const interval = score.ci_low === null || score.ci_low === undefined ? null : h("span", { class: "tl-soft tl-small" }, ` ${number(score.ci_low)}–${number(score.ci_high)}`);
  return [h("strong", {}, score.mean.toFixed(3)), interval];
}

/** A function from a column to its picture; all pictures of one table share a scale. */
function differences(model, scorer, reference) {
  const names = model.head.candidates.map((candidate) => candidate.name);
  const found = new Map();
  for (const pair of model.head.pairs) {
    if (pair.scorer !== scorer || pair.diff === null) continue;
    const [a, b] = [names.indexOf(pair.a), names.indexOf(pair.b)];
    if (a === reference) found.set(b, { ...pair });
    if (b === reference) found.set(a, { ...pair, diff: -pair.diff, ci_low: pair.ci_high === null ? null : -pair.ci_high, ci_high: pair.ci_low === null ? null : -pair.ci_low });
  }
  const reach = Math.max(0.01, ...[...found.values()].flatMap((pair) => [pair.diff, pair.ci_low ?? 0, pair.ci_high ?? 0].map(Math.abs)));
  return (column) => (found.has(column) ? picture(found.get(column), reach, column) : h("span", { class: "tl-soft tl-small" }, model.isRunning ? "at the end" : "unknown"));
}

function picture(pair, reach, column) {
  const x = (value) => WIDTH / 2 + (HALF * value) / reach;
  const scale = pair.points ? 100 : 1;
  const say = (value) => (pair.points ? (value * scale).toFixed(1) : number(value)).replace("-", "−").replace(/^−0\.0$/, "0.0");
  const p = pair.p_holm ?? pair.p_value;
  const settled = pair.looked === null ? p !== null && p <= 0.05 : ["better", "worse"].includes(pair.outcome);
  const amount = `${pair.diff > 0 ? "+" : ""}${say(pair.diff)}`;
  const interval = pair.ci_low === null ? "" : ` (${say(pair.ci_low)} to ${say(pair.ci_high)})`;
  const words = `${amount}${pair.points ? " points" : ""}${interval}, ${settled ? "settled" : "not settled"}`;
  return h("div", { class: `tl-diffpic tl-cand-${(column % 8) + 1}` },
    svg("svg", { width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words },
      svg("line", { class: "tl-zero", x1: WIDTH / 2, x2: WIDTH / 2, y1: 0, y2: HEIGHT }),
      pair.ci_low === null ? null : svg("line", { class: "tl-interval", x1: x(pair.ci_low), x2: x(pair.ci_high), y1: HEIGHT / 2, y2: HEIGHT / 2 }),
      svg("circle", { class: settled ? "tl-dot" : "tl-dot tl-dot-open", cx: x(pair.diff), cy: HEIGHT / 2, r: 4.5 })),
    h("span", { class: "tl-small tl-num", "aria-hidden": "true", title: words }, h("strong", {}, amount), h("span", { class: "tl-soft" }, interval)));
}
