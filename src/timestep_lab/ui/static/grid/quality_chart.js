// Quality against cost or time: a point per candidate, with its interval. Up and to the left is better.

import { h, put, svg } from "../shared/dom.js";
import { cost, duration } from "../shared/format.js";
import { letter } from "./model.js";
import { number } from "./cell.js";

const W = 248;
const H = 178;
const PAD = { left: 44, right: 22, top: 12, bottom: 44 };

/** `{element, show(model, scorer)}`. Uses cost if it is known for all and not zero, else time. */
export function qualityChart() {
  const element = h("figure", { class: "tl-quality", hidden: true });
  return {
    element,
    show(model, scorer) {
      const rows = model.head.summary;
      const perAnswer = rows.map((row) => (row.cost_usd === null || !row.n ? null : row.cost_usd / row.n));
      const byCost = perAnswer.every((value) => value !== null) && perAnswer.some((value) => value > 0);
      const points = rows.map((row, column) => ({ column, name: row.name, x: byCost ? perAnswer[column] : row.latency_ms_p50, ...(row.scores[scorer] ?? { mean: null }) }))
        .filter((point) => point.x !== null && point.mean !== null);
      // The space is reserved while it runs, so that nothing below moves when the chart appears.
      element.hidden = points.length < 2 && !(model.isRunning && model.width > 1);
      element.classList.toggle("tl-is-waiting", points.length < 2);
      if (points.length < 2) put(element, h("figcaption", { class: "tl-small" }, "…"), svg("svg", { width: W, height: H, "aria-hidden": "true" }));
      else put(element, h("figcaption", { class: "tl-small" }, `${scorer} against ${byCost ? "cost of an answer" : "time of an answer"}`), drawing(points, byCost ? cost : duration));
    },
  };
}

function drawing(points, say) {
  const lows = points.map((point) => point.ci_low ?? point.mean);
  const highs = points.map((point) => point.ci_high ?? point.mean);
  const [low, high] = spread(Math.min(...lows), Math.max(...highs));
  const most = Math.max(...points.map((point) => point.x)) * 1.12 || 1;
  const x = (value) => PAD.left + ((W - PAD.left - PAD.right) * value) / most;
  const y = (value) => H - PAD.bottom - ((H - PAD.top - PAD.bottom) * (value - low)) / (high - low);
  const words = points.map((point) => `${point.name}: ${number(point.mean)} at ${say(point.x)}`).join("; ");
  return svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": words },
    [low, (low + high) / 2, high].map((value) => [svg("line", { class: "tl-rule", x1: PAD.left, x2: W - PAD.right, y1: y(value), y2: y(value) }), svg("text", { x: PAD.left - 12, y: y(value) + 4, "text-anchor": "end" }, number(Number(value.toFixed(2))))]),
    svg("text", { x: PAD.left, y: H - 18 }, "0"), svg("text", { x: W - PAD.right, y: H - 18, "text-anchor": "end" }, say(most / 1.12)),
    svg("text", { class: "tl-hint", x: (W + PAD.left - PAD.right) / 2, y: H - 3, "text-anchor": "middle" }, "better: higher and further left"),
    points.map((point) => svg("g", { class: `tl-cand-${(point.column % 8) + 1}` }, svg("title", {}, `${point.name}: ${number(point.mean)} at ${say(point.x)}`),
      point.ci_low === null || point.ci_low === undefined ? null : svg("line", { class: "tl-interval", x1: x(point.x), x2: x(point.x), y1: y(point.ci_low), y2: y(point.ci_high) }),
      svg("circle", { class: "tl-dot", cx: x(point.x), cy: y(point.mean), r: 9 }), svg("text", { class: "tl-dot-letter", x: x(point.x), y: y(point.mean) + 4, "text-anchor": "middle" }, letter(point.column)))));
}

/** Axis limits that leave room around the data and never coincide. */
function spread(low, high) {
  const room = Math.max((high - low) * 0.12, 0.02);
  const within = low >= 0 && high <= 1;
  return [within ? Math.max(0, low - room) : low - room, within ? Math.min(1, high + room) : high + room];
}
