// One function per kind of item. Each returns `{element, update(item), push?(delta)}`; later changes are made in place.

import { h, put, data, safeText, copy } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { bytes, duration, tokens, cost } from "../shared/format.js";
import { approvalCard, cardName, decidedWords } from "../shared/approval_card.js";
import { Markdown } from "./markdown.js";
import { widget } from "./widget.js";

const SHORT = 90;
const SETTLE_MS = 400;

/** `on.decide(item, decision, message, always, answer)`, `on.edit(item)`, `on.retry(item)`, `on.act(item, action)`. */
export function makeItem(item, on) {
  return (KINDS[item.type] ?? unknownItem)(item, on);
}

const KINDS = {
  user_message: userMessage,
  assistant_message: assistantMessage,
  reasoning,
  tool_call: toolCall,
  handoff,
  approval,
  widget: widgetItem,
  client_tool_call: clientTool,
  error: errorItem,
  ended: endedItem,
  end_of_turn: hidden,
  hidden_context_item: hidden,
  sdk_hidden_context: hidden,
};

function quiet(label, name, run) {
  return h("button", { type: "button", class: "tl-quiet", "aria-label": label, title: label, onclick: run }, icon(name));
}

function userMessage(item, on) {
  let now = item;
  const body = h("div", { class: "tl-chat-bubble tl-md" });
  const markdown = new Markdown(body);
  const files = h("div", { class: "tl-chat-files" });
  const element = h("article", { class: "tl-chat-item tl-chat-user", "aria-label": "You" }, h("div", { class: "tl-chat-own" }, files, body),
    h("div", { class: "tl-chat-acts" }, quiet("Edit and send again", "edit", () => on.edit(now)), quiet("Copy", "copy", () => copy(now.data.text ?? ""))));
  const update = (next) => {
    now = next;
    if (markdown.text !== next.data.text) markdown.set(safeText(next.data.text ?? ""));
    body.hidden = !next.data.text;
    put(files, (next.data.attachments ?? []).map((file) => h("span", { class: "tl-chip" }, icon("clip"), data(file.name ?? file.id), file.size ? h("span", { class: "tl-soft" }, bytes(file.size)) : null)));
  };
  update(item);
  return { element, update };
}

function assistantMessage(item, on) {
  let now = item;
  const body = h("div", { class: "tl-md" });
  const markdown = new Markdown(body);
  const cut = h("span", { class: "tl-chip", hidden: true }, icon("interrupted"), "incomplete");
  const line = turnLine(cut, quiet("Copy", "copy", () => copy(now.data.text ?? "")), quiet("Try again from here", "turn", () => on.retry(now)));
  const sources = h("ol", { class: "tl-chat-sources", hidden: true });
  const element = h("article", { class: "tl-chat-item tl-chat-answer" }, body, sources, line.element);
  const update = (next) => {
    now = next;
    element.setAttribute("aria-label", next.agent ?? "Assistant");
    element.setAttribute("aria-busy", String(next.data.status === "in_progress"));
    if (markdown.text !== next.data.text) markdown.set(safeText(next.data.text ?? ""));
    cut.hidden = next.data.status !== "incomplete";
    const links = (next.data.annotations ?? []).map((a) => a.source ?? a).filter((a) => /^https?:/.test(a.url ?? ""));
    sources.hidden = !links.length;
    put(sources, links.map((a) => h("li", {}, h("a", { href: a.url, target: "_blank", rel: "noopener noreferrer nofollow" }, a.title || a.url))));
  };
  update(item);
  return {
    element,
    update,
    push(delta) { markdown.push(safeText(delta)); return markdown; },
    facts: line.facts,
  };
}

/** Below an answer (or instead of one): the turn's usage, its trace, and actions. */
function turnLine(before, ...buttons) {
  const facts = h("footer", { class: "tl-chat-facts" });
  return {
    element: h("div", { class: "tl-chat-under" }, before, facts, h("div", { class: "tl-chat-acts" }, buttons)),
    facts(run, traceLink) { put(facts, factParts(run), traceLink(run)); },
  };
}

/** Model, duration, time to first token, tokens, cost. */
function factParts(run) {
  const parts = [run.model, duration(run.duration_ms)];
  if (run.ttft_ms !== null) parts.push(`first token ${duration(run.ttft_ms)}`);
  if (run.tokens === null) parts.push("tokens and cost unknown");
  else parts.push(tokens(run.tokens), run.cost_usd === null ? "cost unknown" : cost(run.cost_usd));
  return parts.filter(Boolean).map((part) => h("span", { class: "tl-num" }, part));
}

function reasoning(item) {
  const body = h("div", { class: "tl-md" });
  const markdown = new Markdown(body);
  const element = h("details", { class: "tl-chat-item tl-chat-step" }, h("summary", {}, icon("generation"), "Thinking"), body);
  const update = (next) => { if (markdown.text !== next.data.text) markdown.set(safeText(next.data.text ?? "")); };
  update(item);
  return { element, update, push(delta) { markdown.push(safeText(delta)); return markdown; } };
}

const TOOL_STATES = {
  in_progress: ["running", "running", ""],
  completed: ["ok", "done", "tl-good"],
  failed: ["error", "failed", "tl-bad"],
  rejected: ["cancelled", "rejected", "tl-warn"],
  needs_approval: ["paused", "waits for approval", "tl-warn"],
};

function toolCall(item, on) {
  const summary = h("summary", { class: "tl-kind-tool" });
  const inner = h("div", { class: "tl-chat-tool-body" });
  const step = h("details", { class: "tl-chat-step" }, summary, inner);
  const card = h("div", { class: "tl-chat-widget", hidden: true });
  const images = h("div", { class: "tl-chat-images" });
  const element = h("div", { class: "tl-chat-item" }, step, images, card);
  let now = item;
  let drawn = "";
  const drawInner = () => {
    if (!step.open) return;
    put(inner, part("Arguments", pretty(now.data.arguments)), now.data.output === null || now.data.output === undefined ? null : part("Result", pretty(withoutImages(now.data.output))), now.data.error ? part("Error", now.data.error) : null);
  };
  step.addEventListener("toggle", drawInner);
  const update = (next) => {
    now = next;
    drawCard(card, next, on);
    if (next.data.output !== drawn) {
      drawn = next.data.output;
      put(images, imagesOf(drawn).map((src) => h("img", { src, alt: `Image of ${next.data.name}` })));
    }
    const [sign, word, tone] = TOOL_STATES[next.data.status] ?? TOOL_STATES.completed;
    put(summary, icon("tool"), h("code", { class: "tl-clip" }, h("b", {}, next.data.name), `(${shortArguments(next.data.arguments)})`),
      h("span", { class: "tl-chat-right" }, next.data.server ? h("span", { class: "tl-soft" }, next.data.server) : null,
        typeof next.data.duration_ms === "number" ? h("span", { class: "tl-soft tl-num" }, duration(next.data.duration_ms)) : null,
        h("span", { class: tone }, icon(sign, word))));
    drawInner();
  };
  update(item);
  let typed = "";
  return { element, update, push(delta) { typed += delta; now = { ...now, data: { ...now.data, arguments: typed } }; update(now); return null; } };
}

/** The widget of a tool's result, if it has one: the weather card. */
function drawCard(card, item, on) {
  card.hidden = !item.widget;
  if (!item.widget) return;
  put(card, widget(item.widget.root, (action) => on.act(item, action)),
    h("div", { class: "tl-chat-acts" }, quiet("Copy as text", "copy", () => copy(item.widget.copy_text))));
}

const part = (title, text) => h("div", {}, h("div", { class: "tl-soft tl-small" }, title), h("pre", { tabindex: "0" }, text));

function pretty(text) {
  if (typeof text !== "string") return JSON.stringify(text, null, 2);
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

const IMAGE_URL = /data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+/g;

/** The images in a tool's result, as `data:` addresses. */
const imagesOf = (output) => (typeof output === "string" && output.includes("input_image") ? output.match(IMAGE_URL) ?? [] : []);
const withoutImages = (output) => (imagesOf(output).length ? output.replace(IMAGE_URL, "(shown above)") : output);

function shortArguments(text) {
  let value;
  try {
    value = JSON.parse(text || "{}");
  } catch {
    return text ?? "";
  }
  const parts = Object.entries(value ?? {}).map(([key, inner]) => `${key}=${JSON.stringify(inner)}`).join(", ");
  return parts.length > SHORT ? `${parts.slice(0, SHORT - 1)}…` : parts;
}

function handoff(item) {
  const element = h("div", { class: "tl-chat-item tl-chat-handoff tl-kind-handoff" });
  const update = (next) => put(element, icon("handoff"), h("span", {}, data(next.data.from_agent ?? ""), " handed off to ", h("b", {}, data(next.data.to_agent ?? ""))));
  update(item);
  return { element, update };
}

function approval(item, on) {
  const element = h("section", { class: "tl-chat-item tl-chat-approval tl-ask-card", "aria-label": cardName(item.data) });
  let wasOpen = null;
  let cameAt = -Infinity;
  const update = (next) => {
    const { decision } = next.data;
    if (wasOpen === !decision) return;
    wasOpen = !decision;
    element.classList.toggle("tl-is-decided", Boolean(decision));
    if (decision) {
      const approved = decision === "approved";
      put(element, h("span", { class: approved ? "tl-good" : "tl-warn" }, icon(approved ? "ok" : "cancelled")), h("span", {}, h("code", {}, next.data.name), ` ${decidedWords(next.data)}`, next.data.message ? `: ${next.data.message}` : ""));
      return;
    }
    put(element, approvalCard({ ...next.data, agent: next.agent }, (...said) => on.decide(next, ...said)));
    meant(element.querySelector(".tl-primary"), () => performance.now() - cameAt >= SETTLE_MS);
  };
  update(item);
  return { element, update, focus() { cameAt = performance.now(); (element.querySelector(".tl-schema-form :is(input, select, textarea)") ?? element.querySelector(".tl-primary"))?.focus(); } };
}

/** Ignore a key press that was meant for another element: one held down, or before `settled()`. */
function meant(button, settled) {
  let pressed = false;
  button.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    if (!event.repeat) pressed = settled();
    if (!pressed) event.preventDefault();
  });
  button.addEventListener("keyup", (event) => {
    if (event.key === " " && !pressed) event.preventDefault();
    pressed = false;
  });
}

function widgetItem(item, on) {
  const element = h("div", { class: "tl-chat-item tl-chat-widget" });
  const update = (next) => drawCard(element, { ...next, widget: { root: next.data.widget, copy_text: next.data.copy_text ?? "" } }, on);
  update(item);
  return { element, update };
}

function clientTool(item) {
  const element = h("div", { class: "tl-chat-item tl-chat-note" });
  const update = (next) => put(element, icon("tool"), h("span", {}, h("code", {}, `${next.data.name}(${shortArguments(JSON.stringify(next.data.arguments ?? {}))})`), next.data.status === "pending" ? " for this view" : ""));
  update(item);
  return { element, update };
}

function errorItem(item, on) {
  let now = item;
  const words = h("div", { class: "tl-notice tl-is-bad", role: "alert" });
  const line = turnLine(null, quiet("Try again from here", "turn", () => on.retry(now)));
  const element = h("div", { class: "tl-chat-item tl-chat-ended" }, words, line.element);
  const update = (next) => {
    now = next;
    put(words, icon("error", "Error"), h("span", {}, data(next.data.message ?? "")));
  };
  update(item);
  return { element, update, facts: line.facts };
}

const ENDINGS = {
  cancelled: ["cancelled", "Stopped before an answer."],
  interrupted: ["interrupted", "Interrupted before an answer."],
  failed: ["error", "Failed before an answer."],
};

/** The end of a turn without items: `data` is `{status, after}`, the id of the last item before it. */
function endedItem(item, on) {
  const [sign, words] = ENDINGS[item.data.status];
  const line = turnLine(null, quiet("Try again from here", "turn", () => on.retry({ id: item.data.after })));
  const element = h("div", { class: "tl-chat-item tl-chat-ended" }, h("div", { class: "tl-chat-note" }, icon(sign), h("span", {}, words)), line.element);
  return { element, update() {}, facts: line.facts };
}

function hidden() {
  return { element: h("div", { hidden: true }), update() {} };
}

function unknownItem(item) {
  const element = h("details", { class: "tl-chat-item tl-chat-step" });
  const update = (next) => put(element, h("summary", {}, icon("other"), next.type), h("pre", { tabindex: "0" }, JSON.stringify(next.data, null, 2)));
  update(item);
  return { element, update };
}
