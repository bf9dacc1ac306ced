// Two traces side by side, aligned by step: what is the same, what changed, and the first difference.

import { data, h, put } from "../shared/dom.js";
import { ago, cost, duration, short, signed } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { latestOnly } from "../shared/link.js";
import { KIND_WORDS, indent } from "./rows.js";
import { outcomeBadge } from "./header.js";
import { wordDiff } from "./word_diff.js";

const PAGE = 400;
const CHANGES = { same: ["", "same"], changed: ["≠", "changed"], only_left: ["−", "only in this trace"], only_right: ["+", "only in the other trace"] };

/** `{element, show(traceId)}`; `onSelect(spanId)` for a step of this trace. */
export function compareView(api, onSelect) {
  const element = h("div", { class: "tl-compare" });
  const [choices, diffs] = [latestOnly(), latestOnly()];
  let onlyChanges = false;
  let answer = null;

  async function show(traceId, other = null) {
    diffs.forget();
    put(element, h("p", { class: "tl-soft" }, "Looking for traces to compare with …"));
    try {
      const { value: others } = await choices(api.call("comparable", { trace_id: traceId }));
      const choice = h("select", { class: "tl-input", "aria-label": "Compare with" }, h("option", { value: "" }, "Compare with …"),
        others.map((row) => h("option", { value: row.trace_id }, `${ago(Date.parse(row.started_at))} · ${row.model ?? "no model"} · ${String(row.input ?? row.workflow ?? "").slice(0, 60)}`)));
      const result = h("div", { class: "tl-compare-result" });
      choice.addEventListener("change", () => { if (choice.value) compare(traceId, choice.value, result); });
      put(element, h("div", { class: "tl-compare-head" }, choice), result);
      if (others.length && !other) put(result, h("p", { class: "tl-soft" }, "Choose another trace to see both step by step: what changed, and where they first went different ways. Those that were asked the same come first."));
      if (!others.length) put(result, h("div", { class: "tl-empty" }, h("h2", {}, "Nothing to compare with yet"), h("p", {}, "Run the same question again, with another model or other instructions. It will be offered here.")));
      if (other) {
        if (!others.some((row) => row.trace_id === other)) choice.append(h("option", { value: other }, "The repaired branch"));
        choice.value = other;
        compare(traceId, other, result);
      }
    } catch (error) {
      problem(element, error);
    }
  }

  async function compare(left, right, into) {
    put(into, h("p", { class: "tl-soft" }, "Aligning …"));
    try {
      answer = (await diffs(api.call("diff", { left, right }))).value;
      draw(into);
    } catch (error) {
      problem(into, error);
    }
  }

  function draw(into) {
    const { left, right, rows } = answer;
    const first = rows.findIndex((row) => row.first_divergence);
    const changes = rows.filter((row) => row.change !== "same").length;
    const filter = h("button", { class: "tl-button", type: "button", "aria-pressed": String(onlyChanges), onclick: () => { onlyChanges = !onlyChanges; draw(into); } }, "Only differences");
    const shown = onlyChanges ? rows.filter((row) => row.change !== "same") : rows;
    put(into,
      first < 0 ? h("div", { class: "tl-notice" }, icon("ok"), "Both traces took the same steps.") : divergence(rows[first], onSelect),
      totals(left, right),
      h("div", { class: "tl-compare-bar" }, h("span", { class: "tl-soft" }, `${rows.length.toLocaleString("en")} steps, ${changes.toLocaleString("en")} differ`), filter),
      table(shown, 0, onSelect));
  }

  return { element, show };
}

function problem(into, error) {
  if (!error.closed) put(into, h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), `${error.message} ${error.nextStep ?? ""}`));
}

function divergence(row, onSelect) {
  const fields = Object.entries(row.fields ?? {});
  return h("section", { class: "tl-divergence" },
    h("h3", {}, icon("path", null, 14), "First difference: ", data(row.name), " ", h("span", { class: "tl-soft" }, CHANGES[row.change][1]),
      row.left ? h("button", { class: "tl-button", type: "button", onclick: () => onSelect(row.left.span_id) }, "Show the step") : null),
    fields.map(([name, [a, b]]) => fieldDiff(name, a, b)));
}

function fieldDiff(name, a, b) {
  const text = (value) => (value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value, null, 1)).slice(0, 20_000);
  const [left, right] = wordDiff(text(a), text(b));
  return h("div", { class: "tl-field-diff" }, h("div", { class: "tl-soft tl-small" }, name), h("div", { class: "tl-side" }, left), h("div", { class: "tl-side" }, right));
}

function totals(left, right) {
  const sum = (row) => (row.input_tokens ?? null) === null ? null : row.input_tokens + (row.output_tokens ?? 0);
  const line = (label, a, b, format) => h("tr", {}, h("th", { scope: "row" }, label), h("td", { class: "tl-num" }, format(a)), h("td", { class: "tl-num" }, format(b)), h("td", { class: "tl-num" }, a === null || b === null || a === undefined || b === undefined ? "" : signed(b - a, format)));
  const head = (row, word) => h("th", { scope: "col" }, word, " ", outcomeBadge(row), h("div", { class: "tl-soft tl-small" }, data(row.model ?? "")));
  return h("table", { class: "tl-totals" }, h("thead", {}, h("tr", {}, h("td", {}), head(left, "This"), head(right, "Other"), h("th", { scope: "col" }, "Change"))),
    h("tbody", {}, line("Duration", left.duration_ms, right.duration_ms, duration), line("Tokens", sum(left), sum(right), short), line("Cost", left.cost_usd, right.cost_usd, cost)));
}

function table(rows, from, onSelect) {
  const body = h("tbody", {});
  const grow = (start) => {
    for (const row of rows.slice(start, start + PAGE)) body.append(line(row, onSelect));
    if (start + PAGE >= rows.length) return;
    const more = h("tr", {}, h("td", { colspan: 6 }, h("button", { class: "tl-more", type: "button" }, `${(rows.length - start - PAGE).toLocaleString("en")} more steps`)));
    more.querySelector("button").addEventListener("click", () => { more.remove(); grow(start + PAGE); });
    body.append(more);
  };
  grow(from);
  const head = ["Step", "This", "Other", "Time", "Tokens", "Cost"].map((word, k) => h("th", { scope: "col", class: k ? "tl-wf-number" : null }, k > 2 ? `Δ ${word.toLowerCase()}` : word));
  return h("div", { class: "tl-table-box", tabindex: 0, role: "region", "aria-label": "Steps compared" }, h("table", { class: "tl-steps" }, h("thead", {}, h("tr", {}, head)), body));
}

function line(row, onSelect) {
  const kind = row.kind in KIND_WORDS ? row.kind : "other";
  const [sign, word] = CHANGES[row.change];
  const delta = (field, format) => (row.left && row.right && typeof row.left[field] === "number" && typeof row.right[field] === "number" ? signed(row.right[field] - row.left[field], format) : "");
  const tokens = (side) => (side && typeof side.input_tokens === "number" ? side.input_tokens + (side.output_tokens ?? 0) : null);
  const [a, b] = [tokens(row.left), tokens(row.right)];
  const name = h("bdi", { class: "tl-clip" }, row.name);
  return h("tr", { class: `tl-kind-${kind} tl-change-${row.change}${row.first_divergence ? " tl-is-first" : ""}` },
    h("th", { scope: "row", style: { paddingLeft: `${8 + indent(row.depth)}px` } }, h("span", { class: "tl-step-name" }, h("span", { class: "tl-change" }, sign, h("span", { class: "tl-sr" }, word)), h("span", { class: "tl-wf-kind" }, icon(kind, KIND_WORDS[kind])),
      row.left ? h("button", { class: "tl-link", type: "button", onclick: () => onSelect(row.left.span_id) }, name) : name,
      row.change === "changed" ? h("span", { class: "tl-soft tl-small" }, Object.keys(row.fields ?? {}).join(", ")) : null)),
    h("td", { class: "tl-num" }, row.left ? duration(row.left.duration_ms) : ""), h("td", { class: "tl-num" }, row.right ? duration(row.right.duration_ms) : ""),
    h("td", { class: "tl-num" }, delta("duration_ms", duration)), h("td", { class: "tl-num" }, a !== null && b !== null ? signed(b - a, short) : ""), h("td", { class: "tl-num" }, delta("cost_usd", cost)));
}
