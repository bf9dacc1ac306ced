// Maps time to position. Long idle periods (such as waiting for an approval) can be folded to leave room for activity.

import { endOf } from "./span_tree.js";

const FOLD_SHARE = 0.12;
const FOLDED_TO = 0.025;

/**
 * `{length, to(ms), from(place), folds: [{from, to, ms, next}], end}` in milliseconds from t0, `next` the row that ends the wait; `to` and `from` are the inverse of each other.
 * With `fold`, idle stretches longer than 12 % of the whole (and 300 ms) shrink to 2.5 % of the rest. `isWaiting`: for a person, and what is
 * open does nothing meanwhile; the wait is the last fold, whose `next` is -1.
 */
export function makeScale(spans, tree, { fold, now, end, isWaiting = false }) {
  let total = end ?? 0;
  if (end === undefined) for (let i = 0; i < spans.n; i += 1) total = Math.max(total, endOf(spans, i, now));
  total = Math.max(total, 1e-3);
  const gaps = fold ? idleGaps(spans, tree, now, total, isWaiting) : [];
  const busy = total - gaps.reduce((sum, [a, b]) => sum + (b - a), 0);
  const width = busy * FOLDED_TO;
  const folds = [];
  let saved = 0;
  for (const [from, to, next] of gaps) {
    folds.push({ from, to, ms: to - from, next, at: from - saved, width });
    saved += to - from - width;
  }
  return {
    end: total,
    length: total - saved,
    folds,
    to(ms) {
      let shift = 0;
      for (const f of folds) {
        if (ms <= f.from) break;
        if (ms < f.to) return f.at + ((ms - f.from) / f.ms) * f.width;
        shift += f.ms - f.width;
      }
      return ms - shift;
    },
    from(place) {
      let shift = 0;
      for (const f of folds) {
        if (place <= f.at) break;
        if (place < f.at + f.width) return f.from + ((place - f.at) / f.width) * f.ms;
        shift += f.ms - f.width;
      }
      return place + shift;
    },
  };
}

/** Periods in which no leaf of the tree runs, each with the leaf that ends it. A running leaf counts as busy. */
export function idleGaps(spans, tree, now, total, isWaiting = false) {
  const least = Math.max(300, total * FOLD_SHARE);
  const gaps = [];
  let busyUntil = 0;
  for (const i of leavesByStart(spans, tree)) {
    if (spans.start[i] - busyUntil > least) gaps.push([busyUntil, spans.start[i], i]);
    busyUntil = Math.max(busyUntil, isWaiting && spans.end[i] !== spans.end[i] ? spans.start[i] : endOf(spans, i, now));
  }
  if (isWaiting && total - busyUntil > least) gaps.push([busyUntil, total, -1]);
  return gaps;
}

function leavesByStart(spans, tree) {
  const leaves = [];
  let sorted = true;
  for (let i = 0; i < spans.n; i += 1) {
    if (tree.first[i] >= 0) continue;
    if (leaves.length && spans.start[i] < spans.start[leaves[leaves.length - 1]]) sorted = false;
    leaves.push(i);
  }
  return sorted ? leaves : leaves.sort((a, b) => spans.start[a] - spans.start[b]);
}

/** Axis steps: 1, 2, 5 times a power of ten in milliseconds, and clock steps above a minute. */
export function ticks(from, to, wanted) {
  const rough = (to - from) / Math.max(1, wanted);
  const clock = [60e3, 120e3, 300e3, 600e3, 1800e3, 3600e3, 7200e3, 21600e3, 86400e3];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = rough > 30e3
    ? clock.find((s) => s >= rough) ?? Math.ceil(rough / 86400e3) * 86400e3
    : [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const out = [];
  for (let at = Math.ceil(from / step) * step; at <= to + step * 1e-6 && out.length < 100; at += step) out.push(at);
  return { step, at: out };
}
