// The visible rows of a waterfall. Only as many as fit exist, and they are refilled while scrolling.

import { h, safeText } from "../shared/dom.js";
import { cost, duration, short } from "../shared/format.js";
import { icon, turningIcon } from "../shared/icons.js";
import { endOf } from "./span_tree.js";

export const KIND_WORDS = {
  agent: "Agent", generation: "Generation", tool: "Tool", handoff: "Handoff", guardrail: "Guardrail",
  retrieval: "Retrieval", embedding: "Embedding", task: "Task", turn: "Turn", other: "Step",
};

export const ROW = 24;

/** Space for a name in addition to its indent: toggle, icon and a readable word. */
const NAME_ROOM = 132;

/** Indents shrink with depth and stop at eight levels; `room` is the width of the name column. */
export function indent(depth, room) {
  const wanted = 14 * Math.min(depth, 4) + 8 * Math.min(Math.max(depth - 4, 0), 4);
  return Math.min(wanted, Math.max(0, room - NAME_ROOM) * (Math.min(depth, 8) / 8));
}

/** An empty row: its element and the parts to fill. */
export function makeRow(id) {
  const toggle = h("span", { class: "tl-wf-toggle" }, icon("chevron", null, 10));
  const turning = turningIcon();
  const kind = h("span", { class: "tl-wf-kind" }, turning.element);
  const name = h("span", { class: "tl-clip tl-wf-label" });
  const sign = h("span", { class: "tl-wf-sign" }, icon("error", "failed", 13));
  const more = h("span", { class: "tl-wf-more tl-num" });
  const tick = h("i", { class: "tl-wf-tick" });
  const bar = h("div", { class: "tl-wf-bar" }, tick);
  const path = h("i", { class: "tl-wf-path" });
  const time = h("div", { role: "gridcell", class: "tl-num tl-wf-number" });
  const tokens = h("div", { role: "gridcell", class: "tl-num tl-wf-number tl-wf-tokens" });
  const price = h("div", { role: "gridcell", class: "tl-num tl-wf-number tl-wf-cost" });
  const nameCell = h("div", { role: "rowheader", class: "tl-wf-name" }, toggle, kind, name, sign, more);
  const element = h("div", { role: "row", class: "tl-wf-row", id }, nameCell, h("div", { role: "gridcell", class: "tl-wf-bars" }, path, bar), time, tokens, price);
  // Persistent text nodes: changing their text is cheaper than creating new ones.
  const texts = Object.fromEntries(Object.entries({ name, more, time, tokens, price }).map(([key, cell]) => { const node = document.createTextNode(""); cell.append(node); return [key, node]; }));
  return { element, texts, nameCell, toggle, kind, name, sign, more, bar, tick, path, time, tokens, price, turning, shown: {} };
}

/** The tooltip of a row: its full name and its agent. */
export function rowTitle(spans, i) {
  const kind = spans.kinds[spans.kind[i]];
  const name = spans.word("name", i) ?? kind;
  const agent = spans.word("agent", i);
  return safeText(`${KIND_WORDS[kind]}: ${name.slice(0, 300)}${agent && agent !== name ? ` (${agent.slice(0, 100)})` : ""}`);
}

/** What the numbers of a row consist of: its own values, if its children add to them. */
export function numbersTitle(spans, tree, i, now) {
  if (tree.first[i] < 0 && i !== tree.sole) return "";
  const known = (value) => value === value;
  const facts = [spans.untimed.has(i) ? "of unknown duration" : `${duration(endOf(spans, i, now) - spans.start[i])} long`];
  if (known(spans.input_tokens[i]) || known(spans.output_tokens[i])) facts.push(`${short((spans.input_tokens[i] || 0) + (spans.output_tokens[i] || 0))} tokens`);
  if (known(spans.cost_usd[i])) facts.push(cost(spans.cost_usd[i]));
  return `${i === tree.sole ? "The whole trace, from its start" : "With all inside it"}. Itself: ${facts.join(", ")}`;
}

/** Write only changes: a scroll frame touches thirty rows, and attributes trigger style recalculation. */
function write(row, key, value, apply) {
  if (row.shown[key] === value) return;
  row.shown[key] = value;
  apply(value);
}

/** Fill a row with span `i`. `view` is the waterfall's state; during fast scrolling only name and bar are filled. */
export function fillRow(row, i, index, view) {
  const { spans, tree } = view;
  const { element } = row;
  const kind = spans.kinds[spans.kind[i]];
  const status = spans.statuses[spans.status[i]];
  const isParent = tree.first[i] >= 0;
  row.index = index;
  write(row, "top", index, () => { element.style.top = `${index * ROW}px`; });
  write(row, "selected", view.selected === i, (selected) => { element.setAttribute("aria-selected", selected); });
  write(row, "class", view.matches === null ? "" : view.matches.has(i) ? " tl-is-match" : " tl-is-dim", (marks) => { element.className = `tl-wf-row${marks}`; });
  // Classes are set on the affected parts: a class on the row would restyle all its parts.
  write(row, "label class", `${kind === "agent" ? " tl-is-agent" : ""}${status === "error" ? " tl-is-error" : ""}`, (more) => { row.name.className = `tl-clip tl-wf-label${more}`; });
  write(row, "indent", `${4 + indent(tree.depth[i], view.nameRoom)}px`, (left) => { row.nameCell.style.paddingLeft = left; });
  const name = safeText(spans.word("name", i) ?? kind);
  text(row, "name", name.length > 300 ? `${name.slice(0, 300)}…` : name);
  const state = `${isParent ? " tl-is-parent" : ""}${status === "error" ? " tl-is-error" : status === "pending" ? " tl-is-pending" : ""}`;
  write(row, "bar class", kind + state, () => { row.bar.className = `tl-wf-bar tl-kind-${kind}${state}`; });
  fillBar(row, i, view);
  if (!view.isFlung) fillRest(row, i, { view, kind, status, isParent });
}

function fillRest(row, i, { view, kind, status, isParent }) {
  const { spans, tree } = view;
  const isOpen = isParent && !view.collapsed.has(i);
  const attribute = (name, value) => write(row, name, value, () => { if (value === null) row.element.removeAttribute(name); else row.element.setAttribute(name, value); });
  attribute("aria-rowindex", row.index + 2);
  attribute("aria-level", tree.depth[i] + 1);
  attribute("aria-expanded", isParent ? isOpen : null);
  show(row, "toggle", isParent);
  write(row, "toggle class", isOpen, () => { row.toggle.className = `tl-wf-toggle${isOpen ? " tl-is-open" : ""}`; });
  write(row, "icon", kind, () => { row.kind.className = `tl-wf-kind tl-kind-${kind}`; row.turning.turn(kind, KIND_WORDS[kind]); });
  show(row, "sign", status === "error" || (isParent && !isOpen && tree.sums.errors[i] > 0));
  const inside = isParent && !isOpen ? tree.last[i] - tree.place[i] : 0;
  show(row, "more", inside > 0);
  text(row, "more", inside ? `+${inside.toLocaleString("en")}` : "");
  const end = tree.sums.to[i];
  const took = (end === end ? end : Math.max(view.now, spans.start[i])) - tree.sums.from[i];
  const unknown = took === 0 && spans.untimed.has(i);
  text(row, "time", status === "pending" ? `${duration(took)} …` : unknown ? "" : duration(took));
  const { tokens, cost: price } = tree.sums;
  text(row, "tokens", tokens[i] === tokens[i] ? short(tokens[i]) : "");
  text(row, "price", price[i] > 0 ? cost(price[i]) : "");
}

function text(row, key, value) {
  write(row, key, value, () => { row.texts[key].data = value; });
}

function show(row, key, visible) {
  write(row, `${key} hidden`, !visible, (hidden) => { row[key].hidden = hidden; });
}

function fillBar(row, i, { spans, scale, viewport, width, now, path, isFlung }) {
  const end = endOf(spans, i, now);
  const k = width / (viewport.to - viewport.from);
  const from = (scale.to(spans.start[i]) - viewport.from) * k;
  const to = (scale.to(end) - viewport.from) * k;
  // Bars far outside would be millions of pixels wide, so they are clipped.
  const left = Math.max(from, -20);
  const size = Math.max(2, Math.min(to, width + 20) - left);
  const away = to < -1 || from > width + 1;
  show(row, "bar", !away);
  if (!away) place(row, "bar", left, size);
  if (isFlung) return;
  const onPath = !away && (path?.has(i) ?? false);
  show(row, "path", onPath);
  if (onPath) place(row, "path", left, size);
  const ttft = spans.ttft_ms[i];
  const tickAt = ttft === ttft ? (scale.to(Math.min(spans.start[i] + ttft, end)) - viewport.from) * k - left : -1;
  const ticked = !away && tickAt > 1 && tickAt < size - 1;
  show(row, "tick", ticked);
  if (ticked) write(row, "tick at", tickAt, () => { row.tick.style.width = `${tickAt}px`; });
}

function place(row, key, left, size) {
  const { style } = row[key];
  write(row, `${key} left`, left, () => { style.transform = `translateX(${left}px)`; });
  write(row, `${key} size`, size, () => { style.width = `${size}px`; });
}
