// The component of server/pages/sql.py: a query over the lab's views, as a table or a chart, with history and saved queries.

import { data, debounce, h, put, storage } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { latestOnly } from "../shared/link.js";
import { resultView } from "./plot.js";
import { button, card, page } from "./parts.js";

const HISTORY = "timestep-lab sql";
const DRAFT = "timestep-lab sql draft";
const KEPT = 50;
const KINDS = [["table", "Table"], ["line", "Lines"], ["bar", "Bars"]];
const WORDS = ["select", "from", "where", "group by", "order by", "limit", "join", "left join", "on", "and", "or", "not", "is null", "is not null", "as", "case when", "count(*)", "sum(", "avg(", "min(", "max(", "with", "distinct", "desc", "asc", "date_trunc('hour', "];
const EXAMPLES = [
  ["Runs per day by outcome", "select date_trunc('day', started_at) as day, outcome, count(*) as runs\nfrom traces\ngroup by 1, 2\norder by 1, 2", "bar"],
  ["Cost by model", "select model, sum(cost_usd) as cost_usd\nfrom generations\ngroup by 1\norder by 2 desc", "bar"],
  ["Failing tools", "select tool, count(*) as calls, sum(case when status = 'error' then 1 else 0 end) as failed\nfrom tool_calls\ngroup by 1\norder by 3 desc", "table"],
  ["Slowest model calls", "select trace_id, model, duration_ms, ttft_ms, output_tokens\nfrom generations\norder by duration_ms desc nulls last\nlimit 50", "table"],
];

function render(context) {
  const view = page(context, "sql", "SQL", "A read-only query over the views of your lab; you see only your own rows.");
  const { link, act, submit } = view;
  const editor = h("textarea", { class: "tl-input tl-mono tl-sql-editor", "aria-label": "Query", spellcheck: "false", autocapitalize: "off", autocomplete: "off", rows: 7, "aria-autocomplete": "list", "data-tl-kept": "" });
  const choices = h("ul", { class: "tl-sql-choices", role: "listbox", "aria-label": "Suggestions", hidden: true });
  const run = button("Run", { name: "play", primary: true, onclick: () => ask() });
  const hint = h("span", { class: "tl-soft tl-small" }, "Ctrl+Enter runs, Tab completes");
  const facts = h("span", { class: "tl-soft tl-small tl-num", role: "status" });
  const kinds = h("div", { class: "tl-segments", role: "group", "aria-label": "Show as" });
  const open = h("a", { class: "tl-button", hidden: true });
  const name = h("input", { class: "tl-input", name: "name", "aria-label": "Name", placeholder: "Name", maxlength: 100 });
  const onOverview = h("input", { type: "checkbox" });
  const save = button("Save", { onclick: () => keep() });
  const result = h("div", { class: "tl-sql-result" });
  const aside = h("div", { class: "tl-stack" });
  let state = null;
  let latest = null;
  let ran = "";
  const answers = latestOnly();
  let kind = "table";
  let shown = [];
  let at = 0;

  const form = h("section", { class: "tl-panel tl-sql-form", "aria-label": "Query" }, h("div", { class: "tl-sql-box" }, editor, choices), h("div", { class: "tl-form-foot" }, run, hint, facts));
  const answer = h("section", { class: "tl-panel", "aria-label": "Result", hidden: true }, h("div", { class: "tl-panel-head tl-sql-head" }, h("h2", {}, "Result"), kinds, open,
    h("span", { class: "tl-sql-save" }, name, h("label", { class: "tl-small" }, onOverview, "on the overview"), save)), result);
  view.body.append(h("div", { class: "tl-columns tl-sql-columns" }, h("div", { class: "tl-stack" }, form, answer), aside));

  async function ask() {
    close();
    const query = editor.value.trim();
    if (!query) { editor.focus(); return; }
    await act(run, async () => {
      const began = performance.now();
      const clock = setInterval(() => { facts.textContent = `running for ${Math.round((performance.now() - began) / 1000)} s`; }, 1000);
      facts.textContent = "running";
      try {
        latest = await answers(submit("run", { query }));
      } catch (error) {
        // What an earlier query found does not stand below the error of this one.
        if (!error.closed) { latest = null; facts.textContent = ""; drawResult(); }
        throw error;
      } finally {
        clearInterval(clock);
      }
      facts.textContent = `${latest.truncated ? "the first " : ""}${count(latest.rows.length, "row")} in ${Math.round(performance.now() - began)} ms`;
      remember(query);
      ran = query;
      tellAddress();
      drawResult();
      drawAside();
    });
  }

  /** The query that was run, and as what its result is shown. */
  function tellAddress() {
    history.replaceState(history.state, "", `${location.pathname}?query=${encodeURIComponent(ran)}${kind === "table" ? "" : `&chart=${kind}`}`);
  }

  function drawResult() {
    answer.hidden = latest === null;
    if (!latest) return;
    put(kinds, KINDS.map(([id, word]) => h("button", { type: "button", "aria-pressed": String(id === kind), onclick: () => { kind = id; tellAddress(); drawResult(); } }, word)));
    const place = latest.columns.indexOf("trace_id");
    const ids = place < 0 ? [] : [...new Set(latest.rows.map((row) => row[place]).filter(Boolean))].slice(0, 250);
    open.hidden = !ids.length;
    if (ids.length) {
      put(open, icon("table", null, 13), ids.length === 1 ? "Open this trace" : `Open these ${ids.length} traces`);
      open.href = ids.length === 1 ? `/traces/${encodeURIComponent(ids[0])}` : `/traces?source=all&filter=${encodeURIComponent(`trace_id in (${ids.map((id) => JSON.stringify(id)).join(", ")})`)}`;
    }
    put(result, resultView(latest, kind, "Result", result.clientWidth));
  }

  async function keep() {
    await act(save, async () => {
      await submit("save", { name: name.value, query: editor.value.trim(), chart: kind, panel: onOverview.checked });
      view.tell(save, onOverview.checked ? "Saved, and on the overview." : "Saved.");
    });
  }

  function use(query, chart = "table") {
    editor.value = query;
    kind = chart;
    ask();
    editor.focus();
  }

  function drawAside() {
    const past = asked();
    const line = (query, chart, label, more = null) => h("li", { class: "tl-sql-line" }, h("button", { type: "button", class: "tl-sql-use", title: query, onclick: () => use(query, chart) }, label), more);
    put(aside,
      card("Saved", state.saved.length ? h("ul", { class: "tl-rows" }, state.saved.map((one) => line(one.body.query, one.body.chart, [data(one.name, { class: "tl-clip" }), one.body.panel ? h("span", { class: "tl-chip" }, "overview") : null],
        h("button", { type: "button", class: "tl-quiet", title: "Forget", "aria-label": `Forget ${one.name}`, onclick: (event) => act(event.currentTarget, () => submit("forget", { view_id: one.id })) }, icon("trash", null, 12))))) : h("p", { class: "tl-soft tl-none" }, "Enter a name to save the query.")),
      card("History", past.length ? h("ul", { class: "tl-rows tl-sql-past" }, past.slice(0, 12).map((query) => line(query, kind, h("code", { class: "tl-clip" }, query.replace(/\s+/g, " "))))) : h("ul", { class: "tl-rows" }, EXAMPLES.map(([label, query, chart]) => line(query, chart, h("span", { class: "tl-clip" }, label))))),
      card("Views", h("ul", { class: "tl-sql-views" }, Object.entries(state.views).map(([table, columns]) => h("li", {}, h("details", {}, h("summary", {}, h("code", {}, table)), h("p", { class: "tl-small" }, columns.map((column) => h("button", { type: "button", class: "tl-sql-column", onclick: () => insert(column) }, column)))))))));
  }

  function insert(text) {
    const [from, to] = [editor.selectionStart, editor.selectionEnd];
    editor.setRangeText(text, from, to, "end");
    editor.focus();
  }

  // Completion: after `view.` its columns; otherwise views, columns of the views in the query, and SQL keywords.
  const word = () => /(?:(\w+)\.)?(\w*)$/.exec(editor.value.slice(0, editor.selectionStart));
  const close = () => { suggest.cancel(); shown = []; choices.hidden = true; };
  const suggest = debounce(() => {
    if (!state || !editor.matches(":focus")) return;
    const [, owner, begun] = word();
    const named = Object.keys(state.views).filter((table) => new RegExp(`\\b${table}\\b`, "i").test(editor.value));
    const alias = owner && (state.views[owner] ? owner : new RegExp(`\\b(\\w+)\\s+(?:as\\s+)?${owner}\\b`, "i").exec(editor.value)?.[1]);
    const columns = (alias ? [alias] : named).flatMap((table) => (state.views[table] ?? []).map((column) => [column, table]));
    const all = owner ? columns : [...Object.keys(state.views).map((table) => [table, "view"]), ...columns, ...WORDS.map((one) => [one, ""])];
    const seen = new Set();
    shown = begun || owner ? all.filter(([text]) => text.toLowerCase().startsWith(begun.toLowerCase()) && text !== begun && !seen.has(text) && seen.add(text)).slice(0, 10) : [];
    at = 0;
    drawChoices();
  }, 60);
  const drawChoices = () => {
    choices.hidden = !shown.length;
    put(choices, shown.map(([text, about], k) => h("li", { role: "option", "aria-selected": String(k === at), onpointerdown: (event) => { event.preventDefault(); take(k); } }, h("code", {}, text), h("span", { class: "tl-soft tl-small" }, about))));
  };
  const take = (k) => {
    const [, , begun] = word();
    editor.setRangeText(shown[k][0], editor.selectionStart - begun.length, editor.selectionStart, "end");
    close();
    editor.focus();
  };
  editor.addEventListener("input", suggest);
  editor.addEventListener("blur", close);
  editor.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); return; }
    if (!shown.length) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); at = (at + (event.key === "ArrowDown" ? 1 : -1) + shown.length) % shown.length; drawChoices(); }
    else if (event.key === "Tab") { event.preventDefault(); take(at); }
    else if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); close(); }
  });

  // The address has the query that was run; what was written since outlives a reload, too.
  const keepDraft = () => { if (state) storage((tab) => tab.setItem(DRAFT, JSON.stringify({ address: location.search, text: editor.value }))); };
  addEventListener("pagehide", keepDraft);
  view.onClose(() => removeEventListener("pagehide", keepDraft));

  return view.open((next) => {
    const isFirst = state === null;
    state = next;
    drawAside();
    if (!isFirst) return;
    const { searchParams } = new URL(location.href);
    const wanted = searchParams.get("query");
    if (KINDS.some(([id]) => id === searchParams.get("chart"))) kind = searchParams.get("chart");
    editor.value = wanted ?? EXAMPLES[0][1];
    if (!wanted) kind = EXAMPLES[0][2];
    const draft = JSON.parse(storage((tab) => tab.getItem(DRAFT)) ?? "null");
    if (draft?.address === location.search && draft.text.trim() !== editor.value) { editor.value = draft.text; editor.focus(); } else ask();
  });
}

function asked() {
  try {
    return JSON.parse(localStorage.getItem(HISTORY) ?? "[]");
  } catch {
    return []; // Not stored, or not by this program.
  }
}

function remember(query) {
  const all = [query, ...asked().filter((one) => one !== query)].slice(0, KEPT);
  try {
    localStorage.setItem(HISTORY, JSON.stringify(all));
  } catch {
    // Without browser storage there is no history.
  }
}
export default { render };
