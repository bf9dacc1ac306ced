// What every component does first: a root element with the theme of the page, the link to Python, the static copy hidden.

import { h, storage } from "./dom.js";
import { connect } from "./link.js";

/**
 * `const view = mount({model, el}, "explorer")` gives `{root, link, onClose(f), close}`. Register listeners, then `view.link.open()`,
 * and return `view.close` from render().
 */
export function mount({ model, el }, name) {
  const root = h("div", { class: `tl-root tl-${name}`, "data-lm-suppress-shortcuts": "true", "data-tl-state": "loading" });
  el.append(root);
  const link = connect(model);
  const closing = [() => link.close(), followTheme(root, link)];
  if (document.querySelector("main.shell-main")) closing.push(keepWritten(root));
  let hidden = null;
  link.on("config", ({ config }) => {
    if (config.height) root.style.setProperty("--tl-height", `${config.height}px`);
    if (config.static && !hidden && /^[0-9a-f]+$/.test(config.static)) {
      hidden = h("style", {}, `[data-tl-static="${config.static}"]{display:none}`);
      document.head.append(hidden);
    }
  });
  // A page of the served app has drawn itself when it was told its contents, which come after the snapshot.
  const drawn = () => root.dispatchEvent(new CustomEvent("tl-ready", { bubbles: true, composed: true }));
  link.on("snap", (state) => {
    root.dataset.tlState = "ready";
    if (state?.page !== null) drawn();
  });
  link.on("page", drawn);
  link.on("trouble", drawn);
  link.on("gone", () => root.dispatchEvent(new CustomEvent("tl-gone", { bubbles: true, composed: true })));
  const close = () => {
    for (const end of closing.splice(0).reverse()) end();
    hidden?.remove();
    root.remove();
  };
  return { root, link, onClose: (end) => closing.push(end), close };
}

function followTheme(root, link) {
  let chosen = "auto";
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { root.dataset.tlTheme = chosen === "auto" ? pageTheme(system.matches) : chosen; };
  const watcher = new MutationObserver(apply);
  const watched = { attributes: true, attributeFilter: ["data-jp-theme-light", "data-tl-theme", "data-theme", "class"] };
  watcher.observe(document.body, watched);
  watcher.observe(document.documentElement, watched);
  system.addEventListener("change", apply);
  link.on("config", ({ config }) => { chosen = config.theme ?? "auto"; apply(); });
  apply();
  return () => { watcher.disconnect(); system.removeEventListener("change", apply); };
}

/** Who says whether the page is dark: the served app, JupyterLab, VS Code, Panel, and if none does, the system. */
function pageTheme(systemIsDark) {
  const { body, documentElement: html } = document;
  const said = html.dataset.tlTheme ?? body.dataset.tlTheme ?? html.dataset.theme ?? body.dataset.theme;
  if (said === "dark" || said === "light") return said;
  if (body.dataset.jpThemeLight !== undefined) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
  if (body.classList.contains("vscode-dark") || body.classList.contains("vscode-high-contrast")) return "dark";
  if (body.classList.contains("vscode-light")) return "light";
  return systemIsDark ? "dark" : "light";
}

/** What was written in a page of the served app outlives a reload: kept as the page goes, and put back where the same field is drawn again. */
function keepWritten(root) {
  const key = `timestep-lab written ${location.pathname}`;
  const isReload = performance.getEntriesByType("navigation")[0]?.type === "reload";
  const kept = new Map(isReload ? JSON.parse(storage((tab) => tab.getItem(key)) ?? "[]") : []);
  storage((tab) => tab.removeItem(key));
  const written = new Set();
  const isTicked = (field) => field.type === "checkbox" || field.type === "radio";
  const nameOf = (field) => {
    const [form, label] = [field.closest("form, [role=region]")?.getAttribute("aria-label") ?? "", field.labels?.[0]?.textContent ?? ""];
    return [form, isTicked(field) ? label : field.name || field.getAttribute("aria-label") || label, isTicked(field) ? field.value : ""].join("\n");
  };
  const note = (event) => {
    const [field] = event.composedPath();
    if (field.dataset?.tlKept !== undefined || field.dataset?.tlSecret !== undefined || !field.matches?.("input, textarea, select") || ["file", "password", "search"].includes(field.type)) return;
    field.dataset.tlKept = "";
    written.add(field);
  };
  const keep = () => {
    const values = [...written].filter((field) => field.isConnected && field.getClientRects().length).map((field) => [nameOf(field), isTicked(field) ? field.checked : field.value]);
    if (values.length) storage((tab) => tab.setItem(key, JSON.stringify(values)));
  };
  const restore = () => {
    for (const field of kept.size ? root.querySelectorAll("input, textarea, select") : []) {
      const value = kept.get(nameOf(field));
      if (value === undefined || field.dataset.tlKept !== undefined) continue;
      kept.delete(nameOf(field));
      field[isTicked(field) ? "checked" : "value"] = value;
      for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true, composed: true }));
    }
    if (!kept.size) drawn.disconnect();
  };
  const drawn = new MutationObserver(restore);
  drawn.observe(root, { childList: true, subtree: true });
  root.addEventListener("input", note, { capture: true });
  addEventListener("pagehide", keep);
  return () => { drawn.disconnect(); removeEventListener("pagehide", keep); };
}
