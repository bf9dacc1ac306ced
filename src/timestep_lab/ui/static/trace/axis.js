// Ticks above the bars, grid lines behind them, and marks where idle time is folded.

import { h, put } from "../shared/dom.js";
import { duration } from "../shared/format.js";
import { ticks } from "./time_scale.js";

const LETTER = 7;
/** Padding of a fold's label. */
const PADDING = 8;

/** `{labels, lines, draw(scale, viewport, width, playHead)}`: two layers over the bars. */
export function axis() {
  const labels = h("div", { class: "tl-axis", "aria-hidden": "true" });
  const lines = h("div", { class: "tl-lines", "aria-hidden": "true" });
  return {
    labels,
    lines,
    draw(scale, viewport, width, playHead) {
      const { from, to } = viewport;
      const x = (place) => ((place - from) / (to - from)) * width;
      const folds = scale.folds.filter((f) => f.at + f.width >= from && f.at <= to);
      const wanted = Math.max(2, Math.floor(width / 96));
      // The step fits the unfolded range; ticks inside a fold would only crowd its mark.
      const { step, at } = ticks(scale.from(from), scale.from(from) + (to - from), wanted);
      const last = scale.from(to);
      for (let next = at.length ? at[at.length - 1] + step : step; next <= last && at.length < 400; next += step) at.push(next);
      const marks = foldLabels(folds, x, width);
      const free = [];
      let edge = -Infinity;
      for (const ms of at) {
        if (scale.folds.some((f) => ms > f.from && ms < f.to)) continue;
        const left = x(scale.to(ms));
        const text = ms === 0 ? "0" : tickText(ms, step);
        if (left - edge < 44 || left + LETTER * text.length > width) continue;
        // A fold shows its duration in the same line.
        if (marks.some((mark) => left < mark.at + mark.half && left + LETTER * text.length > mark.at - mark.half)) continue;
        free.push([text, left]);
        edge = left;
      }
      put(labels, free.map(([text, left]) => h("span", { style: { left: `${left}px` } }, text)));
      put(
        lines,
        free.map(([, left]) => h("i", { style: { left: `${left}px` } })),
        folds.map((f) => h("b", { class: "tl-fold", style: { left: `${x(f.at)}px`, width: `${Math.max(6, x(f.at + f.width) - x(f.at))}px` } })),
        playHead === null ? null : h("em", { style: { left: `${x(scale.to(playHead))}px` } }),
      );
      for (const { at, text, title } of marks) labels.append(h("span", { class: "tl-fold-label", style: { left: `${at}px` }, title }, text));
    },
  };
}

/** The text and position of each fold: above its middle, within the axis, and as long as space allows. */
function foldLabels(folds, x, width) {
  const middles = folds.map((f) => x(f.at + f.width / 2));
  return folds.map((f, k) => {
    const took = duration(f.ms);
    const room = Math.min(width, 2 * (middles[k + 1] - middles[k] || Infinity), 2 * (middles[k] - middles[k - 1] || Infinity)) - 4;
    const words = f.next < 0 ? [`waiting ${took} for approval`, `waiting ${took}`, took] : f.wait ? [`waited ${took} for approval`, `waited ${took}`, took] : [took];
    const wide = (text) => LETTER * text.length + 2 * PADDING;
    const text = words.find((one) => wide(one) <= room) ?? took;
    const half = wide(text) / 2;
    const title = f.next < 0 ? `${took} so far` : f.wait ? `${took} until ${f.wait.tool ?? "the call"} was ${f.wait.decision}` : `${took} idle`;
    return { at: Math.min(Math.max(middles[k], half), Math.max(half, width - half)), half, text, title };
  });
}

function tickText(ms, step) {
  if (step >= 60e3 || ms >= 120e3) return duration(ms);
  if (step >= 1000) return `${Math.round(ms / 1000)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(Math.min(4, Math.max(1, Math.ceil(-Math.log10(step / 1000)))))} s`;
  return step >= 1 ? `${Math.round(ms)} ms` : `${ms.toPrecision(3)} ms`;
}
