// The arena of the Compare page: a form for a new duel, all ratings, and past duels. A duel has its own address.

import { ratingTable } from "../arena.js";
import { data, h, put } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { card, field, when } from "./parts.js";

/** `{element, update(state)}`. */
export function arenaCard(link) {
  const names = h("datalist", { id: `tl-duel-${Math.random().toString(36).slice(2, 7)}` });
  const models = ["First model", "Second model"].map((label) => [label, h("input", { class: "tl-input", placeholder: "prefix/name", list: names.id, required: true, autocomplete: "off", spellcheck: "false" })]);
  const agent = h("select", { class: "tl-input" });
  const questions = h("select", { class: "tl-input" });
  const blind = h("input", { type: "checkbox", checked: true });
  const form = h("form", { class: "tl-duel-form" }, names, models.map(([label, box]) => field(label, box)), field("Agent", agent), field("Questions", questions),
    h("div", { class: "tl-duel-start" }, h("label", { class: "tl-duel-blind" }, blind, "Blind: names after the vote"), h("button", { class: "tl-button tl-primary" }, icon("play"), "Start a duel")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = new URLSearchParams(models.map(([, box]) => ["duel", box.value.trim()]));
    asked.set("agent", agent.value);
    if (questions.value) asked.set("data", questions.value);
    if (!blind.checked) asked.set("named", "1");
    window.location.assign(`/compare?${asked}`);
  });
  form.addEventListener("focusin", async () => put(names, (await link.call("models", {})).value.map((value) => h("option", { value }))), { once: true });
  const ranking = h("div", { class: "tl-ranking tl-scroll", role: "region", "aria-label": "Ratings", tabindex: 0, hidden: true });
  const met = h("ul", { class: "tl-rows tl-duels", "aria-label": "Duels so far" });

  function options(select, first, values) {
    const before = select.value;
    put(select, first, values);
    if ([...select.options].some(({ value }) => value === before)) select.value = before;
  }
  return {
    element: card("Arena", h("p", { class: "tl-soft tl-none" }, "Two models answer the same question side by side, without names, and you vote."), form, ranking, met),
    update(state) {
      options(agent, null, state.agents.map((name) => h("option", { value: name }, name)));
      if (!agent.dataset.tlSet) { agent.value = state.chosen_agents[0]; agent.dataset.tlSet = "1"; }
      if (!agent.value) agent.selectedIndex = 0;
      options(questions, h("option", { value: "" }, "I write them"), state.datasets.map(({ name, n_cases: n }) => h("option", { value: name }, `${name}, ${count(n, "case")}`)));
      ranking.hidden = !state.arena.votes;
      put(ranking, state.arena.votes ? ratingTable(state.arena) : null);
      const open = new Set([...met.querySelectorAll("details[open]")].map((each) => each.dataset.names));
      put(met, state.duels.map((group) => pair(group, open)));
    },
  };
}

/** All duels of one pair of models: one line that expands to the single duels. */
function pair({ names, n_cases: asked, votes, wins, duels }, open) {
  const key = names.join(" against ");
  return h("li", {}, h("details", { "data-names": key, open: open.has(key) }, h("summary", { class: "tl-line" }, icon("chevron", null, 12),
    h("span", { class: "tl-grow" }, data(key, { class: "tl-clip" }), h("span", { class: "tl-soft tl-small" }, `${count(duels.length, "duel")}, ${count(asked, "question")}`)),
    h("span", { class: "tl-num tl-small" }, votes ? `${wins.join(" : ")} of ${count(votes, "vote")}` : "no votes")),
  h("ul", { class: "tl-rows" }, duels.map((one) => h("li", {}, h("a", { class: "tl-line", href: `/compare/${one.id}` }, h("span", { class: "tl-grow" }, `${count(one.n_cases, "question")}, ${count(one.votes, "vote")}`), when(one.created_at)))))));
}
