// The list of conversations: search, open, rename in place, delete with confirmation.

import { h, put, debounce } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { ago, exactTime } from "../shared/format.js";

const AFTER_CLICK_MS = 250;

const STATES = {
  running: ["running", "running", "tl-soft"],
  needs_approval: ["guardrail", "waits for you", "tl-warn"],
  failed: ["error", "failed", "tl-bad"],
  interrupted: ["interrupted", "interrupted", "tl-bad"],
  stopped: ["paused", "stopped at a limit", "tl-warn"],
};
/** The status of the newest turn, unless it is done. */
const stateOf = (status) => (STATES[status] ? h("span", { class: `tl-chat-thread-state ${STATES[status][2]}` }, icon(STATES[status][0], null, 12), STATES[status][1]) : null);

/** `on.open(id)`, `on.fresh()`, `on.search(text)`, `on.close()`; `on.rename(id, title)` and `on.remove(id)` give promises. */
export function threadList(on) {
  let threads = [];
  let isLoaded = false;
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
    event.preventDefault();
    if (editing || asking) { editing = asking = null; draw(); } else on.close();
  });

  function draw() {
    const held = holding();
    put(rows, threads.length ? threads.map(row) : !isLoaded ? null : h("li", { class: "tl-soft tl-small" }, search.value ? "No conversation matches." : "No conversations yet."));
    if (held) give(held);
  }
  /** Update the list, but not while a title is being edited. */
  const settle = () => { if (!editing) draw(); };
  const controls = (line) => [...line.querySelectorAll("button, input")];
  /** Restore the focus after the rows have been rebuilt. */
  function holding() {
    const active = rows.getRootNode().activeElement;
    const line = active?.closest("li");
    if (!line || !rows.contains(line)) return null;
    return { id: line.dataset.thread, at: [...rows.children].indexOf(line), mode: line.dataset.mode, nth: controls(line).indexOf(active) };
  }
  function give(held) {
    const lines = [...rows.children];
    const same = lines.find((line) => line.dataset.thread === held.id);
    const line = same ?? lines[Math.min(held.at, lines.length - 1)];
    const nth = same?.dataset.mode === held.mode ? held.nth : 0;
    (controls(line)[nth] ?? search).focus();
  }

  function row(thread) {
    const title = thread.title || "Untitled";
    const line = (mode, props, ...children) => h("li", { "data-thread": thread.id, "data-mode": mode, ...props }, children);
    if (editing === thread.id) {
      const field = h("input", { class: "tl-input", value: thread.title ?? "", "aria-label": "New title" });
      const keep = (unchanged) => {
        if (editing !== thread.id) return;
        editing = null;
        const wanted = field.value.trim();
        if (!wanted || wanted === thread.title) unchanged();
        else on.rename(thread.id, wanted).catch(settle);
      };
      field.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.isComposing) keep(draw); });
      // The click that caused the blur must still find its row.
      field.addEventListener("blur", () => keep(() => setTimeout(settle, AFTER_CLICK_MS)));
      return line("edit", {}, field);
    }
    if (asking === thread.id) {
      return line("ask", { class: "tl-chat-ask" }, h("span", {}, "Delete this conversation?"),
        h("button", { type: "button", class: "tl-button", onclick: () => { asking = null; on.remove(thread.id).catch(settle); } }, "Delete"),
        h("button", { type: "button", class: "tl-button", onclick: () => { asking = null; draw(); } }, "Keep"));
    }
    return line("show", { class: thread.id === current ? "tl-is-current" : "" },
      h("button", { type: "button", class: "tl-chat-thread", "aria-current": thread.id === current ? "true" : null, onclick: () => on.open(thread.id) },
        h("bdi", { class: "tl-clip", dir: "auto" }, title),
        h("span", { class: "tl-chat-thread-facts tl-small" }, stateOf(thread.status), thread.agent ? h("bdi", { class: "tl-soft tl-clip", dir: "auto" }, thread.agent) : null, h("span", { class: "tl-soft tl-num", title: exactTime(thread.at) }, ago(thread.at)))),
      h("button", { type: "button", class: "tl-quiet", "aria-label": `Rename ${title}`, title: "Rename", onclick: () => turn(thread.id, "edit") }, icon("edit")),
      h("button", { type: "button", class: "tl-quiet", "aria-label": `Delete ${title}`, title: "Delete", onclick: () => turn(thread.id, "ask") }, icon("trash")));
  }
  function turn(id, mode) {
    editing = mode === "edit" ? id : null;
    asking = mode === "ask" ? id : null;
    draw();
    // Some browsers do not focus a clicked button, so there is no focus to restore.
    rows.querySelector(`[data-mode=${mode}]`)?.querySelector("input, button")?.focus();
  }

  return {
    element,
    show(now, { focus = true } = {}) {
      element.hidden = !now;
      if (now) { if (focus) search.focus(); return; }
      look.cancel();
      editing = asking = null;
      if (!search.value) return;
      search.value = "";
      on.search("");
    },
    put(list, id, { loaded = true } = {}) { threads = list; current = id; isLoaded = loaded; settle(); },
    close: () => look.cancel(),
  };
}
