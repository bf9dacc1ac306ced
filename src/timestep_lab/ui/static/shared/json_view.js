// A collapsible JSON tree. Children are created when opened, long lists page by page, long strings in parts.

import { h, safeText } from "./dom.js";
import { bytes } from "./format.js";

const PAGE = 100;
const STRING = 400;

/** A tree of `value`; the first `open` levels are expanded. */
export function jsonView(value, { open = 1 } = {}) {
  return h("div", { class: "tl-json", dir: "ltr" }, node(null, value, open));
}

/** A text that contains JSON becomes its value; other text is unchanged. */
export function parseJson(text) {
  if (typeof text !== "string" || !/^\s*[[{]/.test(text) || text.length > 2_000_000) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function node(key, value, open) {
  const label = key === null ? null : h("span", { class: "tl-json-key" }, h("bdi", {}, clip(key, 200)), ": ");
  if (value === null || typeof value !== "object") return h("div", { class: "tl-json-leaf" }, label, leaf(value));
  const isList = Array.isArray(value);
  const entries = isList ? value.map((item, index) => [String(index), item]) : Object.entries(value);
  if (!entries.length) return h("div", { class: "tl-json-leaf" }, label, h("span", { class: "tl-soft" }, isList ? "[ ]" : "{ }"));
  const details = h("details", { class: "tl-json-node", open: open > 0 }, h("summary", {}, label, h("span", { class: "tl-soft" }, isList ? `[${entries.length}]` : preview(entries))));
  const build = () => {
    if (details.dataset.built) return;
    details.dataset.built = "1";
    page(details, entries, 0, open - 1);
  };
  if (open > 0) build(); else details.addEventListener("toggle", build, { once: true });
  return details;
}

function page(into, entries, from, open) {
  const to = Math.min(entries.length, from + PAGE);
  for (let k = from; k < to; k += 1) into.append(node(entries[k][0], entries[k][1], open));
  if (to === entries.length) return;
  const more = h("button", { class: "tl-more", type: "button" }, `${(entries.length - to).toLocaleString("en")} more`);
  more.addEventListener("click", () => { more.remove(); page(into, entries, to, open); });
  into.append(more);
}

function leaf(value) {
  if (typeof value !== "string") return h("span", { class: `tl-json-${value === null ? "null" : typeof value}` }, String(value));
  const text = h("bdi", { class: "tl-json-string", dir: "auto" }, JSON.stringify(clip(value, STRING)));
  if (value.length <= STRING) return text;
  const more = h("button", { class: "tl-more", type: "button" }, `all ${bytes(value.length)}`);
  more.addEventListener("click", () => { text.textContent = safeText(JSON.stringify(value)); more.remove(); });
  return h("span", {}, text, more);
}

function preview(entries) {
  const keys = entries.slice(0, 4).map(([key]) => clip(key, 24)).join(", ");
  return `{ ${keys}${entries.length > 4 ? ", …" : ""} }`;
}

const clip = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);
