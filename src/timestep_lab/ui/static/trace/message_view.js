// Renders messages in the format of ui/messages.py.

import { h } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { jsonView, parseJson } from "../shared/json_view.js";
import { copyButton, longText } from "../shared/long_text.js";

const ROLES = { system: "System", developer: "Developer", user: "User", assistant: "Assistant", tool: "Tool result", function: "Tool result" };
const ICONS = { system: "book", developer: "book", user: "person", assistant: "generation", tool: "tool", function: "tool" };
const LATEST = 2;

/** All messages; in a long history only the newest two are expanded. */
export function messageList(messages, { all = false } = {}) {
  const box = h("div", { class: "tl-messages" });
  const hidden = all ? 0 : Math.max(0, messages.length - LATEST);
  if (hidden > 1) {
    const more = h("button", { class: "tl-more", type: "button" }, `${hidden} earlier messages`);
    more.addEventListener("click", () => more.replaceWith(...messages.slice(0, hidden).map(messageView)));
    box.append(more);
  }
  box.append(...messages.slice(hidden > 1 ? hidden : 0).map(messageView));
  return box;
}

export function messageView(message) {
  const role = message.role in ROLES ? message.role : "user";
  const text = message.parts.filter((part) => part.text).map((part) => part.text).join("\n\n");
  return h("article", { class: `tl-message tl-role-${role}` },
    h("header", { class: "tl-message-head" }, icon(ICONS[role], null, 13), h("span", {}, ROLES[role]), message.name ? h("bdi", { class: "tl-soft" }, message.name) : null,
      h("span", { class: "tl-push" }), text ? copyButton(() => text, "Copy the text") : null),
    message.parts.map((part) => partView(part, role)));
}

function partView(part, role) {
  switch (part.type) {
    case "text": return longText(part.text, { markdown: role === "assistant" || role === "system" || role === "user" });
    case "reasoning": return h("details", { class: "tl-reasoning" }, h("summary", {}, "Reasoning"), longText(part.text, { markdown: true }));
    case "call": return callView(part.name, part.arguments);
    case "result": return valueView(part.text);
    case "media": return h("span", { class: "tl-chip" }, part.what);
    default: return jsonView(part.value);
  }
}

/** A tool call in one line, with simple arguments as name = value. */
export function callView(name, args) {
  const value = parseJson(args);
  const simple = value && typeof value === "object" && !Array.isArray(value) && Object.values(value).every((v) => v === null || (typeof v !== "object" && String(v).length < 120));
  const head = h("div", { class: "tl-call-name" }, icon("tool", "Tool call", 13), h("bdi", {}, name));
  if (!simple) return h("div", { class: "tl-call" }, head, value && value !== "{}" ? valueView(args) : null);
  const pairs = Object.entries(value).map(([key, item]) => h("div", { class: "tl-arg" }, h("bdi", { class: "tl-json-key" }, key), h("bdi", {}, typeof item === "string" ? item : JSON.stringify(item))));
  return h("div", { class: "tl-call" }, head, pairs.length ? h("div", { class: "tl-args" }, pairs) : null);
}

/** Any span value: JSON as a tree, text as text. */
export function valueView(value) {
  const parsed = parseJson(value);
  if (parsed === null || parsed === undefined || parsed === "") return h("span", { class: "tl-soft" }, "empty");
  return typeof parsed === "string" ? longText(parsed) : jsonView(parsed, { open: 2 });
}
