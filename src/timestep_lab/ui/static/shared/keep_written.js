// What was typed and chosen in a page of the served app, kept over a reload: stored as the page goes, and put back where the same field is drawn
// again. Buttons that had opened something (`aria-expanded`) are pressed again, so that the reader sees it.
//
// A field that keeps itself, or is in the address, has `data-tl-kept`; one that must not be stored has `data-tl-secret`. A control of several
// parts, such as a list of chosen models, has a hidden field whose value is all of it, and draws itself anew at the `input` event of that field.

import { storage } from "./dom.js";

const isTicked = (field) => field.type === "checkbox" || field.type === "radio";
const wordsOf = (element) => element.name || element.getAttribute("aria-label") || element.textContent.trim();
/** A field is known by the open item, the labelled part of the page that it is in, its name or label, and among several by its position. */
function nameOf(field) {
  const item = new URL(location.href).searchParams.get("id") ?? "";
  const around = field.closest("form[aria-label], section[aria-label], [role=region][aria-label]")?.getAttribute("aria-label") ?? "";
  const label = field.labels?.[0]?.textContent ?? "";
  return [item, around, isTicked(field) ? field.name && field.type === "checkbox" ? field.name : label : field.name || field.getAttribute("aria-label") || label, isTicked(field) ? field.value : ""].join("\n");
}

/** A hidden field for a control of several parts: `{element, changed()}`. `read()` gives the value, `draw(value)` shows one that was kept. */
export function wholeField(name, read, draw) {
  const element = document.createElement("input");
  Object.assign(element, { type: "hidden", name });
  element.addEventListener("input", () => { if (element.value !== JSON.stringify(read())) draw(JSON.parse(element.value)); });
  return {
    element,
    /** The reader has changed the control. */
    changed() {
      element.value = JSON.stringify(read());
      element.dispatchEvent(new Event("input", { bubbles: true, composed: true }));
    },
  };
}

/** Keep what is written in `root`, from when the view has drawn itself. Returns the end. */
export function keepWritten(root) {
  const key = `timestep-lab written ${location.pathname}`;
  const comesBack = ["reload", "back_forward"].includes(performance.getEntriesByType("navigation")[0]?.type);
  const { fields = [], opened = [] } = (comesBack && JSON.parse(storage((tab) => tab.getItem(key)) ?? "null")) || {};
  storage((tab) => tab.removeItem(key));
  let kept = fields; // Not put back yet: [name, position, value].
  let toOpen = opened;
  const written = new Set();

  const note = (event) => {
    const [field] = event.composedPath();
    if (field.dataset?.tlKept !== undefined || field.dataset?.tlSecret !== undefined || !field.matches?.("input, textarea, select") || ["file", "password", "search"].includes(field.type)) return;
    field.dataset.tlKept = "";
    written.add(field);
  };
  const all = () => [...root.querySelectorAll("input, textarea, select")];
  const openers = () => [...root.querySelectorAll("button[aria-expanded]")];
  const keep = () => {
    const seen = new Map();
    const values = [];
    for (const field of all()) {
      const name = nameOf(field);
      seen.set(name, (seen.get(name) ?? -1) + 1);
      const isOther = field.type === "radio" && !field.checked;
      if (written.has(field) && !isOther) values.push([name, seen.get(name), isTicked(field) ? field.checked : field.value]);
    }
    const waiting = kept.filter(([name, at]) => !values.some((other) => other[0] === name && other[1] === at));
    if (!values.length && !waiting.length) return;
    const expanded = openers().filter((button) => button.getAttribute("aria-expanded") === "true").map(wordsOf);
    storage((tab) => tab.setItem(key, JSON.stringify({ fields: [...values, ...waiting], opened: [...expanded, ...toOpen] })));
  };
  const restore = () => {
    const seen = new Map();
    for (const field of kept.length ? all() : []) {
      const name = nameOf(field);
      seen.set(name, (seen.get(name) ?? -1) + 1);
      const found = kept.find((one) => one[0] === name && one[1] === seen.get(name));
      if (!found || field.dataset.tlKept !== undefined) continue;
      kept = kept.filter((one) => one !== found);
      field[isTicked(field) ? "checked" : "value"] = found[2];
      if (field.closest("details")) field.closest("details").open = true;
      for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true, composed: true }));
    }
    for (const button of toOpen.length ? openers() : []) {
      if (!toOpen.includes(wordsOf(button)) || !button.getClientRects().length) continue;
      toOpen = toOpen.filter((words) => words !== wordsOf(button));
      if (button.getAttribute("aria-expanded") === "false") button.click();
    }
    if (!kept.length && !toOpen.length) drawn.disconnect();
  };
  const drawn = new MutationObserver(restore);
  const begin = () => setTimeout(() => { drawn.observe(root, { childList: true, subtree: true }); restore(); });
  const leaveClosed = (event) => { if (event.isTrusted) toOpen = []; };
  if (kept.length) root.addEventListener("tl-ready", begin, { once: true });
  root.addEventListener("input", note, { capture: true });
  for (const kind of ["pointerdown", "keydown"]) root.addEventListener(kind, leaveClosed, { capture: true });
  addEventListener("pagehide", keep);
  return () => { drawn.disconnect(); removeEventListener("pagehide", keep); };
}
