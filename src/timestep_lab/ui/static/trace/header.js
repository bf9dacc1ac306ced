// The header of a trace: input, answer, agents, duration and cost.

import { data, h, put } from "../shared/dom.js";
import { ago, cost, count, duration, exactTime, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { latestOnly } from "../shared/link.js";
import { approvalCard, cardName } from "../shared/approval_card.js";
import { traceActions } from "./actions.js";
import { scoreChips } from "./scores.js";

/** The status of a trace (its `outcome`): icon, word, tone. */
export const OUTCOMES = {
  running: ["running", "running", ""], done: ["ok", "done", "tl-good"], steps_failed: ["error", "done", "tl-warn"], failed: ["error", "failed", "tl-bad"],
  stopped: ["paused", "stopped at a limit", "tl-warn"], cancelled: ["cancelled", "cancelled", "tl-soft"], interrupted: ["interrupted", "interrupted", "tl-warn"], waiting: ["paused", "waiting", "tl-warn"],
};

/** Its words: `done`, `done, 2 steps failed`, `failed`. With `isShort` the icon alone; `data-step` leads to the first step that failed. */
export function outcomeBadge(trace, { isShort = false, onStep = null } = {}) {
  const [sign, word, tone] = OUTCOMES[trace.outcome] ?? ["other", trace.outcome ?? trace.status ?? "unknown", "tl-soft"];
  const steps = trace.outcome === "steps_failed" ? `${count(trace.n_errors, "step")} failed` : null;
  const whole = steps ? `${word}, ${steps}` : word;
  if (isShort) return h("span", { class: `tl-badge ${tone}`, title: whole }, icon(sign, whole, 13));
  if (!steps) return h("span", { class: `tl-badge ${tone}` }, icon(sign, null, 13), word);
  if (onStep) return h("button", { class: `tl-badge ${tone}`, type: "button", title: "Show the first step that failed", onclick: onStep }, icon(sign, null, 13), whole);
  return h("span", { class: `tl-badge ${tone}`, title: `${whole}: show the first`, "data-step": "failed" }, icon(sign, null, 13), steps);
}

/** The usage of a trace; for a running trace, its progress. */
export function traceTime(trace) {
  if (trace.status === "running") return "running";
  return trace.status === "needs_approval" && (trace.duration_ms ?? null) === null ? "waiting" : duration(trace.duration_ms);
}

const MOST_AGENTS = 6;

/** The agents of a trace, with arrows; a long path is shortened in the middle. */
export function agentPath(path) {
  const names = (path ?? "").split(/\s*(?:⇢|→|->|>)\s*/).filter(Boolean);
  if (!names.length) return null;
  const left = names.length - MOST_AGENTS;
  const shown = left > 0 ? [...names.slice(0, MOST_AGENTS - 1), null, names[names.length - 1]] : names;
  return h("span", { class: "tl-agent-path" }, shown.map((name, k) => [k ? icon("handoff", "then", 12) : null, name === null ? h("span", { class: "tl-soft" }, `${left.toLocaleString("en")} more`) : data(name)]));
}

/** Milliseconds from the start of the trace to the first output token; null if unknown. */
export function firstToken(spans) {
  let first = Infinity;
  for (let i = 0; i < spans.n; i += 1) first = Math.min(first, spans.ttft_ms[i] === spans.ttft_ms[i] ? spans.start[i] + spans.ttft_ms[i] : Infinity);
  return first === Infinity ? null : first;
}

/**
 * `{element, drawer, show(trace, {scores, firstTokenMs, failure, isCopy}), runAgain(span)}`; `on.select(spanId)` for the step that failed, `on.failed()` for the first that did,
 * `on.openTrace`, `on.deleted` as in actions.js. A copy that is read elsewhere can do nothing.
 */
export function traceHeader(api, on) {
  const element = h("header", { class: "tl-trace-head" });
  const actions = traceActions(api, on);
  const asked = glance("Asked");
  const answered = glance("Answered");
  const waits = waiting(api);
  return {
    element,
    drawer: actions.drawer,
    runAgain: actions.runAgain,
    show(trace, { scores, firstTokenMs: ofSteps, failure, isCopy }) {
      const firstTokenMs = trace.ttft_ms ?? ofSteps; // As the list says it.
      const title = String(trace.input ?? "").trim() || trace.workflow || "Trace";
      const started = Date.parse(trace.started_at);
      const sum = (trace.input_tokens ?? null) === null && (trace.output_tokens ?? null) === null ? null : (trace.input_tokens ?? 0) + (trace.output_tokens ?? 0);
      put(element,
        h("div", { class: "tl-trace-title" }, h("h2", { title: title.length > 90 ? title.slice(0, 1000) : null }, data(title.slice(0, 400))), outcomeBadge(trace, { onStep: () => on.failed() })),
        h("div", { class: "tl-facts" },
          agentPath(trace.agent_path),
          trace.model ? data(trace.model, { class: "tl-soft" }) : null,
          trace.turns ? h("span", {}, count(trace.turns, "turn")) : null,
          h("time", { class: "tl-num tl-soft", datetime: trace.started_at, title: exactTime(started) }, ago(started))),
        failure ? failureLine(failure, on.select) : null,
        h("div", { class: "tl-figures" },
          figure("Duration", traceTime(trace), "From the start of the run to the end of its last step"),
          figure("First token", firstTokenMs === null ? null : duration(firstTokenMs), "From the start of the trace to the first token of an answer"),
          figure("Tokens", sum === null ? "unknown" : tokens(sum), sum === null ? null : `${(trace.input_tokens ?? 0).toLocaleString("en")} in, ${(trace.output_tokens ?? 0).toLocaleString("en")} out`),
          figure("Cost", cost(trace.cost_usd, trace.n_unpriced)),
          figure("Steps", (trace.n_spans ?? 0).toLocaleString("en")),
          trace.n_errors ? figure("Errors", trace.n_errors.toLocaleString("en"), null, "tl-bad") : null,
          isCopy ? scoreChips(scores) : null),
        isCopy ? null : actions.line,
        waits.element,
        trace.input || trace.output ? h("div", { class: "tl-glance" }, asked.show(trace.input, "Nothing was recorded."), answered.show(trace.status === "needs_approval" ? "" : trace.output, NO_ANSWER[trace.status] ?? "No answer was recorded.")) : null);
      if (!isCopy) { actions.show(trace, scores); waits.show(trace); }
    },
  };
}

const NO_ANSWER = { running: "It is still working.", needs_approval: "It waits for approval.", failed: "It failed before an answer.", cancelled: "It was cancelled before an answer." };

/** A text shortened to two lines; a click expands or collapses it. */
function glance(label) {
  let now = null;
  let card = null;
  return {
    show(text, none) {
      const content = String(text ?? "").trim();
      if (card && content === now) return card;
      now = content;
      if (!content) { card = h("div", { class: "tl-glance-card" }, h("span", { class: "tl-soft tl-small" }, label), h("span", { class: "tl-soft" }, none)); return card; }
      card = h("button", { class: "tl-glance-card", type: "button", "aria-expanded": "false", onclick: ({ currentTarget: one }) => one.setAttribute("aria-expanded", String(one.getAttribute("aria-expanded") !== "true")) },
        h("span", { class: "tl-soft tl-small" }, label), data(content.slice(0, 20_000)));
      return card;
    },
  };
}

/** Cards for the pending calls of a trace; existing cards keep their input. */
function waiting(api) {
  const element = h("div", { class: "tl-waits" });
  let key = "";
  const latest = latestOnly();
  return {
    element,
    async show(trace) {
      if (trace.status !== "needs_approval") { latest.forget(); key = ""; put(element); return; }
      let calls;
      try {
        calls = (await latest(api.call("waiting", { trace_id: trace.trace_id }))).value;
      } catch (error) {
        if (!error.closed) put(element, h("p", { class: "tl-bad" }, `${error.message} ${error.nextStep ?? ""}`));
        return;
      }
      const next = `${trace.trace_id} ${calls.map((call) => call.call_id).join(" ")}`;
      if (next === key) return;
      key = next;
      put(element, calls.map((call) => {
        const alert = h("p", { class: "tl-bad tl-small", role: "alert", hidden: true });
        const decide = async (decision, message, always, answer) => {
          try {
            await api.call("decide", { trace_id: trace.trace_id, call_id: call.call_id, decision, message, always, answer });
          } catch (error) {
            alert.hidden = false;
            put(alert, `${error.message} ${error.nextStep ?? ""}`);
            throw error;
          }
          card.remove();
        };
        const card = h("section", { class: "tl-ask-card", "aria-label": cardName(call) }, approvalCard(call, decide), alert);
        return card;
      }));
    },
  };
}

/** Why it failed, in two lines; complete on hover, and a click selects the failed step. */
function failureLine({ span_id: spanId, name, error }, onSelect) {
  return h("button", { class: "tl-trace-failure", type: "button", title: error.length > 120 ? error.slice(0, 2000) : "Show the step that failed", onclick: () => onSelect(spanId) },
    icon("error", "Failed", 13), h("span", {}, data(name), ": ", data(error.slice(0, 600))));
}

function figure(label, value, title = null, tone = "") {
  return value === null ? null : h("div", { class: "tl-figure", title }, h("span", { class: "tl-soft tl-small" }, label), h("strong", { class: `tl-num ${tone}` }, value));
}
