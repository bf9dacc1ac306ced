// What waits for a person, as everywhere: who wants to call what, with which arguments, why it asks, and the two answers.

import { data, h } from "./dom.js";
import { icon } from "./icons.js";

/**
 * The parts of a card for `call`: `{name, server, arguments, agent, reason}`. `decide(decision, message, always)` gives a promise; while it
 * lasts the buttons are off. `thread` is what the place calls a conversation; `more` stands at the end of the line of buttons.
 */
export function approvalCard(call, decide, { more = null } = {}) {
  const always = h("input", { type: "checkbox" });
  const why = h("input", { class: "tl-input", placeholder: "Why not? The agent reads this.", "aria-label": "Reason for rejecting", maxlength: 2000 });
  const reject = h("button", { class: "tl-button" }, "Reject");
  const reason = h("form", { class: "tl-ask-reason", hidden: true }, why, reject);
  const buttons = [reject];
  const answer = async (decision, message) => {
    for (const button of buttons) button.disabled = true;
    try {
      await decide(decision, message, decision === "approved" && always.checked);
    } catch {
      for (const button of buttons) button.disabled = false;
    }
  };
  reason.addEventListener("submit", (event) => { event.preventDefault(); answer("rejected", why.value.trim()); });
  why.addEventListener("keydown", (event) => event.stopPropagation());
  const open = h("button", { type: "button", class: "tl-button", "aria-expanded": "false", onclick: () => { reason.hidden = !reason.hidden; open.setAttribute("aria-expanded", String(!reason.hidden)); if (!reason.hidden) why.focus(); } }, icon("cancelled"), "Reject…");
  buttons.push(h("button", { type: "button", class: "tl-button tl-primary", onclick: () => answer("approved", "") }, icon("ok"), "Approve"), open);
  return [
    h("strong", { class: "tl-ask-head" }, icon("guardrail"), "Approval needed"),
    h("div", {}, h("b", {}, data(call.agent ?? "The agent")), " wants to call ", h("code", {}, call.name), call.server ? [" on ", data(call.server)] : null),
    argumentTable(call.arguments),
    call.reason ? h("div", { class: "tl-soft" }, "It asks because ", data(call.reason)) : null,
    h("div", { class: "tl-ask-buttons" }, buttons.slice(1), h("label", { class: "tl-ask-always" }, always, "Always for this tool in this conversation"), more),
    reason,
  ];
}

/** Arguments that are a JSON object, one a line; anything else as it is. */
export function argumentTable(text) {
  let value;
  try {
    value = JSON.parse(text || "{}");
  } catch {
    value = null;
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) return h("pre", {}, text);
  return h("dl", { class: "tl-ask-args" }, Object.entries(value).map(([key, inner]) => [h("dt", {}, data(key)), h("dd", {}, h("code", {}, JSON.stringify(inner)))]));
}
