// What one span did. Fetched when it is chosen.

import { h, put } from "../shared/dom.js";
import { bytes, cost, duration, exactTime, short } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { jsonView } from "../shared/json_view.js";
import { latestOnly } from "../shared/link.js";
import { copyButton } from "../shared/long_text.js";
import { isServed } from "./actions.js";
import { callView, messageList, valueView } from "./message_view.js";
import { KIND_WORDS } from "./rows.js";
import { scoreBox, scoreChips } from "./scores.js";

/** Kinds of steps from which a run can continue live. */
const AGAIN = ["generation", "tool", "agent", "handoff"];
const STATUS = { ok: ["ok", "done"], error: ["error", "failed"], pending: ["running", "running"], rejected: ["cancelled", "rejected"] };

/** `{element, show(traceId, spanId), clear()}`. `api.call("span", …)` gives `{span, input_messages, output_messages, scores}`. */
export function details(api, onClose, onAgain) {
  const element = h("section", { class: "tl-details", "aria-label": "Details of the step", tabindex: -1 });
  const latest = latestOnly();

  async function show(traceId, spanId) {
    let answer;
    try {
      answer = (await latest(api.call("span", { trace_id: traceId, span_id: spanId }))).value;
    } catch (error) {
      if (!error.closed) put(element, h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), h("span", {}, `${error.message} ${error.nextStep ?? ""}`)));
      return;
    }
    put(element, view(answer, api, traceId, onClose, made.isCopy ? null : onAgain));
    element.scrollTop = 0;
  }

  const made = { element, isCopy: false, show, clear() { latest.forget(); put(element); } };
  return made;
}

function view({ span, input_messages: input, output_messages: output, scores }, api, traceId, onClose, onAgain) {
  const kind = span.kind in KIND_WORDS ? span.kind : "other";
  const [sign, word] = STATUS[span.status] ?? STATUS.ok;
  const close = h("button", { class: "tl-quiet", type: "button", "aria-label": "Close the details", onclick: onClose }, icon("close"));
  return [
    h("header", { class: `tl-details-head tl-kind-${kind}` },
      h("div", { class: "tl-details-title" }, h("span", { class: "tl-wf-kind" }, icon(kind, KIND_WORDS[kind], 16)), h("h3", { class: "tl-clip" }, h("bdi", {}, span.name || kind)), close),
      h("div", { class: "tl-facts" }, h("span", {}, KIND_WORDS[kind]), h("span", { class: `tl-status-${word}` }, icon(sign, null, 12), " ", word), facts(span))),
    span.error ? h("div", { class: "tl-notice tl-is-bad" }, icon("error"), h("bdi", { class: "tl-error-text" }, String(span.error))) : null,
    kind === "generation" ? phases(span) : null,
    onAgain ? h("div", { class: "tl-details-acts" }, scoreBox(api, { target: "span", target_id: span.span_id, trace_id: traceId }, scores),
      kind === "generation" && isServed() ? h("a", { class: "tl-quiet", href: `/playground?trace=${encodeURIComponent(traceId)}&step=${encodeURIComponent(span.span_id)}` }, icon("edit", null, 13), "Open in playground") : null,
      AGAIN.includes(kind) ? h("button", { class: "tl-quiet", type: "button", onclick: () => onAgain(span) }, icon("turn", null, 13), "Run again from here") : null) : scoreChips(scores),
    body(kind, span, input, output),
    section("Attributes", span.attributes && Object.keys(span.attributes).length ? jsonView(span.attributes, { open: 1 }) : null, { closed: kind !== "other" }),
    section("Raw", () => jsonView(span, { open: 1 }), { closed: true, text: () => JSON.stringify(span, null, 2) }),
  ];
}

function facts(span) {
  const known = (value) => value !== null && value !== undefined;
  const tokens = known(span.input_tokens) || known(span.output_tokens);
  return [
    known(span.duration_ms) ? h("span", { class: "tl-num" }, duration(span.duration_ms)) : null,
    span.agent && span.agent !== span.name ? h("span", {}, "by ", h("bdi", {}, span.agent)) : null,
    span.model && span.model !== span.name ? h("bdi", {}, span.model) : null,
    tokens ? h("span", { class: "tl-num", title: "Tokens in → out" }, `${short(span.input_tokens)} → ${short(span.output_tokens)} tok`) : null,
    span.cached_tokens ? h("span", { class: "tl-num" }, `${short(span.cached_tokens)} cached`) : null,
    span.reasoning_tokens ? h("span", { class: "tl-num" }, `${short(span.reasoning_tokens)} reasoning`) : null,
    span.kind === "generation" ? h("span", { class: "tl-num" }, known(span.cost_usd) ? cost(span.cost_usd) : "cost unknown") : null,
    span.stop_reason ? h("span", {}, `stopped: ${span.stop_reason}`) : null,
    known(span.started_at) ? h("span", { class: "tl-num" }, exactTime(Date.parse(span.started_at))) : null,
  ];
}

/** Where a generation's time went: queue, rate limit, first token, answer. Drawn to scale, with labels. */
function phases(span) {
  if (!(span.duration_ms > 0) || !(span.ttft_ms > 0)) return null;
  const queue = span.queue_ms ?? 0;
  const limit = span.rate_limit_ms ?? 0;
  const answer = Math.max(0, span.duration_ms - queue - limit - span.ttft_ms);
  const parts = [["queue", "Queue", queue], ["limit", "Rate limit", limit], ["wait", "To first token", span.ttft_ms], ["answer", "Answer", answer]].filter(([, , ms]) => ms >= 1);
  return h("div", { class: "tl-phases tl-kind-generation" },
    h("div", { class: "tl-phase-bar", "aria-hidden": "true" }, parts.map(([name, , ms]) => h("i", { class: `tl-phase-${name}`, style: { flexGrow: ms } }))),
    h("div", { class: "tl-phase-words" }, parts.map(([name, label, ms]) => h("span", { class: "tl-num" }, h("i", { class: `tl-phase-key tl-phase-${name}` }), `${label} ${duration(ms)}`))));
}

function body(kind, span, input, output) {
  if (kind === "handoff") {
    const { "timestep.handoff.from": from, "timestep.handoff.to": to } = span.attributes ?? {};
    return from || to ? h("div", { class: "tl-handoff-line" }, h("bdi", {}, from ?? "?"), icon("handoff", "handed off to"), h("bdi", {}, to ?? "?")) : null;
  }
  if (kind === "tool") {
    return [
      section("Arguments", known(span.input) ? callView(span.name, asText(span.input)) : null, { text: () => asText(span.input) }),
      section("Result", known(span.output) ? valueView(span.output) : null, { text: () => asText(span.output) }),
    ];
  }
  return [
    section("Input", input?.length ? messageList(input) : known(span.input) ? valueView(span.input) : null, { text: () => asText(span.input) }),
    section("Output", output?.length ? messageList(output, { all: true }) : known(span.output) ? valueView(span.output) : null, { text: () => asText(span.output) }),
  ];
}

const known = (value) => value !== null && value !== undefined;
const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function section(title, content, { closed = false, text = null } = {}) {
  if (content === null || content === undefined) return null;
  const lazy = typeof content === "function";
  const size = text && !lazy ? text().length : 0;
  const box = h("details", { open: !closed },
    h("summary", {}, icon("chevron", null, 10), h("span", { class: "tl-section-title" }, title), size > 4000 ? h("span", { class: "tl-soft tl-small" }, bytes(size)) : null));
  if (lazy) box.addEventListener("toggle", () => box.append(content()), { once: true });
  else box.append(content);
  // The button is beside the summary, not inside it: nested controls are inaccessible to screen readers.
  return h("div", { class: "tl-section" }, box, text ? copyButton(text, `Copy: ${title.toLowerCase()}`) : null);
}
