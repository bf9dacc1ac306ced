// A small bar chart over time with one scale; a range can be selected by pointer or keyboard.

import { h, put, svg } from "../shared/dom.js";
import { ticks } from "./plot.js";

const HEIGHT = 72;

/**
 * `{element, show(steps)}`. `value(step)` is a bar's height, `bad(step)` the part of it that failed, `partly(step)` what lies above that, `tick(step)` a mark above it;
 * `axis(value)` writes a number beside the bars;
 * null is a step without a value. `words(step)` says a step in a sentence. `onBrush(since, until)` gets ISO times.
 */
export function timeChart({ title, figure, value, bad = () => 0, partly = () => 0, axis = String, unit = 0, tick = () => null, words, tone, onBrush }) {
  const total = h("a", { class: "tl-chart-figure tl-num" });
  const readout = h("p", { class: "tl-chart-readout tl-soft tl-small tl-num", "aria-live": "polite" });
  const drawing = svg("svg", { class: "tl-chart-bars", preserveAspectRatio: "none", "aria-hidden": "true" });
  const brush = h("div", { class: "tl-chart-brush", hidden: true });
  const plot = h("div", { class: "tl-chart-plot", tabindex: 0, role: "group", "aria-label": `${title} over time. Arrow keys move the selection, with Shift they extend it, Enter applies it to the page.` }, drawing, brush);
  const first = h("span", {});
  const last = h("span", {});
  const ends = h("div", { class: "tl-chart-ends tl-soft tl-small tl-num" }, first, last);
  const scaleOf = h("div", { class: "tl-chart-axis tl-soft tl-num", "aria-hidden": "true" });
  const element = h("section", { class: `tl-panel tl-chart tl-kind-${tone}`, "aria-label": title }, h("div", { class: "tl-panel-head" }, h("h2", {}, title), total), h("div", { class: "tl-chart-field" }, scaleOf, plot), h("div", { class: "tl-chart-foot" }, ends, readout));
  let steps = [];
  let from = null;
  let to = null;

  function mark(a, b) {
    from = Math.max(0, Math.min(a, b, steps.length - 1));
    to = Math.max(0, Math.min(steps.length - 1, Math.max(a, b)));
    brush.hidden = false;
    brush.style.left = `${(100 * from) / steps.length}%`;
    brush.style.width = `${(100 * (to - from + 1)) / steps.length}%`;
    const span = steps.slice(from, to + 1);
    ends.hidden = true;
    readout.textContent = span.length === 1 ? `${moment(span[0].start)}: ${words(span[0])}` : `${moment(span[0].start)} to ${moment(span.at(-1).end)}`;
  }
  function unmark() { brush.hidden = true; from = to = null; readout.textContent = ""; ends.hidden = false; }
  function choose() { if (from !== null) onBrush(steps[from].start, steps[to].end); }
  const at = (event) => {
    const box = plot.getBoundingClientRect();
    return Math.min(steps.length - 1, Math.max(0, Math.floor((steps.length * (event.clientX - box.left)) / box.width)));
  };

  let pressed = null;
  plot.addEventListener("pointermove", (event) => { if (steps.length) mark(pressed ?? at(event), at(event)); });
  plot.addEventListener("pointerleave", () => { if (pressed === null) unmark(); });
  plot.addEventListener("pointerdown", (event) => {
    if (!steps.length || event.button !== 0) return;
    pressed = at(event);
    plot.setPointerCapture(event.pointerId);
    mark(pressed, pressed);
  });
  plot.addEventListener("pointerup", () => { if (pressed !== null) { pressed = null; choose(); } });
  plot.addEventListener("pointercancel", () => { pressed = null; unmark(); });
  plot.addEventListener("blur", unmark);
  let anchor = 0;
  plot.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (way && steps.length) {
      event.preventDefault();
      if (from === null) { anchor = steps.length - 1; mark(anchor, anchor); }
      else if (event.shiftKey) mark(anchor, (anchor === from ? to : from) + way);
      else { anchor = Math.max(0, Math.min(steps.length - 1, (anchor === from ? to : from) + way)); mark(anchor, anchor); }
    } else if (event.key === "Enter") choose();
    else if (event.key === "Escape") unmark();
  });

  return {
    element,
    show(next, href) {
      steps = next;
      const shown = figure(next);
      total.textContent = shown;
      total.href = href;
      total.setAttribute("aria-label", `${title}: ${shown}. Show the traces`);
      const most = Math.max(...next.map((step) => Math.max(value(step) ?? 0, tick(step) ?? 0)), 0);
      const marks = most > 0 ? ticks(0, most, 2, unit) : [];
      const top = marks.at(-1) ?? 1;
      put(scaleOf, marks.map((mark) => h("span", { style: { bottom: `${(100 * mark) / top}%` } }, axis(mark))));
      drawing.setAttribute("viewBox", `0 0 ${next.length * 10} ${HEIGHT}`);
      put(drawing, marks.slice(1).map((mark) => svg("line", { class: "tl-chart-grid", x1: 0, x2: next.length * 10, y1: HEIGHT - scale(mark, top), y2: HEIGHT - scale(mark, top) })), next.map((step, n) => bars(step, n, top)));
      first.textContent = next.length ? moment(next[0].start) : "";
      last.textContent = next.length ? moment(next.at(-1).end) : "";
      if (from !== null && pressed === null && document.activeElement !== plot) unmark();
    },
  };

  function scale(v, top) { return v ? Math.max(2, (v / top) * (HEIGHT - 2)) : 0; }

  function bars(step, n, top) {
    const whole = scale(value(step), top);
    const failed = Math.min(whole, scale(bad(step), top));
    const part = Math.min(whole - failed, scale(partly(step), top));
    const high = tick(step);
    return [
      svg("rect", { class: "tl-bar-base", x: n * 10 + 1, y: HEIGHT - 1, width: 8, height: 1 }),
      whole > 0 ? svg("rect", { class: "tl-bar", x: n * 10 + 1, y: HEIGHT - whole, width: 8, height: whole - failed }) : null,
      part > 0 ? svg("rect", { class: "tl-bar-partly", x: n * 10 + 1, y: HEIGHT - failed - part, width: 8, height: part }) : null,
      failed > 0 ? svg("rect", { class: "tl-bar-bad", x: n * 10 + 1, y: HEIGHT - failed, width: 8, height: failed }) : null,
      high ? svg("rect", { class: "tl-bar-tick", x: n * 10 + 1, y: HEIGHT - scale(high, top), width: 8, height: 2 }) : null,
    ];
  }

  /** A time, as precise as the steps. */
  function moment(text) {
    const date = new Date(text);
    const today = new Date().toDateString() === date.toDateString();
    const fine = steps.length > 0 && Date.parse(steps[0].end) - Date.parse(steps[0].start) < 60_000;
    return date.toLocaleString(undefined, { ...(today ? {} : { month: "short", day: "numeric" }), hour: "2-digit", minute: "2-digit", ...(fine ? { second: "2-digit" } : {}) });
  }
}
