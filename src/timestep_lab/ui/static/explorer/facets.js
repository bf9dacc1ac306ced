// The facets beside the table: counts of the traces shown. A click adds a condition to the filter, a second click removes it.

import { data, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";

const TITLES = { outcome: "Status", failed_tool: "Failed tool", error_type: "Error type", agent: "Agent", model: "Model", user: "User", tag: "Tag", score: "Score", source: "Source" };
const WORDS = {
  outcome: { done: "done", steps_failed: "done, steps failed", failed: "failed", running: "running", waiting: "waiting", stopped: "stopped at a limit", cancelled: "cancelled", interrupted: "interrupted" },
  source: { live: "Live", evaluation: "Evaluations", imported: "Imported" },
};
const FIRST = 6;

/** The conditions that a filter joins by `and` at the top level; only one if it is joined by `or`. */
export function termsOf(filter) {
  const terms = [];
  let depth = 0;
  let quote = null;
  let from = 0;
  let isJoinedByOr = false;
  for (let at = 0; at < filter.length; at += 1) {
    const sign = filter[at];
    if (quote) { if (sign === "\\") at += 1; else if (sign === quote) quote = null; }
    else if (sign === '"' || sign === "'") quote = sign;
    else if ("([".includes(sign)) depth += 1;
    else if (")]".includes(sign)) depth -= 1;
    else if (depth === 0 && /^\sand\s/.test(filter.slice(at, at + 5))) { terms.push(filter.slice(from, at).trim()); from = at + 4; at += 3; }
    else if (depth === 0 && /^\sor\s/.test(filter.slice(at, at + 4))) isJoinedByOr = true;
  }
  if (isJoinedByOr) return [`(${filter.trim()})`];
  return [...terms, filter.slice(from).trim()].filter(Boolean);
}

/** The filter with the condition added or removed. */
export function toggled(filter, term) {
  const terms = termsOf(filter);
  return (terms.includes(term) ? terms.filter((one) => one !== term) : [...terms, term]).join(" and ");
}

/** `{element, show(facets, filter)}`; `onChoose(filter)` receives the complete new filter. */
export function facetPanel(onChoose) {
  const sections = h("div", { class: "tl-facet-list" });
  const element = h("aside", { class: "tl-facets", "aria-label": "Narrow by" }, sections);
  const whole = new Set();
  let latest = [];
  let filter = "";

  const draw = () => {
    const terms = termsOf(filter);
    const byName = new Map(latest.map((facet) => [facet.name, facet.values]));
    put(sections, Object.entries(TITLES).map(([name, title]) => {
      const values = byName.get(name) ?? [];
      // A facet with the same value for all traces is not useful, unless it was selected.
      if (!values.length || (name === "source" && values.length < 2 && !terms.includes(values[0].filter))) return null;
      const most = Math.max(...values.map((one) => one.count));
      const shown = whole.has(name) ? values : values.slice(0, FIRST);
      return h("section", { class: "tl-facet" }, h("h2", {}, title),
        h("ul", {}, shown.map((one) => {
          const isOn = terms.includes(one.filter);
          const word = WORDS[name]?.[one.value] ?? one.value;
          return h("li", {}, h("button", { type: "button", class: "tl-facet-value", "aria-pressed": String(isOn), title: one.filter, onclick: () => onChoose(toggled(filter, one.filter)) },
            h("span", { class: "tl-facet-box", "aria-hidden": "true" }, isOn ? icon("ok", null, 10) : null),
            data(word, { class: "tl-clip" }), h("span", { class: "tl-num tl-soft" }, one.count.toLocaleString("en")),
            h("i", { "aria-hidden": "true", style: { width: `${(100 * one.count) / most}%` } })));
        })),
        values.length > FIRST ? h("button", { class: "tl-more", type: "button", onclick: () => { if (!whole.delete(name)) whole.add(name); draw(); } }, whole.has(name) ? "Show fewer" : `${values.length - FIRST} more`) : null);
    }));
    element.classList.toggle("tl-is-empty", !sections.childElementCount);
  };
  return {
    element,
    show(facets, text) {
      if (text === filter && JSON.stringify(facets) === JSON.stringify(latest)) return;
      latest = facets;
      filter = text;
      draw();
    },
  };
}
