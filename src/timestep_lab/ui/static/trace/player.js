// Playback of a trace: the longest run takes ten seconds, and idle time is skipped.

import { h } from "../shared/dom.js";
import { duration } from "../shared/format.js";
import { icon } from "../shared/icons.js";

const LONGEST_S = 10;

/** `{button, bar, reset()}`; `on(ms)` with the play head's time from t0, `on(null)` when it is closed; `scale()` returns the time scale. */
export function player(scale, on) {
  let at = 0;
  let frame = 0;
  let before = 0;
  const button = h("button", { class: "tl-quiet", type: "button", "aria-pressed": "false", title: "Play the run", "aria-label": "Play the run" }, icon("play"));
  const pause = h("button", { class: "tl-quiet", type: "button", "aria-label": "Pause" }, icon("pause"));
  const range = h("input", { class: "tl-range", type: "range", min: 0, max: 1000, value: 0, "aria-label": "Playback position" });
  const clock = h("span", { class: "tl-num tl-small" });
  const away = h("button", { class: "tl-quiet", type: "button", "aria-label": "Close playback" }, icon("close"));
  const bar = h("div", { class: "tl-player", hidden: true }, pause, range, clock, away);

  const show = () => {
    const ms = scale().from(at * scale().length);
    range.value = Math.round(at * 1000);
    range.setAttribute("aria-valuetext", duration(ms));
    clock.textContent = `${duration(ms)} of ${duration(scale().end)}`;
    on(ms);
  };
  const stop = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    pause.replaceChildren(icon("play"));
    pause.setAttribute("aria-label", "Play");
  };
  const step = (now) => {
    const seconds = Math.min(LONGEST_S, Math.max(2, scale().length / 1000));
    at = Math.min(1, at + (now - before) / 1000 / seconds);
    before = now;
    show();
    if (at < 1) frame = requestAnimationFrame(step); else stop();
  };
  const play = () => {
    if (at >= 1) at = 0;
    before = performance.now();
    frame = requestAnimationFrame(step);
    pause.replaceChildren(icon("pause"));
    pause.setAttribute("aria-label", "Pause");
  };
  const reset = () => {
    stop();
    bar.hidden = true;
    button.setAttribute("aria-pressed", "false");
    at = 0;
    on(null);
  };
  button.addEventListener("click", () => {
    if (!bar.hidden) { reset(); return; }
    bar.hidden = false;
    button.setAttribute("aria-pressed", "true");
    play();
  });
  pause.addEventListener("click", () => (frame ? stop() : play()));
  range.addEventListener("input", () => { stop(); at = range.value / 1000; show(); });
  away.addEventListener("click", reset);
  return { button, bar, reset };
}
