// Text of any length. The beginning is shown at once; a megabyte is added to the DOM only on request.

import { copy, h, safeText } from "./dom.js";
import { bytes } from "./format.js";
import { icon } from "./icons.js";
import { Markdown } from "../chat/markdown.js";

const SHOWN = 4000;

/** A block of text; with `markdown`, formatted (still without parsing HTML in the text). */
export function longText(text, { markdown = false, mono = false } = {}) {
  const box = h("div", { class: `tl-text${mono ? " tl-mono" : ""}` });
  const show = (part) => {
    const body = h("div", { dir: "auto", class: markdown ? "tl-prose" : "tl-plain" });
    if (markdown) new Markdown(body).set(safeText(part)); else body.textContent = safeText(part);
    box.replaceChildren(body);
  };
  if (text.length <= SHOWN * 1.2) {
    show(text);
    return box;
  }
  show(text.slice(0, SHOWN));
  const more = h("button", { class: "tl-more", type: "button" }, `Show all (${bytes(text.length)})`);
  more.addEventListener("click", () => {
    // Formatting a megabyte would freeze the page; longer texts are shown unformatted.
    if (text.length > 200_000) { markdown = false; box.classList.add("tl-mono"); }
    show(text);
  });
  box.append(more);
  return box;
}

/** A button that copies the result of `text()`. */
export function copyButton(text, label = "Copy") {
  const button = h("button", { class: "tl-quiet", type: "button", title: label, "aria-label": label }, icon("copy", null, 13));
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    await copy(await text());
    button.replaceChildren(icon("ok", null, 13));
    setTimeout(() => button.replaceChildren(icon("copy", null, 13)), 1200);
  });
  return button;
}
