// The component of server/views/approvals.py: every call that waits for a person, and what became of what was decided here.

import { data, h, put } from "../shared/dom.js";
import { jsonView } from "../shared/json_view.js";
import { icon } from "../shared/icons.js";
import { button, card, empty, input, page, status, when } from "./parts.js";

function render(context) {
  const view = page(context, "approvals", "Approvals", "Tool calls that wait for you, from the chat, a notebook or the command line.");
  const { link, act } = view;
  const waiting = h("ul", { class: "tl-waiting", "aria-label": "Waiting" });
  const none = empty("Nothing waits for you", "A tool call that needs approval appears here, whichever program started it.", h("p", {}, "Which calls ask is set by the rules of an agent: ", h("a", { href: "/agents" }, "open the agents"), "."));
  const decided = h("div", {});
  view.body.append(waiting, none, decided);
  const cards = new Map();

  function make(call) {
    const reason = input({ placeholder: "Why not? The agent is told.", "aria-label": "Reason for rejecting", maxlength: 2000 });
    const always = h("input", { type: "checkbox" });
    const decide = (own, decision, message = "") => act(own, () => link.call("decide", { run_id: call.run_id, call_id: call.call_id, decision, message, always: always.checked && decision === "approved" }));
    const approve = button("Approve", { name: "ok", primary: true, onclick: () => decide(approve, "approved") });
    const reject = button("Reject", { type: "submit", class: "tl-button tl-danger" });
    const why = h("form", { class: "tl-why", hidden: true }, reason, reject);
    why.addEventListener("submit", (event) => { event.preventDefault(); decide(reject, "rejected", reason.value.trim()); });
    const ask = button("Reject …", { "aria-expanded": "false", onclick: () => { why.hidden = !why.hidden; ask.setAttribute("aria-expanded", String(!why.hidden)); if (!why.hidden) reason.focus(); } });
    let args = null;
    try { args = jsonView(JSON.parse(call.arguments)); } catch { args = h("pre", {}, data(call.arguments)); }
    return h("li", { class: "tl-approval", "aria-label": `${call.name} waits for approval` },
      h("div", { class: "tl-approval-head" }, h("span", { class: "tl-warn" }, icon("guardrail")), h("strong", {}, h("code", {}, call.name)), call.server ? h("span", { class: "tl-soft" }, `of ${call.server}`) : null, h("span", { class: "tl-push" }, when(call.since))),
      args, h("p", { class: "tl-none" }, h("strong", {}, data(call.agent)), call.reason ? [" asks because ", data(call.reason), "."] : " asks."),
      call.input ? h("p", { class: "tl-soft tl-none tl-clip" }, "Asked for by: ", data(call.input)) : null,
      h("div", { class: "tl-form-foot" }, approve, ask, h("label", { class: "tl-check" }, always, h("span", {}, "always for this tool in this thread")), h("span", { class: "tl-push tl-approval-links" }, h("a", { href: `/chat/${call.thread_id}` }, "Open the chat"), h("a", { href: `/traces/${call.trace_id}` }, "Open the trace"))), why);
  }

  return view.open((state) => {
    const now = new Set(state.waiting.map((call) => `${call.run_id} ${call.call_id}`));
    for (const [key, element] of cards) {
      if (now.has(key)) continue;
      const hadFocus = element.contains(element.getRootNode().activeElement);
      element.remove();
      cards.delete(key);
      if (hadFocus) waiting.querySelector("button")?.focus();
    }
    for (const call of state.waiting) {
      const key = `${call.run_id} ${call.call_id}`;
      if (!cards.has(key)) { cards.set(key, make(call)); waiting.append(cards.get(key)); }
    }
    waiting.hidden = !state.waiting.length;
    none.hidden = state.waiting.length > 0;
    put(decided, state.decided.length ? card("Decided here", h("ul", { class: "tl-rows" }, state.decided.map((row) => h("li", {}, h("a", { class: "tl-line", href: `/chat/${row.thread_id}` },
      h("span", { class: row.decision === "approved" ? "tl-good" : "tl-bad" }, icon(row.decision === "approved" ? "ok" : "close")),
      h("span", { class: "tl-grow" }, h("code", { class: "tl-clip" }, `${row.name}(${row.arguments})`), h("span", { class: "tl-soft tl-small tl-clip" }, row.error ? data(row.error) : row.decision === "approved" ? "approved" : ["rejected", row.message ? [": ", data(row.message)] : null])), status(row.outcome)))))) : null);
  });
}
export default { render };
