// The filter language in an exported page: comparisons, `in`, `is None`, and, or, not, string methods, and any(…)/all(…) over spans,
// their parents and children. It is parsed and never evaluated as code. The lab itself supports more (store/filters).

// The type of a field determines its comparisons, as in store/filters/suggestions.py: times with times, never text with text.
export const TRACE_KINDS = kinds({
  text: "trace_id thread_id end_user workflow agent_path model status input output outcome source tags failed_tools error_types", time: "started_at ended_at",
  number: "duration_ms n_spans n_errors turns input_tokens output_tokens cost_usd ttft_ms",
});
export const SPAN_KINDS = kinds({
  text: "trace_id span_id parent_id kind name agent status error model provider stop_reason server approval to_agent input output", time: "started_at ended_at",
  number: "duration_ms input_tokens output_tokens cached_tokens reasoning_tokens cost_usd queue_ms rate_limit_ms ttft_ms",
});
export const TRACE_CHOICES = {
  status: ["running", "completed", "stopped", "failed", "cancelled", "interrupted", "needs_approval"],
  outcome: ["done", "steps_failed", "failed", "running", "waiting", "stopped", "cancelled", "interrupted"], source: ["live", "evaluation", "imported"],
};
export const TRACE_LISTS = { agents: " → ", failed_tools: "\n", error_types: "\n", tags: "\n" };
export const SPAN_CHOICES = {
  kind: ["agent", "generation", "tool", "handoff", "guardrail", "retrieval", "embedding", "task", "turn", "other"],
  status: ["pending", "ok", "error", "rejected"], approval: ["not_needed", "approved", "rejected", "pending"],
};
export const TRACE_WORDS = {
  status: { done: "completed", "needs approval": "needs_approval" }, outcome: { completed: "done", "steps failed": "steps_failed", needs_approval: "waiting" }, source: { evaluations: "evaluation" },
};
export const SPAN_WORDS = { status: { done: "ok", failed: "error", running: "pending" } };
export const TRACE_ALIASES = { cost: "cost_usd", duration: "duration_ms", agent: "agent_path", agents: "agent_path", thread: "thread_id", id: "trace_id", errors: "n_errors", user: "end_user", first_token: "ttft_ms", ttft: "ttft_ms" };
export const SPAN_ALIASES = { cost: "cost_usd", duration: "duration_ms", id: "span_id", ttft: "ttft_ms" };
const UNITS_US = { s: 1e6, m: 60e6, h: 3600e6, d: 86_400e6, w: 604_800e6 };
const ESCAPES = { n: "\n", t: "\t", r: "\r", "\\": "\\", "'": "'", '"': '"' };
const KIND_WORDS = { text: "text", number: "a number", time: "a time", none: "None", any: "an attribute" };
const TOKEN = /\s*(?:(\d+(?:\.\d+)?(?:e[+-]?\d+)?)|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(==|!=|<=|>=|[<>()[\].,-])|([A-Za-z_]\w*))/gy;
const NEXT = "In the lab, every filter works; this page supports comparisons like model == \"x\" and cost > 0.01, and any(s.kind == \"tool\" for s in spans).";
const ISO = /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?(?:(Z)|([+-])(\d\d)(?::?(\d\d))?)?)?$/;
const WORDS = ["and", "or", "not", "in", "is", "for", "if", "None"];

const both = (test) => (a, b) => a !== null && b !== null && typeof a === typeof b && test(a, b);
const TESTS = {
  "==": (a, b) => a === b, "!=": (a, b) => a !== b, "<": both((a, b) => a < b), "<=": both((a, b) => a <= b), ">": both((a, b) => a > b), ">=": both((a, b) => a >= b),
};
const as = (kind, read, more) => Object.assign(read, { kind, ...more });
const holds = (text, part) => typeof text === "string" && typeof part === "string" && text.includes(part);
const METHODS = { startswith: (text, part) => text.startsWith(part), endswith: (text, part) => text.endsWith(part), contains: (text, part) => text.includes(part) };

/**
 * `(row, spans) => boolean` for a trace's row; `spans()` gives its spans, `[{span_id, parent_id, kind, …, attributes}]`.
 * Throws an Error with `.nextStep` for what it does not understand.
 */
export function compile(text, fields) {
  const tokens = tokenize(text);
  if (!tokens.length) return () => true;
  const reader = new Reader(tokens, fields);
  const test = reader.either();
  if (reader.at < tokens.length) refuse(`${JSON.stringify(reader.peek())} is not expected here.`);
  return (row, spans = () => []) => {
    let known = null;
    return test({ "": row }, { all: () => (known ??= new Spans(spans())) });
  };
}

/** The spans of one trace, with their parents and children. */
class Spans {
  constructor(list) {
    this.list = list;
    this.byId = new Map(list.map((span) => [span.span_id, span]));
  }

  parent(span) { return this.byId.get(span?.parent_id) ?? null; }

  children(span) { return this.list.filter((other) => span && other.parent_id === span.span_id); }
}

/** Conditions and values are functions of (rows by name, the trace's spans). */
class Reader {
  constructor(tokens, fields) {
    Object.assign(this, { tokens, fields, at: 0, names: [], now: Date.now() * 1000 });
  }

  peek(ahead = 0) { return this.tokens[this.at + ahead]?.text; }

  isText(ahead = 0) { return this.tokens[this.at + ahead]?.kind === "string"; }

  take(wanted) { return this.peek() === wanted && !this.isText() ? this.tokens[this.at++] : null; }

  need(wanted) { if (!this.take(wanted)) refuse(`${JSON.stringify(wanted)} is missing${this.peek() ? ` before ${JSON.stringify(this.peek())}` : " at the end"}.`); }

  either() { let left = this.both(); while (this.take("or")) { const [a, b] = [left, this.both()]; left = (...c) => a(...c) || b(...c); } return left; }

  both() { let left = this.not(); while (this.take("and")) { const [a, b] = [left, this.not()]; left = (...c) => a(...c) && b(...c); } return left; }

  not() { if (this.take("not")) { const inner = this.not(); return (...c) => !inner(...c); } return this.condition(); }

  condition() {
    if (this.take("(")) { const inner = this.either(); this.need(")"); return inner; }
    if ((this.peek() === "any" || this.peek() === "all") && this.peek(1) === "(") return this.overSpans();
    let left = this.value();
    if (left.isCondition) return left;
    const tests = [];
    for (let step = this.step(left); step; step = this.step(left)) { tests.push(step.test); left = step.right; }
    if (!tests.length) refuse("A comparison is missing after the value.");
    return (...c) => tests.every((test) => test(...c));
  }

  /** One comparison of a chain; null at its end. */
  step(left) {
    if (this.take("is")) {
      const not = this.take("not");
      this.need("None");
      return { test: (...c) => (left(...c) === null) !== Boolean(not), right: left };
    }
    const negated = !this.isText() && this.peek() === "not" && this.peek(1) === "in";
    if (negated) this.at += 1;
    if (this.take("in")) {
      const open = this.take("(") ?? this.take("[");
      if (!open) {
        // For a field with several words, a whole one.
        const between = this.isText() ? undefined : TRACE_LISTS[this.peek()];
        const right = needText(this.value());
        needText(left);
        if (between) return { test: (...c) => (right(...c) ?? "").split(between).includes(left(...c)) !== negated, right };
        return { test: (...c) => holds(right(...c), left(...c)) !== negated, right };
      }
      const choices = [];
      while (this.peek() !== ")" && this.peek() !== "]") { const choice = this.value(); choices.push(choice.kind === "none" ? choice : chosen(agreed(choice, left), left)); if (!this.take(",")) break; }
      this.need(open.text === "(" ? ")" : "]");
      return { test: (...c) => { const own = left(...c); return choices.some((choice) => choice(...c) === own) !== negated; }, right: left };
    }
    const sign = this.tokens[this.at]?.kind === "sign" && Object.hasOwn(TESTS, this.peek()) ? this.peek() : null;
    if (!sign) return null;
    this.at += 1;
    const right = this.value();
    const equal = sign === "==" || sign === "!=";
    let [a, b] = [left, right];
    if (left.kind !== "none" && right.kind !== "none") {
      [a, b] = [agreed(left, right), agreed(right, left)];
      if (equal) [a, b] = [chosen(a, b), chosen(b, a)];
    } else if (!equal) refuse(`None cannot be compared with ${sign}.`);
    return { test: (...c) => TESTS[sign](a(...c), b(...c)), right };
  }

  /** `any(… for s in spans if …)`: the expression uses a name that is defined later, so that is looked up first. */
  overSpans() {
    const every = this.tokens[this.at].text === "all";
    this.at += 2;
    const name = this.nameAhead();
    this.names.push(name);
    const wanted = this.either();
    this.need("for");
    this.at += 1;
    this.need("in");
    this.names.pop();
    const source = this.spans();
    this.names.push(name);
    const only = this.take("if") ? this.either() : () => true;
    this.names.pop();
    this.need(")");
    return (rows, trace) => {
      const chosen = source(rows, trace).map((span) => ({ ...rows, [name]: span })).filter((inner) => only(inner, trace));
      return every ? chosen.every((inner) => wanted(inner, trace)) : chosen.some((inner) => wanted(inner, trace));
    };
  }

  nameAhead() {
    for (let at = this.at, depth = 0; at < this.tokens.length && depth >= 0; at += 1) {
      const { kind, text } = this.tokens[at];
      if (kind === "sign") depth += text === "(" ? 1 : text === ")" ? -1 : 0;
      else if (kind === "name" && text === "for" && depth === 0 && this.tokens[at + 1]?.kind === "name") return this.tokens[at + 1].text;
    }
    return refuse("any() and all() iterate over spans.");
  }

  spans() {
    if (this.take("spans")) return (_rows, trace) => trace.all().list;
    const row = this.row();
    this.need("children");
    return (rows, trace) => trace.all().children(row(rows, trace));
  }

  /** `s.` or `s.parent.`, up to the last dot. */
  row() {
    const name = this.tokens[this.at]?.text;
    if (!this.names.includes(name)) refuse(`There are no spans in ${JSON.stringify(name ?? "")}.`);
    this.at += 1;
    this.need(".");
    let ups = 0;
    while (this.peek() === "parent" && this.peek(1) === ".") { this.at += 2; ups += 1; }
    return (rows, trace) => { let span = rows[name]; for (let k = 0; k < ups; k += 1) span = trace.all().parent(span); return span; };
  }

  value() {
    const token = this.tokens[this.at];
    if (!token) refuse("The filter ends too early.");
    if (this.take("None")) return as("none", () => null);
    if (this.take("-")) {
      const number = this.tokens[this.at++];
      if (number?.kind !== "number") refuse("A number is missing after -.");
      return as("number", () => -Number(number.text));
    }
    let value;
    if (token.kind === "number") { this.at += 1; value = as("number", () => Number(token.text)); }
    else if (token.kind === "string") { this.at += 1; value = as("text", () => token.value, { literal: token.value }); }
    else if ((token.text === "ago" || token.text === "now") && this.peek(1) === "(") value = this.moment();
    else if (token.kind === "name" && this.names.includes(token.text)) value = this.spanField();
    else value = this.traceField(token);
    while (this.peek() === "." && !this.isText()) { value = this.method(value); if (value.isCondition) break; }
    return value;
  }

  /** `now()`, `ago("24h")`: relative to when the filter was parsed. */
  moment() {
    const name = this.tokens[this.at].text;
    this.at += 2;
    let before = 0;
    if (name === "ago") {
      const length = this.tokens[this.at++];
      const [, n, unit] = (length?.kind === "string" && /^\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*$/.exec(length.value)) || refuse('ago() takes a duration, for example "24h".');
      before = Number(n) * UNITS_US[unit];
    }
    this.need(")");
    const at = this.now - before;
    return as("time", () => at);
  }

  traceField(token) {
    this.at += 1;
    const name = TRACE_ALIASES[token.text] ?? token.text;
    if (token.kind !== "name" || WORDS.includes(token.text) || !Object.hasOwn(TRACE_KINDS, name) || !this.fields.includes(name)) refuse(`There is no field ${JSON.stringify(token.text)} here.`);
    const read = TRACE_KINDS[name] === "time" ? (rows) => instant(rows[""][name]) : (rows) => rows[""][name] ?? null;
    return as(TRACE_KINDS[name], read, { field: name, choices: TRACE_CHOICES[name], words: TRACE_WORDS[name] });
  }

  spanField() {
    const row = this.row();
    const field = this.tokens[this.at++]?.text ?? refuse("A field of the span is missing.");
    if (field === "attributes") {
      this.need("[");
      const key = this.tokens[this.at++];
      if (key?.kind !== "string") refuse("attributes takes a name in quotes.");
      this.need("]");
      return as("any", (...c) => { const found = row(...c)?.attributes?.[key.value]; return typeof found === "string" || typeof found === "number" ? found : null; });
    }
    const name = SPAN_ALIASES[field] ?? field;
    if (!Object.hasOwn(SPAN_KINDS, name)) refuse(`A span has no field ${JSON.stringify(field)}.`);
    const read = (...c) => {
      const found = row(...c)?.[name] ?? null;
      if (SPAN_KINDS[name] === "time") return instant(found);
      return found !== null && typeof found === "object" ? JSON.stringify(found) : found;
    };
    return as(SPAN_KINDS[name], read, { field: name, choices: SPAN_CHOICES[name], words: SPAN_WORDS[name] });
  }

  method(text) {
    this.need(".");
    const name = this.tokens[this.at++]?.text;
    this.need("(");
    if (name === "lower" || name === "upper") {
      this.need(")");
      needText(text);
      return as("text", (...c) => { const found = text(...c); return typeof found !== "string" ? null : name === "lower" ? found.toLowerCase() : found.toUpperCase(); });
    }
    if (!Object.hasOwn(METHODS, name ?? "")) refuse(`There is no .${name}() here.`);
    needText(text);
    const part = needText(this.value());
    this.need(")");
    const test = (...c) => { const [a, b] = [text(...c), part(...c)]; return typeof a === "string" && typeof b === "string" && METHODS[name](a, b); };
    return Object.assign(test, { isCondition: true });
  }
}

/** Microseconds since 1970 for an ISO 8601 time, UTC unless a zone is given; null if it is not a time. */
function instant(text) {
  const found = typeof text === "string" ? ISO.exec(text) : null;
  if (!found) return null;
  const [year, month, day, hour, minute, second] = found.slice(1, 7).map((part) => Number(part ?? 0));
  const date = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  const isReal = date.getUTCMonth() === month - 1 && date.getUTCDate() === day && date.getUTCHours() === hour && date.getUTCMinutes() === minute && date.getUTCSeconds() === second;
  if (!isReal) return null;
  const offset = (found[9] === "-" ? -60 : 60) * (Number(found[10] ?? 0) * 60 + Number(found[11] ?? 0));
  return (date.getTime() / 1000 - offset) * 1e6 + Number((found[7] ?? "").slice(0, 6).padEnd(6, "0"));
}

/** `value` converted to the type of `other`: a text compared with a time is parsed as a time. */
function agreed(value, other) {
  const pair = [value.kind, other.kind];
  if (pair.includes("any") ? pair.some((kind) => kind === "text" || kind === "number") : value.kind === other.kind) return value;
  if (other.kind === "time" && value.literal !== undefined) {
    const at = instant(value.literal) ?? refuse(`${JSON.stringify(value.literal)} is not a time.`);
    return as("time", () => at);
  }
  if (value.kind === "time" && other.literal !== undefined) return value;
  return refuse(`${KIND_WORDS[value.kind]} cannot be compared with ${KIND_WORDS[other.kind]}.`);
}

/** `value` as stored in the field. Raises an error for a value that the field never has. */
function chosen(value, field) {
  if (value.literal === undefined || !field.choices || field.choices.includes(value.literal)) return value;
  const stored = field.words?.[value.literal.toLowerCase()] ?? refuse(`${field.field} is never ${JSON.stringify(value.literal)}. It is one of: ${field.choices.join(", ")}.`);
  return as("text", () => stored);
}

function needText(value) {
  return value.kind === "text" || value.kind === "any" ? value : refuse(`A text is expected here, not ${KIND_WORDS[value.kind]}.`);
}

function kinds(names) {
  return Object.fromEntries(Object.entries(names).flatMap(([kind, list]) => list.split(" ").map((name) => [name, kind])));
}

/** The contents of a quoted string, as in Python. */
function unquoted(text) {
  return text.slice(1, -1).replace(/\\(.)/g, (whole, sign) => {
    if (/[xuUN0-7abfv]/.test(sign)) refuse(`${JSON.stringify(whole)} is not valid in a string.`);
    return ESCAPES[sign] ?? whole;
  });
}

function tokenize(text) {
  const tokens = [];
  const source = text.trim();
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < source.length) {
    const begin = TOKEN.lastIndex;
    const match = TOKEN.exec(source);
    if (!match) refuse(`${JSON.stringify(source.slice(begin, begin + 12))} is not valid.`);
    const [, number, string, sign, name] = match;
    tokens.push({ kind: number ? "number" : string ? "string" : sign ? "sign" : "name", text: number ?? string ?? sign ?? name, value: string === undefined ? undefined : unquoted(string) });
  }
  return tokens;
}

function refuse(message) {
  throw Object.assign(new Error(message), { nextStep: NEXT });
}
