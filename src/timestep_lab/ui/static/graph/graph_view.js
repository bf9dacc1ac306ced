// The handoff graph: agents as cards, handoffs as curves. Declared ones are dashed and grey, observed ones as wide as they are frequent.

import { data, h, put, svg } from "../shared/dom.js";
import { cost, count, duration } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { layout } from "./layout.js";

const CARD = { width: 196, height: 74 };

/**
 * `{element, show(graph), setActive(names, seen)}`. `graph`: `{nodes, edges, labels?}`; with two labels the counts are pairs (`count`, `count_b`).
 * `among`: where it was looked ("in these traces"), if not everywhere: what did not run there may well have run elsewhere.
 */
export function graphView(onNode, { among = null } = {}) {
  const untravelled = among ? `declared, not observed ${among}` : "declared, never observed";
  const element = h("div", { class: "tl-graph", tabindex: 0, role: "region", "aria-label": "Handoff graph" });
  let cards = new Map();
  let curves = [];

  function show({ nodes, edges, labels = null }) {
    cards = new Map();
    if (!nodes.length) {
      put(element, h("div", { class: "tl-empty" }, h("h2", {}, among ? `No agents ${among}` : "No agents yet"), h("p", {}, "Agents that run, and the handoffs between them, appear here.")));
      return;
    }
    const shape = layout(nodes, edges, CARD);
    const most = Math.max(1, ...edges.map((edge) => edge.count + (edge.count_b ?? 0)));
    const size = { width: `${shape.width}px`, height: `${shape.height}px` };
    const lines = svg("svg", { class: "tl-graph-lines", width: shape.width, height: shape.height, "aria-hidden": "true" });
    curves = shape.edges.map((drawn) => curve(drawn, { most, labels, untravelled }));
    for (const { paths } of curves) append(lines, paths);
    const ran = new Set(nodes.filter((node) => node.calls || node.calls_b).map((node) => node.name));
    const boxes = nodes.map((node) => {
      const { x, y } = shape.nodes.get(node.path);
      // An agent of that name did run, reached by another path: this position in the graph was not reached.
      const box = card(node, { labels, idle: idleWords(node, ran, among), onNode });
      Object.assign(box.style, { left: `${x}px`, top: `${y}px`, width: `${CARD.width}px`, height: `${CARD.height}px` });
      cards.set(node.path, { box, node });
      return box;
    });
    const words = h("ul", { class: "tl-sr" }, shape.edges.map(({ edge }) => h("li", {}, sentence(edge, nodes, { labels, untravelled }))));
    put(element, h("div", { class: "tl-graph-room", style: size }, lines, boxes, curves.map(({ pill }) => pill), words), labels ? legend(labels) : key(edges, untravelled));
  }

  return {
    element,
    show,
    /** Highlight the active agents; `seen` are those active so far. null resets. */
    setActive(names, seen) {
      for (const { box, node } of cards.values()) {
        box.classList.toggle("tl-is-active", names?.has(node.name) ?? false);
        box.classList.toggle("tl-is-later", names !== null && !seen.has(node.name));
      }
      for (const { edge, paths, pill } of curves) {
        const to = cards.get(edge.to_path)?.node.name;
        const from = cards.get(edge.from_path)?.node.name;
        const later = names !== null && !(seen.has(to) && seen.has(from));
        for (const path of paths) path.classList.toggle("tl-is-later", later);
        pill?.classList.toggle("tl-is-later", later);
      }
    },
  };
}

function append(into, children) {
  for (const child of children) into.append(child);
}

/** The text for an agent that did not run. If another one with its name did, only this path was not taken. */
function idleWords(node, ran, among) {
  if (ran.has(node.name)) return node.path.includes("/") ? "not reached on this path" : "not started directly";
  return among ? `not ${among}` : "never ran";
}

function card(node, { labels, idle, onNode }) {
  const never = !node.calls && !node.calls_b;
  const calls = labels ? `${node.calls} : ${node.calls_b ?? 0}` : never ? idle : `${node.calls.toLocaleString("en")} ×`;
  const facts = never ? [] : [node.p50_ms === null || node.p50_ms === undefined ? null : duration(node.p50_ms), node.cost_usd === null || node.cost_usd === undefined ? null : cost(node.cost_usd)];
  const errors = node.errors ? h("span", { class: "tl-bad", title: count(node.errors, "error") }, icon("error", null, 12), ` ${node.errors.toLocaleString("en")}`) : null;
  const label = [node.name, never ? idle : `ran ${count(node.calls, "time")}`, facts[0] ? `median ${facts[0]}` : null, facts[1] ?? null, node.errors ? count(node.errors, "error") : null].filter(Boolean).join(", ");
  return h("button", { class: `tl-card tl-kind-agent${never ? " tl-is-never" : ""}`, type: "button", "aria-label": label, title: node.path === node.name ? null : node.path, onclick: () => onNode?.(node) },
    h("span", { class: "tl-card-name" }, icon("agent", null, 15), h("bdi", { class: "tl-clip" }, node.name)),
    h("span", { class: "tl-card-facts tl-num" }, h("span", { class: "tl-soft" }, calls), facts.filter(Boolean).map((text) => h("span", {}, text)), errors));
}

function curve({ edge, points, back, floor }, { most, labels, untravelled }) {
  const total = edge.count + (edge.count_b ?? 0);
  const d = back ? below(points, floor) : through(points);
  const width = total ? 1.5 + 5.5 * Math.sqrt(total / most) : 1.5;
  const style = { "--tl-edge": `${width}px` };
  const tone = !total ? "tl-edge-declared" : labels ? (share(edge) >= 0 ? "tl-edge-a" : "tl-edge-b") : "tl-edge-travelled";
  const paths = [svg("path", { d, class: `tl-edge ${tone}`, style }, svg("title", {}, total ? `${total} ×` : untravelled))];
  const end = points[points.length - 1];
  const tip = `M${end.x - 9} ${end.y - 5}L${end.x - 1} ${end.y}L${end.x - 9} ${end.y + 5}`;
  if (edge.errors && total) {
    // Near the arrow, where edges with the same start have separated.
    const part = Math.min(80, Math.max(8, (100 * edge.errors) / total));
    paths.push(svg("path", { d, class: "tl-edge tl-edge-errors", pathLength: 100, style: { ...style, strokeDasharray: `${part} 100`, strokeDashoffset: part - 94 } }));
  }
  paths.push(svg("path", { d: tip, class: `tl-edge-tip ${tone}` }));
  const middle = back ? { x: (points[0].x + end.x) / 2, y: floor } : between(points);
  const text = labels ? `${edge.count} : ${edge.count_b ?? 0}` : `${edge.count.toLocaleString("en")} ×`;
  const pill = total ? h("span", { class: `tl-edge-pill tl-num ${tone}`, "aria-hidden": "true", style: { left: `${middle.x}px`, top: `${middle.y}px` }, title: edge.p50_ms ? `median ${duration(edge.p50_ms)}` : null }, text) : null;
  return { edge, paths, pill };
}

/** −1 … 1: in which graph the edge is more frequent, relative to the number of runs if known. */
const share = (edge) => (edge.share_a ?? edge.count) - (edge.share_b ?? edge.count_b ?? 0);

function through(points) {
  let d = `M${points[0].x} ${points[0].y}`;
  for (let k = 1; k < points.length; k += 1) {
    const a = points[k - 1];
    const b = points[k];
    const bend = Math.max(24, (b.x - a.x) / 2);
    d += `C${a.x + bend} ${a.y} ${b.x - bend} ${b.y} ${b.x - (k === points.length - 1 ? 3 : 0)} ${b.y}`;
  }
  return d;
}

/** A back edge: right, down between the columns, back below all cards, and up before the target. */
function below([a, b], floor) {
  const right = a.x + 30;
  const left = b.x - 30;
  const r = 14;
  return `M${a.x} ${a.y}Q${right} ${a.y} ${right} ${a.y + r}V${floor - r}Q${right} ${floor} ${right - r} ${floor}H${left + r}Q${left} ${floor} ${left} ${floor - r}V${b.y + r}Q${left} ${b.y} ${b.x - 3} ${b.y}`;
}

function between(points) {
  const k = Math.floor((points.length - 1) / 2);
  return { x: (points[k].x + points[k + 1].x) / 2, y: (points[k].y + points[k + 1].y) / 2 };
}

function sentence(edge, nodes, { labels, untravelled }) {
  const name = (path) => nodes.find((node) => node.path === path)?.name ?? path;
  const way = `${name(edge.from_path)} to ${name(edge.to_path)}: `;
  if (labels) return `${way}${edge.count} in ${labels[0]}, ${edge.count_b ?? 0} in ${labels[1]}`;
  return way + (edge.count ? `${count(edge.count, "handoff")}${edge.errors ? `, ${count(edge.errors, "error")}` : ""}` : untravelled);
}

function key(edges, untravelled) {
  const declared = edges.some((edge) => !edge.count);
  const travelled = edges.some((edge) => edge.count);
  return h("div", { class: "tl-graph-key tl-small tl-soft" }, travelled ? h("span", {}, h("i", { class: "tl-key-line" }), "Line width: number of handoffs") : null, declared ? h("span", {}, h("i", { class: "tl-key-line tl-key-dashed" }), untravelled) : null);
}

function legend([a, b]) {
  return h("div", { class: "tl-graph-key tl-small tl-soft" }, h("span", {}, h("i", { class: "tl-key-line tl-key-a" }), "more in ", data(a)), h("span", {}, h("i", { class: "tl-key-line tl-key-b" }), "more in ", data(b)), h("span", {}, "counts: first : second"));
}
