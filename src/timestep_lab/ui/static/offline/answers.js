// Answers the calls that Python would, from the data in an exported page.

import { compile } from "./filter.js";

const READ_ONLY = "This page is a copy.";

/** `{snapshot(), call(name, args)}` over the data of ui/html_export.py; replies are `{value, buffers?, ops?}`. */
export function answers(data) {
  const rows = data.rows;
  let query = { filter: "", search: "", source: "", order: "started_at desc", range: "", since: null, until: null, since_s: null };
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const trace = (id) => data.traces[id] ?? refuse("The trace is not included in this page.", "Export it again from the lab.");

  const state = () => {
    const found = sorted(rows.filter(matching(query)), query.order);
    return { query, page: { rows: found, total: found.length, sql: data.sql, after: null }, histogram: buckets(found), facets: facets(found), is_empty: !rows.length, live: false };
  };
  const matching = (wanted) => {
    const fields = rows.length ? Object.keys(rows[0]) : [];
    const passes = compile(wanted.filter, fields);
    const since = wanted.since ? Date.parse(wanted.since) : wanted.since_s ? Date.now() - 1000 * wanted.since_s : -Infinity;
    const until = wanted.until ? Date.parse(wanted.until) : Infinity;
    const words = wanted.search.toLowerCase();
    return (row) => (!wanted.source || row.source === wanted.source) && passes(row, () => spansOf(row.trace_id)) && Date.parse(row.started_at) >= since && Date.parse(row.started_at) < until && (!words || `${row.input ?? ""} ${row.output ?? ""}`.toLowerCase().includes(words));
  };

  // A filter over spans needs all of them: with only some, the result would be wrong.
  const spansOf = (id) => {
    const { value, spans } = trace(id);
    const held = Object.values(spans).map(({ span }) => span);
    return held.length < (value.trace.n_spans ?? 0) ? refuse("A trace here has more steps than the page holds.", "Use the filter in the lab.") : held;
  };

  const known = {
    query(args) {
      const wanted = { ...query, ...args };
      matching(wanted);
      query = wanted;
      return { value: null, ops: [{ kind: "list", ...state() }] };
    },
    trace: ({ trace_id: id }) => ({ value: trace(id).value, buffers: [new DataView(bytes(trace(id).columns))] }),
    span: ({ trace_id: id, span_id: span }) => ({ value: trace(id).spans[span] ?? refuse("This step's contents are not included in this page.", "Open it in the lab.") }),
    conversation: ({ trace_id: id }) => ({ value: trace(id).conversation }),
    graph: ({ trace_id: id }) => ({ value: trace(id).graph }),
    json: ({ trace_id: id }) => ({ value: { trace: trace(id).value.trace, spans: Object.values(trace(id).spans).map(({ span }) => span) } }),
    find: ({ trace_id: id, text }) => ({ value: Object.entries(trace(id).spans).filter(([, { span }]) => JSON.stringify([span.input, span.output, span.error, span.attributes]).toLowerCase().includes(text.toLowerCase())).map(([span]) => span) }),
    graph_all: () => ({ value: data.graph }),
    suggest: () => ({ value: [] }),
    select: () => ({ value: null }),
    views: () => ({ value: [] }),
    more: () => ({ value: { rows: [], after: null } }),
    comparable: () => refuse(`${READ_ONLY} It cannot align traces.`, "Compare them in the lab."),
    score: () => refuse(`${READ_ONLY} It keeps no annotations.`, "Annotate in the lab."),
  };
  return {
    snapshot: () => (data.single ? { value: trace(data.single).value, buffers: [new DataView(bytes(trace(data.single).columns))] } : { value: { ...state(), selected: null, is_live: false } }),
    call: (name, args) => (Object.hasOwn(known, name) ? known[name](args) : refuse(`This page does not support ${name}.`, "Open it in the lab.")),
  };
}

function sorted(rows, order) {
  const [column, way] = order.split(" ");
  const value = (row) => (column === "tokens" ? (row.input_tokens ?? 0) + (row.output_tokens ?? 0) : column === "score" ? mean(Object.values(row.scores ?? {}).filter((one) => typeof one === "number")) : row[column]);
  const sign = way === "asc" ? 1 : -1;
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a) ?? null, value(b) ?? null];
    if (x === null || y === null) return (x === null) - (y === null);
    return x < y ? -sign : x > y ? sign : 0;
  });
}

const mean = (numbers) => (numbers.length ? numbers.reduce((a, b) => a + b, 0) / numbers.length : null);
const MANY = { agent: ["agent_path", " → ", "agents"], failed_tool: ["failed_tools", "\n", "failed_tools"], error_type: ["error_types", "\n", "error_types"], tag: ["tags", "\n", "tags"] };
const ONE = { outcome: "outcome", model: "model", user: "end_user", source: "source" };

/** Counts as in store/trace_stats.py. */
function facets(rows) {
  const counted = (valuesOf, condition) => {
    const counts = new Map();
    for (const row of rows) for (const value of new Set(valuesOf(row))) if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]).slice(0, 20).map(([value, count]) => ({ value, count, filter: condition(JSON.stringify(value)) }));
  };
  return [
    ...Object.entries(ONE).map(([name, column]) => ({ name, values: counted((row) => [row[column]], (value) => `${name} == ${value}`) })),
    ...Object.entries(MANY).map(([name, [column, between, list]]) => ({ name, values: counted((row) => (row[column] ?? "").split(between), (value) => `${value} in ${list}`) })),
  ];
}

function buckets(rows, n = 60) {
  if (!rows.length) return [];
  const times = rows.map((row) => Date.parse(row.started_at));
  const from = Math.min(...times);
  const step = Math.max(1, (Math.max(...times) + 1 - from) / n);
  const bars = Array.from({ length: n }, (_, k) => ({ start: new Date(from + k * step).toISOString(), end: new Date(from + (k + 1) * step).toISOString(), count: 0, failed: 0, steps_failed: 0 }));
  rows.forEach((row, k) => {
    const bar = bars[Math.min(n - 1, Math.floor((times[k] - from) / step))];
    bar.count += 1;
    if (row.outcome === "failed") bar.failed += 1;
    if (row.outcome === "steps_failed") bar.steps_failed += 1;
  });
  return bars;
}

function refuse(message, nextStep) {
  throw Object.assign(new Error(message), { nextStep });
}
