// The rows of a waterfall on the screen. There are only as many as fit; each is filled anew as the list moves below them.

import { h, safeText } from "../shared/dom.js";
import { cost, duration, short } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { endOf } from "./span_tree.js";

export const KIND_WORDS = {
  agent: "Agent", generation: "Generation", tool: "Tool", handoff: "Handoff", guardrail: "Guardrail",
  retrieval: "Retrieval", task: "Task", turn: "Turn", other: "Step",
};

/** Deep levels move in less and less: 14 px each, then 8, then 3. */
export function indent(depth) {
  return 14 * Math.min(depth, 5) + 8 * Math.min(Math.max(depth - 5, 0), 6) + 3 * Math.min(Math.max(depth - 11, 0), 20);
}

/** An empty row: its element, and its parts to fill. */
export function makeRow(id) {
  const toggle = h("span", { class: "tl-wf-toggle" }, icon("chevron", null, 10));
  const kind = h("span", { class: "tl-wf-kind" });
  const name = h("bdi", { dir: "auto", class: "tl-clip tl-wf-label" });
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
  return { element, nameCell, toggle, kind, name, sign, more, bar, tick, path, time, tokens, price, kindShown: null };
}

/** Fill a row with span `i`. `view` is the waterfall's state. */
export function fillRow(row, i, index, view) {
  const { spans, tree, scale, viewport, width, now } = view;
  const kind = spans.kinds[spans.kind[i]];
  const status = spans.statuses[spans.status[i]];
  const isParent = tree.first[i] >= 0;
  const isOpen = isParent && !view.collapsed.has(i);
  const { element } = row;
  if (row.kindShown !== kind) {
    row.kindShown = kind;
    element.className = `tl-wf-row tl-kind-${kind}`;
    row.kind.replaceChildren(icon(kind, KIND_WORDS[kind]));
  }
  element.setAttribute("aria-rowindex", index + 2);
  element.setAttribute("aria-level", tree.depth[i] + 1);
  if (isParent) element.setAttribute("aria-expanded", isOpen); else element.removeAttribute("aria-expanded");
  element.setAttribute("aria-selected", view.selected === i);
  element.classList.toggle("tl-is-match", view.matches?.has(i) ?? false);
  element.classList.toggle("tl-is-dim", view.matches !== null && !view.matches.has(i));
  element.classList.toggle("tl-is-parent", isParent);
  element.classList.toggle("tl-is-error", status === "error");
  element.classList.toggle("tl-is-pending", status === "pending");
  row.nameCell.style.paddingLeft = `${4 + Math.min(indent(tree.depth[i]), view.nameWidth * 0.5)}px`;
  row.toggle.hidden = !isParent;
  const text = safeText(spans.word("name", i) ?? kind);
  row.name.textContent = text.length > 300 ? `${text.slice(0, 300)}…` : text;
  const agent = spans.word("agent", i);
  row.nameCell.title = safeText(`${KIND_WORDS[kind]}: ${text.slice(0, 300)}${agent && agent !== text ? ` (${agent.slice(0, 100)})` : ""}`);
  row.sign.hidden = status !== "error" && (isOpen || !tree.sums.errors[i]);
  const hidden = isParent && !isOpen ? tree.last[i] - tree.place[i] : 0;
  row.more.hidden = !hidden;
  row.more.textContent = hidden ? `+${hidden.toLocaleString("en")}` : "";

  const end = endOf(spans, i, now);
  const k = width / (viewport.to - viewport.from);
  const from = (scale.to(spans.start[i]) - viewport.from) * k;
  const to = (scale.to(end) - viewport.from) * k;
  // Bars far outside would be millions of pixels long; their ends need not be where nobody sees them.
  const left = Math.max(from, -20);
  const size = Math.max(2, Math.min(to, width + 20) - left);
  const away = to < -1 || from > width + 1;
  row.bar.hidden = away;
  row.bar.style.transform = `translateX(${left}px)`;
  row.bar.style.width = `${size}px`;
  const ttft = spans.ttft_ms[i];
  const tickAt = ttft === ttft ? (scale.to(Math.min(spans.start[i] + ttft, end)) - viewport.from) * k - left : -1;
  row.tick.hidden = !(tickAt > 1 && tickAt < size - 1);
  row.tick.style.width = `${Math.max(0, tickAt)}px`;
  row.path.hidden = away || !view.path?.has(i);
  row.path.style.transform = `translateX(${left}px)`;
  row.path.style.width = `${size}px`;

  row.time.textContent = status === "pending" ? `${duration(end - spans.start[i])} …` : duration(end - spans.start[i]);
  const sums = tree.sums;
  row.tokens.textContent = sums.tokens[i] === sums.tokens[i] ? short(sums.tokens[i]) : "";
  row.price.textContent = sums.cost[i] === sums.cost[i] ? cost(sums.cost[i]) : "";
}
