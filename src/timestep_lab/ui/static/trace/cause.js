// Why a run went wrong: the outlook as a curve above the waterfall, and ranked suspects, each next to the original.

import { data, h, put, svg } from "../shared/dom.js";
import { cost } from "../shared/format.js";
import { icon } from "../shared/icons.js";

const ASKS = [["wrong", "A wrong answer contains"], ["right", "A right answer contains"], ["failed", "The run failed"]];
const WORDS = { proven: "proven", chance: "chance", suspected: "suspected" };
const percent = (share) => (share === null || share === undefined ? "not judged" : `${Math.round(share * 100)} %`);

/** `{element, show(traceId, trace), apply(op)}`. `onStep(spanId)` selects a step, `onBranch(traceId)` shows a branch next to the trace. */
export function causeView(api, { onStep, onBranch }) {
  const element = h("details", { class: "tl-cause" });
  const asked = h("select", { class: "tl-input", "aria-label": "What is wrong" }, ASKS.map(([value, word]) => h("option", { value }, word)));
  const text = h("input", { class: "tl-input", type: "text", "aria-label": "Text", placeholder: "a text", maxlength: 2000 });
  const tools = h("select", { class: "tl-input", "aria-label": "How tools answer" }, h("option", { value: "tape" }, "Tools answer from recorded runs"), h("option", { value: "live" }, "Read-only tools are called"));
  const start = h("button", { class: "tl-button tl-primary", type: "submit" }, "Find the step …");
  const stop = h("button", { class: "tl-button", type: "button", onclick: () => api.call("cause_stop", { trace_id: traceId }).catch(() => {}) }, icon("stop"), "Stop");
  const form = h("form", { class: "tl-cause-form", onsubmit: (event) => { event.preventDefault(); find(); } }, asked, text, tools, start);
  const found = h("div", { class: "tl-cause-found", "aria-live": "polite" });
  let traceId = null;
  asked.addEventListener("change", () => { text.hidden = asked.value === "failed"; });
  element.append(h("summary", {}, "Why did it go wrong?"), h("div", { class: "tl-cause-body" }, form, found));

  async function show(id, trace) {
    const fresh = id !== traceId;
    traceId = id;
    if (!fresh) return;
    element.hidden = true;
    element.open = false;
    put(found);
    form.hidden = false;
    start.disabled = false;
    asked.value = trace.status === "failed" ? "failed" : "wrong";
    text.hidden = asked.value === "failed";
    try {
      const { value } = await api.call("cause", { trace_id: id });
      if (id !== traceId || !value.can_replay) return;
      element.hidden = false;
      if (value.state) { element.open = true; draw(value.state); }
    } catch {
      element.hidden = true; // A page without a lab.
    }
  }

  /** Show the cost first; the reader then starts the search. */
  async function find() {
    if (asked.value !== "failed" && !text.value.trim()) { text.focus(); return; }
    const id = traceId;
    const criterion = { trace_id: id, asked: asked.value, text: text.value.trim(), tools: tools.value };
    start.disabled = true;
    put(found, h("p", { class: "tl-soft" }, "Reading the run …"));
    try {
      const { words } = (await api.call("cause_plan", criterion)).value;
      if (id !== traceId) return;
      start.disabled = false;
      const budget = h("input", { class: "tl-input", type: "number", min: "0", step: "any", "aria-label": "Budget in US dollars", placeholder: "no limit" });
      const go = h("button", { class: "tl-button tl-primary", type: "submit" }, icon("play"), "Replay");
      put(found, h("form", { class: "tl-cause-keep", onsubmit: (event) => { event.preventDefault(); begin(criterion, budget.value === "" ? null : Number(budget.value)); } }, h("span", {}, words), h("label", { class: "tl-soft" }, "Budget, $ ", budget), go));
      go.focus();
    } catch (error) {
      if (!error.closed && id === traceId) draw({ error: `${error.message} ${error.nextStep ?? ""}` });
    }
  }

  async function begin(criterion, budget) {
    try {
      const { value } = await api.call("cause_find", { ...criterion, budget_usd: budget });
      if (criterion.trace_id === traceId) draw(value);
    } catch (error) {
      if (!error.closed && criterion.trace_id === traceId) draw({ error: `${error.message} ${error.nextStep ?? ""}` });
    }
  }

  function draw(state) {
    start.disabled = Boolean(state.running);
    form.hidden = false;
    if (state.error) { put(found, h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), state.error)); return; }
    if (state.running) {
      const bar = state.planned ? h("progress", { max: state.planned, value: state.done, "aria-label": "Replays" }) : h("progress", { "aria-label": "Replays" });
      put(found, h("div", { class: "tl-cause-progress" }, bar, h("span", { class: "tl-soft" }, state.planned ? `${state.done} of at most ${state.planned} replays${state.spent_usd ? ` · ${cost(state.spent_usd)}` : ""}` : "Reading the run …"), stop));
      return;
    }
    if (!state.verdict) { put(found, h("p", { class: "tl-soft" }, "Stopped. Finished replays are kept, and the search can continue from there.")); return; }
    form.hidden = true;
    const again = h("button", { class: "tl-button", type: "button", onclick: () => { form.hidden = false; put(found); text.focus(); } }, "Start over");
    put(found, h("div", { class: "tl-cause-verdict" }, h("p", {}, data(state.verdict)), again), curve(state.outlook, state.right, onStep), suspects(state.suspects, onStep, onBranch), notes(state.notes ?? []), keep());
  }

  function keep() {
    const name = h("input", { class: "tl-input", type: "text", "aria-label": "Data set", value: "failures", maxlength: 200 });
    const status = h("span", { class: "tl-soft", role: "status" });
    return h("form", { class: "tl-cause-keep", onsubmit: async (event) => {
      event.preventDefault();
      try {
        const { value } = await api.call("cause_keep", { trace_id: traceId, name: name.value });
        put(status, `Kept in ${value.name}@${value.version}: ${value.n_cases} ${value.n_cases === 1 ? "case" : "cases"}, with what its tools answered.`);
      } catch (error) {
        if (!error.closed) put(status, `${error.message} ${error.nextStep ?? ""}`);
      }
    } }, h("button", { class: "tl-button", type: "submit" }, icon("plus"), "Save as a test"), h("span", { class: "tl-soft" }, "in the data set"), name, status);
  }

  return { element, show, apply: (op) => { if (op.trace_id === traceId) { element.hidden = false; element.open = true; draw(op.state); } } };
}

/** The success rate of continuations before each decision and after the last, with its 95 % interval. */
function curve(rows, right, onStep) {
  const points = [...rows.map((row) => ({ ...row, at: row.share })), { share: right ? 1 : 0, ci_low: right ? 1 : 0, ci_high: right ? 1 : 0, at: right ? 1 : 0 }];
  const x = (k) => (points.length === 1 ? 50 : 2 + (96 * k) / (points.length - 1));
  const y = (share) => 100 - 100 * share;
  const known = points.map((point, k) => [point, k]).filter(([point]) => point.at !== null);
  const line = known.map(([point, k]) => `${x(k)},${y(point.at)}`).join(" ");
  const band = [...known.map(([point, k]) => `${x(k)},${y(point.ci_high)}`), ...known.reverse().map(([point, k]) => `${x(k)},${y(point.ci_low)}`)].join(" ");
  const falls = rows.map((row) => row.fall ?? 0);
  const steepest = Math.max(...falls) > 0 ? falls.indexOf(Math.max(...falls)) : -1;
  const fixed = { "vector-effect": "non-scaling-stroke" };
  return h("figure", { class: "tl-cause-curve" },
    h("figcaption", { class: "tl-soft tl-small" }, "Outlook: the success rate of continuations from each step, with its 95 % interval"),
    h("div", { class: "tl-cause-plot" }, h("span", { class: "tl-cause-tick", style: { top: "0" } }, "100 %"), h("span", { class: "tl-cause-tick", style: { top: "100%" } }, "0 %"),
      svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("line", { class: "tl-cause-grid", x1: 0, x2: 100, y1: 0, y2: 0, ...fixed }), svg("line", { class: "tl-cause-grid", x1: 0, x2: 100, y1: 50, y2: 50, ...fixed }), svg("line", { class: "tl-cause-grid", x1: 0, x2: 100, y1: 100, y2: 100, ...fixed }),
        svg("polygon", { class: "tl-cause-band", points: band }), svg("polyline", { class: "tl-cause-line", points: line, ...fixed })),
      points.map((point, k) => {
        const style = { left: `${x(k)}%`, top: `${y(point.at ?? 0)}%` };
        if (k === rows.length) return h("span", { class: "tl-cause-point tl-is-end", style, role: "img", "aria-label": `As it was: ${right ? "right" : "wrong"}`, title: `As it was: ${right ? "right" : "wrong"}` });
        const words = `Step ${point.step}, ${point.what}: ${point.passed} of ${point.n} come out right (95 % from ${percent(point.ci_low)} to ${percent(point.ci_high)})${(point.fall ?? 0) > 0 ? `; the recorded step made it fall by ${Math.round(point.fall * 100)} points` : ""}`;
        return h("button", { class: `tl-cause-point${k === steepest ? " tl-is-fall" : ""}${point.at === null ? " tl-is-lost" : ""}`, type: "button", style, title: words, "aria-label": words, onclick: () => onStep(point.span_id) });
      })),
    h("div", { class: "tl-cause-steps", "aria-hidden": "true" }, points.map((point, k) => h("span", { style: { left: `${x(k)}%` } }, k === rows.length ? "end" : point.step))),
    steepest >= 0 ? h("p", { class: "tl-small tl-cause-said" }, "The largest drop is at ", h("button", { class: "tl-link", type: "button", onclick: () => onStep(rows[steepest].span_id) }, `step ${rows[steepest].step} · `, data(rows[steepest].what)), `, by ${Math.round(falls[steepest] * 100)} points.`) : null);
}

function notes(texts) {
  return texts.length ? h("ul", { class: "tl-soft tl-small", "aria-label": "Notes" }, texts.map((text) => h("li", {}, data(text)))) : null;
}

const MOST = 12;

function suspects(rows, onStep, onBranch) {
  if (!rows.length) return null;
  const body = h("tbody", {}, rows.slice(0, MOST).map((row) => line(row, onStep, onBranch)));
  const more = rows.length > MOST ? h("button", { class: "tl-more", type: "button", onclick: (event) => { event.target.remove(); body.append(...rows.slice(MOST).map((row) => line(row, onStep, onBranch))); } }, `${rows.length - MOST} more suspects`) : null;
  const head = ["Suspect", "Repair", "Repaired", "Unchanged", "Resampled", "Verdict", ""].map((word, k) => h("th", { scope: "col", class: k > 1 && k < 5 ? "tl-wf-number" : null }, word || h("span", { class: "tl-sr" }, "Branch")));
  return h("div", { class: "tl-table-box", tabindex: 0, role: "region", "aria-label": "Suspects" }, h("table", { class: "tl-steps tl-cause-suspects" }, h("thead", {}, h("tr", {}, head)), body), more);
}

function line(row, onStep, onBranch) {
  return h("tr", { class: row.verdict ? `tl-is-${row.verdict}` : null },
    h("th", { scope: "row" }, h("button", { class: "tl-link", type: "button", onclick: () => onStep(row.span_id) }, `${row.step} · `, data(row.what))),
    h("td", {}, h("span", { class: "tl-soft" }, `${row.kind} `), data(row.repair)),
    h("td", { class: "tl-num" }, row.repaired), h("td", { class: "tl-num" }, row.held), h("td", { class: "tl-num" }, row.resampled ?? "held"),
    h("td", {}, row.verdict ? h("span", { class: "tl-badge" }, icon(row.verdict === "suspected" ? "search" : row.verdict === "chance" ? "turn" : "ok"), WORDS[row.verdict] ?? row.verdict) : h("span", { class: "tl-soft" }, "no")),
    h("td", {}, row.branch ? h("button", { class: "tl-button", type: "button", onclick: () => onBranch(row.branch) }, icon("branch"), "Beside") : null));
}
