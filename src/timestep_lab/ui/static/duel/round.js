// One message of a duel: the message, two columns with the answers, and the vote.

import { data, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { makeItem } from "../chat/items.js";

const VOTES = [["left", "A is better", "1"], ["right", "B is better", "2"], ["tie", "Tie", "3"], ["both_bad", "Both bad", "4"]];
const TOLD = { left: "You preferred A.", right: "You preferred B.", tie: "You called it a tie.", both_bad: "You found both bad." };

/** `on.decide(round, side, item, decision, message, always, answer)`, `on.vote(round, outcome)`, `on.traceLink(run)`. */
export function duelRound(round, on) {
  let now = round;
  const sides = [0, 1].map((at) => column(at, (...args) => on.decide(round.id, at, ...args), on.traceLink));
  const bar = h("div", { class: "tl-duel-bar" });
  const element = h("section", { class: "tl-duel-round", "aria-label": "Message and answers" },
    h("div", { class: "tl-chat-item tl-chat-user" }, h("div", { class: "tl-chat-own" }, h("div", { class: "tl-chat-bubble" }, data(round.text)))),
    h("div", { class: "tl-duel-sides" }, sides.map((side) => side.element)), bar);
  let voting = false;
  const vote = (outcome) => {
    if (voting) return;
    voting = true;
    on.vote(round.id, outcome).catch(() => {}).finally(() => { voting = false; });
  };
  const open = () => now.ready && !now.outcome;

  function update(next) {
    now = next;
    sides.forEach((side, at) => side.update(next.sides[at], next.ready, next.outcome === (at ? "right" : "left")));
    if (next.outcome) put(bar, h("p", { role: "status" }, TOLD[next.outcome]));
    else if (next.ready) put(bar, VOTES.map(([outcome, word, key]) => h("button", { type: "button", class: "tl-button", "aria-keyshortcuts": key, onclick: () => vote(outcome) }, word, h("kbd", { "aria-hidden": "true" }, key))));
    else put(bar);
  }
  update(round);
  return {
    element,
    update,
    item: (at, item) => sides[at].item(item),
    delta: (at, id, delta) => sides[at].delta(id, delta),
    problem: (at, message) => sides[at].problem(message),
    /** Vote by key; returns whether the key was handled. */
    key(pressed) {
      const chosen = VOTES.find(([, , key]) => key === pressed);
      if (!chosen || !open()) return false;
      vote(chosen[0]);
      return true;
    },
  };
}

function column(at, decide, traceLink) {
  const drawn = new Map();
  const letter = "AB"[at];
  const name = h("span", { class: "tl-clip" });
  const body = h("div", { class: "tl-duel-answer" });
  const trouble = h("div", { class: "tl-notice tl-is-bad", role: "alert", hidden: true });
  const element = h("article", { class: "tl-duel-side", "aria-label": `Answer ${letter}`, "aria-busy": "true" }, h("h3", {}, h("span", { class: "tl-duel-letter" }, letter), name), body, trouble);
  const on = { decide, edit() {}, retry() {}, act: () => Promise.resolve() };

  function item(next) {
    const known = drawn.get(next.id);
    if (known && known.type === next.type) { known.update(next); return; }
    const made = { type: next.type, ...makeItem(next, on) };
    if (known) known.element.replaceWith(made.element);
    else body.append(made.element);
    drawn.set(next.id, made);
  }
  function problem(message) {
    trouble.hidden = !message;
    put(trouble, icon("error", "Error"), h("span", {}, message ?? ""));
  }
  return {
    element,
    item,
    problem,
    delta: (id, delta) => drawn.get(id)?.push?.(delta),
    update(side, ready, won) {
      side.items.forEach(item);
      problem(side.problem);
      put(name, side.name ? data(side.name) : "");
      element.setAttribute("aria-busy", String(!ready));
      element.classList.toggle("tl-won", won);
      const last = [...drawn.values()].findLast((made) => made.facts);
      if (side.run && last) last.facts(side.run, traceLink);
    },
  };
}
