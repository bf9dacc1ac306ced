// The chat: a live conversation. The state comes from ui/chat.py; this file updates the page.

import { h, put, perFrame, storage } from "./shared/dom.js";
import { icon } from "./shared/icons.js";
import { cardName } from "./shared/approval_card.js";
import { mount } from "./shared/mount.js";
import { makeItem } from "./chat/items.js";
import { asking } from "./chat/asking.js";
import { composer } from "./chat/composer.js";
import { modelPicker } from "./chat/model_picker.js";
import { threadList } from "./chat/threads.js";
import { working } from "./chat/working.js";
import { writing } from "./chat/writing.js";

const NEAR_END = 24;
/** On touch screens, focusing the input opens a keyboard over half of the screen. */
const TOUCH = window.matchMedia("(hover: none)");
const WITHOUT_ANSWER = ["cancelled", "failed", "interrupted"];

/** `context.within`: the chat is part of another page and is named after it. Then it does not take the focus by itself. */
export function render(context) {
  const view = mount(context, "chat");
  const { root, link } = view;
  let state = null;
  let welcomed = false;
  const drawn = new Map();
  const growing = new Set();
  const undecided = new Set();
  let said = []; // The reader's messages: {id, text}.

  const { notices, problem, ask, tell } = asking(link);
  const edits = h("div", { class: "tl-chat-notices" });
  const pen = writing(root);

  // -- page structure

  const list = threadList({
    open: (id) => { tell("open", { thread_id: id }); if (narrow()) showList(false); },
    fresh: () => { tell("fresh"); write.focus(); if (narrow()) showList(false); },
    rename: (id, title) => ask("rename", { thread_id: id, title }),
    remove: (id) => ask("remove", { thread_id: id }),
    search: (text) => tell("search", { text }),
    close: () => showList(false),
  });
  const write = composer(context.within ?? "chat", {
    newest: () => said.at(-1)?.id ?? null,
    send(text, attachments) {
      pinned = true;
      pen.done();
      const edited = state?.editing; // A page that has just opened may have no state yet.
      if (edited) state.editing = null;
      banner();
      return edited ? link.call("edit", { item_id: edited, text, attachments }) : link.call("send", { text, attachments });
    },
    stop: () => tell("stop"),
    attach: async (file) => (await link.call("attach", { name: file.name, mime_type: file.type }, [await file.arrayBuffer()])).value,
    problem(error) {
      // The view belongs to a restarted kernel: the conversation is in the store and continues in a new view.
      if (error.isDead && state.thread) Object.assign(error, { nextStep: `If the kernel was restarted, continue with lab.chat(thread="${state.thread.id}"). Your text is kept.` });
      problem(error);
    },
  });
  const listButton = h("button", { type: "button", class: "tl-quiet", "aria-label": "Conversations", title: "Conversations", "aria-expanded": "false", onclick: () => showList(list.element.hidden) }, icon("list"));
  const agentSelect = h("select", { class: "tl-chat-select", "aria-label": "Agent" });
  const picker = modelPicker({
    pick: (model) => { tell("choose", { model }); keepChoice({ model }); },
    name: (model) => link.call("choose", { model }).then(() => keepChoice({ model })),
  });
  const title = h("span", { class: "tl-chat-title tl-clip" });
  const fresh = h("button", { type: "button", class: "tl-quiet", "aria-label": "New conversation", title: "New conversation", onclick: () => { tell("fresh"); write.focus(); } }, icon("plus"));
  const log = h("div", { class: "tl-chat-log", role: "log", "aria-live": "polite", "aria-relevant": "additions", tabindex: "0", "aria-label": "Conversation" });
  const inner = h("div", { class: "tl-chat-inner" });
  const work = working();
  const down = h("button", { type: "button", class: "tl-button tl-chat-down", hidden: true, onclick: () => { pinned = true; follow(); } }, icon("expand"), "Newest");
  const news = h("div", { class: "tl-sr", role: "status", "aria-live": "polite" });
  log.append(inner, work.element);
  const main = h("div", { class: "tl-chat-main" }, h("header", { class: "tl-chat-head" }, context.within ? null : [listButton, agentSelect, picker.select], title, fresh), picker.form, edits, notices, h("div", { class: "tl-chat-scroll" }, log, down), write.element, news);
  root.append(list.element, main);
  write.dropTarget(main);
  agentSelect.addEventListener("change", () => { tell("choose", { agent: agentSelect.value }); keepChoice({ agent: agentSelect.value }); });
  for (const select of [agentSelect, picker.select]) select.dataset.tlKept = "";

  // Who is to answer a conversation that has not begun outlives a reload; one that has begun knows it itself.
  const isPage = !context.within && document.querySelector("main.shell-main") !== null;
  let mayRestore = isPage && performance.getEntriesByType("navigation")[0]?.type === "reload";
  function keepChoice(what) {
    if (isPage && !state.thread_id) storage((tab) => tab.setItem("timestep-chosen", JSON.stringify({ ...JSON.parse(tab.getItem("timestep-chosen") ?? "{}"), ...what })));
  }
  function restoreChoice() {
    const kept = JSON.parse(storage((tab) => tab.getItem("timestep-chosen")) ?? "null");
    if (kept && mayRestore && !state.thread_id) tell("choose", kept);
    if (!mayRestore || state.thread_id) storage((tab) => tab.removeItem("timestep-chosen"));
    mayRestore = null; // Once per page.
  }

  const narrow = () => root.clientWidth < 720;
  /** On a wide page of the served app the list of conversations is open, unless the reader has closed it. */
  const isWide = () => document.querySelector("main.shell-main") !== null && root.clientWidth >= 980 && localStorage.getItem("timestep-conversations") !== "closed";
  function showList(now) {
    list.show(now);
    listButton.setAttribute("aria-expanded", String(now));
    root.classList.toggle("tl-has-side", now);
    if (root.clientWidth >= 980 && document.querySelector("main.shell-main")) localStorage.setItem("timestep-conversations", now ? "open" : "closed");
    tell("list", { shown: now });
    if (!now) listButton.focus();
  }

  // -- following the end of the conversation, unless the reader has scrolled away

  let pinned = true;
  const follow = () => { log.scrollTop = log.scrollHeight; };
  log.addEventListener("scroll", () => {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
    if (atEnd) pinned = true;
    down.hidden = pinned;
  }, { passive: true });
  const leave = (event) => { if (event.type !== "wheel" || event.deltaY < 0) pinned = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END && event.type !== "wheel"; };
  log.addEventListener("wheel", leave, { passive: true });
  log.addEventListener("touchmove", leave, { passive: true });
  log.addEventListener("keydown", (event) => { if (["ArrowUp", "PageUp", "Home"].includes(event.key)) pinned = false; });
  const sizes = new ResizeObserver(() => { if (pinned) follow(); });
  sizes.observe(inner);
  sizes.observe(work.element);
  const grow = perFrame(() => { for (const markdown of growing) markdown.flush(); growing.clear(); });

  // -- items

  const on = {
    decide: (item, decision, message, always, answer) => ask("decide", { run_id: item.data.run_id, call_id: item.data.call_id, decision, message, always, answer }).then(backToWriting),
    edit: (item) => { state.editing = item.id; write.fill(item.data.text ?? "", item.data.attachments ?? []); banner(); },
    retry: (item) => tell("retry", { item_id: item.id }),
    act: (item, action) => tell("act", { item_id: item.id, action }),
  };

  function show(item, isNew) {
    work.item(item);
    if (item.type === "user_message" && !said.some(({ id }) => id === item.id)) said.push({ id: item.id, text: item.data.text ?? "" });
    if (item.type === "approval" && !item.data.decision) undecided.add(item.id);
    else undecided.delete(item.id);
    const known = drawn.get(item.id);
    if (known && known.type === item.type) { known.update(item); return; }
    const made = { type: item.type, runId: item.run_id, ...makeItem(item, on) };
    made.element.dataset.item = item.id;
    if (known) known.element.replaceWith(made.element);
    else inner.append(made.element);
    drawn.set(item.id, made);
    if (isNew && item.type === "approval" && !item.data.decision) callTo(made, item);
  }
  /** Move the focus to an approval, unless the reader is writing or using another card. */
  function callTo(card, item) {
    const at = pen.focused();
    if (at && !pen.isWriting() && !at.closest(".tl-chat-approval")) card.focus();
    else put(news, h("span", {}, item.data.asks ? cardName(item.data) : `${item.data.name} waits for your approval`));
  }
  function backToWriting() {
    put(news);
    if (pen.isLost() || pen.focused()?.closest(".tl-chat-approval")) write.focus();
  }
  function showRun(run) {
    if (run.status === "running") return;
    const last = [...drawn.values()].findLast((made) => made.facts && made.runId === run.id) ?? endOf(run);
    last?.facts(run, traceLink);
  }
  /** A turn that ended without output has no item. */
  function endOf(run) {
    const [after, before] = [...drawn].findLast(([, made]) => made.runId === run.id) ?? [];
    if (!before || !WITHOUT_ANSWER.includes(run.status)) return null;
    const end = { type: "ended", runId: run.id, ...makeItem({ type: "ended", data: { status: run.status, after } }, on) };
    before.element.after(end.element);
    drawn.set(`end of ${run.id}`, end);
    return end;
  }
  function traceLink(run) {
    if (!run.trace_id) return null;
    if (state.trace_base) return h("a", { class: "tl-chat-trace", href: `${state.trace_base}${run.trace_id}` }, "trace", icon("path"));
    return h("button", { type: "button", class: "tl-quiet tl-chat-trace", onclick: () => tell("trace", { trace_id: run.trace_id }) }, "trace", icon("path"));
  }

  // -- the rest of the page

  function options(select, values, chosen, first) {
    put(select, first, values.map((value) => h("option", { value, selected: value === chosen }, value)));
    select.value = chosen ?? "";
  }
  let place = null;
  function drawHead() {
    options(agentSelect, state.agents.length ? state.agents.map((agent) => agent.name) : [state.agent], state.agent);
    const own = state.agents.find((agent) => agent.name === state.agent)?.model;
    picker.draw(state.models, state.model, own ? `${own} (agent's own)` : `${state.default_model} (default)`);
    put(title, state.thread?.title ?? "");
    const id = state.thread?.id ?? null;
    if (id === place) return;
    place = id;
    // The surrounding page may put the conversation into its address.
    root.dispatchEvent(new CustomEvent("tl-place", { detail: { page: "/chat", id }, bubbles: true, composed: true }));
  }
  function drawEmpty() {
    const empty = drawn.size === 0;
    root.classList.toggle("tl-is-empty", empty);
    if (!empty) { inner.querySelector(".tl-chat-start")?.remove(); return; }
    if (!state.loaded && state.thread_id) return; // What was said is on its way.
    put(inner, h("div", { class: "tl-chat-start" }, h("h2", {}, "What would you like to know?"), h("p", { class: "tl-soft" }, state.hint),
      h("div", { class: "tl-chat-examples" }, state.examples.map((text) => h("button", { type: "button", class: "tl-button", onclick: () => begin(text) }, text)))));
  }
  function begin(text) {
    pinned = true;
    write.say(text);
    if (!TOUCH.matches) write.focus();
  }
  /** Focus the input in the served app's page; in a notebook the reader may be in another cell. */
  function welcome() {
    if (welcomed) return;
    welcomed = true;
    if (!context.within && document.querySelector("main.shell-main") && pen.isLost() && !TOUCH.matches) write.focus();
  }
  function banner() {
    put(edits, state?.editing ? h("div", { class: "tl-notice" }, icon("branch"), h("span", {}, "Your edited message starts a branch; the original conversation is kept."),
      h("button", { type: "button", class: "tl-quiet", "aria-label": "Stop editing", onclick: () => { state.editing = null; write.fill(""); banner(); } }, icon("close"))) : null);
  }
  function showActivity(isBusy, run) {
    work.run(isBusy ? { agent: state.agent, model: state.model ?? state.agents.find((agent) => agent.name === state.agent)?.model ?? state.default_model, ...run } : null);
    write.busy(isBusy, undecided.size > 0);
  }

  // -- messages from Python

  link.on("snap", (next) => {
    state = { ...next, editing: null };
    drawn.clear();
    undecided.clear();
    said = [];
    work.clear();
    put(inner);
    for (const item of next.items) show(item, false);
    for (const run of next.runs) showRun(run);
    drawHead();
    drawEmpty();
    banner();
    showActivity(next.busy, next.run);
    write.at(next.thread_id);
    if (next.loaded) write.settle(said.at(-1) ?? null);
    if (isPage && next.loaded && mayRestore !== null) restoreChoice();
    list.put(next.threads, next.thread?.id, { loaded: next.loaded });
    if (isWide() && list.element.hidden) { list.show(true, { focus: false }); listButton.setAttribute("aria-expanded", "true"); root.classList.add("tl-has-side"); tell("list", { shown: true }); }
    pinned = true;
    follow();
    welcome();
  });
  link.on("item", ({ item }) => { inner.querySelector(".tl-chat-start")?.remove(); show(item, true); root.classList.remove("tl-is-empty"); });
  link.on("delta", ({ id, delta }) => { work.grew(id); const markdown = drawn.get(id)?.push?.(delta); if (markdown) { growing.add(markdown); grow(); } });
  link.on("remove", ({ id }) => { drawn.get(id)?.element.remove(); drawn.delete(id); drawEmpty(); });
  link.on("run", ({ run }) => showRun(run));
  link.on("busy", ({ value, run }) => showActivity(value, run));
  link.on("connection", ({ isLost }) => write.connected(!isLost));
  link.on("head", ({ kind, ...head }) => { Object.assign(state, head); write.at(head.thread?.id ?? null); drawHead(); drawEmpty(); });
  link.on("threads", ({ threads, thread_id }) => list.put(threads, thread_id));
  link.on("notice", ({ message, next_step }) => problem({ message, nextStep: next_step }));
  link.on("theme", ({ theme }) => root.dispatchEvent(new CustomEvent("tl-theme", { detail: { theme }, bubbles: true, composed: true })));

  view.onClose(() => { sizes.disconnect(); work.close(); grow.cancel(); list.close(); });
  link.open();
  return view.close;
}

export default { render };
