// Two texts with their differing words marked.

import { h, safeText } from "../shared/dom.js";

const MOST = 600;

/** `[left, right, alike]`: two elements, and how much of their words both have, from 0 to 1. Beyond 600 words only the common beginning and end are recognised. */
export function wordDiff(left, right) {
  const a = words(left);
  const b = words(right);
  let begin = 0;
  while (begin < a.length && begin < b.length && a[begin] === b[begin]) begin += 1;
  let tail = 0;
  while (tail < a.length - begin && tail < b.length - begin && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const [keptA, keptB] = common(a.slice(begin, a.length - tail), b.slice(begin, b.length - tail));
  const side = (all, kept) => h("bdi", { class: "tl-diff-text", dir: "auto" }, runs(all, (k) => k < begin || k >= all.length - tail || kept.has(k - begin)));
  const nWords = (list) => list.filter((word) => word.trim()).length;
  const both = nWords(a.slice(0, begin)) + nWords(a.slice(a.length - tail)) + nWords([...keptA].map((k) => a[begin + k]));
  return [side(a, keptA), side(b, keptB), (2 * both) / Math.max(1, nWords(a) + nWords(b))];
}

const words = (text) => safeText(text).match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];

/** Longest common subsequence: the words of each side that the other has, too. */
function common(a, b) {
  const keptA = new Set();
  const keptB = new Set();
  if (!a.length || !b.length || a.length > MOST || b.length > MOST) return [keptA, keptB];
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) { keptA.add(i); keptB.add(j); i += 1; j += 1; } else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i += 1; else j += 1;
  }
  return [keptA, keptB];
}

function runs(all, isKept) {
  const out = [];
  for (let k = 0; k < all.length;) {
    const kept = isKept(k);
    let text = "";
    while (k < all.length && isKept(k) === kept) { text += all[k]; k += 1; }
    out.push(kept ? text : h("mark", {}, text));
  }
  return out;
}
