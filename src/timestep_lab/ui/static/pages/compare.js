// The component of app/views/compare.py: comparisons made so far; the opened one with verdict, numbers and answers.

import { data, h, put } from "../shared/dom.js";
import { cost, count, duration } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { longText } from "../shared/long_text.js";
import { card, empty, page, status, when } from "./parts.js";

function render(context) {
  const view = page(context, "compare", "Compare", "Models, agents, prompts and settings on the same cases, with a verdict.");
  return view.open((state) => put(view.body, state.opened ? opened(state.opened) : list(state.comparisons)));
}

function list(rows) {
  if (!rows.length) return empty("No comparisons yet", "Make one in a notebook:", h("pre", {}, 'await lab.compare(["What is 2 + 2?"], models=["demo/assistant", "demo/echo"])'), "or on the command line:", h("pre", {}, "timestep-lab compare cases.jsonl --model demo/assistant --model demo/echo"));
  return card("Comparisons", h("ul", { class: "tl-rows" }, rows.map((row) => h("li", {}, h("a", { class: "tl-line", href: `/compare/${row.id}` },
    h("span", { class: "tl-grow" }, data(row.candidates.join(" against "), { class: "tl-clip" }), h("span", { class: "tl-soft tl-small tl-clip" }, data(row.name), row.epochs > 1 ? `, ${row.epochs} times each` : "")), h("span", { class: "tl-run-end" }, status(row.status), when(row.created_at)))))));
}

function opened(grid) {
  const number = (value) => (value === null || value === undefined ? "unknown" : value.toFixed(2));
  const head = (...names) => h("thead", {}, h("tr", {}, names.map((name, n) => h("th", { scope: "col", class: n ? "tl-num" : null }, name))));
  const scroll = (label, ...children) => h("div", { class: "tl-scroll", tabindex: 0, role: "region", "aria-label": label }, children);
  const summary = scroll("Candidates", h("table", {}, head("Candidate", "Answers", "Errors", ...grid.scorers, "Median time", "Cost"),
    h("tbody", {}, grid.summary.map((row) => h("tr", {}, h("td", {}, data(row.name)), h("td", { class: "tl-num" }, row.n), h("td", { class: `tl-num${row.errors ? " tl-bad" : ""}` }, row.errors),
      grid.scorers.map((name) => h("td", { class: "tl-num" }, number(row.scores[name]?.mean))), h("td", { class: "tl-num" }, duration(row.latency_ms_p50)), h("td", { class: "tl-num" }, cost(row.cost_usd)))))));
  const answers = scroll("Answers", h("table", { class: "tl-matrix" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Case"), grid.candidates.map((name) => h("th", { scope: "col" }, data(name))))),
    h("tbody", {}, grid.cases.map((each) => h("tr", {}, h("th", { scope: "row" }, data(each.input)), grid.candidates.map((name) => h("td", {}, (each.cells[name] ?? []).map(cell))))))));
  return h("div", { class: "tl-stack" }, h("p", { class: "tl-none" }, h("a", { class: "tl-button", href: "/compare" }, icon("back"), "All comparisons")),
    h("section", { class: "tl-panel", "aria-label": "Verdict" }, h("div", { class: "tl-panel-head" }, h("h2", {}, data(grid.candidates.join(" against "))), status(grid.status)), h("p", { class: "tl-verdict" }, data(grid.headline)), summary),
    card(grid.n_cases > grid.cases.length ? `Answers to the first ${grid.cases.length} of ${grid.n_cases} cases` : "Answers", answers));
}

function cell(answer) {
  return h("div", { class: "tl-answer" }, answer.error ? h("p", { class: "tl-bad tl-none" }, icon("error", "error"), " ", data(answer.error)) : longText(answer.output),
    h("p", { class: "tl-soft tl-small tl-num tl-none" }, answer.scores.map((score) => `${score.scorer} ${score.value === null ? "unknown" : score.value.toFixed(2)} · `), duration(answer.latency_ms), " · ", cost(answer.cost_usd), answer.trace_id ? [" · ", h("a", { href: `/traces/${answer.trace_id}` }, "trace")] : null));
}
export default { render };
