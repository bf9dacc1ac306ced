// Number of traces over time: failed ones at the bottom, above them those that completed with failed steps. Selecting a range sets
// the time filter.

import { h, put } from "../shared/dom.js";
import { count, exactTime } from "../shared/format.js";

/** `{element, show(buckets, range)}`; `onBrush(from, to)` in milliseconds since 1970, `onBrush(null, null)` to reset. */
export function histogram(onBrush) {
  const bars = h("div", { class: "tl-histo-bars", "aria-hidden": "true" });
  const brush = h("div", { class: "tl-histo-brush", hidden: true });
  const first = h("span", {});
  const last = h("span", {});
  const reset = h("button", { class: "tl-more", type: "button", hidden: true, onclick: () => onBrush(null, null) }, "Show all time");
  const summary = h("span", { class: "tl-sr" });
  const field = h("div", { class: "tl-histo-field", title: "Drag to select a time range" }, bars, brush);
  const element = h("div", { class: "tl-histo" }, summary, field, h("div", { class: "tl-histo-ends tl-num" }, first, reset, last));
  let shown = [];
  let drawn = "";

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
      reset.hidden = !isBrushed;
      element.hidden = !buckets.length && !isBrushed;
      const text = JSON.stringify(buckets);
      if (text === drawn) return; // In another order the same traces are counted.
      drawn = text;
      shown = buckets.map((b) => ({ ...b, start: Date.parse(b.start), end: Date.parse(b.end) }));
      if (!shown.length) { put(bars); first.textContent = ""; last.textContent = ""; return; }
      const most = Math.max(1, ...shown.map((b) => b.count));
      put(bars, shown.map((b) => h("i", { title: `${told(b)}\n${exactTime(b.start)}` },
        b.count ? h("b", { style: { height: `${Math.max(4, (100 * b.count) / most)}%` } }, part("s", b.steps_failed, b.count), part("u", b.failed, b.count)) : null)));
      const isShort = shown[shown.length - 1].end - shown[0].start < 600_000;
      const day = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", ...(isShort ? { second: "2-digit" } : {}) };
      first.textContent = new Date(shown[0].start).toLocaleString(undefined, day);
      last.textContent = new Date(shown[shown.length - 1].end).toLocaleString(undefined, day);
      const sum = (name) => shown.reduce((all, b) => all + b[name], 0);
      summary.textContent = `${told({ count: sum("count"), failed: sum("failed"), steps_failed: sum("steps_failed") })}, from ${first.textContent} to ${last.textContent}`;
    },
  };
}

const told = (b) => [count(b.count, "trace"), b.failed ? `${b.failed} failed` : null, b.steps_failed ? `${b.steps_failed} done with failed steps` : null].filter(Boolean).join(", ");
const part = (tag, n, all) => (n ? h(tag, { style: { height: `${Math.max(12, (100 * n) / all)}%` } }) : null);
