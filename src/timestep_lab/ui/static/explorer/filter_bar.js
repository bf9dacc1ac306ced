// The controls above the list: source, filter with suggestions, search, time; ready-made questions, saved
// views, columns, and the SQL query.

import { debounce, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { copyButton } from "../shared/long_text.js";
import { toggled } from "./facets.js";
import { menu } from "./menu.js";

const SOURCES = [["live", "Live"], ["evaluation", "Evaluations"], ["imported", "Imported"], ["", "All sources"]];
const TIMES = [["", "All time"], ["3600", "Last hour"], ["86400", "Last 24 hours"], ["today", "Today"], ["yesterday", "Yesterday"], ["604800", "Last 7 days"], ["last week", "Last week"], ["2592000", "Last 30 days"], ["from", "From … to …"]];
const LONE_LETTER = /(^|[^\p{L}\p{N}])[\p{L}\p{N}]$/u;
const TOOLS_FAILED = "failed_tools is not None";
const USUAL_ORDER = "started_at desc";

/** `{since, until}` in ISO 8601 for a day or week in the reader's time zone; null if unbounded. */
export function rangeOf(name, now = new Date()) {
  const day = (offset) => new Date(now.getFullYear(), now.getMonth(), now.getDate() + offset).toISOString();
  const monday = -((now.getDay() + 6) % 7);
  if (name === "today") return { since: day(0), until: day(1) };
  if (name === "yesterday") return { since: day(-1), until: day(0) };
  if (name === "last week") return { since: day(monday - 7), until: day(monday) };
  return null;
}

const local = (text) => { if (!text) return ""; const at = new Date(text); return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16); };

/**
 * `{element, show(query, sql, total), refuse(error, text), live(on)}`; `on.query(changes)`, `on.suggest(text, cursor)`, `on.views()`, `on.save(name)`,
 * `on.forget(id)`, `on.use(body)`; `columns` is a menu's element, put beside the others.
 */
export function filterBar(on, { columns, narrow, tabs }) {
  const uid = `f${Math.random().toString(36).slice(2, 8)}`;
  const source = h("select", { class: "tl-input", "aria-label": "Source", "data-tl-kept": "" }, SOURCES.map(([value, word]) => h("option", { value }, word)));
  const filter = h("input", {
    class: "tl-input tl-mono", role: "combobox", "aria-label": "Filter", "aria-expanded": "false", "aria-controls": `${uid}-list`, "aria-autocomplete": "list",
    "aria-describedby": `${uid}-problem`, placeholder: 'Filter:  model == "gpt-4.1" and cost_usd > 0.01', spellcheck: "false", autocomplete: "off", autocapitalize: "off",
  });
  const choices = h("ul", { class: "tl-choices", role: "listbox", id: `${uid}-list`, "aria-label": "Suggestions", hidden: true });
  const clear = h("button", { class: "tl-quiet tl-filter-clear", type: "button", "aria-label": "Clear the filter", title: "Clear the filter", hidden: true, onclick: () => { filter.value = ""; apply(); } }, icon("close", null, 12));
  const search = h("input", { class: "tl-input", type: "search", "aria-label": "Find words in inputs and outputs", placeholder: "Find words", spellcheck: "false" });
  const time = h("select", { class: "tl-input", "aria-label": "Time", "data-tl-kept": "" }, TIMES.map(([value, word]) => h("option", { value }, word)));
  const from = h("input", { class: "tl-input", type: "datetime-local", "aria-label": "From", "data-tl-kept": "" });
  const to = h("input", { class: "tl-input", type: "datetime-local", "aria-label": "To", "data-tl-kept": "" });
  const between = h("span", { class: "tl-filter-between", hidden: true }, from, "to", to);
  const problem = h("div", { class: "tl-filter-problem", id: `${uid}-problem`, role: "alert" });
  const dot = h("span", { class: "tl-live", title: "New traces appear as they run" }, h("i", {}), "live");
  const total = h("span", { class: "tl-num tl-soft", role: "status" });
  const sqlText = h("pre", { class: "tl-sql", tabindex: 0, hidden: true });
  const sqlButton = h("button", { class: "tl-quiet", type: "button", "aria-expanded": "false", title: "Show the query" }, icon("sql"), "SQL");
  const preset = (word, title, changes) => h("button", { class: "tl-button tl-small", type: "button", title, "aria-pressed": "false", onclick: () => on.query(changes()) }, word);
  const sortBy = (order) => () => ({ order: query.order === order ? USUAL_ORDER : order });
  const presets = {
    slowest: preset("Slowest", "Slowest first", sortBy("duration_ms desc")),
    dearest: preset("Dearest", "Most expensive first", sortBy("cost_usd desc")),
    failed: preset("Failed tools", "Traces with a failed tool", () => ({ filter: toggled(query.filter, TOOLS_FAILED) })),
  };
  const saved = menu("Saved", "score", (box, close) => drawSaved(box, close));
  let query = { filter: "", search: "", source: "", order: USUAL_ORDER, range: "", since_s: null, since: null, until: null };
  let sql = "";
  let shown = [];
  let at = -1;
  let asked = 0;

  // Late suggestions would cover the filter's error message.
  const apply = () => { ask.cancel(); asked += 1; close(); on.query({ filter: filter.value.trim(), search: search.value.trim() }); };
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
    shown = found.slice(0, 50);
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
  // A single letter is rarely a useful search: the list stays until there is a second one, or Enter.
  search.addEventListener("input", () => { if (LONE_LETTER.test(search.value)) searchLater.cancel(); else searchLater(); });
  search.addEventListener("keydown", (event) => { event.stopPropagation(); if (event.key === "Enter") { searchLater.cancel(); apply(); } });
  source.addEventListener("change", () => on.query({ source: source.value }));
  time.addEventListener("change", () => {
    between.hidden = time.value !== "from";
    if (time.value === "from") { from.value ||= local(query.since ?? new Date(Date.now() - 86_400_000).toISOString()); to.value ||= local(query.until ?? new Date().toISOString()); from.focus(); return; }
    const range = rangeOf(time.value);
    on.query(range ? { ...range, range: time.value, since_s: null } : { since: null, until: null, range: "", since_s: time.value ? Number(time.value) : null });
  });
  const fromTo = () => on.query({ since: from.value ? new Date(from.value).toISOString() : null, until: to.value ? new Date(to.value).toISOString() : null, since_s: null, range: "" });
  for (const field of [from, to]) { field.addEventListener("change", fromTo); field.addEventListener("keydown", (event) => event.stopPropagation()); }
  sqlButton.addEventListener("click", () => {
    sqlText.hidden = !sqlText.hidden;
    sqlButton.setAttribute("aria-expanded", String(!sqlText.hidden));
  });

  async function drawSaved(box, closeMenu) {
    const name = h("input", { class: "tl-input", "aria-label": "Name of the view", placeholder: "Name, such as: slow this week", maxlength: 100 });
    const trouble = h("p", { class: "tl-bad tl-small", role: "alert" });
    const tried = async (work) => { try { await work(); } catch (error) { if (!error.closed) trouble.textContent = `${error.message} ${error.nextStep ?? ""}`; } };
    const list = h("ul", { class: "tl-saved" });
    const form = h("form", { class: "tl-saved-new" }, name, h("button", { class: "tl-button", type: "submit" }, "Save"));
    form.addEventListener("submit", (event) => { event.preventDefault(); tried(async () => { await on.save(name.value.trim()); closeMenu(); }); });
    name.addEventListener("keydown", (event) => { if (event.key !== "Escape") event.stopPropagation(); });
    put(box, h("strong", {}, "Saved views"), list, h("p", { class: "tl-soft tl-small" }, "Save the filter, the time, the order and the columns as:"), form, trouble);
    await tried(async () => {
      const views = await on.views();
      put(list, views.length ? views.map((view) => h("li", {},
        h("button", { type: "button", class: "tl-saved-name", onclick: () => { closeMenu(); on.use(view.body); } }, h("bdi", {}, view.name)),
        h("button", { type: "button", class: "tl-quiet", "aria-label": `Forget ${view.name}`, title: "Forget", onclick: () => tried(async () => { await on.forget(view.id); await drawSaved(box, closeMenu); }) }, icon("trash", null, 12)))) : h("li", { class: "tl-soft" }, "None yet."));
    });
  }

  return {
    element: h("div", { class: "tl-filter" },
      h("div", { class: "tl-filter-line" }, source,
        h("div", { class: "tl-filter-box" }, icon("filter"), filter, clear, choices), h("label", { class: "tl-filter-search" }, icon("search"), search), time, between),
      problem,
      h("div", { class: "tl-filter-line tl-filter-more" }, tabs, h("span", { class: "tl-presets", role: "group", "aria-label": "Ready-made questions" }, narrow, Object.values(presets)),
        h("span", { class: "tl-filter-facts" }, dot, total), saved.element, columns, h("span", { class: "tl-filter-sql" }, sqlButton, copyButton(() => sql, "Copy the SQL"))),
      sqlText),
    /** `live`: a refresh of the same query; text being typed and its error are kept. */
    show(next, text, count, { live = false } = {}) {
      query = next;
      if (!live && (!filter.matches(":focus") || filter.value.trim() === query.filter)) filter.value = query.filter;
      if (!search.matches(":focus")) search.value = query.search;
      source.value = query.source;
      time.value = query.range || (query.since_s ? String(query.since_s) : query.since || query.until ? "from" : "");
      between.hidden = time.value !== "from";
      if (!between.hidden && !live) { from.value = local(query.since); to.value = local(query.until); }
      clear.hidden = !query.filter;
      presets.slowest.setAttribute("aria-pressed", String(query.order === "duration_ms desc"));
      presets.dearest.setAttribute("aria-pressed", String(query.order === "cost_usd desc"));
      presets.failed.setAttribute("aria-pressed", String(query.filter.includes(TOOLS_FAILED)));
      sql = text;
      sqlText.textContent = text;
      total.textContent = count === null ? "" : `${count.toLocaleString("en")} ${count === 1 ? "trace" : "traces"}`;
      if (live) return;
      problem.textContent = "";
      filter.removeAttribute("aria-invalid");
    },
    /** `text`: the invalid filter, if it is not in the input already. */
    refuse(error, text = null) {
      if (text !== null) filter.value = text;
      close();
      put(problem, icon("error", null, 13), h("span", {}, `${error.message} ${error.nextStep ?? ""}`));
      filter.setAttribute("aria-invalid", "true");
    },
    live: (on) => { dot.hidden = !on; saved.element.hidden = !on; },
    focus: () => filter.focus(),
  };
}
