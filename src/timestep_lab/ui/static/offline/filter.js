// The filter language in an exported page: comparisons, `in`, `is None`, and, or, not, text methods, and any(…)/all(…) over spans,
// their parents and children. It is parsed here and never evaluated as code. The lab itself understands more (store/filters).

const TRACE_ALIASES = { cost: "cost_usd", duration: "duration_ms", agent: "agent_path", agents: "agent_path", thread: "thread_id", id: "trace_id", errors: "n_errors" };
const SPAN_ALIASES = { cost: "cost_usd", duration: "duration_ms", id: "span_id", ttft: "ttft_ms" };
const TOKEN = /\s*(?:(\d+(?:\.\d+)?(?:e[+-]?\d+)?)|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(==|!=|<=|>=|[<>()[\].,-])|([A-Za-z_]\w*))/gy;
const NEXT = "In the lab, every filter works; this page understands comparisons like model == \"x\" and cost > 0.01, and any(s.kind == \"tool\" for s in spans).";
const WORDS = ["and", "or", "not", "in", "is", "for", "if", "None"];

const both = (test) => (a, b) => a !== null && b !== null && typeof a === typeof b && test(a, b);
const TESTS = {
  "==": (a, b) => a === b, "!=": (a, b) => a !== b, "<": both((a, b) => a < b), "<=": both((a, b) => a <= b), ">": both((a, b) => a > b), ">=": both((a, b) => a >= b),
};
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
  if (reader.at < tokens.length) refuse(`${JSON.stringify(reader.peek())} is not understood at this place.`);
  return (row, spans = () => []) => {
    let known = null;
    return test({ "": row }, { all: () => (known ??= new Spans(spans())) });
  };
}

/** The spans of one trace, and who belongs to whom. */
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
    Object.assign(this, { tokens, fields, at: 0, names: [] });
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
    if (!tests.length) refuse("A condition is missing after a value.");
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
      if (!open) { const right = this.value(); return { test: (...c) => holds(right(...c), left(...c)) !== negated, right }; }
      const choices = [];
      while (this.peek() !== ")" && this.peek() !== "]") { choices.push(this.value()); if (!this.take(",")) break; }
      this.need(open.text === "(" ? ")" : "]");
      return { test: (...c) => { const own = left(...c); return choices.some((choice) => choice(...c) === own) !== negated; }, right: left };
    }
    const sign = this.tokens[this.at]?.kind === "sign" && Object.hasOwn(TESTS, this.peek()) ? this.peek() : null;
    if (!sign) return null;
    this.at += 1;
    const right = this.value();
    return { test: (...c) => TESTS[sign](left(...c), right(...c)), right };
  }

  /** `any(… for s in spans if …)`: what stands first speaks of a name that comes later, so that is looked up before. */
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
    return refuse("any() and all() look at each span.");
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
    if (this.take("None")) return () => null;
    if (this.take("-")) { const inner = this.value(); return (...c) => { const n = inner(...c); return typeof n === "number" ? -n : null; }; }
    let value;
    if (token.kind === "number") { this.at += 1; value = () => Number(token.text); }
    else if (token.kind === "string") { this.at += 1; value = () => token.value; }
    else if (token.kind === "name" && this.names.includes(token.text)) value = this.spanField();
    else value = this.traceField(token);
    while (this.peek() === "." && !this.isText()) { value = this.method(value); if (value.isCondition) break; }
    return value;
  }

  traceField(token) {
    this.at += 1;
    const name = TRACE_ALIASES[token.text] ?? token.text;
    if (token.kind !== "name" || WORDS.includes(token.text) || !this.fields.includes(name)) refuse(`There is no field ${JSON.stringify(token.text)} here.`);
    return (rows) => rows[""][name] ?? null;
  }

  spanField() {
    const row = this.row();
    const field = this.tokens[this.at++]?.text ?? refuse("A field of the span is missing.");
    if (field === "attributes") {
      this.need("[");
      const key = this.tokens[this.at++];
      if (key?.kind !== "string") refuse("attributes takes a name in quotes.");
      this.need("]");
      return (...c) => { const found = row(...c)?.attributes?.[key.value]; return typeof found === "string" || typeof found === "number" ? found : null; };
    }
    const name = SPAN_ALIASES[field] ?? field;
    if (!SPAN_FIELDS.includes(name)) refuse(`There is no field ${JSON.stringify(field)} of a span.`);
    return (...c) => {
      const found = row(...c)?.[name] ?? null;
      return found !== null && typeof found === "object" ? JSON.stringify(found) : found;
    };
  }

  method(text) {
    this.need(".");
    const name = this.tokens[this.at++]?.text;
    this.need("(");
    if (name === "lower" || name === "upper") {
      this.need(")");
      return (...c) => { const found = text(...c); return typeof found !== "string" ? null : name === "lower" ? found.toLowerCase() : found.toUpperCase(); };
    }
    if (!Object.hasOwn(METHODS, name ?? "")) refuse(`There is no .${name}() here.`);
    const part = this.value();
    this.need(")");
    const test = (...c) => { const [a, b] = [text(...c), part(...c)]; return typeof a === "string" && typeof b === "string" && METHODS[name](a, b); };
    return Object.assign(test, { isCondition: true });
  }
}

const SPAN_FIELDS = ["trace_id", "span_id", "parent_id", "kind", "name", "agent", "status", "error", "model", "provider", "started_at", "ended_at", "duration_ms", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_usd", "queue_ms", "rate_limit_ms", "ttft_ms", "stop_reason", "server", "approval", "to_agent", "input", "output"];

function tokenize(text) {
  const tokens = [];
  const source = text.trim();
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < source.length) {
    const begin = TOKEN.lastIndex;
    const match = TOKEN.exec(source);
    if (!match) refuse(`${JSON.stringify(source.slice(begin, begin + 12))} is not understood.`);
    const [, number, string, sign, name] = match;
    tokens.push({ kind: number ? "number" : string ? "string" : sign ? "sign" : "name", text: number ?? string ?? sign ?? name, value: string?.slice(1, -1).replace(/\\(.)/g, "$1") });
  }
  return tokens;
}

function refuse(message) {
  throw Object.assign(new Error(message), { nextStep: NEXT });
}
