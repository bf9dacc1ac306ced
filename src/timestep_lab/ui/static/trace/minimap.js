// The whole trace in 40 pixels: a lane per depth, and a window that can be dragged or redrawn.

import { h, perFrame } from "../shared/dom.js";
import { endOf } from "./span_tree.js";

const LANES = 9;
const HEIGHT = 40;

/** `{element, draw(spans, tree, scale, now), place()}` over a `Viewport`. */
export function minimap(viewport) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const brush = h("div", { class: "tl-map-brush" }, h("i", { class: "tl-map-edge" }), h("i", { class: "tl-map-edge tl-map-right" }));
  const element = h("div", { class: "tl-map", title: "Drag to select a time range, double-click to reset" }, canvas, brush);
  let shown = null;

  const place = () => {
    const { from, to, length } = viewport;
    brush.hidden = viewport.isWhole;
    brush.style.left = `${(from / length) * 100}%`;
    brush.style.width = `${((to - from) / length) * 100}%`;
  };

  const paint = perFrame(() => {
    const width = element.clientWidth;
    if (!shown || !width) return;
    const { spans, tree, scale, now } = shown;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = HEIGHT * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(element);
    const colours = spans.kinds.map((kind) => style.getPropertyValue(`--tl-${kind === "task" || kind === "turn" ? "other" : kind}`));
    const bad = style.getPropertyValue("--tl-bad");
    const lanes = rasterise(spans, tree, scale, now, width);
    const lane = Math.min(6, (HEIGHT - 4) / (lanes.deepest + 1));
    for (let d = 0; d <= lanes.deepest; d += 1) {
      let begin = 0;
      for (let x = 1; x <= width; x += 1) {
        const was = lanes.cells[d * width + x - 1];
        if (x < width && lanes.cells[d * width + x] === was) continue;
        if (was) {
          context.fillStyle = was === 255 ? bad : colours[was - 1];
          context.fillRect(begin, 2 + d * lane, x - begin, Math.max(1, lane - 1));
        }
        begin = x;
      }
    }
  });

  new ResizeObserver(paint).observe(element);
  follow(element, viewport);
  return {
    element,
    place,
    draw(spans, tree, scale, now) { shown = { spans, tree, scale, now }; paint(); place(); },
    repaint: paint,
  };
}

/** One cell per pixel and lane: 0, 1 + kind, or 255 for an error. Each pixel is filled once, however many spans cover it. */
function rasterise(spans, tree, scale, now, width) {
  const cells = new Uint8Array(LANES * width);
  const failed = spans.statuses.indexOf("error");
  const k = width / scale.length;
  let deepest = 0;
  for (let i = 0; i < spans.n; i += 1) {
    const d = Math.min(tree.depth[i], LANES - 1);
    if (d > deepest) deepest = d;
    const a = Math.min(width - 1, Math.max(0, Math.floor(scale.to(spans.start[i]) * k)));
    const b = Math.min(width, Math.max(a + 1, Math.round(scale.to(endOf(spans, i, now)) * k)));
    const value = spans.status[i] === failed && tree.first[i] < 0 ? 255 : spans.kind[i] + 1;
    const base = d * width;
    if (value === 255) cells.fill(255, base + a, base + b);
    else for (let x = base + a; x < base + b; x += 1) if (!cells[x]) cells[x] = value;
  }
  return { cells, deepest };
}

function follow(element, viewport) {
  const at = (event) => {
    const box = element.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * viewport.length;
  };
  element.addEventListener("dblclick", () => viewport.fit());
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    const begin = at(event);
    const { from, to } = viewport;
    const edge = event.target.closest(".tl-map-edge");
    const fixed = edge ? (edge.classList.contains("tl-map-right") ? from : to) : null;
    const inside = !viewport.isWhole && begin >= from && begin <= to;
    const move = (next) => {
      const now = at(next);
      if (fixed !== null) viewport.show(fixed, now);
      else if (inside) viewport.show(from + now - begin, to + now - begin);
      else if (Math.abs(now - begin) > viewport.length / 200) viewport.show(begin, now);
    };
    const end = () => { element.removeEventListener("pointermove", move); element.removeEventListener("pointerup", end); element.removeEventListener("pointercancel", end); };
    element.setPointerCapture(event.pointerId);
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerup", end);
    element.addEventListener("pointercancel", end);
  });
}
