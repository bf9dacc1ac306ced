// The component of ui/explorer.py: the table of traces, with facets or the open trace beside it.

import { h, put } from "./shared/dom.js";
import { icon } from "./shared/icons.js";
import { latestOnly } from "./shared/link.js";
import { mount } from "./shared/mount.js";
import { facetPanel } from "./explorer/facets.js";
import { filterBar, rangeOf } from "./explorer/filter_bar.js";
import { histogram } from "./explorer/histogram.js";
import { COLUMNS, USUAL, traceList } from "./explorer/list.js";
import { menu } from "./explorer/menu.js";
import { places } from "./explorer/place.js";
import { graphView } from "./graph/graph_view.js";
import { importing } from "./pages/trace_files.js";
import { TracePanel } from "./trace/trace_panel.js";

const ALL = { filter: "", search: "", source: "", range: "", since_s: null, since: null, until: null };
const KEPT = "timestep-lab traces";

function render({ model, el }) {
  const view = mount({ model, el }, "explorer");
  const { root, link } = view;
  let query = { ...ALL, order: "started_at desc" };
  /** The pending query: a second click builds on the first. */
  let asked = null;
  let opened = null;
  let face = "table";
  const looks = kept();
  const [queries, graphs, traces] = [latestOnly(), latestOnly(), latestOnly()];

  const ask = async (changes, { isStep = true } = {}) => {
    const wanted = { ...(asked ?? query), ...changes };
    asked = wanted;
    try {
      await queries(link.call("query", wanted));
      query = { ...query, ...wanted };
      place.query(wanted, { isStep });
    } catch (error) {
      if (!error.closed) bar.refuse(error);
    } finally {
      if (asked === wanted) asked = null;
    }
  };
  const columnsMenu = menu("Columns", "table", (box) => put(box,
    h("fieldset", { class: "tl-columns" }, h("legend", {}, "Columns"), COLUMNS.filter((column) => column.id !== "input").map((column) => h("label", {}, h("input", { type: "checkbox", "data-tl-kept": "", checked: looks.columns.includes(column.id), onchange: (event) => {
      looks.columns = COLUMNS.map((one) => one.id).filter((id) => (id === column.id ? event.target.checked : looks.columns.includes(id)));
      dress();
    } }), column.word))),
    h("fieldset", { class: "tl-columns" }, h("legend", {}, "Rows"), [["close", "Close together"], ["wide", "Wide"]].map(([value, word]) => h("label", {}, h("input", { type: "radio", name: "tl-density", "data-tl-kept": "", checked: looks.density === value, onchange: () => { looks.density = value; dress(); } }), word)))));
  columnsMenu.element.classList.add("tl-menu-columns"); // Rows of two lines have none.
  const tab = (name, word) => h("button", { class: "tl-tab", role: "tab", type: "button", "aria-selected": "false", "data-face": name, onclick: () => turn(name) }, word);
  const tabs = h("div", { class: "tl-tabs", role: "tablist", "aria-label": "Traces as" }, tab("table", "Table"), tab("graph", "Agents"));
  const narrow = h("button", { class: "tl-button tl-small tl-narrow", type: "button", "aria-expanded": "false", onclick: () => { const on = root.toggleAttribute("data-tl-facets"); narrow.setAttribute("aria-expanded", String(on)); } }, icon("filter", null, 12), "Narrow");
  const bar = filterBar({
    query: (changes) => ask(changes),
    suggest: async (text, cursor) => { try { return (await link.call("suggest", { text, cursor })).value; } catch { return []; } },
    views: async () => (await link.call("views")).value,
    save: (name) => link.call("save_view", { name, body: { ...query, columns: looks.columns } }),
    forget: (id) => link.call("forget_view", { view_id: id }),
    use: ({ columns, ...body }) => { if (columns) { looks.columns = columns; dress(); } ask({ ...ALL, ...body, ...(rangeOf(body.range) ?? {}) }); },
  }, { columns: columnsMenu.element, narrow, tabs });
  const bars = histogram((from, to) => ask({ since: from === null ? null : new Date(from).toISOString(), until: to === null ? null : new Date(to).toISOString(), since_s: null, range: "" }));
  const list = traceList({ open: (id, how) => open(id, how), sort: (order) => ask({ order }), more: async (after) => (await link.call("more", { after })).value, problem: (error) => bar.refuse(error) });
  const facets = facetPanel((filter) => ask({ filter }));
  const panel = new TracePanel(link, { onSelect: (traceId, spanId) => { if (traceId) link.call("select", { trace_id: traceId, span_id: spanId }).catch(() => {}); }, openTrace: (id) => { list.choose(id); open(id, { isStep: true }); }, deleted: () => place.close() });
  const back = h("button", { class: "tl-button tl-back", type: "button" }, icon("back"), "Traces");
  const place = places(root, (id, next) => {
    if (next && JSON.stringify(next) !== JSON.stringify(pick(asked ?? query, Object.keys(next)))) ask(withRange(next), { isStep: false });
    else if (!next && id === null && opened === null) ask({ ...ALL, source: first.source, order: "started_at desc" }, { isStep: false });
    if (!id) showList(); else if (id !== opened) { list.choose(id); open(id); }
  });
  back.addEventListener("click", () => place.close());
  const graph = graphView((node) => { turn("table"); ask({ filter: `${JSON.stringify(node.name)} in agents` }); }, { among: "in these traces" });
  const overview = h("div", { class: "tl-overview", hidden: true }, graph.element);
  const table = h("div", { class: "tl-left" }, bars.element, list.element);
  const right = h("div", { class: "tl-right", hidden: true }, back, panel.element);
  let first = { source: "" };
  let warned = false;
  root.dataset.tlScreen = "list";
  const notices = h("div", { class: "tl-explorer-notices" });
  function notice(words, { isBad = false } = {}) {
    const box = h("div", { class: `tl-notice${isBad ? " tl-is-bad" : ""}`, role: isBad ? "alert" : "status" }, icon(isBad ? "error" : "ok", null, 13), h("span", {}, words),
      h("button", { class: "tl-quiet", type: "button", "aria-label": "Dismiss", onclick: () => box.remove() }, icon("close", null, 12)));
    put(notices, box);
  }
  const bringing = importing((text) => { notice(text); ask({ ...ALL, source: "imported" }); }, (error) => notice(error.message, { isBad: true }));
  if (location.pathname === "/traces") bar.element.querySelector(".tl-filter-sql").before(...bringing);
  root.append(h("h1", { class: "tl-sr" }, "Traces"), bar.element, notices, h("div", { class: "tl-explorer-body" }, facets.element, table, overview, right));
  root.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    event.preventDefault();
    bar.focus();
  });
  dress();
  turn("table");

  function dress() {
    list.columns(looks.columns);
    root.dataset.tlDensity = looks.density;
    keep(looks);
  }

  function turn(name) {
    face = name;
    for (const one of tabs.children) one.setAttribute("aria-selected", String(one.dataset.face === name));
    table.hidden = name !== "table";
    overview.hidden = name !== "graph";
    if (name === "graph") { if (opened) place.close(); drawGraph(); }
  }

  async function open(id, { tell = true, isStep = false, step = null } = {}) {
    opened = id;
    if (face !== "table") turn("table");
    root.dataset.tlScreen = "trace";
    right.hidden = false;
    place.open(id, { isStep });
    try {
      const { value, buffers } = await traces(link.call("trace", { trace_id: id }));
      panel.show(value, buffers[0]);
      if (step === "failed") panel.chooseFailed();
      if (tell) link.call("select", { trace_id: id, span_id: null }).catch(() => {});
    } catch (error) {
      if (!error.closed) bar.refuse(error);
    }
  }

  function showList() {
    if (opened === null && root.dataset.tlScreen === "list") return;
    opened = null;
    traces.forget();
    list.choose(null);
    right.hidden = true;
    root.dataset.tlScreen = "list";
    list.focus();
    link.call("select", { trace_id: null, span_id: null }).catch(() => {});
  }

  function show({ query: next, page, histogram: buckets, facets: counted, is_empty: isEmpty, live }) {
    query = next;
    bar.show(next, page.sql, page.total, { live });
    bars.show(buckets, Boolean(next.since || next.until));
    facets.show(counted ?? [], next.filter);
    const isScored = !counted || next.order.startsWith("score") || counted.some(({ name, values }) => name === "score" && values.length);
    list.show(page, { live, order: next.order, without: isScored ? [] : ["score"] });
    list.empty(page.rows.length ? null : isEmpty ? nothingYet() : nothingMatches(next, () => ask(ALL)));
    if (face === "graph" && !live) drawGraph();
  }

  async function drawGraph() {
    try {
      const { value } = await graphs(link.call("graph_all"));
      graph.show(value);
    } catch (error) {
      if (!error.closed) put(graph.element, h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), `${error.message} ${error.nextStep ?? ""}`));
    }
  }

  link.on("snap", (state) => {
    bar.live(state.is_live);
    first = state.query;
    show(state);
    if (state.unread?.length && !warned) notice([h("strong", {}, "Some URL parameters are invalid."), h("ul", {}, state.unread.map((words) => h("li", {}, words)))], { isBad: true });
    warned = true;
    if (state.refused) bar.refuse({ message: state.refused.message, nextStep: state.refused.next_step }, state.refused.filter);
    // Which day was yesterday depends on the reader's time zone.
    const range = rangeOf(state.query.range);
    if (range && range.since !== new Date(state.query.since).toISOString()) ask(range, { isStep: false });
    if (state.selected && state.selected !== opened) { list.choose(state.selected); open(state.selected, { tell: false }); }
  });
  link.on("list", show);
  link.on("trace", (op, buffers) => { if (op.value.trace.trace_id === opened) panel.show(op.value, buffers[0]); });
  link.on("select", (op) => { list.choose(op.trace_id); if (op.trace_id) open(op.trace_id, { tell: false }); else if (opened) place.close(); });
  const clock = setInterval(() => list.refreshTimes(), 20_000);
  view.onClose(() => { clearInterval(clock); place.end(); columnsMenu.close(); list.close(); panel.close(); });
  link.open();
  return view.close;
}

const pick = (from, names) => Object.fromEntries(names.map((name) => [name, from[name] ?? null]));
const withRange = (query) => ({ ...query, ...(rangeOf(query.range) ?? {}) });

/** The reader's table settings, stored in this browser. */
function kept() {
  const usual = { columns: USUAL, density: "close" };
  try {
    return { ...usual, ...JSON.parse(localStorage.getItem(KEPT) ?? "{}") };
  } catch {
    return usual; // A page without storage: an exported file, a sandboxed frame.
  }
}

function keep(looks) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(looks));
  } catch {
    // As above; the settings then last as long as the page.
  }
}

function nothingYet() {
  if (location.pathname === "/traces") {
    return h("div", { class: "tl-empty" }, h("h2", {}, "No traces yet"), h("p", {}, "Every run is traced. Start one in the chat; it needs no key."), h("a", { class: "tl-button tl-primary", href: "/chat" }, "Start a chat"),
      h("p", {}, "Import a file with Import, above, or send OpenTelemetry traces to:"), h("pre", {}, `${location.origin}/v1/traces`));
  }
  return h("div", { class: "tl-empty" }, h("h2", {}, "No traces yet"), h("p", {}, "Every run is traced. Start one in a cell:"), h("pre", {}, 'await lab.run("Umbrella in Oakland?")'),
    h("p", {}, "or import traces:"), h("pre", {}, 'lab.import_traces("traces.jsonl")'));
}

function nothingMatches({ search, source }, clear) {
  const words = { live: "No live trace matches", evaluation: "No trace of an evaluation matches", imported: "No imported trace matches" };
  return h("div", { class: "tl-empty" }, h("h2", {}, words[source] ?? "No trace matches"), h("p", {}, source ? "Change the filter, the words or the time, or look at all sources." : "Change the filter, the words or the time."),
    search ? h("p", {}, "All words must occur in the same step. Whole words are matched; the last one may be a prefix.") : null, h("button", { class: "tl-button", type: "button", onclick: clear }, "Show all traces"));
}
export default { render };
