// The trace in three lines: what was asked, who answered, what it took.

import { data, h, put } from "../shared/dom.js";
import { ago, cost, count, duration, exactTime, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { scoreBox } from "./scores.js";

export const TRACE_STATUS = {
  running: ["running", "running", ""], completed: ["ok", "done", "tl-good"], failed: ["error", "failed", "tl-bad"],
  stopped: ["paused", "stopped at a limit", "tl-warn"], cancelled: ["cancelled", "cancelled", "tl-soft"], interrupted: ["interrupted", "interrupted", "tl-warn"], needs_approval: ["paused", "needs approval", "tl-warn"],
};

export function statusBadge(status) {
  const [sign, word, tone] = TRACE_STATUS[status] ?? ["other", status ?? "unknown", "tl-soft"];
  return h("span", { class: `tl-badge ${tone}` }, icon(sign, null, 13), word);
}

/** What a trace took; of one that goes on, in what way it does. */
export function traceTime(trace) {
  if (trace.status === "running") return "running";
  return trace.status === "needs_approval" && (trace.duration_ms ?? null) === null ? "waiting" : duration(trace.duration_ms);
}

const MOST_AGENTS = 6;

/** The agents a trace went through, with arrows between; of a long way its beginning and its end. */
export function agentPath(path) {
  const names = (path ?? "").split(/\s*(?:⇢|→|->|>)\s*/).filter(Boolean);
  if (!names.length) return null;
  const left = names.length - MOST_AGENTS;
  const shown = left > 0 ? [...names.slice(0, MOST_AGENTS - 1), null, names[names.length - 1]] : names;
  return h("span", { class: "tl-agent-path" }, shown.map((name, k) => [k ? icon("handoff", "then", 12) : null, name === null ? h("span", { class: "tl-soft" }, `${left.toLocaleString("en")} more`) : data(name)]));
}

/** Milliseconds from the start of the trace to the first token that a model said in it; null when no generation tells. */
export function firstToken(spans) {
  let first = Infinity;
  for (let i = 0; i < spans.n; i += 1) first = Math.min(first, spans.ttft_ms[i] === spans.ttft_ms[i] ? spans.start[i] + spans.ttft_ms[i] : Infinity);
  return first === Infinity ? null : first;
}

/** `{element, show(trace, {api, scores, firstTokenMs, failure})}`; `onSelect(spanId)` for the step that failed. */
export function traceHeader(onSelect) {
  const element = h("header", { class: "tl-trace-head" });
  return {
    element,
    show(trace, { api, scores, firstTokenMs, failure }) {
      const title = String(trace.input ?? "").trim() || trace.workflow || "Trace";
      const started = Date.parse(trace.started_at);
      const sum = (trace.input_tokens ?? null) === null && (trace.output_tokens ?? null) === null ? null : (trace.input_tokens ?? 0) + (trace.output_tokens ?? 0);
      put(element,
        h("div", { class: "tl-trace-title" }, h("h2", { title: title.length > 90 ? title.slice(0, 1000) : null }, data(title.slice(0, 400))), statusBadge(trace.status)),
        h("div", { class: "tl-facts" },
          agentPath(trace.agent_path),
          trace.model ? data(trace.model, { class: "tl-soft" }) : null,
          trace.turns ? h("span", {}, count(trace.turns, "turn")) : null,
          h("time", { class: "tl-num tl-soft", datetime: trace.started_at, title: exactTime(started) }, ago(started))),
        failure ? failureLine(failure, onSelect) : null,
        h("div", { class: "tl-figures" },
          figure("Duration", traceTime(trace)),
          figure("First token", firstTokenMs === null ? null : duration(firstTokenMs), "From the start of the trace to the first token of an answer"),
          figure("Tokens", sum === null ? "unknown" : tokens(sum), sum === null ? null : `${(trace.input_tokens ?? 0).toLocaleString("en")} in, ${(trace.output_tokens ?? 0).toLocaleString("en")} out`),
          figure("Cost", cost(trace.cost_usd, trace.n_unpriced)),
          figure("Steps", (trace.n_spans ?? 0).toLocaleString("en")),
          trace.n_errors ? figure("Errors", trace.n_errors.toLocaleString("en"), null, "tl-bad") : null,
          scoreBox(api, { target: "trace", target_id: trace.trace_id, trace_id: trace.trace_id }, scores)));
    },
  };
}

/** Why it failed, in two lines; the whole on hover, and when it is clicked the step that says it. */
function failureLine({ span_id: spanId, name, error }, onSelect) {
  return h("button", { class: "tl-trace-failure", type: "button", title: error.length > 120 ? error.slice(0, 2000) : "Show the step that failed", onclick: () => onSelect(spanId) },
    icon("error", "Failed", 13), h("span", {}, data(name), ": ", data(error.slice(0, 600))));
}

function figure(label, value, title = null, tone = "") {
  return value === null ? null : h("div", { class: "tl-figure", title }, h("span", { class: "tl-soft tl-small" }, label), h("strong", { class: `tl-num ${tone}` }, value));
}
