// How many traces when, failed ones below in vermilion. A stretch that is brushed becomes the time shown.

import { h, put } from "../shared/dom.js";
import { count, exactTime } from "../shared/format.js";

/** `{element, show(buckets, range)}`; `onBrush(from, to)` in milliseconds since 1970, `onBrush(null, null)` to see all again. */
export function histogram(onBrush) {
  const bars = h("div", { class: "tl-histo-bars", "aria-hidden": "true" });
  const brush = h("div", { class: "tl-histo-brush", hidden: true });
  const first = h("span", {});
  const last = h("span", {});
  const reset = h("button", { class: "tl-more", type: "button", hidden: true, onclick: () => onBrush(null, null) }, "Show all time");
  const summary = h("span", { class: "tl-sr" });
  const field = h("div", { class: "tl-histo-field", title: "Drag to choose a time" }, bars, brush);
  const element = h("div", { class: "tl-histo" }, summary, field, h("div", { class: "tl-histo-ends tl-num" }, first, reset, last));
  let shown = [];

  const share = (event) => {
    const box = field.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  field.addEventListener("pointerdown", (event) => {
    if (!shown.length || event.button !== 0) return;
    event.preventDefault();
    const begin = share(event);
    let end = begin;
    const move = (next) => {
      end = share(next);
      brush.hidden = Math.abs(end - begin) < 0.004;
      brush.style.left = `${Math.min(begin, end) * 100}%`;
      brush.style.width = `${Math.abs(end - begin) * 100}%`;
    };
    const up = () => {
      field.removeEventListener("pointermove", move);
      field.removeEventListener("pointerup", up);
      if (!brush.hidden) {
        const from = shown[0].start;
        const length = shown[shown.length - 1].end - from;
        onBrush(from + Math.min(begin, end) * length, from + Math.max(begin, end) * length);
      }
      brush.hidden = true;
    };
    field.setPointerCapture(event.pointerId);
    field.addEventListener("pointermove", move);
    field.addEventListener("pointerup", up);
  });

  return {
    element,
    show(buckets, isBrushed) {
      shown = buckets.map((b) => ({ ...b, start: Date.parse(b.start), end: Date.parse(b.end) }));
      reset.hidden = !isBrushed;
      element.hidden = !shown.length && !isBrushed;
      if (!shown.length) { put(bars); first.textContent = ""; last.textContent = ""; return; }
      const most = Math.max(1, ...shown.map((b) => b.count));
      put(bars, shown.map((b) => h("i", { title: `${count(b.count, "trace")}${b.errors ? `, ${b.errors} with errors` : ""}\n${exactTime(b.start)}` },
        b.count ? h("b", { style: { height: `${Math.max(4, (100 * b.count) / most)}%` } }, b.errors ? h("u", { style: { height: `${Math.max(12, (100 * b.errors) / b.count)}%` } }) : null) : null)));
      const day = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
      first.textContent = new Date(shown[0].start).toLocaleString(undefined, day);
      last.textContent = new Date(shown[shown.length - 1].end).toLocaleString(undefined, day);
      const errors = shown.reduce((sum, b) => sum + b.errors, 0);
      summary.textContent = `${count(shown.reduce((sum, b) => sum + b.count, 0), "trace")} from ${first.textContent} to ${last.textContent}, ${errors} with errors`;
    },
  };
}
