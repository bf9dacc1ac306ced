// The part of the filter language that an exported page understands: comparisons of a trace's own fields, `in`, and, or, not.
// It is parsed here and never evaluated as code. The lab itself understands more (store/filters).

const ALIASES = { cost: "cost_usd", duration: "duration_ms", agent: "agent_path", agents: "agent_path", thread: "thread_id", id: "trace_id", errors: "n_errors" };
const TOKEN = /\s*(?:(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(==|!=|<=|>=|<|>|\(|\))|([A-Za-z_]\w*))/gy;
const NEXT = "In the lab, every filter works; this page understands comparisons like model == \"x\" and cost > 0.01.";

/** `row => boolean`. Throws an Error with `.nextStep` for what it does not understand. */
export function compile(text, fields) {
  const tokens = tokenize(text);
  if (!tokens.length) return () => true;
  let at = 0;
  const peek = () => tokens[at]?.text;
  const take = (wanted) => (peek() === wanted ? tokens[at++] : null);

  const either = () => { let left = both(); while (take("or")) { const a = left; const b = both(); left = (row) => a(row) || b(row); } return left; };
  const both = () => { let left = not(); while (take("and")) { const a = left; const b = not(); left = (row) => a(row) && b(row); } return left; };
  const not = () => { if (take("not")) { const inner = not(); return (row) => !inner(row); } return comparison(); };
  const comparison = () => {
    if (take("(")) { const inner = either(); if (!take(")")) refuse("A bracket is not closed."); return inner; }
    let left = value();
    const tests = [];
    for (;;) {
      const sign = operator();
      if (!sign) break;
      const right = value();
      const [a, b] = [left, right];
      tests.push((row) => sign(a(row), b(row)));
      left = right;
    }
    if (!tests.length) refuse("A condition is missing after a value.");
    return (row) => tests.every((test) => test(row));
  };
  const operator = () => {
    if (take("in")) return (a, b) => b !== null && String(b).includes(String(a));
    if (peek() === "not" && tokens[at + 1]?.text === "in") { at += 2; return (a, b) => b !== null && !String(b).includes(String(a)); }
    const sign = peek();
    const tests = { "==": (a, b) => a !== null && a === b, "!=": (a, b) => a !== null && a !== b, "<": (a, b) => a !== null && b !== null && a < b, "<=": (a, b) => a !== null && b !== null && a <= b, ">": (a, b) => a !== null && b !== null && a > b, ">=": (a, b) => a !== null && b !== null && a >= b };
    if (!Object.hasOwn(tests, sign ?? "")) return null;
    at += 1;
    return tests[sign];
  };
  const value = () => {
    const token = tokens[at];
    if (!token) refuse("The filter ends too early.");
    at += 1;
    if (token.kind === "number") return () => Number(token.text);
    if (token.kind === "string") return () => token.value;
    const name = ALIASES[token.text] ?? token.text;
    if (token.kind !== "name" || !fields.includes(name)) refuse(`There is no field ${JSON.stringify(token.text)} here.`);
    return (row) => row[name] ?? null;
  };
  const result = either();
  if (at < tokens.length) refuse(`${JSON.stringify(peek())} is not understood at this place.`);
  return result;
}

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
