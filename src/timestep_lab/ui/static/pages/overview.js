// The component of server/pages/overview.py: the landing page. Every number links to its traces.

import { data, h, put } from "../shared/dom.js";
import { cost, count, duration, short, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { timeChart } from "./chart.js";
import { button, card, empty, outcome, page, when } from "./parts.js";
import { plot, resultView } from "./plot.js";

const SOURCES = [["live", "Live"], ["evaluation", "Evaluations"], ["imported", "Imported"], ["", "All sources"]];
const SPLITS = [["", "Together"], ["model", "By model"], ["agent", "By agent"]];
const PERIOD_WORDS = { "1h": "1 hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days", all: "All" };

function render(context) {
  const view = page(context, "overview", "Overview", "Recent runs, pending approvals, failures, and cost.");
  const { link, act } = view;
  const brush = (since, until) => act(null, () => link.call("brush", { since, until }));
  const periods = h("div", { class: "tl-segments", role: "group", "aria-label": "Period" });
  const whole = button("Show the whole period", { name: "close", hidden: true, onclick: () => brush(null, null) });
  const choose = (label, choices) => h("select", { class: "tl-input tl-choice", "aria-label": label, "data-tl-kept": "", onchange: (event) => look(event.target) }, choices.map(([value, word]) => h("option", { value }, word)));
  const source = choose("Source", SOURCES);
  const split = choose("Charts", SPLITS);
  const look = (select) => act(select, async () => {
    await link.call("look", { source: source.value, by: split.value || null });
    const address = new URL(location.href);
    for (const [name, value, usual] of [["source", source.value || "all", "live"], ["by", split.value, ""]]) { if (value === usual) address.searchParams.delete(name); else address.searchParams.set(name, value); }
    history.replaceState(history.state, "", address);
  });
  view.actions.append(whole, source, split, periods);

  const sum = (steps, name) => steps.reduce((all, step) => all + (step[name] ?? 0), 0);
  const most = (ms) => (ms >= 1000 ? `${(ms / 1000).toLocaleString("en", { maximumFractionDigits: 1 })} s` : `${Math.round(ms)} ms`);
  const money = (usd) => (usd === 0 ? "$0" : `$${usd.toLocaleString("en", { maximumSignificantDigits: 3 })}`);
  const charts = [
    { title: "Runs", tone: "agent", field: "runs", unit: 1, axis: short, figure: (steps) => short(sum(steps, "runs")), value: (s) => s.runs, bad: (s) => s.failed, partly: (s) => s.steps_failed, words: (s) => `${count(s.runs, "run")}${s.failed ? `, ${s.failed} failed` : ""}${s.steps_failed ? `, ${s.steps_failed} with failed steps` : ""}` },
    { title: "Model calls", tone: "agent", field: "calls", unit: 1, axis: short, figure: (steps) => short(sum(steps, "calls")), value: (s) => s.calls, words: (s) => `${count(s.calls, "call")} in ${count(s.runs, "run")}` },
    { title: "Cost", tone: "generation", field: "cost_usd", axis: money, figure: (steps) => spent(steps), value: (s) => s.cost_usd, words: (s) => (s.runs ? spent([s]) : "nothing ran") },
    { title: "Time to answer", tone: "tool", field: "p50_ms", axis: most, figure: () => duration(totals.p50_ms), value: (s) => s.p50_ms, tick: (s) => s.p95_ms, words: (s) => (s.p50_ms === null ? "nothing ended" : `median ${duration(s.p50_ms)}, 95 % within ${duration(s.p95_ms)}`) },
    { title: "First token", tone: "tool", field: "ttft_p50_ms", axis: most, figure: () => duration(totals.ttft_p50_ms), value: (s) => s.ttft_p50_ms, tick: (s) => s.ttft_p95_ms, words: (s) => (s.ttft_p50_ms === null ? "nothing streamed" : `median ${duration(s.ttft_p50_ms)}, 95 % within ${duration(s.ttft_p95_ms)}`) },
    { title: "Cost of a run", tone: "generation", field: "cost_p50_usd", axis: money, figure: () => cost(totals.cost_p50_usd), value: (s) => s.cost_p50_usd, tick: (s) => s.cost_p95_usd, words: (s) => (s.cost_p50_usd === null ? "no known price" : `median ${cost(s.cost_p50_usd)}, 95 % within ${cost(s.cost_p95_usd)}`) },
  ].map((options) => ({ ...options, ...timeChart({ ...options, onBrush: brush }) }));
  let totals = {};
  const plots = h("div", { class: "tl-charts" }, charts.map((chart) => chart.element));
  const panels = ownPanels(link, act);
  const tiles = h("div", { class: "tl-tiles" });
  const lists = h("div", { class: "tl-overview-lists" });
  let shape = null;

  return view.open((state) => {
    put(periods, state.periods.map((period) => h("button", { type: "button", "aria-pressed": String(period === state.period && !state.brushed), onclick: (event) => act(event.currentTarget, () => link.call("period", { period })) }, PERIOD_WORDS[period])));
    whole.hidden = !state.brushed;
    source.hidden = split.hidden = state.is_empty;
    if (state.is_empty && !state.n_waiting) {
      shape = null;
      put(view.body, nothing());
      return;
    }
    if (shape !== "full") { put(view.body, tiles, plots, panels.element, lists); shape = "full"; }
    const to = links(state);
    totals = state.totals;
    source.value = state.source;
    split.value = state.by ?? "";
    drawTiles(tiles, state, to);
    for (const chart of charts) chart.show(state.steps, to());
    put(plots, state.by ? charts.map((chart) => splitChart(chart, state)) : charts.map((chart) => chart.element));
    panels.show(state.panels);
    drawLists(lists, state, to);
  });
}

/** The user's own queries. Each is asked by itself, so that a slow one holds up nothing, and again after changes, for at most a fifth of the time. */
function ownPanels(link, act) {
  const element = h("div", { class: "tl-columns tl-panels" });
  let known = new Map();

  function panelOf({ id, name, chart, query }) {
    const box = h("div", {}, h("p", { class: "tl-soft tl-none" }, "Asking …"));
    const one = { element: card(name, box, h("p", { class: "tl-panel-foot" }, h("a", { href: `/sql?query=${encodeURIComponent(query)}&chart=${chart}` }, "Open the query"),
      h("button", { class: "tl-more", type: "button", onclick: (event) => act(event.currentTarget, () => link.call("forget_panel", { view_id: id })) }, "Remove"))), ask };
    let isAsked = false;
    let isOld = false;
    let drawn = "";
    const draw = (node, text) => { if (text !== drawn) put(box, node()); drawn = text; };
    async function ask() {
      isOld = isAsked;
      if (isAsked) return;
      isAsked = true;
      const began = performance.now();
      try {
        const { value } = await link.call("panel", { view_id: id });
        draw(() => resultView(value, chart, name, box.clientWidth), JSON.stringify(value));
      } catch (error) {
        const words = `${error.message} ${error.nextStep ?? ""}`;
        if (!error.closed && !error.isLost) draw(() => h("p", { class: "tl-bad tl-none" }, words), words);
      }
      setTimeout(() => { isAsked = false; if (isOld && one.element.isConnected) ask(); }, 4 * (performance.now() - began));
    }
    return one;
  }

  return {
    element,
    show(panels) {
      known = new Map(panels.map((panel) => { const key = JSON.stringify(panel); return [key, known.get(key) ?? panelOf(panel)]; }));
      const cards = [...known.values()].map((one) => one.element);
      if (cards.length !== element.children.length || cards.some((one, n) => one !== element.children[n])) put(element, cards);
      for (const one of known.values()) one.ask();
    },
  };
}

function links(state) {
  const bounds = state.brushed ? [`started_at >= "${state.since}"`, `started_at <= "${state.until}"`] : state.period === "all" ? [] : [`started_at > ago("${state.period}")`];
  return (...conditions) => {
    const filter = [...conditions, ...bounds].join(" and ");
    const params = new URLSearchParams();
    if (state.source !== "live") params.set("source", state.source || "all");
    if (filter) params.set("filter", filter);
    return params.size ? `/traces?${params}` : "/traces";
  };
}

/** The same over time, with a line for each of the most used models or agents. */
function splitChart({ title, field, axis, unit = 0 }, state) {
  const x = state.steps.map((step) => step.start);
  const at = new Map(x.map((start, k) => [start, k]));
  const series = state.groups.map((name) => ({ name, values: new Array(x.length).fill(field === "runs" || field === "calls" ? 0 : null) }));
  for (const step of state.split) {
    const line = series.find(({ name }) => name === step.group);
    const place = at.get(step.start) ?? x.findIndex((start) => Math.abs(Date.parse(start) - Date.parse(step.start)) < 1000);
    if (line && place >= 0) line.values[place] = step[field];
  }
  const known = series.filter(({ values }) => values.some((value) => value !== null));
  return h("section", { class: "tl-panel tl-chart", "aria-label": title }, h("div", { class: "tl-panel-head" }, h("h2", {}, /_p50|p50_/.test(field) ? `${title}, median` : title)), known.length ? plot({ x, isTime: true, series: known, left: 0 }, "line", { format: axis, label: title, width: 380, height: 150, unit }) : h("p", { class: "tl-soft" }, "Unknown."));
}

function spent(rows) {
  const known = rows.reduce((all, row) => all + (row.cost_usd ?? 0), 0);
  const unpriced = rows.reduce((all, row) => all + row.n_unpriced, 0);
  const runs = rows.reduce((all, row) => all + row.runs, 0);
  if (unpriced && unpriced >= runs) return known ? cost(known, unpriced) : "unknown";
  return unpriced ? `${cost(known)} and ${unpriced} unknown` : cost(known);
}

function drawTiles(into, state, to) {
  const { totals } = state;
  const unpriced = totals.n_unpriced;
  put(into, [
    tile("Runs", short(totals.runs), to(), "Show these traces"),
    tile("Waiting for approval", String(state.n_waiting), "/approvals", "Open the approvals", state.n_waiting ? "tl-warn" : ""),
    tile("Failed", short(totals.failed), to('outcome == "failed"'), "Show the failed traces", totals.failed ? "tl-bad" : "", totals.steps_failed ? `${totals.steps_failed} more done with failed steps` : null),
    tile("Cost", unpriced >= totals.runs && unpriced ? (totals.cost_usd ? cost(totals.cost_usd, unpriced) : "unknown") : cost(totals.cost_usd ?? 0), unpriced ? to("cost > 0") : to(), "Show these traces", "", unpriced && unpriced < totals.runs ? `${count(unpriced, "run")} without a known price` : null),
    tile("Tokens", totals.tokens ? tokens(totals.tokens).replace(" tok", "") : "0", to(), "Show these traces"),
    tile("Median time", totals.p50_ms === null ? "unknown" : duration(totals.p50_ms), totals.p95_ms === null ? to() : to(`duration_ms >= ${totals.p95_ms.toFixed(1)}`), "Show the slowest traces", "", totals.p95_ms === null ? null : `95 % within ${duration(totals.p95_ms)}`),
  ]);
}

function tile(label, figure, href, hint, tone = "", note = null) {
  return h("a", { class: "tl-tile", href, title: hint }, h("span", { class: "tl-soft" }, label), h("strong", { class: `tl-num ${tone}` }, figure), note ? h("span", { class: "tl-soft tl-small" }, note) : null);
}

function drawLists(into, state, to) {
  const latest = card("Latest runs", state.latest.length ? h("ul", { class: "tl-rows" }, state.latest.map((row) => h("li", {}, runRow(row)))) : h("p", { class: "tl-soft tl-none" }, "No runs in this period."), state.totals.runs > state.latest.length ? h("a", { class: "tl-more-link", href: to() }, `All ${count(state.totals.runs, "run")}`) : null);
  const waiting = card("Waiting for approval", state.waiting.length ? h("ul", { class: "tl-rows" }, state.waiting.map((call) => h("li", {}, waitRow(call)))) : h("p", { class: "tl-soft tl-none" }, "Nothing waits for you."));
  const failed = card("Failed", state.failed.length ? h("ul", { class: "tl-rows" }, state.failed.map((row) => h("li", {}, runRow(row)))) : h("p", { class: "tl-soft tl-none" }, "No failures in this period."));
  const models = card("Models", state.models.length ? modelTable(state.models, to) : h("p", { class: "tl-soft tl-none" }, "No model calls in this period."));
  put(into, h("div", { class: "tl-columns" }, latest, h("div", { class: "tl-stack" }, waiting, failed, models)));
}

function runRow(row) {
  return h("a", { class: "tl-line", href: `/traces/${row.trace_id}` },
    h("span", { class: "tl-grow" }, data(row.input || row.workflow, { class: "tl-clip" }), h("span", { class: "tl-soft tl-small tl-clip" }, [row.agent_path, row.duration_ms === null ? null : duration(row.duration_ms), row.cost_usd === null ? null : cost(row.cost_usd)].filter(Boolean).join(" · "))),
    h("span", { class: "tl-run-end" }, outcome(row), when(row.started_at)));
}

function waitRow(call) {
  return h("a", { class: "tl-line", href: "/approvals" }, h("span", { class: "tl-warn" }, icon("guardrail")),
    h("span", { class: "tl-grow" }, h("code", { class: "tl-clip" }, `${call.name}(${call.arguments})`), h("span", { class: "tl-soft tl-small tl-clip" }, `${call.agent} asks${call.reason ? `: ${call.reason}` : ""}`)), when(call.since));
}

function modelTable(models, to) {
  return h("div", { class: "tl-scroll", tabindex: 0, role: "group", "aria-label": "Models, as a table" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Model"), ...["Runs", "Failed", "Median", "Cost"].map((name) => h("th", { class: "tl-num", scope: "col" }, name)))),
    h("tbody", {}, models.map((row) => h("tr", {}, h("td", {}, h("a", { href: to(`model == ${JSON.stringify(row.group)}`) }, row.group)), h("td", { class: "tl-num" }, short(row.runs)), h("td", { class: `tl-num${row.failed ? " tl-bad" : ""}` }, short(row.failed)), h("td", { class: "tl-num" }, duration(row.p50_ms)), h("td", { class: "tl-num" }, row.n_unpriced >= row.runs && row.n_unpriced ? (row.cost_usd ? cost(row.cost_usd, row.n_unpriced) : "unknown") : cost(row.cost_usd ?? 0)))))));
}

function nothing() {
  return empty("Nothing has run yet", "Every run is recorded here with its time, cost and trace.", h("p", {}, h("a", { class: "tl-button tl-primary", href: "/chat" }, icon("note"), "Start a chat")), h("p", {}, "It works without any key. ", h("a", { href: "/settings" }, "See which providers are ready.")));
}
export default { render };
