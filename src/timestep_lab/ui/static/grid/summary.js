// The ranking of candidates with the facts for a decision, all numbers of each, and results by slice.

import { data, h, put, svg } from "../shared/dom.js";
import { cost, duration, short } from "../shared/format.js";
import { badge, number } from "./cell.js";
import { letter } from "./model.js";

const WIDTH = 112;
const HALF = 50;
const HEIGHT = 22;

/** `{element, show(model, scorer)}`: every number of every candidate. */
export function summary() {
  const element = h("div", { class: "tl-sum tl-sum-all" });
  return {
    element,
    show(model, scorer) {
      const rows = model.head.summary.length ? model.head.summary : model.soFar();
      const scorers = scorer ? [scorer, ...model.head.scorers.filter((name) => name !== scorer)] : [];
      const heads = [["Candidate"], ["Answers", "n"], ...scorers.map((name) => [name, "n"]), ["Cost", "n"], ["Time, p50", "n"], ["First token", "n"], ["Tokens", "n"]];
      put(element, h("table", {}, h("thead", {}, h("tr", {}, heads.map(([text, kind]) => h("th", { scope: "col", class: kind, title: text }, text)))),
        h("tbody", {}, rows.map((row, column) => line(row, column, scorers)))));
    },
  };
}

const SIGNS = { better: ["▲", "tl-good"], worse: ["▼", "tl-bad"], "no worse": ["▬", "tl-soft"], "not settled": ["◌", "tl-soft"] };

/**
 * `{element, show(model, scorer, reference)}`: the candidates from the best to the worst, with what decides about shipping: quality with its
 * interval, the difference to one of them, cost and time beside the first. While it runs they stay in their own order.
 */
export function ranking() {
  const element = h("div", { class: "tl-sum tl-rank" });
  return {
    element,
    show(model, scorer, reference) {
      const { summary: ended, decision, candidates } = model.head;
      const rows = (ended.length ? ended : model.soFar()).map((row, column) => ({ row, column }));
      const mean = ({ row }) => row.scores[scorer]?.mean ?? -Infinity;
      if (scorer && ended.length && !model.isRunning) rows.sort((a, b) => mean(b) - mean(a) || a.column - b.column);
      const drawn = differences(model, scorer, reference);
      const beside = model.width > 1 && decision.length ? ` beside ${letter(candidates.findIndex(({ name }) => name === decision[0].reference))}` : "";
      const measured = (column, measure) => decision.find((one) => one.candidate === candidates[column].name && one.measure === measure);
      const heads = [["Candidate"], scorer ? [`${scorer}, 95 % interval`] : null, scorer && model.width > 1 ? [`Difference to ${candidates[reference].name}`] : null,
        [`Cost${beside}`], [`Time, p50${beside}`]].filter(Boolean);
      put(element, h("table", {}, h("thead", {}, h("tr", {}, heads.map(([text]) => h("th", { scope: "col", title: text }, text)))),
        h("tbody", {}, rows.map(({ row, column }) => h("tr", {}, name(row, column),
          scorer ? h("td", { class: "tl-sum-mean" }, meanText(row.scores[scorer]), row.errors ? h("div", { class: "tl-bad tl-small" }, `✕ ${row.errors} failed`) : null) : null,
          scorer && model.width > 1 ? h("td", { class: "tl-sum-diff" }, column === reference ? h("span", { class: "tl-soft tl-small" }, "the reference") : drawn(column)) : null,
          h("td", { "data-label": "cost" }, h("div", {}, cost(row.cost_usd)), outcome(measured(column, "cost"))),
          h("td", { "data-label": "time" }, h("div", {}, duration(row.latency_ms_p50)), outcome(measured(column, "time"))))))),
        model.width > 1 && scorer ? h("p", { class: "tl-small tl-soft" }, "● significant, ○ not significant; lines are 95 % intervals", model.head.pairs.some((pair) => pair.points && pair.scorer === scorer) ? ", in percentage points." : ".", beside ? " Better and worse times: by the typical ratio over the cases." : null) : null);
    },
  };
}

/** Better, no worse, worse or not settled: a sign, a word, a colour, and the amount. */
function outcome(row) {
  if (!row) return null;
  const [sign, tone] = SIGNS[row.outcome] ?? ["", "tl-soft"];
  const amount = row.words.slice(row.outcome.length).trim().replace(/^\(|\)$/g, "");
  return h("div", { class: "tl-small", title: `${row.outcome} ${amount}` }, h("span", { class: tone }, h("span", { "aria-hidden": "true" }, `${sign} `), row.outcome), h("span", { class: "tl-soft" }, ` ${amount.split(",")[0]}`));
}

/** `{element, show(slices)}`: each candidate's results by slice of the data. */
export function slices() {
  const element = h("div", { class: "tl-sum tl-slices", hidden: true });
  return {
    element,
    show(model, found) {
      element.hidden = !found;
      if (!found) return put(element);
      const names = [...new Set(found.means.map((row) => row.slice))];
      const at = (slice, candidate) => found.means.find((row) => row.slice === slice && row.candidate === candidate);
      const apart = (slice) => found.apart.filter((row) => row.slice === slice).map((row) => h("div", { class: "tl-small" }, h("span", { class: "tl-good", "aria-hidden": "true" }, "▲ "), data(row.better), " better than ", data(row.worse)));
      put(element, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, data(found.by)), h("th", { scope: "col", class: "n" }, "Cases"), model.head.candidates.map((candidate, column) => h("th", { scope: "col", title: candidate.name }, h("span", { class: "tl-sum-name" }, badge(column), h("bdi", { class: "tl-clip" }, candidate.name)))), h("th", { scope: "col" }, "Differences"))),
        h("tbody", {}, names.map((slice) => h("tr", {}, h("th", { scope: "row" }, data(slice)), h("td", { class: "n", "data-label": "cases" }, Math.max(...found.means.filter((row) => row.slice === slice).map((row) => row.n))),
          model.head.candidates.map(({ name: candidate }) => h("td", { "data-label": candidate }, meanText(at(slice, candidate)))), h("td", {}, apart(slice).length ? apart(slice) : h("span", { class: "tl-soft tl-small" }, "not settled")))))),
        h("p", { class: "tl-small tl-soft" }, `${found.scorer}. Intervals and tests hold for all ${names.length} slices together.`));
    },
  };
}

const name = (row, column) => h("th", { scope: "row" }, h("div", { class: "tl-sum-name" }, badge(column), h("bdi", { class: "tl-clip", title: row.name }, row.name)));

function line(row, column, scorers) {
  const sum = row.input_tokens === null || row.output_tokens === null ? null : row.input_tokens + row.output_tokens;
  return h("tr", {}, name(row, column),
    h("td", { class: "n", "data-label": "answers" }, row.n.toLocaleString("en"), row.errors ? h("span", { class: "tl-bad", title: `${row.errors} failed` }, ` ✕ ${row.errors}`, h("span", { class: "tl-sr" }, " failed")) : null),
    scorers.map((scorer) => h("td", { class: "n", "data-label": scorer }, meanText(row.scores[scorer]))),
    h("td", { class: "n", "data-label": "cost" }, cost(row.cost_usd)), h("td", { class: "n", "data-label": "time" }, duration(row.latency_ms_p50)),
    h("td", { class: "n", "data-label": "first token" }, row.ttft_ms_p50 === undefined ? "–" : duration(row.ttft_ms_p50)), h("td", { class: "n", "data-label": "tokens" }, short(sum)));
}

function meanText(score) {
  if (!score || score.mean === null) return "–";
  const interval = score.ci_low === null || score.ci_low === undefined ? null : h("span", { class: "tl-soft tl-small" }, ` ${number(score.ci_low)}–${number(score.ci_high)}`);
  return [h("strong", {}, score.mean.toFixed(3)), interval];
}

/** A function from a column to its chart; all charts of one table share a scale. */
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
