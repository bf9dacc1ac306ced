// What the served app's pages share: a head, notices, fields, and buttons that ask once more.

import { data, h, put } from "../shared/dom.js";
import { ago, exactTime } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { mount } from "../shared/mount.js";

/**
 * A page: `{root, link, head, body, onClose, say(error), act(button, work), open(show)}`. `open(show)` starts the link and calls `show(page)`
 * for every new state; `act` runs `work()` with the button off, and shows what went wrong.
 */
export function page(context, name, title, about) {
  const view = mount(context, "page");
  view.root.classList.add(`tl-page-${name}`);
  const notices = h("div", { class: "tl-page-notices", role: "alert" });
  const actions = h("div", { class: "tl-page-actions" });
  const head = h("header", { class: "tl-page-head" }, h("div", {}, h("h1", {}, title), h("p", { class: "tl-soft" }, about)), actions);
  const body = h("div", { class: "tl-page-body" });
  view.root.append(head, notices, body);

  function say(error) {
    if (!error || error.closed) return put(notices);
    const close = h("button", { class: "tl-quiet", type: "button", "aria-label": "Dismiss", onclick: () => put(notices) }, icon("close", null, 12));
    return put(notices, h("div", { class: "tl-notice tl-is-bad" }, icon("error"), h("span", {}, data(error.message), " ", error.nextStep ? data(error.nextStep) : null), close));
  }

  async function act(button, work) {
    say(null);
    if (button) button.disabled = true;
    try {
      return await work();
    } catch (error) {
      say(error);
      return undefined;
    } finally {
      if (button) button.disabled = false;
    }
  }

  return {
    root: view.root, link: view.link, onClose: view.onClose, close: view.close, actions, body, say, act,
    open(show) {
      const draw = (state) => { if (state) { view.root.dataset.tlPage = "shown"; show(state); } };
      view.link.on("snap", ({ page: state }) => draw(state));
      view.link.on("page", ({ page: state }) => draw(state));
      view.link.on("trouble", ({ message, next_step: nextStep }) => say({ message, nextStep }));
      view.link.open();
      return view.close;
    },
  };
}

let fields = 0;

/** A labelled control with a word of help under it. */
export function field(label, control, help) {
  const id = `tl-field-${(fields += 1)}-${Math.random().toString(36).slice(2, 6)}`;
  control.id = id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  return h("div", { class: "tl-field" }, h("label", { for: id }, label), control, help ? h("p", { class: "tl-soft tl-small", id: `${id}-help` }, help) : null);
}

export const input = (props) => h("input", { class: "tl-input", type: "text", autocomplete: "off", spellcheck: "false", ...props });

export function button(label, { name, primary = false, ...props } = {}) {
  return h("button", { class: `tl-button${primary ? " tl-primary" : ""}`, type: "button", ...props }, name ? icon(name) : null, h("span", {}, label));
}

/** A button that puts its question in its place: the first press asks, the second one acts. */
export function askFirst(label, question, verb, work, { name = "trash", quiet = false } = {}) {
  const box = h("span", { class: "tl-ask" });
  const first = quiet
    ? h("button", { class: "tl-quiet", type: "button", "aria-label": label, title: label }, icon(name))
    : button(label, { name });
  const back = () => { put(box, first); first.focus(); };
  first.addEventListener("click", () => {
    const yes = h("button", { class: "tl-button tl-danger", type: "button" }, verb);
    const no = h("button", { class: "tl-button", type: "button", onclick: back }, "Keep");
    yes.addEventListener("click", async () => { yes.disabled = no.disabled = true; await work(); if (box.isConnected) put(box, first); });
    box.addEventListener("keydown", (event) => { if (event.key === "Escape") back(); }, { once: true });
    put(box, h("span", { class: "tl-ask-words" }, question), yes, no);
    yes.focus();
  });
  put(box, first);
  return box;
}

export function empty(title, ...words) {
  return h("div", { class: "tl-empty" }, h("h3", {}, title), words.map((word) => (word instanceof Node ? word : h("p", {}, word))));
}

export function card(title, ...children) {
  return h("section", { class: "tl-panel", "aria-label": title }, h("h2", {}, title), children);
}

/** `3 min ago`, exact on hover. */
export function when(text) {
  const at = Date.parse(text);
  return h("time", { class: "tl-num tl-soft tl-small", datetime: text, title: exactTime(at) }, ago(at));
}

const STATES = {
  completed: ["ok", "done", "tl-good"], failed: ["error", "failed", "tl-bad"], running: ["running", "running", "tl-soft"],
  needs_approval: ["guardrail", "waits for approval", "tl-warn"], cancelled: ["cancelled", "cancelled", "tl-soft"],
  interrupted: ["interrupted", "interrupted", "tl-bad"], over_budget: ["paused", "budget used up", "tl-warn"],
};

/** A status as icon and word. */
export function status(name) {
  const [sign, word, tone] = STATES[name] ?? ["other", name, "tl-soft"];
  return h("span", { class: `tl-state tl-small ${tone}` }, icon(sign, null, 13), word);
}

/** A JSON text as its value, or an Error that says where it is wrong. */
export function parsed(text, what) {
  if (!text.trim()) return {};
  try {
    const value = JSON.parse(text);
    if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("it is no object");
    return value;
  } catch (error) {
    throw Object.assign(new Error(`${what} cannot be read as a JSON object: ${error.message}.`), { nextStep: 'Write it like {"key": "value"}.' });
  }
}
