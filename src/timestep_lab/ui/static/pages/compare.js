// The component of server/pages/compare.py: existing comparisons, and a form for a new one.

import { data, h, put, storage } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { compareForm } from "./compare_form.js";
import { arenaCard } from "./duel_form.js";
import { button, card, empty, page, status, when } from "./parts.js";

const BEGUN = "timestep-lab comparison";

function render(context) {
  const view = page(context, "compare", "Compare", "Models, agents, prompts and settings on the same cases, with a verdict.");
  const rows = h("div", {});
  const open = button("New comparison", { name: "plus", primary: true, "aria-expanded": "false", onclick: () => toggle(form.element.hidden) });
  const form = compareForm(view, { cancelled: () => { toggle(false); open.focus(); }, started: () => { forget(); form.forget(); } });
  form.element.hidden = true;
  view.actions.append(open);
  const arena = arenaCard(view.link);
  view.body.append(form.element, rows, arena.element);

  // `?new` opens the form; the playground stores its initial values there.
  let begins = new URL(location.href).searchParams.has("new");
  function toggle(shown) {
    form.element.hidden = !shown;
    open.setAttribute("aria-expanded", String(shown));
    const address = new URL(location.href);
    if (shown) address.searchParams.set("new", "");
    else address.searchParams.delete("new");
    history.replaceState(history.state, "", address);
    if (!shown) forget();
    if (shown) { form.element.querySelector("textarea").focus(); form.look(); }
  }

  return view.open((state) => {
    put(rows, list(state.comparisons, () => toggle(true)));
    form.update(state, begins ? begun() : null).catch(view.say);
    if (begins) { begins = false; toggle(true); }
    arena.update(state);
  });
}

/** What another page left to begin with; also after a reload, until the form is closed or its comparison has begun. */
const begun = () => JSON.parse(storage((tab) => tab.getItem(BEGUN)) ?? "null");
const forget = () => storage((tab) => tab.removeItem(BEGUN));

function list(rows, begin) {
  if (!rows.length) return empty("No comparisons yet", "Press New comparison above: paste questions, choose a file or a data set, or use last week's failures. You can also create one from the playground.", "Or start one in a notebook:", h("pre", {}, 'await lab.compare(["What is 2 + 2?"], models=["demo/assistant", "demo/echo"])'), "or on the command line:", h("pre", {}, "timestep-lab compare cases.jsonl --models demo/assistant,demo/echo"));
  return card("Comparisons", h("ul", { class: "tl-rows" }, rows.map((row) => h("li", { class: "tl-compare-row" }, h("a", { class: "tl-line", href: `/compare/${row.id}` },
    h("span", { class: "tl-grow" }, row.conclusion ? data(row.conclusion, { class: "tl-clip tl-concluded", title: row.conclusion }) : null, data(row.candidates.join(" against "), { class: row.conclusion ? "tl-soft tl-small tl-clip" : "tl-clip" }), h("span", { class: "tl-soft tl-small tl-clip" }, row.name && row.name !== "list" ? [data(row.name), " · "] : null, count(row.n_cases, "case"), row.epochs > 1 ? `, ${row.epochs} times each` : "")), h("span", { class: "tl-run-end" }, status(row.status), when(row.created_at))),
    row.candidates.length > 1 && row.status !== "running" ? h("a", { class: "tl-button", href: `/compare?arena=${row.id}`, "aria-label": `Vote on ${row.candidates.join(" against ")}` }, "Vote") : null))));
}

export default { render };
