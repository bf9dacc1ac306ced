// An open trace: header, tabs, details. Used by the trace view, and by the explorer beside the list.

import { h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { jsonView } from "../shared/json_view.js";
import { latestOnly } from "../shared/link.js";
import { copyButton } from "../shared/long_text.js";
import { graphView } from "../graph/graph_view.js";
import { causeView } from "./cause.js";
import { decodeSpans } from "./columns.js";
import { compareView } from "./compare.js";
import { conversation } from "./conversation.js";
import { details } from "./details.js";
import { firstToken, traceHeader } from "./header.js";
import { player } from "./player.js";
import { endOf } from "./span_tree.js";
import { Waterfall } from "./waterfall.js";

const TABS = [["waterfall", "Waterfall"], ["graph", "Graph"], ["conversation", "Conversation"], ["compare", "Compare"], ["json", "JSON"]];

export class TracePanel {
  /** `api.call(name, args)` reaches Python; `onSelect(traceId, spanId)` tells what is chosen. `openTrace(id)`, `deleted()`: the place around the panel shows another trace, or none. */
  constructor(api, { onSelect = () => {}, openTrace = null, deleted = null } = {}) {
    this.api = api;
    this.onSelect = onSelect;
    this.uid = `p${Math.random().toString(36).slice(2, 8)}`;
    this.tab = "waterfall";
    this.loaded = new Set();
    this.latest = Object.fromEntries(TABS.map(([id]) => [id, latestOnly()]));
    this.playMs = null;
    this.header = traceHeader(api, { select: (spanId) => { this.open("waterfall"); this.chooseId(spanId); }, failed: () => this.chooseFailed(), openTrace, deleted });
    this.waterfall = new Waterfall({
      select: (row, { focus = false } = {}) => this.choose(row, focus),
      leave: () => this.leaveDetails(),
      decision: (spanId) => this.decisionOf(spanId),
      find: async (text) => { try { return (await api.call("find", { trace_id: this.traceId, text })).value; } catch { return []; } },
    });
    this.details = details(api, () => this.leaveDetails(), (span) => this.header.runAgain(span));
    this.graph = graphView((node) => this.chooseAgent(node.name), { among: "in this trace" });
    this.conversation = conversation((spanId) => this.chooseId(spanId));
    this.compare = compareView(api, (spanId) => { this.open("waterfall"); this.chooseId(spanId); });
    this.cause = causeView(api, {
      onStep: (spanId) => this.chooseId(spanId),
      onBranch: (traceId) => { this.loaded.add("compare"); this.open("compare"); this.compare.show(this.traceId, traceId); },
    });
    api.on?.("cause", (op) => this.cause.apply(op));
    this.json = h("div", { class: "tl-json-tab" });
    this.player = player(() => this.waterfall.scale, (ms) => this.playTo(ms));
    this.build();
    this.timer = setInterval(() => this.grow(), 100);
  }

  build() {
    this.faces = { waterfall: h("div", { class: "tl-waterfall-face" }, this.cause.element, this.waterfall.element), graph: this.graph.element, conversation: this.conversation.element, compare: this.compare.element, json: this.json };
    this.tabs = TABS.map(([id, word]) => h("button", { class: "tl-tab", role: "tab", type: "button", id: `${this.uid}-${id}`, "aria-controls": `${this.uid}-${id}-panel`, onclick: () => this.open(id) }, word));
    this.panels = new Map(TABS.map(([id]) => [id, h("div", { class: "tl-tab-panel", role: "tabpanel", id: `${this.uid}-${id}-panel`, "aria-labelledby": `${this.uid}-${id}` }, this.faces[id])]));
    const bar = h("div", { class: "tl-tabs", role: "tablist", "aria-label": "Views of the trace" }, this.tabs);
    bar.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      let next = TABS.findIndex(([id]) => id === this.tab);
      do next = (next + by + TABS.length) % TABS.length; while (this.tabs[next].hidden);
      this.open(TABS[next][0]);
      this.tabs[next].focus();
    });
    this.details.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented) return;
      event.preventDefault();
      event.stopPropagation();
      this.leaveDetails();
    });
    this.tabsWatch = showWhereMore(bar);
    this.main = h("div", { class: "tl-trace-main" }, [...this.panels.values()]);
    this.body = h("div", { class: "tl-trace-body" }, this.main, this.details.element);
    this.element = h("div", { class: "tl-trace-panel" }, this.header.element, this.header.drawer, h("div", { class: "tl-tab-line" }, bar, this.player.button), this.player.bar, this.body);
    this.closeDetails();
    this.open("waterfall");
  }

  /**
   * Show an answer of `trace`: `{trace, scores, now}` and the span columns. The same trace again is an update in place.
   * `partial`: these are the first rows only, and the rest is on its way.
   */
  show(value, buffer) {
    const fresh = this.traceId !== value.trace.trace_id;
    this.traceId = value.trace.trace_id;
    this.trace = value.trace;
    this.spans = decodeSpans(buffer);
    this.clock = { now: value.now - this.spans.t0, at: performance.now() };
    this.loaded.clear();
    for (const latest of Object.values(this.latest)) latest.forget();
    this.header.show(value.trace, { scores: value.scores, failure: value.failure, isCopy: value.is_copy, firstTokenMs: value.partial ? null : firstToken(this.spans) });
    this.element.classList.toggle("tl-is-copy", Boolean(value.is_copy));
    this.tabs[TABS.findIndex(([id]) => id === "compare")].hidden = Boolean(value.is_copy);
    this.details.isCopy = Boolean(value.is_copy);
    if (fresh) { this.closeDetails(); this.player.reset(); }
    if (!value.partial) this.cause.show(this.traceId, value.trace);
    this.waterfall.set(this.spans, { now: this.clock.now, fresh, partial: value.partial, isWaiting: value.trace.status === "needs_approval", trace: value.trace });
    if (!fresh && this.waterfall.selected >= 0 && !this.details.element.hidden) this.details.show(this.traceId, this.spans.id(this.waterfall.selected));
    this.load(this.tab);
  }

  grow() {
    if (!this.waterfall.isLive) return;
    this.waterfall.tick(this.clock.now + performance.now() - this.clock.at);
  }

  open(id) {
    this.tab = id;
    TABS.forEach(([name], k) => {
      const on = name === id;
      this.tabs[k].setAttribute("aria-selected", on);
      this.tabs[k].tabIndex = on ? 0 : -1;
      this.panels.get(name).hidden = !on;
    });
    // Two traces side by side need the space, and their steps are the focus.
    this.body.classList.toggle("tl-is-comparing", id === "compare");
    if (this.traceId) this.load(id);
  }

  async load(id) {
    const { traceId } = this;
    if (this.loaded.has(id)) return;
    this.loaded.add(id);
    const ask = async () => (await this.latest[id](this.api.call(id, { trace_id: traceId }))).value;
    try {
      if (id === "graph") this.graph.show(await ask());
      if (id === "conversation") {
        const { entries, truncated } = await ask();
        this.conversation.show(entries, truncated);
      }
      if (id === "compare") await this.compare.show(traceId);
      if (id === "json") {
        const value = await ask();
        put(this.json, h("div", { class: "tl-json-bar" }, h("code", {}, traceId), copyButton(() => JSON.stringify(value, null, 2), "Copy the JSON")), jsonView(value, { open: 2 }));
      }
      // Newly rendered parts do not know the play head yet.
      if (this.playMs !== null) this.playTo(this.playMs);
    } catch (error) {
      if (error.closed) return;
      this.loaded.delete(id);
      put(this.faces[id], h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), `${error.message} ${error.nextStep ?? ""}`));
    }
  }

  choose(row, focus) {
    const id = this.spans.id(row);
    this.onSelect(this.traceId, id);
    this.details.element.hidden = false;
    this.body.classList.add("tl-has-details");
    clearTimeout(this.fetching);
    // Holding an arrow key passes over many rows; only the last one is fetched.
    this.fetching = setTimeout(() => this.details.show(this.traceId, id).then(() => { if (focus) this.details.element.focus(); }), 60);
  }

  /** `approved` or `rejected` for a call that a person decided, else null. */
  async decisionOf(spanId) {
    try {
      const { span } = (await this.api.call("span", { trace_id: this.traceId, span_id: spanId })).value;
      const said = span.attributes?.["timestep.approval"];
      return said === "approved" || said === "rejected" ? said : null;
    } catch {
      return null;
    }
  }

  chooseId(spanId) {
    const row = this.spans.rowOf(spanId);
    if (row >= 0) this.waterfall.select(row);
  }

  /** The step that failed first. */
  chooseFailed() {
    const { spans } = this;
    const failed = spans.statuses.indexOf("error");
    let first = -1;
    for (let i = 0; i < spans.n; i += 1) if (spans.status[i] === failed && (first < 0 || spans.start[i] < spans.start[first])) first = i;
    if (first < 0) return;
    this.open("waterfall");
    this.waterfall.select(first);
  }

  chooseAgent(name) {
    for (const row of this.waterfall.tree.order) {
      if (this.spans.kinds[this.spans.kind[row]] === "agent" && this.spans.word("name", row) === name) { this.waterfall.select(row); return; }
    }
  }

  /** Return the focus to where the step was selected. */
  leaveDetails() {
    this.closeDetails();
    (this.tab === "waterfall" ? this.waterfall.scroller : this.tabs[TABS.findIndex(([id]) => id === this.tab)]).focus();
  }

  closeDetails() {
    this.details.element.hidden = true;
    this.body.classList.remove("tl-has-details");
    this.details.clear();
    if (this.waterfall.spans) { this.waterfall.select(-1, { quiet: true }); this.onSelect(this.traceId, null); }
  }

  playTo(ms) {
    this.playMs = ms;
    if (!this.waterfall.spans) return;
    this.waterfall.setPlayHead(ms);
    this.conversation.setPlayHead(ms);
    if (ms === null) { this.graph.setActive(null, null); return; }
    const { active, seen } = agentsAt(this.spans, ms, this.clock.now);
    this.graph.setActive(active, seen);
  }

  close() {
    clearInterval(this.timer);
    this.tabsWatch.disconnect();
    this.waterfall.close();
    this.player.reset();
  }
}

/** Mark the ends of a row that can be scrolled. */
function showWhereMore(row) {
  const mark = () => {
    row.classList.toggle("tl-goes-back", row.scrollLeft > 1);
    row.classList.toggle("tl-goes-on", row.scrollLeft + row.clientWidth < row.scrollWidth - 1);
  };
  row.addEventListener("scroll", mark, { passive: true });
  const watch = new ResizeObserver(mark);
  watch.observe(row);
  return watch;
}

function agentsAt(spans, ms, now) {
  const kind = spans.kinds.indexOf("agent");
  const active = new Set();
  const seen = new Set();
  for (let i = 0; i < spans.n; i += 1) {
    if (spans.kind[i] !== kind || spans.start[i] > ms) continue;
    seen.add(spans.word("name", i));
    if (endOf(spans, i, now) > ms) active.add(spans.word("name", i));
  }
  return { active, seen };
}
