// The component of ui/explorer.py: traces on the left, the opened one on the right.

import { h, put } from "./shared/dom.js";
import { icon } from "./shared/icons.js";
import { mount } from "./shared/mount.js";
import { filterBar } from "./explorer/filter_bar.js";
import { histogram } from "./explorer/histogram.js";
import { traceList } from "./explorer/list.js";
import { places } from "./explorer/place.js";
import { graphView } from "./graph/graph_view.js";
import { TracePanel } from "./trace/trace_panel.js";

function render({ model, el }) {
  const view = mount({ model, el }, "explorer");
  const { root, link } = view;
  let query = { filter: "", search: "", since_s: null, since: null, until: null };
  let opened = null;

  const ask = async (changes) => {
    try {
      await link.call("query", { ...query, ...changes });
    } catch (error) {
      if (!error.closed) bar.refuse(error);
    }
  };
  const bar = filterBar({
    query: (changes) => ask({ ...changes, since: null, until: null }),
    suggest: async (text, cursor) => { try { return (await link.call("suggest", { text, cursor })).value; } catch { return []; } },
  });
  const bars = histogram((from, to) => ask({ since: from === null ? null : new Date(from).toISOString(), until: to === null ? null : new Date(to).toISOString(), since_s: null }));
  const list = traceList({ open: (id, how) => open(id, how), more: async (after) => (await link.call("more", { after })).value });
  const panel = new TracePanel(link, { onSelect: (traceId, spanId) => { if (traceId) link.call("select", { trace_id: traceId, span_id: spanId }).catch(() => {}); } });
  const back = h("button", { class: "tl-button tl-back", type: "button" }, icon("back"), "Traces");
  const place = places(root, (id) => { if (!id) showList(); else if (id !== opened) { list.choose(id); open(id); } });
  back.addEventListener("click", () => place.close());
  const graph = graphView((node) => ask({ filter: `any(s.agent == ${JSON.stringify(node.name)} for s in spans)`, since: null, until: null }), { among: "in these traces" });
  const overview = h("div", { class: "tl-overview" }, h("div", { class: "tl-overview-head" }, h("h2", {}, "Agents in these traces"), h("p", { class: "tl-soft" }, "Choose a trace on the left to open it.")), graph.element);
  const right = h("div", { class: "tl-right" }, back, overview, panel.element);
  panel.element.hidden = true;
  root.dataset.tlScreen = "list";
  root.append(bar.element, h("div", { class: "tl-explorer-body" }, h("div", { class: "tl-left" }, bars.element, list.element), right));

  async function open(id, { tell = true, isStep = false } = {}) {
    opened = id;
    root.dataset.tlScreen = "trace";
    place.open(id, { isStep });
    try {
      const { value, buffers } = await link.call("trace", { trace_id: id });
      if (opened !== id) return;
      overview.hidden = true;
      panel.element.hidden = false;
      panel.show(value, buffers[0]);
      if (tell) link.call("select", { trace_id: id, span_id: null }).catch(() => {});
    } catch (error) {
      if (!error.closed && opened === id) bar.refuse(error);
    }
  }

  function showList() {
    opened = null;
    list.choose(null);
    panel.element.hidden = true;
    overview.hidden = false;
    root.dataset.tlScreen = "list";
    list.focus();
    link.call("select", { trace_id: null, span_id: null }).catch(() => {});
    drawGraph();
  }

  function show({ query: next, page, histogram: buckets, is_empty: isEmpty, live }) {
    query = next;
    bar.show(next, page.sql, page.total, { live });
    bars.show(buckets, Boolean(next.since || next.until));
    list.show(page, { live });
    list.empty(page.rows.length ? null : isEmpty ? nothingYet() : nothingMatches(next, () => ask({ filter: "", search: "", since_s: null, since: null, until: null })));
    overview.classList.toggle("tl-is-empty", !page.rows.length);
    if (!overview.hidden && !live) drawGraph();
  }

  async function drawGraph() {
    try {
      const { value } = await link.call("graph_all");
      graph.show(value);
    } catch (error) {
      if (!error.closed) put(graph.element, h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), `${error.message} ${error.nextStep ?? ""}`));
    }
  }

  link.on("snap", (state) => {
    bar.live(state.is_live);
    show(state);
    if (state.refused) bar.refuse({ message: state.refused.message, nextStep: state.refused.next_step }, state.refused.filter);
    if (state.selected && state.selected !== opened) { list.choose(state.selected); open(state.selected, { tell: false }); }
  });
  link.on("list", show);
  link.on("trace", (op, buffers) => { if (op.value.trace.trace_id === opened) panel.show(op.value, buffers[0]); });
  link.on("select", (op) => { list.choose(op.trace_id); if (op.trace_id) open(op.trace_id, { tell: false }); });
  const clock = setInterval(() => list.refreshTimes(), 20_000);
  view.onClose(() => { clearInterval(clock); place.end(); panel.close(); });
  link.open();
  return view.close;
}

function nothingYet() {
  return h("div", { class: "tl-empty" }, h("h3", {}, "No traces yet"), h("p", {}, "Every run is traced. Start one in a cell:"), h("pre", {}, 'await lab.run("Umbrella in Oakland?")'),
    h("p", {}, "or bring traces from elsewhere:"), h("pre", {}, 'lab.import_traces("traces.jsonl")'));
}

function nothingMatches({ search }, clear) {
  return h("div", { class: "tl-empty" }, h("h3", {}, "No trace matches"), h("p", {}, "Loosen the filter, the words or the time."),
    search ? h("p", {}, "All words must stand in one step. They are looked for whole, the last one from its beginning.") : null, h("button", { class: "tl-button", type: "button", onclick: clear }, "Show all traces"));
}
export default { render };
