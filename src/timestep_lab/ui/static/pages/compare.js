// The component of app/views/compare.py: comparisons made so far.

import { data, h, put } from "../shared/dom.js";
import { card, empty, page, status, when } from "./parts.js";

function render(context) {
  const view = page(context, "compare", "Compare", "Models, agents, prompts and settings on the same cases, with a verdict.");
  return view.open((state) => put(view.body, list(state.comparisons)));
}

function list(rows) {
  if (!rows.length) return empty("No comparisons yet", "Make one in a notebook:", h("pre", {}, 'await lab.compare(["What is 2 + 2?"], models=["demo/assistant", "demo/echo"])'), "or on the command line:", h("pre", {}, "timestep-lab compare cases.jsonl --model demo/assistant --model demo/echo"));
  return card("Comparisons", h("ul", { class: "tl-rows" }, rows.map((row) => h("li", {}, h("a", { class: "tl-line", href: `/compare/${row.id}` },
    h("span", { class: "tl-grow" }, data(row.candidates.join(" against "), { class: "tl-clip" }), h("span", { class: "tl-soft tl-small tl-clip" }, data(row.name), row.epochs > 1 ? `, ${row.epochs} times each` : "")), h("span", { class: "tl-run-end" }, status(row.status), when(row.created_at)))))));
}

export default { render };
