// The table of traces. New traces wait above, with a notice, while the reader has scrolled down.
// In narrow windows a trace takes two lines.

import { data, h, put } from "../shared/dom.js";
import { ago, cost, count, duration, exactTime, short, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { latestOnly } from "../shared/link.js";
import { agentPath, outcomeBadge, traceTime } from "../trace/header.js";

const known = (value) => value !== null && value !== undefined;
const sum = (row) => (known(row.input_tokens) || known(row.output_tokens) ? (row.input_tokens ?? 0) + (row.output_tokens ?? 0) : null);
const faint = (text) => h("span", { class: "tl-soft" }, text);
const lines = (text) => (text ?? "").split("\n").filter(Boolean).join(", ");
const SOURCES = { live: "live", evaluation: "evaluation", imported: "imported" };

/** `order`: the store's sort column; `width` in px, null for the remaining space; `keep`: priority when space is short. */
export const COLUMNS = [
  { id: "started", word: "Started", order: "started_at", width: 74, keep: 9, cell: (row) => h("time", { class: "tl-soft", datetime: row.started_at, title: exactTime(Date.parse(row.started_at)) }, ago(Date.parse(row.started_at))) },
  { id: "outcome", word: "Status", width: 100, keep: 10, cell: (row) => outcomeBadge(row) },
  { id: "input", word: "Input", width: null, keep: 99, cell: (row) => data(String(row.input ?? "").trim().slice(0, 240) || row.workflow || "Trace", { class: "tl-clip" }) },
  { id: "agents", word: "Agents", width: 112, keep: 5, cell: (row) => h("span", { class: "tl-clip" }, agentPath(row.agent_path) ?? data(row.workflow ?? "", { class: "tl-soft" })) },
  { id: "model", word: "Model", width: 92, keep: 4, cell: (row) => (row.model ? data(row.model, { class: "tl-clip", title: row.model }) : faint("")) },
  { id: "errors", word: "Errors", order: "n_errors", width: 46, keep: 1, number: true, cell: (row) => (row.n_errors ? h("span", { class: "tl-bad" }, row.n_errors.toLocaleString("en")) : faint("0")) },
  { id: "tokens", word: "Tokens", order: "tokens", width: 60, keep: 6, number: true, cell: (row) => (sum(row) === null ? faint("unknown") : h("span", { title: tokens(sum(row)) }, short(sum(row)))) },
  { id: "cost", word: "Cost", order: "cost_usd", width: 68, keep: 7, number: true, cell: (row) => h("span", { class: known(row.cost_usd) && !(row.n_unpriced && !row.cost_usd) ? "tl-clip" : "tl-clip tl-soft", title: cost(row.cost_usd, row.n_unpriced) }, cost(row.cost_usd, row.n_unpriced).replace("cost ", "").replace("at least ", "≥ ")) },
  { id: "first_token", word: "First token", order: "ttft_ms", width: 74, keep: 3, number: true, cell: (row) => (known(row.ttft_ms) ? duration(row.ttft_ms) : faint("")) },
  { id: "score", word: "Score", order: "score", width: 52, keep: 2, number: true, cell: (row) => scores(row) },
  { id: "duration", word: "Time", order: "duration_ms", width: 86, keep: 8, number: true, cell: (row, longest) => [h("i", { class: "tl-cell-bar", style: { width: `${Math.max(1, (30 * (row.duration_ms ?? 0)) / longest)}px` } }), traceTime(row)] },
  { id: "turns", word: "Turns", order: "turns", width: 58, keep: 0, number: true, extra: true, cell: (row) => (row.turns ? String(row.turns) : "") },
  { id: "steps", word: "Steps", order: "n_spans", width: 58, keep: 0, number: true, extra: true, cell: (row) => (row.n_spans ?? 0).toLocaleString("en") },
  { id: "failed_tools", word: "Failed tools", width: 120, keep: 0, extra: true, cell: (row) => data(lines(row.failed_tools), { class: "tl-clip" }) },
  { id: "user", word: "User", order: "end_user", width: 100, keep: 0, extra: true, cell: (row) => data(row.end_user ?? "", { class: "tl-clip" }) },
  { id: "tags", word: "Tags", width: 110, keep: 0, extra: true, cell: (row) => data(lines(row.tags), { class: "tl-clip" }) },
  { id: "source", word: "Source", order: "source", width: 84, keep: 0, extra: true, cell: (row) => SOURCES[row.source] ?? "" },
  { id: "output", word: "Output", width: 200, keep: 0, extra: true, cell: (row) => data(String(row.output ?? "").trim().slice(0, 240), { class: "tl-clip" }) },
];
export const USUAL = COLUMNS.filter((column) => !column.extra).map((column) => column.id);
const NARROW = 480;
const LEAST_INPUT = 160;
const GAP = 7;

function scores(row) {
  const said = Object.entries(row.scores ?? {});
  if (!said.length) return faint("");
  const text = (value) => (typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 2 }) : value);
  return h("bdi", { class: "tl-clip", title: said.map(([name, value]) => `${name}: ${text(value)}`).join("\n") }, said.map(([, value]) => text(value)).join(" · "));
}

/** `{element, show(page), choose(id), focus(), empty(node)}`; `on.open(id, {isStep})`, `on.more(after)` → promise of a page, `on.sort(order)`, `on.problem(error)`. */
export function traceList(on) {
  const uid = `l${Math.random().toString(36).slice(2, 8)}`;
  const head = h("div", { class: "tl-table-head", role: "row" });
  const body = h("div", { role: "rowgroup", class: "tl-table-body" });
  const rows = h("div", { class: "tl-list-rows", role: "grid", tabindex: 0, "aria-label": "Traces", "aria-readonly": "true" }, h("div", { role: "rowgroup", class: "tl-table-top" }, head), body);
  const more = h("button", { class: "tl-button", type: "button", hidden: true }, "Show more");
  const news = h("button", { class: "tl-list-news", type: "button", hidden: true });
  const hint = h("div", { class: "tl-list-empty", hidden: true });
  const element = h("div", { class: "tl-list" }, news, hint, h("div", { class: "tl-list-scroll" }, rows, more));
  const scroller = element.lastChild;
  let shown = [];
  let held = null;
  let chosen = null;
  let opened = null;
  let after = null;
  let order = "started_at desc";
  let wanted = USUAL;
  let columns = [];
  let isNarrow = false;
  let without = [];
  let texts = new Map();
  const pages = latestOnly();

  const fit = () => {
    const room = scroller.clientWidth - 28;
    if (room <= 0) return;
    isNarrow = room < NARROW;
    const fitting = COLUMNS.filter((column) => (wanted.includes(column.id) && !without.includes(column.id)) || column.id === "input");
    const needed = () => fitting.reduce((all, column) => all + (column.width ?? LEAST_INPUT) + GAP, 0);
    while (needed() > room && fitting.length > 3) fitting.splice(fitting.indexOf(fitting.reduce((a, b) => (b.keep < a.keep ? b : a))), 1);
    const next = fitting.map((column) => column.id).join();
    if (next === columns.map((column) => column.id).join() && element.classList.contains("tl-is-narrow") === isNarrow && head.childElementCount) return;
    columns = fitting;
    element.classList.toggle("tl-is-narrow", isNarrow);
    rows.style.setProperty("--tl-columns", columns.map((column) => (column.width ? `${column.width}px` : "minmax(0, 1fr)")).join(" "));
    texts = new Map();
    draw();
  };
  const drawHead = () => {
    const [by, way] = order.split(" ");
    put(head, columns.map((column) => {
      const sorted = column.order === by ? (way === "asc" ? "ascending" : "descending") : null;
      const cell = h("span", { role: "columnheader", class: column.number ? "tl-num tl-is-number" : null, "aria-sort": sorted });
      if (!column.order) return put(cell, column.word);
      const next = `${column.order} ${sorted === "descending" ? "asc" : "desc"}`;
      return put(cell, h("button", { type: "button", tabindex: -1, title: `Sort by ${column.word.toLowerCase()}`, onclick: () => on.sort(next) }, column.word, sorted ? h("span", { class: "tl-sorted", "aria-hidden": "true" }, sorted === "ascending" ? "▴" : "▾") : null));
    }));
  };
  const draw = () => {
    drawHead();
    const longest = Math.max(1, ...shown.map((row) => row.duration_ms ?? 0));
    // Unchanged rows keep their elements, so there is no flicker, and focus and scroll position are kept.
    const kept = texts;
    texts = new Map();
    put(body, shown.map((row) => {
      const text = `${JSON.stringify(row)} ${longest}`;
      const before = kept.get(row.trace_id);
      const element = before?.text === text ? before.element : (isNarrow ? twoLines : oneLine)(row, longest, `${uid}-${row.trace_id}`, columns);
      texts.set(row.trace_id, { text, element });
      element.setAttribute("aria-selected", row.trace_id === chosen);
      return element;
    }));
    more.hidden = !after;
    rows.hidden = !shown.length;
    active();
  };
  const active = () => {
    if (chosen && texts.has(chosen)) rows.setAttribute("aria-activedescendant", `${uid}-${chosen}`);
    else rows.removeAttribute("aria-activedescendant");
  };
  const choose = (id, { isOpen = true } = {}) => {
    chosen = id;
    opened = isOpen ? id : opened;
    for (const [key, { element }] of texts) element.setAttribute("aria-selected", key === id);
    active();
  };
  const open = (id, how) => { choose(id); on.open(id, how); };
  const release = () => { if (held) { shown = held; held = null; } news.hidden = true; scroller.scrollTop = 0; draw(); };
  news.addEventListener("click", release);
  scroller.addEventListener("scroll", () => { if (scroller.scrollTop < 4 && held) release(); }, { passive: true });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("[data-trace]");
    if (row) open(row.dataset.trace, { isStep: row.dataset.trace !== opened, step: event.target.closest("[data-step]")?.dataset.step });
  });
  rows.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && chosen && event.target === rows) { event.preventDefault(); open(chosen, { isStep: chosen !== opened }); return; }
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !shown.length) return;
    event.preventDefault();
    event.stopPropagation();
    const at = shown.findIndex((row) => row.trace_id === chosen);
    const next = shown[Math.min(Math.max(0, at + by), shown.length - 1)];
    // Beside an open trace, the arrow keys move from trace to trace, as one history step. In the table, Enter opens.
    if (opened) open(next.trace_id, { isStep: false });
    else choose(next.trace_id, { isOpen: false });
    texts.get(next.trace_id).element.scrollIntoView({ block: "nearest" });
  });
  more.addEventListener("click", async () => {
    more.disabled = true;
    try {
      const page = await pages(on.more(after));
      const known = new Set(shown.map((row) => row.trace_id));
      shown = [...shown, ...page.rows.filter((row) => !known.has(row.trace_id))];
      after = page.after;
      draw();
    } catch (error) {
      if (!error.closed) on.problem(error);
    } finally {
      more.disabled = false;
    }
  });
  const watch = new ResizeObserver(fit);
  watch.observe(scroller);

  return {
    element,
    /** `live`: a refresh of the same query with new rows; otherwise a new query from the top. `without`: columns that are empty in all matches. */
    show(page, { live = false, order: by = "started_at desc", without: none = [] } = {}) {
      order = by;
      if (!columns.length || none.join() !== without.join()) { without = none; fit(); }
      if (!live) {
        pages.forget(); // More of what was listed before.
        shown = page.rows;
        after = page.after;
        held = null;
        news.hidden = true;
        scroller.scrollTop = 0;
        draw();
        return;
      }
      const fresh = new Map(page.rows.map((row) => [row.trace_id, row]));
      const before = new Set(shown.map((row) => row.trace_id));
      const added = page.rows.filter((row) => !before.has(row.trace_id));
      // Rows beyond the refreshed page are kept.
      const updated = shown.map((row) => fresh.get(row.trace_id) ?? row);
      if (!shown.length) after = page.after;
      const all = [...page.rows, ...updated.filter((row) => !fresh.has(row.trace_id))];
      if (order === "started_at desc") all.sort((a, b) => Date.parse(b.started_at) - Date.parse(a.started_at));
      if (added.length && scroller.scrollTop > 4) {
        shown = updated;
        held = all;
        news.hidden = false;
        news.textContent = `${count(all.length - updated.length, "new trace")}`;
      } else {
        shown = all;
        held = null;
      }
      draw();
    },
    choose,
    focus: () => rows.focus(),
    empty(node) { hint.hidden = !node; put(hint, node); },
    /** Ids of the columns that fit. */
    columns(ids) { wanted = ids; fit(); },
    refreshTimes() {
      const now = Date.now();
      for (const time of rows.querySelectorAll("time")) time.textContent = ago(Date.parse(time.getAttribute("datetime")), now);
    },
    close: () => watch.disconnect(),
  };
}

function oneLine(row, longest, id, columns) {
  return h("div", { class: "tl-list-row", role: "row", id, "data-trace": row.trace_id },
    columns.map((column) => h("span", { role: "gridcell", class: `tl-cell tl-cell-${column.id}${column.number ? " tl-num tl-is-number" : ""}` }, column.cell(row, longest))));
}

function twoLines(row, longest, id) {
  const started = Date.parse(row.started_at);
  const tokensUsed = sum(row);
  const facts = [tokensUsed === null ? null : tokens(tokensUsed), cost(row.cost_usd, row.n_unpriced), traceTime(row)].filter(Boolean);
  const title = String(row.input ?? "").trim().slice(0, 240) || row.workflow || "Trace";
  return h("div", { class: "tl-list-row", role: "row", id, "data-trace": row.trace_id }, h("div", { role: "gridcell" },
    h("div", { class: "tl-list-title" }, outcomeBadge(row, { isShort: true }), data(title, { class: "tl-clip" }), h("time", { class: "tl-num tl-soft tl-small", datetime: row.started_at, title: exactTime(started) }, ago(started))),
    h("div", { class: "tl-list-facts tl-num tl-soft" }, h("span", { class: "tl-clip" }, agentPath(row.agent_path) ?? data(row.workflow ?? "")), h("span", { class: "tl-facts" }, facts.map((text) => h("span", {}, text))))));
}
