// A button with a popup panel, closed by a click elsewhere or Escape.

import { h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";

const EDGE = 8;

/** `{element, close()}`; `draw(box, close)` fills the panel each time it is opened. */
export function menu(label, name, draw) {
  const box = h("div", { class: "tl-menu-box", hidden: true });
  const button = h("button", { class: "tl-quiet", type: "button", "aria-expanded": "false", "aria-haspopup": "true" }, icon(name), label);
  const element = h("span", { class: "tl-menu" }, button, box);
  const place = () => {
    // At the edge of the view, the panel opens to the other side; in a narrow one it is moved until all of it is seen.
    box.classList.toggle("tl-opens-left", button.getBoundingClientRect().left > window.innerWidth / 2);
    box.style.translate = "";
    const { left, right } = box.getBoundingClientRect();
    const by = left < EDGE ? EDGE - left : Math.min(0, window.innerWidth - EDGE - right);
    if (by) box.style.translate = `${by}px 0`;
  };
  const size = new ResizeObserver(place);
  const outside = (event) => { if (!event.composedPath().includes(element)) close(); };
  const close = () => {
    if (box.hidden) return;
    box.hidden = true;
    size.disconnect();
    button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside, true);
  };
  button.addEventListener("click", () => {
    if (!box.hidden) { close(); return; }
    put(box);
    box.hidden = false;
    button.setAttribute("aria-expanded", "true");
    document.addEventListener("pointerdown", outside, true);
    draw(box, () => { close(); button.focus(); });
    place();
    size.observe(box);
    box.querySelector("input, button")?.focus();
  });
  element.addEventListener("keydown", (event) => { if (event.key === "Escape" && !box.hidden) { event.preventDefault(); event.stopPropagation(); close(); button.focus(); } });
  return { element, close };
}
