// The structure of a trace, computed from its columns: order, depth, branch totals, critical path. Pure functions of arrays.

/** `{order, depth, last, place, first, next, parent, sums, end}`: rows in depth-first order of start; `last[row]` is the place of its branch's last row. */
export function buildTree(spans, trace = null) {
  const { n, start } = spans;
  const byStart = sortedByStart(start, n);
  const parent = Int32Array.from(spans.parent);
  const first = new Int32Array(n).fill(-1);
  const next = new Int32Array(n).fill(-1);
  let roots = -1;
  for (let k = n - 1; k >= 0; k -= 1) {
    const i = byStart[k];
    const p = parent[i];
    if (p < 0 || p === i) { next[i] = roots; roots = i; } else { next[i] = first[p]; first[p] = i; }
  }
  const order = new Int32Array(n);
  const depth = new Uint16Array(n);
  const place = new Int32Array(n).fill(-1);
  const last = new Int32Array(n);
  let at = 0;
  const walk = (root) => {
    let i = root;
    let level = 0;
    for (;;) {
      order[at] = i; place[i] = at; depth[i] = Math.min(level, 65535); at += 1;
      if (first[i] >= 0) { i = first[i]; level += 1; continue; }
      last[i] = at - 1;
      while (i !== root && next[i] < 0) { i = parent[i]; level -= 1; last[i] = at - 1; }
      if (i === root) { last[i] = at - 1; return; }
      i = next[i];
    }
  };
  for (let root = roots; root >= 0; root = next[root]) walk(root);
  // Parents that form a cycle are unreachable from any root: cut the cycle at its earliest span.
  for (let k = 0; at < n && k < n; k += 1) {
    const i = byStart[k];
    if (place[i] >= 0) continue;
    detach(i, parent, first, next);
    walk(i);
  }
  const sums = sumBranches(spans, order, parent);
  const sole = trace === null ? -1 : soleRoot(order, depth);
  if (sole >= 0) sumsOfTrace(sums, sole, trace);
  return { order, depth, place, last, first, parent, sole, children: (i) => children(i, first, next), roots: () => rootsOf(order, depth), sums };
}

/** The single root row; -1 if there are several. */
function soleRoot(order, depth) {
  let found = -1;
  for (const i of order) {
    if (depth[i] !== 0) continue;
    if (found >= 0) return -1;
    found = i;
  }
  return found;
}

/** The root row uses the trace's own times, including the time before the first step. */
function sumsOfTrace(sums, root, { input_tokens: input, output_tokens: output, cost_usd: usd, duration_ms: took }) {
  const known = (value) => value !== null && value !== undefined;
  if (known(input) || known(output)) sums.tokens[root] = (input ?? 0) + (output ?? 0);
  if (known(usd)) sums.cost[root] = usd;
  if (known(took) && sums.to[root] === sums.to[root]) sums.from[root] = sums.to[root] - took;
}

function sortedByStart(start, n) {
  const rows = new Int32Array(n);
  let sorted = true;
  for (let i = 0; i < n; i += 1) { rows[i] = i; if (i && start[i] < start[i - 1]) sorted = false; }
  return sorted ? rows : rows.sort((a, b) => start[a] - start[b] || a - b);
}

function detach(i, parent, first, next) {
  const p = parent[i];
  if (first[p] === i) first[p] = next[i];
  else for (let j = first[p]; j >= 0; j = next[j]) if (next[j] === i) { next[j] = next[i]; break; }
  parent[i] = -1;
  next[i] = -1;
}

function* children(i, first, next) {
  for (let j = first[i]; j >= 0; j = next[j]) yield j;
}

function rootsOf(order, depth) {
  const roots = [];
  for (const i of order) if (depth[i] === 0) roots.push(i);
  return roots;
}

/**
 * Of each branch: tokens and cost as the whole trace counts them (what a step says of itself stands for all below it; NaN where none is
 * known), its errors, and when the first of it began and the last ended.
 */
function sumBranches(spans, order, parent) {
  const { n } = spans;
  const sums = { input: new Float64Array(n).fill(NaN), output: new Float64Array(n).fill(NaN), cost: new Float64Array(n).fill(NaN) };
  const own = { input: spans.input_tokens, output: spans.output_tokens, cost: spans.cost_usd };
  const tokens = new Float64Array(n);
  const errors = new Uint32Array(n);
  const from = Float64Array.from(spans.start);
  const to = Float64Array.from(spans.end);
  const failed = spans.statuses.indexOf("error");
  for (let k = n - 1; k >= 0; k -= 1) {
    const i = order[k];
    const p = parent[i];
    for (const name of ["input", "output", "cost"]) {
      if (own[name][i] === own[name][i]) sums[name][i] = own[name][i];
      if (p >= 0) sums[name][p] = plus(sums[name][p], sums[name][i]);
    }
    tokens[i] = plus(sums.input[i], sums.output[i]);
    errors[i] += spans.status[i] === failed ? 1 : 0;
    if (p < 0) continue;
    errors[p] += errors[i];
    if (from[i] < from[p]) from[p] = from[i];
    // A running step has no end yet, and neither do its ancestors.
    if (to[p] === to[p] && !(to[i] <= to[p])) to[p] = to[i];
  }
  return { tokens, cost: sums.cost, errors, from, to };
}

const plus = (a, b) => (a !== a ? b : b !== b ? a : a + b);

/** The end of a branch; a pending span extends to `now` (milliseconds from t0). */
export function endOf(spans, i, now) {
  const end = spans.end[i];
  return end === end ? end : Math.max(now, spans.start[i]);
}

/**
 * The chain of spans that decided when the trace ended: from the end backwards, each time the child that ended last.
 * A Set of rows.
 */
export function criticalPath(spans, tree, now) {
  const path = new Set();
  const stack = [[tree.roots(), Infinity]];
  while (stack.length) {
    const [siblings, until] = stack.pop();
    const byEnd = siblings.map((i) => [Math.min(endOf(spans, i, now), until), i]).sort((a, b) => b[0] - a[0]);
    let cursor = until;
    for (const [end, i] of byEnd) {
      if (end > cursor || spans.start[i] >= cursor) continue;
      path.add(i);
      stack.push([[...tree.children(i)], end]);
      cursor = spans.start[i];
    }
  }
  return path;
}
