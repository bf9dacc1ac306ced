// DOM construction. Data only becomes text nodes and attributes; markup is never parsed.

const SVG = "http://www.w3.org/2000/svg";

/** `h("button", {class: "tl-button", onclick: f, "aria-label": "Copy"}, "text", node, [more])`. null, undefined and false are skipped. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same in the SVG namespace. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") setStyle(node, value);
    else if (key === "value" || key === "checked") node[key] = value;
    else node.setAttribute(key, value === true ? "" : safeText(value));
  }
  append(node, children);
  return node;
}

export function append(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(node, child);
    else node.append(child instanceof Node ? child : safeText(child));
  }
  return node;
}

export function setStyle(node, style) {
  for (const [key, value] of Object.entries(style)) {
    if (key.startsWith("--")) node.style.setProperty(key, value);
    else node.style[key] = value;
  }
}

/** Replace the children of a node. */
export function put(node, ...children) {
  node.replaceChildren();
  return append(node, children);
}

/** Text with NUL made visible: browsers drop it or show a box. */
export function safeText(value) {
  const text = typeof value === "string" ? value : String(value);
  return text.includes("\0") ? text.replaceAll("\0", "\u2400") : text;
}

/** Untrusted text, isolated so that it does not change the direction of the surrounding line. */
export function data(text, props) {
  return h("bdi", { dir: "auto", ...props }, text);
}

/** Call `run` at most once per frame; `schedule.cancel()` cancels it. */
export function perFrame(run) {
  let frame = 0;
  const schedule = () => { frame ||= requestAnimationFrame(() => { frame = 0; run(); }); };
  schedule.cancel = () => cancelAnimationFrame(frame);
  return schedule;
}

/** Call `run` when no call has come for `ms`. `later.now()`: at once, if it is due at all. */
export function debounce(run, ms) {
  let timer = 0;
  let due = null;
  const later = (...args) => { clearTimeout(timer); due = () => run(...args); timer = setTimeout(later.now, ms); };
  later.cancel = () => { clearTimeout(timer); due = null; };
  later.now = () => { const call = due; later.cancel(); call?.(); };
  return later;
}

/** Copy text, also if the page is not a secure context (a notebook on plain http). */
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const field = h("textarea", { style: { position: "fixed", opacity: "0" }, value: text });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** This tab's storage, or nothing where the page's frame may have none (a sandboxed notebook output), or it is full. */
export function storage(use) {
  try {
    return use(window.sessionStorage);
  } catch (error) {
    if (error.name !== "SecurityError" && error.name !== "QuotaExceededError") throw error;
    return null;
  }
}
