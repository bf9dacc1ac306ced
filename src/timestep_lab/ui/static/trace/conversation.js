// A trace as a conversation; each entry is linked to its step.

import { data, h, put } from "../shared/dom.js";
import { cost, duration, short } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { parseJson } from "../shared/json_view.js";
import { callView, messageView, valueView } from "./message_view.js";

/** `{element, show(entries, truncated), setPlayHead(ms)}`; `onSelect(spanId)` when a line's facts are clicked. Entries: ui/trace_conversation.py. */
export function conversation(onSelect) {
  const element = h("div", { class: "tl-conversation" });
  let shown = [];
  return {
    element,
    show(entries, truncated) {
      // Updates mostly repeat existing entries: those keep their nodes and their open state.
      const before = new Map(shown.map(([, node, text]) => [text, node]));
      shown = entries.map((entry) => {
        const text = JSON.stringify(entry);
        return [entry.at, before.get(text) ?? entryView(entry, onSelect), text];
      });
      put(element, shown.map(([, node]) => node),
        entries.length ? null : h("div", { class: "tl-empty" }, h("h2", {}, "No messages in this trace"), h("p", {}, "None of its steps has messages as input or output. See the waterfall.")),
        truncated ? h("p", { class: "tl-soft" }, "The conversation goes on; the waterfall has every step.") : null);
    },
    setPlayHead(ms) {
      let last = null;
      for (const [at, node] of shown) {
        const later = ms !== null && at > ms;
        node.classList.toggle("tl-is-later", later);
        if (!later) last = node;
      }
      if (ms !== null && last && element.offsetParent) last.scrollIntoView({ block: "nearest" });
    },
  };
}

function entryView(entry, onSelect) {
  const jump = (label) => (entry.span_id ? h("button", { class: "tl-entry-facts tl-num", type: "button", onclick: () => onSelect(entry.span_id), title: "Show the step" }, label) : null);
  if (entry.kind === "handoff") {
    return h("div", { class: "tl-entry tl-entry-handoff tl-kind-handoff" }, icon("handoff", null, 13), h("span", {}, "handed off from ", data(entry.from ?? "?"), " to ", data(entry.to ?? "?")), jump(duration(entry.duration_ms)));
  }
  if (entry.kind === "error") {
    return h("div", { class: "tl-entry tl-entry-error" }, h("div", { class: "tl-notice tl-is-bad" }, icon("error", "Failed"), h("bdi", { class: "tl-error-text" }, `${entry.name}: ${entry.error}`)), jump(entry.duration_ms === null ? "Show the step" : duration(entry.duration_ms)));
  }
  if (entry.kind === "tool") {
    const [sign, word] = entry.status === "error" ? ["error", "failed"] : entry.approval === "pending" ? ["paused", "waiting"] : entry.status === "pending" ? ["running", "running"] : entry.approval === "rejected" ? ["cancelled", "rejected"] : ["ok", "done"];
    const decided = { approved: "approved", rejected: "rejected", pending: "waits for approval" }[entry.approval];
    const box = h("details", { open: entry.status === "error" },
      h("summary", {}, icon("chevron", null, 10), icon("tool", "Tool", 13), h("bdi", { class: "tl-clip tl-mono" }, oneLine(entry)), h("span", { class: "tl-push" }), decided ? h("span", { class: `tl-small tl-entry-decision tl-is-${entry.approval}` }, decided) : null, h("span", { class: `tl-status-${word}` }, icon(sign, word, 12))),
      entry.arguments ? callView(entry.name, entry.arguments) : null,
      entry.error ? h("div", { class: "tl-notice tl-is-bad" }, icon("error"), h("bdi", {}, entry.error)) : null,
      entry.result ? valueView(entry.result) : null);
    return h("div", { class: "tl-entry tl-entry-tool tl-kind-tool" }, box, jump(duration(entry.duration_ms)));
  }
  const facts = [entry.model, duration(entry.duration_ms), entry.tokens === null || entry.tokens === undefined ? null : `${short(entry.tokens)} tok`, entry.cost_usd === null || entry.cost_usd === undefined ? null : cost(entry.cost_usd)];
  const message = messageView({ role: entry.role, name: entry.agent, parts: entry.parts });
  if (entry.role === "system" || entry.role === "developer") {
    return h("div", { class: "tl-entry tl-entry-system" }, h("details", {}, h("summary", {}, icon("chevron", null, 10), icon("book", null, 13), "Instructions", entry.agent ? [" of ", data(entry.agent)] : null), message));
  }
  return h("div", { class: `tl-entry tl-entry-${entry.role}` }, message, entry.role === "assistant" ? jump(facts.filter(Boolean).join(" · ")) : null);
}

function oneLine(entry) {
  const value = parseJson(entry.arguments);
  const args = value && typeof value === "object" && !Array.isArray(value)
    ? Object.entries(value).map(([key, item]) => `${key}=${JSON.stringify(item)}`).join(", ")
    : String(entry.arguments ?? "");
  return `${entry.name}(${args.length > 160 ? `${args.slice(0, 160)}…` : args})`;
}
