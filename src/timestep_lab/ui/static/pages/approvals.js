// The component of server/pages/approvals.py: all pending approvals, grouped by tool and agent, and past decisions.

import { data, h, put } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { approvalCard, decidedWords } from "../shared/approval_card.js";
import { button, card, empty, page, status, when } from "./parts.js";

function render(context) {
  const view = page(context, "approvals", "Approvals", "Tool calls and questions that wait for your decision, from the chat, notebooks and the command line.");
  const { link, act } = view;
  const waiting = h("div", { class: "tl-waiting" });
  const none = empty("Nothing waits for you", "Tool calls that need approval appear here, from all programs.", h("p", {}, "Which calls need approval is set by the rules of an agent: ", h("a", { href: "/agents" }, "open the agents"), "."));
  const decided = h("div", { class: "tl-stack" });
  view.body.append(waiting, none, decided);
  const cards = new Map();
  const groups = new Map();

  const decide = (call, decision, message = "", always = false, answer = null) => link.call("decide", { run_id: call.run_id, call_id: call.call_id, decision, message, always, answer });

  function make(call) {
    const foot = h("span", { class: "tl-push tl-approval-links" }, when(call.since), h("a", { href: `/chat/${call.thread_id}` }, "Chat"), h("a", { href: `/traces/${call.trace_id}` }, "Trace"));
    const element = h("li", { class: "tl-approval tl-ask-card", "aria-label": call.asks ? `${call.server} asks you` : `${call.name} waits for approval` });
    // Errors are shown in the card, whose buttons are enabled again.
    const answer = async (...said) => { let failed = false; await act(element, () => decide(call, ...said).catch((error) => { failed = true; throw error; })); if (failed) throw new Error("not decided"); };
    put(element, call.input ? h("p", { class: "tl-none tl-approval-asked tl-clip" }, h("span", { class: "tl-soft" }, "Asked: "), data(call.input)) : null, approvalCard(call, answer, { more: foot }));
    return element;
  }

  /** Calls of one tool by one agent: a heading, and for several of them buttons for all. */
  function group(key, calls) {
    if (!groups.has(key)) {
      const [first] = calls;
      const words = h("span", { class: "tl-soft tl-num" });
      const now = { calls: [], words, list: h("ul", { class: "tl-approval-list", "aria-label": `${first.name}, asked by ${first.agent}` }) };
      const every = (decision) => act(decision === "approved" ? now.all : now.no, async () => { for (const call of [...now.calls]) await decide(call, decision); });
      now.all = button("Approve all", { name: "ok", onclick: () => every("approved") });
      now.no = button("Reject all", { name: "cancelled", onclick: () => every("rejected") });
      now.both = h("span", { class: "tl-form-foot" }, now.all, now.no);
      now.element = h("section", { class: "tl-approval-group", "aria-label": `${first.agent}: ${first.name}` }, h("header", { class: "tl-approval-group-head" }, h("h2", {}, data(first.agent), " · ", h("code", {}, first.name)), words, now.both), now.list);
      groups.set(key, now);
    }
    const found = groups.get(key);
    found.calls = calls;
    put(found.words, count(calls.length, calls[0].asks ? "question" : "call"));
    found.both.hidden = calls.length < 2 || Boolean(calls[0].asks); // Each question needs its own answer.
    return found;
  }

  function showWaiting(calls) {
    const now = new Set(calls.map((call) => `${call.run_id} ${call.call_id}`));
    for (const [key, element] of cards) {
      if (now.has(key)) continue;
      const hadFocus = element.contains(element.getRootNode().activeElement);
      element.remove();
      cards.delete(key);
      if (hadFocus) waiting.querySelector(".tl-ask-card :is(button, input, select, textarea)")?.focus();
    }
    const alike = grouped(calls);
    for (const [key, found] of groups) if (!alike.has(key)) { found.element.remove(); groups.delete(key); }
    for (const [key, some] of alike) {
      const isNew = !groups.has(key);
      const found = group(key, some);
      if (isNew) waiting.append(found.element);
      for (const call of some) {
        const id = `${call.run_id} ${call.call_id}`;
        if (!cards.has(id)) { cards.set(id, make(call)); found.list.append(cards.get(id)); }
      }
    }
    waiting.hidden = !calls.length;
    none.hidden = calls.length > 0;
  }

  const line = (row) => h("li", {}, h("a", { class: "tl-line", href: row.thread_id ? `/chat/${row.thread_id}` : `/traces/${row.trace_id}` },
    h("span", { class: row.decision === "approved" ? "tl-good" : "tl-bad" }, icon(row.decision === "approved" ? "ok" : "close")),
    h("span", { class: "tl-grow" }, h("code", { class: "tl-clip" }, row.asks ? row.name : `${row.name}(${row.arguments})`), h("span", { class: "tl-soft tl-small tl-clip" }, row.error ? data(row.error) : [decidedWords(row).replace("was ", ""), " by you", row.decision !== "approved" && row.message ? [": ", data(row.message)] : null, row.agent ? [", asked by ", data(row.agent)] : null])),
    row.outcome ? status(row.outcome) : null, row.at ? when(row.at) : null));

  return view.open((state) => {
    showWaiting(state.waiting);
    put(decided, state.decided.length ? card("Decided here", h("ul", { class: "tl-rows" }, state.decided.map(line))) : null,
      state.earlier.length ? card("Decided earlier", h("ul", { class: "tl-rows" }, state.earlier.map(line))) : null);
  });
}

const keyOf = (call) => `${call.agent} ${call.server ?? ""} ${call.name} ${call.asks ?? ""}`;

function grouped(calls) {
  const found = new Map();
  for (const call of calls) found.set(keyOf(call), [...(found.get(keyOf(call)) ?? []), call]);
  return found;
}
export default { render };
