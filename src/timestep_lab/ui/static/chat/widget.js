// Renders ChatKit widgets as DOM: the components that cards use. For an unknown component, its children are rendered.

import { h, setStyle } from "../shared/dom.js";
import { Markdown } from "./markdown.js";
import { weatherIcon } from "./weather_icons.js";

const GAP = 4;
const ALIGN = { start: "flex-start", center: "center", end: "flex-end", stretch: "stretch", baseline: "baseline" };
const JUSTIFY = { ...ALIGN, between: "space-between", around: "space-around", evenly: "space-evenly" };
const TEXT_SIZES = { xs: "11px", sm: "12px", md: "13px", lg: "15px", xl: "18px", "2xl": "22px", "3xl": "28px", "4xl": "34px", "5xl": "42px" };
const WEIGHTS = { normal: 400, medium: 500, semibold: 600, bold: 700 };

/** `act(action)` is called when a button of the widget is pressed. */
export function widget(node, act) {
  if (node === null || node === undefined) return null;
  if (typeof node === "string") return document.createTextNode(node);
  const make = COMPONENTS[node.type];
  return make ? make(node, act) : box(node, act, "column");
}

const children = (node, act) => {
  const inner = node.children ?? [];
  return (Array.isArray(inner) ? inner : [inner]).map((child) => widget(child, act));
};

function box(node, act, direction, props = {}) {
  const element = h("div", { class: `tl-w-${String(node.type).toLowerCase().replace(/[^a-z]/g, "")}`, ...props }, children(node, act));
  setStyle(element, {
    display: "flex", flexDirection: direction, gap: length(node.gap), padding: spacing(node.padding), margin: spacing(node.margin),
    alignItems: ALIGN[node.align] ?? "", justifyContent: JUSTIFY[node.justify] ?? "", flexWrap: node.wrap ?? "",
    flex: node.flex === undefined ? "" : String(node.flex), width: length(node.width), minWidth: length(node.minWidth), maxWidth: length(node.maxWidth),
  });
  return element;
}

function text(tag) {
  return (node) => {
    const element = h(tag, { class: `tl-w-${tag}` }, String(node.value ?? ""));
    setStyle(element, {
      fontSize: TEXT_SIZES[node.size] ?? "", fontWeight: WEIGHTS[node.weight] ?? "", textAlign: node.textAlign ?? "",
      color: node.color === "secondary" || node.type === "Caption" ? "var(--tl-ink-soft)" : node.color === "tertiary" ? "var(--tl-ink-faint)" : "",
    });
    return element;
  };
}

const COMPONENTS = {
  Card: (node, act) => box({ gap: 3, ...node }, act, "column"),
  Basic: (node, act) => box(node, act, "column"),
  Box: (node, act) => box(node, act, node.direction === "row" ? "row" : "column"),
  Row: (node, act) => box({ align: "center", gap: 2, ...node }, act, "row"),
  Col: (node, act) => box(node, act, "column"),
  Form: (node, act) => box(node, act, "column"),
  ListView: (node, act) => box(node, act, "column", { role: "list" }),
  ListViewItem: (node, act) => box(node, act, "row", { role: "listitem" }),
  Title: text("strong"),
  Text: text("span"),
  Label: text("span"),
  Caption: text("small"),
  Markdown: (node) => { const element = h("div", { class: "tl-md" }); new Markdown(element).set(String(node.value ?? "")); return element; },
  Badge: (node) => h("span", { class: "tl-chip" }, String(node.label ?? "")),
  Icon: (node) => weatherIcon(String(node.name ?? ""), node.size),
  Image: (node) => (/^(data:image\/|blob:|\/)/.test(String(node.src)) ? h("img", { src: node.src, alt: node.alt ?? "", width: node.width ?? node.size, height: node.height ?? node.size }) : null),
  Divider: () => h("hr", { class: "tl-w-divider" }),
  Spacer: () => h("span", { style: { flex: "1" } }),
  Button: (node, act) => h("button", { type: "button", class: `tl-button${node.style === "primary" ? " tl-primary" : ""}`, disabled: !node.onClickAction, onclick: () => act(node.onClickAction) }, String(node.label ?? "")),
};

function length(value) {
  if (value === undefined || value === null) return "";
  return typeof value === "number" ? `${value * GAP}px` : /^[\d.]+(px|%|rem|em)?$/.test(value) ? value : "";
}

function spacing(value) {
  if (value === undefined || value === null) return "";
  if (typeof value !== "object") return length(value);
  const side = (name, axis) => length(value[name] ?? value[axis] ?? 0) || "0";
  return `${side("top", "y")} ${side("right", "x")} ${side("bottom", "y")} ${side("left", "x")}`;
}
