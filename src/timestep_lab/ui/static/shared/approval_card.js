// The card for a pending decision, used everywhere: a call that needs approval, or a question from a tool's server (elicitation).

import { data, h } from "./dom.js";
import { icon } from "./icons.js";
import { schemaForm } from "./schema_form.js";

/**
 * The parts of a card for `call`: an `Interruption` as JSON. `decide(decision, message, always, answer)` gives a promise; while it lasts the
 * buttons are off. `answer` is the form that a server asked for, else null. `more` stands at the end of the line of buttons.
 */
export function approvalCard(call, decide, { more = null } = {}) {
  return call.asks ? questionCard(call, decide, more) : permissionCard(call, decide, more);
}

/** The card's accessible name. */
export const cardName = (call) => (call.asks ? `${call.server ?? call.name} asks you` : `Approval needed for ${call.name}`);

/** The result of a decision, shown after the name. */
export const decidedWords = (call) => (call.asks ? ({ approved: "was answered", dismissed: "was dismissed" }[call.decision] ?? "was declined") : call.decision === "approved" ? "was approved" : "was rejected");

function permissionCard(call, decide, more) {
  const always = h("input", { type: "checkbox", name: `always ${call.call_id}` });
  const why = h("input", { name: `reason ${call.call_id}`, class: "tl-input", placeholder: "Why not? The agent reads this.", "aria-label": "Reason for rejecting", maxlength: 2000 });
  const reject = h("button", { class: "tl-button" }, "Reject");
  const reason = h("form", { class: "tl-ask-reason", hidden: true }, why, reject);
  const buttons = [reject];
  const answer = once(buttons, (decision, message) => decide(decision, message, decision === "approved" && always.checked, null));
  reason.addEventListener("submit", (event) => { event.preventDefault(); answer("rejected", why.value.trim()); });
  why.addEventListener("keydown", (event) => event.stopPropagation());
  const open = h("button", { type: "button", name: `reject ${call.call_id}`, class: "tl-button", "aria-expanded": "false", onclick: () => { reason.hidden = !reason.hidden; open.setAttribute("aria-expanded", String(!reason.hidden)); if (!reason.hidden) why.focus(); } }, icon("cancelled"), "Reject…");
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

/** A question from a tool's server: a form, a page to visit, or permission to use the model (sampling). */
function questionCard(call, decide, more) {
  const form = call.form ? schemaForm(call.form, call.call_id) : null;
  const about = JSON.parse(call.arguments || "{}");
  const buttons = [];
  const answer = once(buttons, async (decision) => {
    const filled = decision === "approved" && form ? form.read() : null;
    if (decision === "approved" && form && filled === null) throw new Error("not filled in");
    await decide(decision, "", false, filled);
    form?.done();
  });
  buttons.push(h("button", { class: "tl-button tl-primary" }, icon("ok"), form ? "Send answer" : about.url ? "Done there" : "Allow"),
    h("button", { type: "button", class: "tl-button", onclick: () => answer("rejected") }, icon("cancelled"), "Decline"),
    h("button", { type: "button", class: "tl-button", title: "Neither answer nor decline", onclick: () => answer("dismissed") }, "Dismiss"));
  const whole = h("form", { class: "tl-ask-form", novalidate: true }, form?.element, about.url ? pageLink(about.url) : null, about.messages ? request(about) : null, h("div", { class: "tl-ask-buttons" }, buttons, more));
  whole.addEventListener("submit", (event) => { event.preventDefault(); answer("approved"); });
  whole.addEventListener("keydown", (event) => event.stopPropagation());
  return [
    h("strong", { class: "tl-ask-head" }, icon("person"), call.asks === "sampling" ? "Permission to ask the model" : "Your answer is needed"),
    h("div", {}, h("b", {}, data(call.server ?? "The server")), ", called by ", h("b", {}, data(call.agent ?? "the agent")), " as ", h("code", {}, call.name), call.asks === "sampling" ? " wants to send this to the model:" : " asks:"),
    call.asks === "sampling" ? null : h("p", { class: "tl-ask-question" }, data(call.reason)),
    whole,
  ];
}

/** The buttons are disabled while a decision is sent, and enabled again if it fails. */
function once(buttons, work) {
  return async (...said) => {
    for (const button of buttons) button.disabled = true;
    try {
      await work(...said);
    } catch {
      for (const button of buttons) button.disabled = false;
    }
  };
}

/** The address is shown before it is opened. Addresses other than http(s) are shown as text. */
function pageLink(url) {
  return h("p", { class: "tl-ask-question" }, "Open ", /^https?:\/\//.test(url) ? h("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, url) : h("code", {}, url), ", and say here when you are done.");
}

/** What a server would send to the model. */
function request({ messages, instructions, model, max_tokens: most }) {
  const words = (part) => (part.text === undefined ? `[${String(part.type).replace("input_", "")}]` : part.text);
  const line = (role, text) => [h("dt", {}, role), h("dd", {}, h("pre", {}, text))];
  return h("dl", { class: "tl-ask-args" }, model ? [h("dt", {}, "model"), h("dd", {}, h("code", {}, model))] : null, instructions ? line("instructions", instructions) : null,
    messages.map(({ role, content }) => line(role, content.map(words).join("\n"))), most ? [h("dt", {}, "at most"), h("dd", {}, `${most} tokens`)] : null);
}

/** The arguments of a JSON object, one per line; anything else unchanged. */
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
