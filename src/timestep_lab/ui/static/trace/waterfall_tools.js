// The toolbar of the waterfall: search, critical path, folding, expanding and collapsing, reset zoom.

import { debounce, h } from "../shared/dom.js";
import { icon } from "../shared/icons.js";

/** `{element, refresh(), searchAgain(), step(by), focusSearch(), zoomed(isZoomed)}` for a `Waterfall`. */
export function waterfallTools(waterfall) {
  const field = h("input", { class: "tl-input", type: "search", placeholder: "Find in this trace", "aria-label": "Find in this trace", spellcheck: "false" });
  const found = h("span", { class: "tl-small tl-soft tl-num", role: "status" });
  let hits = [];
  let at = -1;

  const step = (by) => {
    if (!hits.length) return;
    at = (at + by + hits.length) % hits.length;
    waterfall.select(hits[at]);
    found.textContent = `${(at + 1).toLocaleString("en")} of ${hits.length.toLocaleString("en")}`;
  };

  async function search() {
    const text = field.value.trim();
    if (!text || !waterfall.spans) {
      hits = [];
      waterfall.matches = null;
      found.textContent = "";
      waterfall.draw();
      return;
    }
    const { spans } = waterfall;
    const rows = findNames(spans, text.toLowerCase());
    show(rows);
    const ids = await waterfall.on.find(text);
    if (field.value.trim() !== text || waterfall.spans !== spans) return;
    if (ids.length) show(new Set([...rows, ...ids.map(spans.rowOf).filter((i) => i >= 0)]));
  }

  function show(rows) {
    waterfall.matches = rows;
    hits = [...rows].sort((a, b) => waterfall.tree.place[a] - waterfall.tree.place[b]);
    at = -1;
    found.textContent = hits.length ? `${hits.length.toLocaleString("en")} found` : "nothing found";
    waterfall.draw();
  }

  const later = debounce(search, 120);
  field.addEventListener("input", later);
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") { event.preventDefault(); field.value = ""; search(); waterfall.scroller.focus(); }
  });

  const press = (button, on) => button.setAttribute("aria-pressed", on);
  const path = h("button", { class: "tl-quiet", type: "button", "aria-pressed": "false", title: "Critical path: the steps that decided how long it took" }, icon("path"), h("span", { class: "tl-wf-word" }, "Critical path"));
  path.addEventListener("click", () => { const on = !waterfall.path; waterfall.showPath(on); press(path, on); });
  const fold = h("button", { class: "tl-quiet", type: "button", "aria-pressed": "true", title: "Fold periods without activity" }, icon("fold"), h("span", { class: "tl-wf-word" }, "Fold idle time"));
  fold.addEventListener("click", () => { waterfall.setFold(!waterfall.fold); press(fold, waterfall.fold); });
  const all = h("button", { class: "tl-quiet", type: "button", title: "Close or open all branches", "aria-label": "Close or open all branches" }, icon("expand"));
  all.addEventListener("click", () => waterfall.toggleAll(waterfall.collapsed.size > 0));
  const fit = h("button", { class: "tl-quiet", type: "button", title: "Show the whole time (0)", hidden: true }, icon("fit"), h("span", { class: "tl-wf-word" }, "Whole"));
  fit.addEventListener("click", () => waterfall.viewport.fit());

  return {
    element: h("div", { class: "tl-wf-tools" }, h("label", { class: "tl-wf-search" }, icon("search"), field), found, h("span", { class: "tl-wf-gap" }), fit, path, fold, all),
    refresh() { fold.hidden = waterfall.fold && waterfall.scale.folds.length === 0; },
    searchAgain: search,
    step,
    focusSearch: () => field.focus(),
    zoomed: (isZoomed) => { fit.hidden = !isZoomed; },
  };
}

/** Rows whose name, agent, model, kind or status contains the text. Each distinct word is checked once. */
function findNames(spans, text) {
  const hits = new Set();
  for (const column of ["name", "agent", "model"]) {
    const holds = spans.texts(column).map((word) => word.toLowerCase().includes(text));
    if (!holds.includes(true)) continue;
    const codes = spans[column];
    for (let i = 0; i < spans.n; i += 1) if (codes[i] && holds[codes[i] - 1]) hits.add(i);
  }
  const kind = spans.kinds.indexOf(text);
  const status = spans.statuses.indexOf(text === "failed" ? "error" : text);
  if (kind >= 0 || status >= 0) for (let i = 0; i < spans.n; i += 1) if (spans.kind[i] === kind || spans.status[i] === status) hits.add(i);
  return hits;
}
