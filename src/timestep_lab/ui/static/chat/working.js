// The status row at the end of a conversation while a run is active without visible output: which agent is doing what, for how long.

import { h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { duration } from "../shared/format.js";

const SHOWN_AFTER_MS = 1000;

/** `run({agent, model, since})`, or `run(null)` at its end; `item(item)` and `grew(id)` report progress, `clear()` resets. */
export function working() {
  const what = h("span");
  const time = h("span", { class: "tl-soft tl-num", "aria-hidden": "true" });
  const element = h("div", { class: "tl-chat-working", hidden: true }, icon("running"), h("span", { role: "status" }, what), time);
  const steps = new Map(); // Items in progress: id → description, or null for a visibly growing text.
  let now = null;
  let began = 0;
  let agent = null;
  let ticking = null;

  function draw() {
    const underway = [...steps.values()];
    const isShown = now !== null && !underway.includes(null);
    element.hidden = !isShown;
    clearTimeout(ticking);
    if (!isShown) return;
    const words = `${agent ?? now.agent} ${underway.at(-1) ?? `waits for ${now.model}`}`;
    if (what.textContent !== words) put(what, words); // Announced when it changes, not every second.
    const passed = Math.max(0, Date.now() - began);
    put(time, passed < SHOWN_AFTER_MS ? null : duration(Math.floor(passed / 1000) * 1000).replace(/\.\d+/, ""));
    ticking = setTimeout(draw, 1000 - (passed % 1000));
  }
  function step({ id, type, data }) {
    if (data.status !== "in_progress") return steps.delete(id);
    if (type === "tool_call") return steps.set(id, `calls ${data.name}`);
    if (type === "reasoning") return steps.set(id, "is thinking");
    return data.text ? steps.set(id, null) : steps.delete(id);
  }
  return {
    element,
    run(next) {
      if (next && !now) began = Date.now();
      now = next;
      if (next?.since) began = Math.min(began, next.since);
      if (!next) { steps.clear(); agent = null; }
      draw();
    },
    item(item) {
      if (item.agent && item.type !== "user_message") agent = item.agent;
      step(item);
      draw();
    },
    grew(id) {
      if (steps.has(id)) return; // A tool's arguments, or a text that is known to be growing.
      steps.set(id, null);
      draw();
    },
    clear() { steps.clear(); agent = null; },
    close() { clearTimeout(ticking); },
  };
}
