// A status line while a comparison runs: progress, cost so far and expected, and a Stop button.

import { h, put } from "../shared/dom.js";
import { cost, count, duration, short } from "../shared/format.js";
import { icon } from "../shared/icons.js";

/** `{element, show(head), update(progress)}`; the button calls `stop()`. */
export function progressLine(stop) {
  const bar = h("div", { class: "tl-prog-bar", role: "progressbar", "aria-label": "Answers", "aria-valuemin": 0 }, h("i"), h("b"));
  const words = h("div", { class: "tl-prog-words tl-num tl-small" });
  const button = h("button", { class: "tl-button", type: "button" }, icon("stop"), "Stop");
  const element = h("div", { class: "tl-prog" }, bar, words, button);
  button.addEventListener("click", () => { button.disabled = true; put(button, icon("stop"), "Stopping"); stop(); });
  const update = (p) => {
    if (!p) return;
    bar.setAttribute("aria-valuemax", p.total);
    bar.setAttribute("aria-valuenow", p.done);
    bar.firstChild.style.width = `${(100 * (p.done - p.errors)) / Math.max(1, p.total)}%`;
    bar.lastChild.style.width = `${(100 * p.errors) / Math.max(1, p.total)}%`;
    put(words, [`${p.done.toLocaleString("en")} of ${count(p.total, "answer")}`, count(p.calls, "call"), count(p.cached, "cache hit"), p.errors ? h("span", { class: "tl-bad" }, `✕ ${p.errors} failed`) : null,
      p.running ? `${p.running} running` : null, p.spent_usd ? `${cost(p.spent_usd)} spent` : null, !p.expected_usd ? null : `${cost(p.expected_usd)} expected`, `${short(p.spent_tokens)} tok`, p.eta_s === null || !p.running ? null : `about ${p.eta_s < 60 ? `${Math.ceil(p.eta_s)} s` : duration(p.eta_s * 1000)} left`]
      .filter(Boolean).map((fact) => h("span", {}, fact)));
  };
  return {
    element,
    update,
    show({ status, progress, can_stop: canStop }) {
      // At the end the text keeps its space, so that nothing below moves.
      bar.style.visibility = status === "running" ? "" : "hidden";
      element.hidden = !progress && !bar.hasAttribute("aria-valuenow") && (status !== "running" || !canStop);
      button.hidden = !canStop || status !== "running";
      update(progress);
    },
  };
}
