// The component of server/pages/overview.py: the landing page. Every figure is a link into the traces behind it.

import { data, h, put } from "../shared/dom.js";
import { cost, count, duration, short, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { timeChart } from "./chart.js";
import { button, card, empty, page, status, when } from "./parts.js";

const PERIOD_WORDS = { "1h": "1 hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days", all: "All" };

function render(context) {
  const view = page(context, "overview", "Overview", "What ran lately, what waits for you, what failed, and what it cost.");
  const { link, act } = view;
  const brush = (since, until) => act(null, () => link.call("brush", { since, until }));
  const periods = h("div", { class: "tl-segments", role: "group", "aria-label": "Period" });
  const whole = button("Show the whole period", { name: "close", hidden: true, onclick: () => brush(null, null) });
  view.actions.append(whole, periods);

  const sum = (steps, name) => steps.reduce((all, step) => all + (step[name] ?? 0), 0);
  const charts = [
    { title: "Model calls", tone: "agent", figure: (steps) => short(sum(steps, "calls")), value: (s) => s.calls, bad: (s) => (s.runs ? (s.calls * s.failed) / s.runs : 0), words: (s) => `${count(s.calls, "call")} in ${count(s.runs, "run")}${s.failed ? `, ${s.failed} failed` : ""}` },
    { title: "Cost", tone: "generation", figure: (steps) => spent(steps), value: (s) => s.cost_usd, words: (s) => (s.runs ? spent([s]) : "nothing ran") },
    { title: "Time to answer", tone: "tool", figure: () => duration(median), value: (s) => s.p50_ms, tick: (s) => s.p95_ms, words: (s) => (s.p50_ms === null ? "nothing ended" : `median ${duration(s.p50_ms)}, 95 % within ${duration(s.p95_ms)}`) },
  ].map((options) => timeChart({ ...options, onBrush: brush }));
  let median = null;
  const plots = h("div", { class: "tl-charts" }, charts.map((chart) => chart.element));
  const tiles = h("div", { class: "tl-tiles" });
  const lists = h("div", { class: "tl-overview-lists" });
  let shape = null;

  return view.open((state) => {
    put(periods, state.periods.map((period) => h("button", { type: "button", "aria-pressed": String(period === state.period && !state.brushed), onclick: (event) => act(event.currentTarget, () => link.call("period", { period })) }, PERIOD_WORDS[period])));
    whole.hidden = !state.brushed;
    if (state.is_empty && !state.n_waiting) {
      shape = null;
      put(view.body, nothing());
      return;
    }
    if (shape !== "full") { put(view.body, tiles, plots, lists); shape = "full"; }
    const to = links(state);
    median = state.totals.p50_ms;
    drawTiles(tiles, state, to);
    for (const chart of charts) chart.show(state.steps, to());
    drawLists(lists, state, to);
  });
}

function links(state) {
  const bounds = state.brushed ? [`started_at >= "${state.since}"`, `started_at <= "${state.until}"`] : state.period === "all" ? [] : [`started_at > ago("${state.period}")`];
  return (...conditions) => {
    const filter = [...conditions, ...bounds].join(" and ");
    return filter ? `/traces?filter=${encodeURIComponent(filter)}` : "/traces";
  };
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
    tile("Failed", short(totals.failed), to('status == "failed"'), "Show the failed traces", totals.failed ? "tl-bad" : ""),
    tile("Cost", unpriced >= totals.runs && unpriced ? (totals.cost_usd ? cost(totals.cost_usd, unpriced) : "unknown") : cost(totals.cost_usd ?? 0), unpriced ? to("cost > 0") : to(), "Show these traces", "", unpriced && unpriced < totals.runs ? `${count(unpriced, "run")} without a known price` : null),
    tile("Tokens", totals.tokens ? tokens(totals.tokens).replace(" tok", "") : "0", to(), "Show these traces"),
    tile("Median time", totals.p50_ms === null ? "unknown" : duration(totals.p50_ms), totals.p95_ms === null ? to() : to(`duration_ms >= ${totals.p95_ms.toFixed(1)}`), "Show the slowest traces", "", totals.p95_ms === null ? null : `95 % within ${duration(totals.p95_ms)}`),
  ]);
}

function tile(label, figure, href, hint, tone = "", note = null) {
  return h("a", { class: "tl-tile", href, title: hint }, h("span", { class: "tl-soft" }, label), h("strong", { class: `tl-num ${tone}` }, figure), note ? h("span", { class: "tl-soft tl-small" }, note) : null);
}

function drawLists(into, state, to) {
  const latest = card("Latest runs", state.latest.length ? h("ul", { class: "tl-rows" }, state.latest.map((row) => h("li", {}, runRow(row)))) : h("p", { class: "tl-soft tl-none" }, "Nothing ran in this time."), state.totals.runs > state.latest.length ? h("a", { class: "tl-more-link", href: to() }, `All ${count(state.totals.runs, "run")}`) : null);
  const waiting = card("Waiting for approval", state.waiting.length ? h("ul", { class: "tl-rows" }, state.waiting.map((call) => h("li", {}, waitRow(call)))) : h("p", { class: "tl-soft tl-none" }, "Nothing waits for you."));
  const failed = card("Failed", state.failed.length ? h("ul", { class: "tl-rows" }, state.failed.map((row) => h("li", {}, runRow(row)))) : h("p", { class: "tl-soft tl-none" }, "Nothing failed in this time."));
  const models = card("Models", state.models.length ? modelTable(state.models, to) : h("p", { class: "tl-soft tl-none" }, "No model was asked in this time."));
  put(into, h("div", { class: "tl-columns" }, latest, h("div", { class: "tl-stack" }, waiting, failed, models)));
}

function runRow(row) {
  return h("a", { class: "tl-line", href: `/traces/${row.trace_id}` },
    h("span", { class: "tl-grow" }, data(row.input || row.workflow, { class: "tl-clip" }), h("span", { class: "tl-soft tl-small tl-clip" }, [row.agent_path, row.duration_ms === null ? null : duration(row.duration_ms), row.cost_usd === null ? null : cost(row.cost_usd)].filter(Boolean).join(" · "))),
    h("span", { class: "tl-run-end" }, status(row.status), when(row.started_at)));
}

function waitRow(call) {
  return h("a", { class: "tl-line", href: "/approvals" }, h("span", { class: "tl-warn" }, icon("guardrail")),
    h("span", { class: "tl-grow" }, h("code", { class: "tl-clip" }, `${call.name}(${call.arguments})`), h("span", { class: "tl-soft tl-small tl-clip" }, `${call.agent} asks${call.reason ? `: ${call.reason}` : ""}`)), when(call.since));
}

function modelTable(models, to) {
  return h("div", { class: "tl-scroll", tabindex: 0, role: "region", "aria-label": "Models" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Model"), ...["Runs", "Failed", "Median", "Cost"].map((name) => h("th", { class: "tl-num", scope: "col" }, name)))),
    h("tbody", {}, models.map((row) => h("tr", {}, h("td", {}, h("a", { href: to(`model == ${JSON.stringify(row.model)}`) }, row.model)), h("td", { class: "tl-num" }, short(row.runs)), h("td", { class: `tl-num${row.failed ? " tl-bad" : ""}` }, short(row.failed)), h("td", { class: "tl-num" }, duration(row.p50_ms)), h("td", { class: "tl-num" }, row.n_unpriced >= row.runs && row.n_unpriced ? (row.cost_usd ? cost(row.cost_usd, row.n_unpriced) : "unknown") : cost(row.cost_usd ?? 0)))))));
}

function nothing() {
  return empty("Nothing has run yet", "Every run is kept here with its time, its cost and its trace.", h("p", {}, h("a", { class: "tl-button tl-primary", href: "/chat" }, icon("note"), "Start a chat")), h("p", {}, "It works without any key. ", h("a", { href: "/settings" }, "See which providers are ready.")));
}
export default { render };
