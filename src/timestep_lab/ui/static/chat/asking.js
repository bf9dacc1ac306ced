// Calls to Python whose errors are shown near the reader's input; used by chat and duel.

import { h } from "../shared/dom.js";
import { icon } from "../shared/icons.js";

/** `{notices, problem(error), ask(name, args, buffers), tell(name, args)}`: `ask` returns the value or throws, `tell` only shows errors. */
export function asking(link) {
  const notices = h("div", { class: "tl-chat-notices" });

  function problem(error) {
    const box = h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error", "Error"), h("span", {}, error.message, error.nextStep ? h("span", { class: "tl-soft" }, ` ${error.nextStep}`) : null),
      h("button", { type: "button", class: "tl-quiet", "aria-label": "Dismiss", onclick: () => box.remove() }, icon("close")));
    notices.append(box);
  }

  async function ask(name, args, buffers) {
    try {
      return (await link.call(name, args, buffers)).value;
    } catch (error) {
      if (!error.closed) problem(error);
      throw error;
    }
  }

  return { notices, problem, ask, tell: (name, args) => { ask(name, args).catch(() => {}); } };
}
