// The list of conversations: search, open, rename in place, delete after asking once more.

import { h, put, debounce } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { ago, exactTime } from "../shared/format.js";

/** `on.open(id)`, `on.fresh()`, `on.rename(id, title)`, `on.remove(id)`, `on.search(text)`, `on.close()`. */
export function threadList(on) {
  let threads = [];
  let current = null;
  let editing = null;
  let asking = null;
  const search = h("input", { class: "tl-input", type: "search", placeholder: "Search conversations", "aria-label": "Search conversations" });
  const rows = h("ul", { class: "tl-chat-threads" });
  const element = h("nav", { class: "tl-chat-side", "aria-label": "Conversations", hidden: true },
    h("div", { class: "tl-chat-side-head" }, h("strong", {}, "Conversations"),
      h("button", { type: "button", class: "tl-button", onclick: () => on.fresh() }, icon("plus"), "New"),
      h("button", { type: "button", class: "tl-quiet", "aria-label": "Close the list", onclick: () => on.close() }, icon("close"))),
    search, rows);
  const look = debounce(() => on.search(search.value), 150);
  search.addEventListener("input", look);
  element.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Escape") return;
    if (editing || asking) { editing = asking = null; draw(); } else on.close();
  });

  function draw() {
    put(rows, threads.length ? threads.map(row) : h("li", { class: "tl-soft tl-small" }, search.value ? "No conversation matches." : "No conversations yet."));
    rows.querySelector("[data-tl-focus]")?.focus();
  }
  function row(thread) {
    const title = thread.title || "Untitled";
    if (editing === thread.id) {
      const field = h("input", { class: "tl-input", value: thread.title ?? "", "aria-label": "New title", "data-tl-focus": true });
      const keep = () => { if (editing !== thread.id) return; editing = null; on.rename(thread.id, field.value); };
      field.addEventListener("keydown", (event) => { if (event.key === "Enter") keep(); });
      field.addEventListener("blur", keep);
      return h("li", {}, field);
    }
    if (asking === thread.id) {
      return h("li", { class: "tl-chat-ask" }, h("span", {}, "Delete this conversation?"),
        h("button", { type: "button", class: "tl-button", "data-tl-focus": true, onclick: () => { asking = null; on.remove(thread.id); } }, "Delete"),
        h("button", { type: "button", class: "tl-button", onclick: () => { asking = null; draw(); } }, "Keep"));
    }
    return h("li", { class: thread.id === current ? "tl-is-current" : "" },
      h("button", { type: "button", class: "tl-chat-thread", "aria-current": thread.id === current ? "true" : null, onclick: () => on.open(thread.id) },
        h("bdi", { class: "tl-clip", dir: "auto" }, title), h("span", { class: "tl-soft tl-small", title: exactTime(thread.at) }, ago(thread.at))),
      h("button", { type: "button", class: "tl-quiet", "aria-label": `Rename ${title}`, title: "Rename", onclick: () => { editing = thread.id; draw(); } }, icon("edit")),
      h("button", { type: "button", class: "tl-quiet", "aria-label": `Delete ${title}`, title: "Delete", onclick: () => { asking = thread.id; draw(); } }, icon("trash")));
  }
  return {
    element,
    show(now) { element.hidden = !now; if (now) search.focus(); },
    put(list, id) { threads = list; current = id; if (!editing) draw(); },
    close: () => look.cancel(),
  };
}
