// The component of ui/duel.py: two answers without names, a vote, and then the names.

import { data, h, put, svg } from "./shared/dom.js";
import { count } from "./shared/format.js";
import { icon } from "./shared/icons.js";
import { longText } from "./shared/long_text.js";
import { mount } from "./shared/mount.js";
import { stepText } from "./grid/opened.js";

const VOTES = [["left", "A is better", "1"], ["right", "B is better", "2"], ["tie", "Tie", "3"], ["both_bad", "Both bad", "4"]];
const TOLD = { left: "You preferred A", right: "You preferred B", tie: "You called it a tie", both_bad: "You found both bad" };

function render({ model, el }) {
  const view = mount({ model, el }, "arena");
  const { root, link } = view;
  let state = null;
  let pending = null; // The call whose effect is not shown yet.
  const trouble = h("div", { class: "tl-notice tl-is-bad", role: "alert", hidden: true });
  const duel = h("section", { class: "tl-duel", tabindex: -1, "aria-label": "Duel" });
  const result = h("p", { class: "tl-told", role: "status" });
  const buttons = h("div", { class: "tl-vote" });
  const ranking = h("section", { class: "tl-ranking", "aria-label": "Ranking", tabindex: 0 });
  root.append(trouble, duel, buttons, ranking);

  async function ask(name, args) {
    if (pending) return;
    const mine = (pending = {});
    try {
      await link.call(name, args);
      trouble.hidden = true;
    } catch (error) {
      if (error.closed) return;
      trouble.hidden = false;
      put(trouble, icon("error"), `${error.message} ${error.nextStep ?? ""}`);
    } finally {
      if (pending === mine) pending = null;
    }
  }
  const vote = (outcome) => { if (state?.duel && !state.revealed) ask("vote", { duel_id: state.duel.id, outcome }); };
  const next = () => { if (state?.revealed) ask("next", {}); };

  function show(fresh) {
    const before = state;
    const held = root.contains(root.getRootNode().activeElement);
    state = fresh;
    // A key pressed on what is shown now counts, also before the call has returned.
    if (before?.duel?.id !== state.duel?.id || Boolean(before?.revealed) !== Boolean(state.revealed)) pending = null;
    if (before?.duel?.id !== state.duel?.id || !duel.firstChild) drawDuel();
    reveal();
    drawButtons(held);
    put(ranking, state.problem ? null : ratingTable(state));
  }

  function drawDuel() {
    if (state.problem) {
      put(duel, h("div", { class: "tl-empty" }, h("h2", {}, state.problem.message), h("p", {}, state.problem.next_step)));
      return;
    }
    if (!state.duel) {
      put(duel, h("div", { class: "tl-empty" }, h("h2", {}, "Every pair is voted on"), h("p", {}, "The ranking below counts all votes. More cases or another epoch create new pairs.")));
      return;
    }
    put(duel, h("h2", {}, "Which answer is better?"), h("div", { class: "tl-asked", tabindex: 0, role: "group", "aria-label": "Asked" }, longText(state.duel.input)),
      h("div", { class: "tl-sides" }, side("A", state.duel.left, state.duel.left_steps), side("B", state.duel.right, state.duel.right_steps)));
  }

  function reveal() {
    const who = state.revealed;
    duel.querySelectorAll(".tl-side").forEach((element, k) => {
      const won = who && who.outcome === (k ? "right" : "left");
      element.classList.toggle("tl-won", Boolean(won));
      put(element.querySelector(".tl-side-name"), who ? data(k ? who.right : who.left, { class: "tl-clip" }) : "");
    });
  }

  function drawButtons(held) {
    if (state.revealed) {
      const { left, right, outcome } = state.revealed;
      put(result, TOLD[outcome], ". A was ", h("strong", {}, data(left)), ", B was ", h("strong", {}, data(right)), ".");
      put(buttons, result, h("button", { class: "tl-button tl-primary", type: "button", onclick: next, "aria-keyshortcuts": "Enter" }, "Next pair", h("kbd", { "aria-hidden": "true" }, "Enter")));
    } else if (state.duel) {
      put(buttons, VOTES.map(([outcome, word, key]) => h("button", { class: "tl-button", type: "button", "aria-keyshortcuts": key, onclick: () => vote(outcome) }, word, h("kbd", { "aria-hidden": "true" }, key))));
    } else put(buttons);
    // The buttons were replaced; keep the focus for keyboard users.
    if (held && !root.contains(root.getRootNode().activeElement)) (buttons.querySelector(".tl-primary") ?? duel).focus({ preventScroll: true });
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const chosen = VOTES.find(([, , key]) => key === event.key);
    if (chosen && !state?.revealed) vote(chosen[0]);
    else if (event.key === "Enter" && state?.revealed && !event.target.closest("button, summary")) next();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  link.on("snap", show);
  link.on("arena", show);
  link.open();
  return view.close;
}

function side(name, answer, steps) {
  return h("article", { class: "tl-side", "aria-label": `Answer ${name}` }, h("h3", {}, h("span", { class: "tl-side-letter" }, name), h("span", { class: "tl-side-name tl-clip" })),
    steps.length ? h("details", { class: "tl-small" }, h("summary", { class: "tl-soft" }, count(steps.length, "step")), h("ol", {}, steps.map((step) => h("li", {}, stepText(step))))) : null,
    longText(answer, { markdown: true }));
}

/** The ratings with intervals. `ranking`: rows, best first. */
export function ratingTable({ ranking, votes }) {
  const known = ranking.filter((row) => row.ci_low !== null && row.ci_high !== null);
  const low = Math.min(950, ...known.map((row) => row.ci_low));
  const high = Math.max(1050, ...known.map((row) => row.ci_high));
  const x = (value) => 4 + (192 * (Math.min(Math.max(value, low), high) - low)) / (high - low);
  const picture = (row) => (row.ci_low === null ? null : svg("svg", { width: 200, height: 18, "aria-hidden": "true" }, svg("line", { class: "tl-rate-mid", x1: x(1000), x2: x(1000), y1: 0, y2: 18 }),
    svg("line", { class: "tl-rate-line", x1: x(row.ci_low), x2: x(row.ci_high), y1: 9, y2: 9 }), svg("circle", { class: "tl-rate-dot", cx: x(row.rating), cy: 9, r: 4.5 })));
  return h("table", {}, h("caption", {}, `Ranking after ${count(votes, "vote")}`),
    h("thead", {}, h("tr", {}, [["Candidate"], ["Rating", "n"], ["95 % interval", "n"], ["", "tl-rate-pic"], ["Votes", "n"]].map(([word, kind]) => (word ? h("th", { scope: "col", class: kind }, word) : h("td", { class: kind }))))),
    h("tbody", {}, ranking.map((row) => h("tr", {}, h("th", { scope: "row" }, data(row.name)), h("td", { class: "n" }, row.votes ? Math.round(row.rating) : "–"),
      h("td", { class: "n" }, row.votes && row.ci_low !== null ? `${Math.round(row.ci_low)} to ${Math.round(row.ci_high)}` : "unknown"), h("td", { class: "tl-rate-pic" }, row.votes ? picture(row) : null), h("td", { class: "n" }, row.votes)))));
}
export default { render };
