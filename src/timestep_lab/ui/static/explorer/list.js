// The list of traces, newest first. What arrives while a reader is further down waits above, and is said.

import { data, h, put } from "../shared/dom.js";
import { ago, cost, count, exactTime, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { TRACE_STATUS, agentPath, traceTime } from "../trace/header.js";

/** `{element, show(page), choose(id), focus(), empty(node)}`; `on.open(id, {isStep})`, `on.more(after)` → promise of a page. */
export function traceList(on) {
  const uid = `l${Math.random().toString(36).slice(2, 8)}`;
  const rows = h("div", { class: "tl-list-rows", role: "listbox", tabindex: 0, "aria-label": "Traces" });
  const more = h("button", { class: "tl-button", type: "button", hidden: true }, "Show more");
  const news = h("button", { class: "tl-list-news", type: "button", hidden: true });
  const hint = h("div", { class: "tl-list-empty", hidden: true });
  const element = h("div", { class: "tl-list" }, news, hint, h("div", { class: "tl-list-scroll" }, rows, more));
  const scroller = element.lastChild;
  let shown = [];
  let held = null;
  let chosen = null;
  let after = null;
  let texts = new Map();

  const draw = () => {
    const longest = Math.max(1, ...shown.map((row) => row.duration_ms ?? 0));
    // A row that says the same as before keeps its element: nothing flickers, focus and scroll stay.
    const kept = texts;
    texts = new Map();
    put(rows, shown.map((row) => {
      const text = `${JSON.stringify(row)} ${longest}`;
      const before = kept.get(row.trace_id);
      const element = before?.text === text ? before.element : rowView(row, longest, `${uid}-${row.trace_id}`);
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
  const choose = (id) => {
    chosen = id;
    for (const [key, { element }] of texts) element.setAttribute("aria-selected", key === id);
    active();
  };
  const open = (id, how) => { choose(id); on.open(id, how); };
  const release = () => { if (held) { shown = held; held = null; } news.hidden = true; scroller.scrollTop = 0; draw(); };
  news.addEventListener("click", release);
  scroller.addEventListener("scroll", () => { if (scroller.scrollTop < 4 && held) release(); }, { passive: true });
  rows.addEventListener("click", (event) => { const row = event.target.closest("[data-trace]"); if (row) open(row.dataset.trace, { isStep: row.dataset.trace !== chosen }); });
  rows.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const at = shown.findIndex((row) => row.trace_id === chosen);
    const next = shown[Math.min(Math.max(0, at + by), shown.length - 1)];
    // Walking along the list is one step, however many traces it passes.
    open(next.trace_id, { isStep: at < 0 });
    texts.get(next.trace_id).element.scrollIntoView({ block: "nearest" });
  });
  more.addEventListener("click", async () => {
    more.disabled = true;
    try {
      const page = await on.more(after);
      const known = new Set(shown.map((row) => row.trace_id));
      shown = [...shown, ...page.rows.filter((row) => !known.has(row.trace_id))];
      after = page.after;
      draw();
    } finally {
      more.disabled = false;
    }
  });

  return {
    element,
    /** `live`: the same query again, with what is new; else a new query from the top. */
    show(page, { live = false } = {}) {
      if (!live) {
        shown = page.rows;
        after = page.after;
        held = null;
        news.hidden = true;
        scroller.scrollTop = 0;
        draw();
        return;
      }
      const fresh = new Map(page.rows.map((row) => [row.trace_id, row]));
      const known = new Set(shown.map((row) => row.trace_id));
      const added = page.rows.filter((row) => !known.has(row.trace_id));
      // Rows beyond the page that was asked again stay as they were.
      const updated = shown.map((row) => fresh.get(row.trace_id) ?? row);
      if (!shown.length) after = page.after;
      const all = [...added, ...updated].sort((a, b) => Date.parse(b.started_at) - Date.parse(a.started_at));
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
    refreshTimes() {
      const now = Date.now();
      for (const time of rows.querySelectorAll("time")) time.textContent = ago(Date.parse(time.getAttribute("datetime")), now);
    },
  };
}

function rowView(row, longest, id) {
  const [sign, word, tone] = TRACE_STATUS[row.status] ?? ["other", row.status ?? "unknown", "tl-soft"];
  const title = String(row.input ?? "").trim().slice(0, 240) || row.workflow || "Trace";
  const started = Date.parse(row.started_at);
  const known = (value) => value !== null && value !== undefined;
  const sum = known(row.input_tokens) || known(row.output_tokens) ? (row.input_tokens ?? 0) + (row.output_tokens ?? 0) : null;
  const facts = [row.turns ? count(row.turns, "turn") : null, sum === null ? null : tokens(sum), cost(row.cost_usd, row.n_unpriced)].filter(Boolean);
  return h("div", { class: "tl-list-row", role: "option", id, "data-trace": row.trace_id },
    h("div", { class: "tl-list-title" }, h("span", { class: `tl-list-status ${tone}`, title: word }, icon(sign, word, 13)), data(title, { class: "tl-clip" }),
      h("time", { class: "tl-num tl-soft tl-small", datetime: row.started_at, title: exactTime(started) }, ago(started))),
    h("div", { class: "tl-list-agents tl-soft" }, h("span", { class: "tl-clip" }, agentPath(row.agent_path) ?? data(row.workflow ?? "")), row.model ? data(row.model, { class: "tl-clip tl-list-model" }) : null),
    h("div", { class: "tl-list-facts tl-num" }, h("span", { class: "tl-facts" }, facts.map((text) => h("span", {}, text))),
      h("span", { class: "tl-list-time" }, h("i", { style: { width: `${Math.max(1, (44 * (row.duration_ms ?? 0)) / longest)}px` } }), traceTime(row))));
}
