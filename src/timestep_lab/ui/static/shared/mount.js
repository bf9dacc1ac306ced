// Common setup of all components: a root element with the page's theme, the link to Python, and hiding of the static copy.

import { h } from "./dom.js";
import { keepWritten } from "./keep_written.js";
import { connect } from "./link.js";

/**
 * `const view = mount({model, el}, "explorer")` gives `{root, link, onClose(f), close}`. Register listeners, then `view.link.open()`,
 * and return `view.close` from render().
 */
export function mount({ model, el }, name) {
  const root = h("div", { class: `tl-root tl-${name}`, "data-tl-state": "loading" });
  el.append(root);
  const link = connect(model);
  const closing = [() => link.close(), followTheme(root, link), keepKeys(root)];
  if (document.querySelector("main.shell-main")) closing.push(keepWritten(root));
  leaveByEscape(root);
  let hidden = null;
  link.on("config", ({ config }) => {
    if (config.height) root.style.setProperty("--tl-height", `${config.height}px`);
    if (config.static && !hidden && /^[0-9a-f]+$/.test(config.static)) {
      hidden = h("style", {}, `[data-tl-static="${config.static}"]{display:none}`);
      document.head.append(hidden);
    }
  });
  // A served page is rendered when it has received its contents, after the snapshot.
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
  const apply = () => { root.dataset.tlTheme = chosen === "auto" ? pageTheme(root, system.matches) : chosen; };
  const watcher = new MutationObserver(apply);
  const watched = { attributes: true, attributeFilter: ["data-jp-theme-light", "data-tl-theme", "data-theme", "class"] };
  watcher.observe(document.body, watched);
  watcher.observe(document.documentElement, watched);
  system.addEventListener("change", apply);
  window.addEventListener("load", apply); // A page's style sheets may come after the view.
  link.on("config", ({ config }) => { chosen = config.theme ?? "auto"; apply(); });
  apply();
  return () => { watcher.disconnect(); system.removeEventListener("change", apply); window.removeEventListener("load", apply); };
}

/** Who says whether the page is dark: the served app, JupyterLab, VS Code; else what is painted behind the view; and if nothing is, the system. */
function pageTheme(root, systemIsDark) {
  const { body, documentElement: html } = document;
  const declared = html.dataset.tlTheme ?? body.dataset.tlTheme ?? html.dataset.theme ?? body.dataset.theme;
  if (declared === "dark" || declared === "light") return declared;
  if (body.dataset.jpThemeLight !== undefined) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
  if (body.classList.contains("vscode-dark") || body.classList.contains("vscode-high-contrast")) return "dark";
  if (body.classList.contains("vscode-light")) return "light";
  return paintedTheme(root) ?? (systemIsDark ? "dark" : "light");
}

/** By the first colour behind the view: templates of Panel, marimo, Colab and pages of one's own each have another word for dark, and all paint it. */
function paintedTheme(root) {
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  for (let element = around(root); element; element = around(element)) {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = getComputedStyle(element).backgroundColor;
    pixel.fillRect(0, 0, 1, 1);
    const [red, green, blue, opacity] = pixel.getImageData(0, 0, 1, 1).data;
    if (opacity > 127) return 0.299 * red + 0.587 * green + 0.114 * blue < 128 ? "dark" : "light";
  }
  return null;
}

/** What an element stands in, out of a shadow root, too. */
const around = (element) => element.parentElement ?? element.getRootNode().host ?? null;

/**
 * Keys pressed in the view are not the notebook's: `d d` on a row of a list would delete the cell. Those with Ctrl, Alt or Meta still are, to save
 * and to run cells. JupyterLab and Notebook 7 look for shortcuts before the view hears of a key, from the focused element up to the first that a
 * shortcut matches: so the mark stands on that element itself, and on what it is in a shadow root of, in time.
 */
function keepKeys(root) {
  const mark = (event) => {
    const [target] = event.composedPath();
    if (!root.contains(target)) return;
    const isOurs = !(event.ctrlKey || event.altKey || event.metaKey);
    for (const element of [target, ...hostsOf(root)]) {
      if (isOurs) element.setAttribute("data-lm-suppress-shortcuts", "true");
      else element.removeAttribute("data-lm-suppress-shortcuts");
    }
  };
  const forget = () => { for (const element of hostsOf(root)) element.removeAttribute("data-lm-suppress-shortcuts"); };
  window.addEventListener("keydown", mark, { capture: true });
  root.addEventListener("focusout", forget);
  return () => window.removeEventListener("keydown", mark, { capture: true });
}

function hostsOf(element) {
  const host = element.getRootNode().host;
  return host ? [host, ...hostsOf(host)] : [];
}

/** Escape that nothing in the view had a use for leaves it, to what holds it: the cell of a notebook, whose own shortcuts count from there. */
function leaveByEscape(root) {
  root.addEventListener("keydown", (event) => {
    const clearsField = event.target.type === "search" && event.target.value;
    if (event.key !== "Escape" || event.isComposing || clearsField) return;
    setTimeout(() => {
      if (event.defaultPrevented || around(root)?.closest(".tl-root")) return;
      for (let element = around(root); element; element = around(element)) if (element.hasAttribute("tabindex")) return element.focus();
    });
  }, { capture: true });
}
