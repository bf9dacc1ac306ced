// The line that says which traces: a filter with suggestions, words to find, a time, and the query behind it.

import { debounce, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { copyButton } from "../shared/long_text.js";

const TIMES = [["", "All time"], ["3600", "Last hour"], ["86400", "Last 24 hours"], ["604800", "Last 7 days"], ["2592000", "Last 30 days"]];
const LONE_LETTER = /(^|[^\p{L}\p{N}])[\p{L}\p{N}]$/u;

/** `{element, show(query, sql, total), refuse(error, text), live(on)}`; `on.query({filter, search, since_s})`, `on.suggest(text, cursor)`. */
export function filterBar(on) {
  const uid = `f${Math.random().toString(36).slice(2, 8)}`;
  const filter = h("input", {
    class: "tl-input tl-mono", role: "combobox", "aria-label": "Filter", "aria-expanded": "false", "aria-controls": `${uid}-list`, "aria-autocomplete": "list",
    "aria-describedby": `${uid}-problem`, placeholder: 'Filter:  model == "gpt-4.1" and cost_usd > 0.01', spellcheck: "false", autocomplete: "off", autocapitalize: "off",
  });
  const choices = h("ul", { class: "tl-choices", role: "listbox", id: `${uid}-list`, "aria-label": "Suggestions", hidden: true });
  const search = h("input", { class: "tl-input", type: "search", "aria-label": "Find words in inputs and outputs", placeholder: "Find words", spellcheck: "false" });
  const time = h("select", { class: "tl-input", "aria-label": "Time" }, TIMES.map(([value, word]) => h("option", { value }, word)));
  const problem = h("div", { class: "tl-filter-problem", id: `${uid}-problem`, role: "alert" });
  const dot = h("span", { class: "tl-live", title: "New traces appear as they run" }, h("i", {}), "live");
  const total = h("span", { class: "tl-num tl-soft", role: "status" });
  const sqlText = h("pre", { class: "tl-sql", tabindex: 0, hidden: true });
  const sqlButton = h("button", { class: "tl-quiet", type: "button", "aria-expanded": "false", title: "Show the query" }, icon("sql"), "SQL");
  let sql = "";
  let shown = [];
  let at = -1;
  let asked = 0;

  // Suggestions that are on their way would lie over what is said about the filter.
  const apply = () => { ask.cancel(); asked += 1; close(); on.query({ filter: filter.value.trim(), search: search.value.trim(), since_s: time.value ? Number(time.value) : null }); };
  const close = () => { shown = []; at = -1; choices.hidden = true; filter.setAttribute("aria-expanded", "false"); filter.removeAttribute("aria-activedescendant"); };
  const take = (choice) => {
    const text = filter.value;
    filter.value = text.slice(0, choice.start) + choice.text + text.slice(choice.end);
    const cursor = choice.start + choice.text.length;
    filter.setSelectionRange(cursor, cursor);
    close();
    filter.focus();
    ask();
  };
  const mark = (next) => {
    at = (next + shown.length) % shown.length;
    [...choices.children].forEach((item, k) => item.setAttribute("aria-selected", k === at));
    choices.children[at].scrollIntoView({ block: "nearest" });
    filter.setAttribute("aria-activedescendant", choices.children[at].id);
  };
  const ask = debounce(async () => {
    const text = filter.value;
    const mine = (asked += 1);
    const found = await on.suggest(text, filter.selectionStart ?? text.length);
    if (mine !== asked || filter.value !== text || !filter.matches(":focus")) return;
    shown = found.slice(0, 30);
    at = -1;
    put(choices, shown.map((choice, k) => {
      const item = h("li", { role: "option", id: `${uid}-${k}`, "aria-selected": "false" }, h("bdi", { class: "tl-mono tl-clip" }, choice.text), h("span", { class: "tl-soft tl-small" }, choice.detail));
      item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(choice); });
      return item;
    }));
    choices.hidden = !shown.length;
    filter.setAttribute("aria-expanded", String(shown.length > 0));
    filter.removeAttribute("aria-activedescendant");
  }, 90);

  filter.addEventListener("input", () => { problem.textContent = ""; filter.removeAttribute("aria-invalid"); ask(); });
  filter.addEventListener("focus", ask);
  filter.addEventListener("blur", close);
  filter.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "ArrowDown" && shown.length) { event.preventDefault(); mark(at + 1); }
    else if (event.key === "ArrowUp" && shown.length) { event.preventDefault(); mark(at - 1); }
    else if (event.key === "Enter" || event.key === "Tab") {
      if (at >= 0) { event.preventDefault(); take(shown[at]); } else if (event.key === "Enter") apply();
    } else if (event.key === "Escape" && shown.length) { event.preventDefault(); close(); }
  });
  const searchLater = debounce(apply, 250);
  // One letter is looked for as a word of its own, which it seldom is: what is listed stays until there is a second, or Enter.
  search.addEventListener("input", () => { if (LONE_LETTER.test(search.value)) searchLater.cancel(); else searchLater(); });
  search.addEventListener("keydown", (event) => { event.stopPropagation(); if (event.key === "Enter") { searchLater.cancel(); apply(); } });
  time.addEventListener("change", apply);
  sqlButton.addEventListener("click", () => {
    sqlText.hidden = !sqlText.hidden;
    sqlButton.setAttribute("aria-expanded", String(!sqlText.hidden));
  });

  return {
    element: h("div", { class: "tl-filter" },
      h("div", { class: "tl-filter-line" },
        h("div", { class: "tl-filter-box" }, icon("filter"), filter, choices), h("label", { class: "tl-filter-search" }, icon("search"), search), time,
        h("span", { class: "tl-filter-facts" }, dot, total), h("span", { class: "tl-filter-sql" }, sqlButton, copyButton(() => sql, "Copy the SQL"))),
      problem, sqlText),
    /** `live`: the same query again; what is typed meanwhile, and what is wrong with it, stays. */
    show(query, text, count, { live = false } = {}) {
      if (!live && (!filter.matches(":focus") || filter.value.trim() === query.filter)) filter.value = query.filter;
      if (!search.matches(":focus")) search.value = query.search;
      time.value = query.since_s ? String(query.since_s) : "";
      sql = text;
      sqlText.textContent = text;
      total.textContent = count === null ? "" : `${count.toLocaleString("en")} ${count === 1 ? "trace" : "traces"}`;
      if (live) return;
      problem.textContent = "";
      filter.removeAttribute("aria-invalid");
    },
    /** `text`: the filter that was refused, where it is not in the box already. */
    refuse(error, text = null) {
      if (text !== null) filter.value = text;
      close();
      put(problem, icon("error", null, 13), h("span", {}, `${error.message} ${error.nextStep ?? ""}`));
      filter.setAttribute("aria-invalid", "true");
    },
    live: (on) => { dot.hidden = !on; },
    focus: () => filter.focus(),
  };
}
