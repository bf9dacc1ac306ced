// Shared parts of the served app's pages: heading, notices, fields, and buttons with confirmation.

import { data, h, put } from "../shared/dom.js";
import { ago, exactTime } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { mount } from "../shared/mount.js";

/**
 * A page: `{root, link, actions, body, onClose, close, say(error), tell(beside, words), act(beside, work), submit(name, args), open(show)}`.
 * `open(show)` starts the link and calls `show(page)` for every new state, which may replace any element (see `steady`). `act` runs `work()` with the button off; what went wrong is said
 * beside it, and the field it is about marked. `submit` asks Python as `link.call` does, and its errors name that field.
 */
export function page(context, name, title, about) {
  const view = mount(context, "page");
  view.root.classList.add(`tl-page-${name}`);
  const notices = h("div", { class: "tl-page-notices" });
  let note = null; // the message beside a button: one at a time
  const actions = h("div", { class: "tl-page-actions" });
  const head = h("header", { class: "tl-page-head" }, h("div", {}, h("h1", {}, title), h("p", { class: "tl-soft" }, about)), actions);
  const body = h("div", { class: "tl-page-body" });
  view.root.append(head, notices, body);

  /** A notice for errors without a button. It overlays the page, so nothing moves. */
  function say(error) {
    unsay();
    if (!error || error.closed) return undefined;
    const close = h("button", { class: "tl-quiet", type: "button", "aria-label": "Dismiss", onclick: () => put(notices) }, icon("close", null, 12));
    return put(notices, h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), h("span", {}, spoken(error)), close));
  }

  function unsay() {
    put(notices);
    note?.remove();
    note = null;
    for (const field of view.root.querySelectorAll("[aria-invalid]")) unmark(field);
  }

  function beside(element, tone, role, contents) {
    note = h("p", { class: `tl-told tl-small ${tone}`, role, id: `tl-told-${Math.random().toString(36).slice(2, 8)}` }, contents);
    const foot = element.closest(".tl-form-foot, .tl-line, .tl-provider");
    if (foot) foot.append(note);
    else element.after(note);
    return note;
  }

  /** A confirmation beside the button that was pressed. */
  function tell(element, words) {
    unsay();
    beside(element, "tl-soft", "status", words);
  }

  function refuse(element, error) {
    if (error.closed) return;
    if (!element?.isConnected) { say(error); return; }
    const words = beside(element, "tl-bad", "alert", [icon("error"), h("span", {}, spoken(error))]);
    const field = error.param ? fieldOf(element.closest("form"), error.param) : null;
    if (field) mark(field, words);
    else words.scrollIntoView({ block: "nearest" });
  }

  async function act(element, work) {
    unsay();
    const button = element instanceof HTMLButtonElement ? element : null;
    const focused = () => view.root.getRootNode().activeElement;
    const hadFocus = button !== null && focused() === button;
    if (button) button.disabled = true;
    let failure = null;
    try {
      return await work();
    } catch (error) {
      failure = error;
      return undefined;
    } finally {
      if (button) button.disabled = false;
      // A disabled button loses the focus; it is restored unless the focus has moved.
      if (hadFocus && button.isConnected && !focused()) button.focus();
      if (failure) refuse(element, failure);
    }
  }

  async function submit(name, args) {
    const { value, refused } = (await view.link.call("submit", { name, args })).value;
    if (refused) throw wrong(refused.message, refused.next_step, refused.param);
    return value;
  }

  return {
    root: view.root, link: view.link, onClose: view.onClose, close: view.close, actions, body, say, tell, act, submit,
    open(show) {
      const draw = steady(view.root, (state) => { view.root.dataset.tlPage = "shown"; show(state); });
      for (const kind of ["snap", "page"]) view.link.on(kind, ({ page: state }) => { if (state) draw(state); });
      view.link.on("trouble", ({ message, next_step: nextStep }) => say({ message, nextStep }));
      view.link.open();
      return view.close;
    },
  };
}

const PRESSED_MS = 3000; // the longest time that a press delays a redraw

/**
 * `draw(state)` for a user who is about to click or has the focus: while a mouse button is pressed inside `root`, the last state waits for its
 * release, because an element that is replaced in between gets no click; and when the focused element is replaced, its successor is focused.
 */
function steady(root, draw) {
  let pressed = 0;
  let waiting = null;
  const now = (state) => {
    const tree = root.getRootNode();
    const before = root.contains(tree.activeElement) ? tree.activeElement : null;
    const place = before ? alike(root, before).indexOf(before) : -1;
    draw(state);
    if (before && !before.isConnected && !root.contains(tree.activeElement)) alike(root, before)[place]?.focus({ preventScroll: true });
  };
  const release = () => {
    clearTimeout(pressed);
    pressed = 0;
    if (waiting) now(waiting.state);
    waiting = null;
  };
  root.addEventListener("pointerdown", () => { clearTimeout(pressed); pressed = setTimeout(release, PRESSED_MS); });
  for (const ends of ["pointerup", "pointercancel"]) root.addEventListener(ends, () => { if (pressed) setTimeout(release); }); // after the click
  return (state) => { if (pressed) waiting = { state }; else now(state); };
}

/** The elements that a user would take for this one: same tag, name, address and words. */
function alike(root, element) {
  const looks = (one) => [one.name, one.getAttribute("href"), one.getAttribute("aria-label") ?? one.textContent].join("\n");
  return [...root.querySelectorAll(element.localName)].filter((one) => looks(one) === looks(element));
}

/** An error on a page: `param` is the field that it is about. */
export const wrong = (message, nextStep, param = null) => Object.assign(new Error(message), { nextStep, param });

const spoken = (error) => [worded(error.message), error.nextStep ? [" ", worded(error.nextStep)] : null];

/** A text from Python in which code is marked by backticks. */
export function worded(text) {
  return String(text).split("`").map((part, n, parts) => (n % 2 && n < parts.length - 1 ? h("code", {}, part) : part ? data(part) : null));
}

/** Maps a parameter to its form field: `model_settings.temperature` to `model_settings`, one of several models to `models`. */
function fieldOf(form, param) {
  const [head] = param.split(".");
  return [...(form?.elements ?? [])].find(({ name }) => [param, head, `${head}s`].includes(name)) ?? null;
}

/** If field and button are not visible together, the message is shown at the field, which has the focus. */
function mark(field, words) {
  const hidden = field.closest("details");
  if (hidden) hidden.open = true;
  field.dataset.tlDescribed = field.getAttribute("aria-describedby") ?? "";
  field.setAttribute("aria-describedby", `${field.dataset.tlDescribed} ${words.id}`.trim());
  field.setAttribute("aria-invalid", "true");
  field.addEventListener("input", () => unmark(field), { once: true });
  (field.matches("fieldset") ? field.querySelector("input") ?? field : field).focus();
  new IntersectionObserver(([seen], watch) => {
    watch.disconnect();
    if (seen.intersectionRatio < 1) (field.closest(".tl-field") ?? field).append(words);
  }).observe(words);
}

function unmark(field) {
  field.removeAttribute("aria-invalid");
  if (field.dataset.tlDescribed) field.setAttribute("aria-describedby", field.dataset.tlDescribed);
  else field.removeAttribute("aria-describedby");
}

let fields = 0;

/** A labelled control with a help text. The control's `name` is used in errors. */
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

/** A button with confirmation in place: the first press asks, the second one runs `work(box)`. */
export function askFirst(label, question, verb, work, { name = "trash", quiet = false } = {}) {
  const box = h("span", { class: "tl-ask" });
  const first = quiet
    ? h("button", { class: "tl-quiet", type: "button", "aria-label": label, title: label }, icon(name))
    : button(label, { name });
  const back = () => { put(box, first); first.focus(); };
  first.addEventListener("click", () => {
    const yes = h("button", { class: "tl-button tl-danger", type: "button" }, verb);
    const no = h("button", { class: "tl-button", type: "button", onclick: back }, "Keep");
    yes.addEventListener("click", async () => { yes.disabled = no.disabled = true; await work(box); if (box.isConnected) put(box, first); });
    box.addEventListener("keydown", (event) => { if (event.key === "Escape") back(); }, { once: true });
    put(box, h("span", { class: "tl-ask-words" }, question), yes, no);
    yes.focus();
  });
  put(box, first);
  return box;
}

export function empty(title, ...words) {
  return h("div", { class: "tl-empty" }, h("h2", {}, title), words.map((word) => (word instanceof Node ? word : h("p", {}, word))));
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
  stopped: ["paused", "stopped at a limit", "tl-warn"],
  needs_approval: ["guardrail", "waits for approval", "tl-warn"], cancelled: ["cancelled", "cancelled", "tl-soft"],
  interrupted: ["interrupted", "interrupted", "tl-bad"], over_budget: ["paused", "budget used up", "tl-warn"],
};

/** The status of a trace, by its `outcome`. */
export function outcome(row) {
  if (row.outcome !== "steps_failed") return status({ done: "completed", waiting: "needs_approval" }[row.outcome] ?? row.outcome);
  return h("span", { class: "tl-state tl-small tl-warn" }, icon("error", null, 13), `done, ${row.n_errors} ${row.n_errors === 1 ? "step" : "steps"} failed`);
}

/** A status as icon and word. */
export function status(name) {
  const [sign, word, tone] = STATES[name] ?? ["other", name, "tl-soft"];
  return h("span", { class: `tl-state tl-small ${tone}` }, icon(sign, null, 13), word);
}

/** Parse JSON, or throw an Error with its position; `param` is the field's name. */
export function parsed(text, what, param = null) {
  if (!text.trim()) return {};
  try {
    const value = JSON.parse(text);
    if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("it is not an object");
    return value;
  } catch (error) {
    throw wrong(`${what} cannot be read as a JSON object: ${error.message}.`, 'Use an object such as {"key": "value"}.', param);
  }
}
