// The form for a new comparison: cases, candidates and scorers; what it would take before anything is spent.

import { data, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { button, field, input } from "./parts.js";

const EXAMPLES = `What's the weather in Oakland?
{"input": "What's the weather in Tokyo?", "expected": "°F"}`;

/** `{element, update(state)}`. `link`, `act` and `submit` are the page's; a comparison that began is opened. */
export function compareForm({ link, act, submit }, onCancel) {
  const cases = h("textarea", { name: "cases", class: "tl-input tl-mono", rows: 6, spellcheck: "false", value: EXAMPLES });
  const models = chooser("model", { name: "models", placeholder: "openai/gpt-4.1" });
  const scorers = chooser("scorer", { name: "scorers", placeholder: "contains, tool_used:get_weather …" });
  const agents = h("fieldset", { name: "agents" });
  const epochs = input({ name: "epochs", type: "number", min: 1, max: 100, value: 1, required: true });
  const approve = h("input", { type: "checkbox" });
  const said = h("p", { class: "tl-soft", role: "status" });
  const start = button("Start", { name: "play", primary: true, type: "submit" });
  const plan = button("What would it take?", { onclick: () => act(plan, async () => { said.textContent = "Counting …"; try { said.textContent = await submit("plan", form()); } catch (error) { said.textContent = ""; throw error; } }) });
  const element = h("form", { class: "tl-form tl-panel", novalidate: true, "aria-label": "New comparison" }, h("h2", {}, "New comparison"),
    field("Cases", cases, 'One a line: a question, or a JSON object such as {"input": "…", "expected": "…"}.'),
    h("div", { class: "tl-columns" },
      h("div", { class: "tl-stack" }, field("Models", models.input, "Every model answers every case."), models.chosen, field("Scorers", scorers.input, "How answers are judged: contains and exact look at what is expected."), scorers.chosen),
      h("div", { class: "tl-stack" }, agents, field("How often", epochs, "More than once shows how much an answer varies."),
        h("label", { class: "tl-check" }, approve, h("span", {}, "Approve tool calls that ask")))),
    h("div", { class: "tl-form-foot" }, start, plan, button("Cancel", { onclick: onCancel })), said);

  const form = () => ({
    cases: cases.value, models: models.values(), scorers: scorers.values(), epochs: Number(epochs.value) || 1, approve: approve.checked,
    agents: [...agents.querySelectorAll("input:checked")].map((box) => box.value),
  });

  element.addEventListener("submit", (event) => {
    event.preventDefault();
    act(start, async () => { location.assign(`/compare/${await submit("start", form())}`); });
  });

  let agentsMark = null;
  let first = true;
  async function update(state) {
    const mark = JSON.stringify(state.agents);
    if (mark !== agentsMark) {
      const kept = new Set(agentsMark === null ? state.chosen_agents : form().agents);
      agentsMark = mark;
      put(agents, h("legend", {}, "Agents"), state.agents.map((name) => h("label", { class: "tl-check" }, h("input", { type: "checkbox", value: name, checked: kept.has(name) }), h("span", {}, data(name)))), h("p", { class: "tl-soft tl-small" }, "With none, the bare model answers."));
    }
    scorers.offer(state.scorers);
    if (!first) return;
    first = false;
    scorers.add("contains");
    models.add(state.default_model);
    if (state.default_model.startsWith("demo/")) models.add("demo/echo"); // with no key, something to compare at once
    models.offer((await link.call("models")).value);
  }

  return { element, update };
}

/** Several words of free text, with suggestions: what is chosen stands under the field and can be taken away again. */
function chooser(what, props) {
  const options = h("datalist", { id: `tl-choices-${Math.random().toString(36).slice(2, 8)}` });
  const box = input({ ...props, list: options.id });
  const chosen = h("ul", { class: "tl-chosen", "aria-label": `Chosen ${what}s` }, options);
  const words = () => [...chosen.querySelectorAll("li")].map((item) => item.dataset.word);
  function add(text) {
    const word = text.trim();
    if (!word || words().includes(word)) return;
    const item = h("li", { class: "tl-chip" }, data(word), h("button", { class: "tl-quiet", type: "button", "aria-label": `Remove ${word}`, onclick: () => { item.remove(); box.focus(); } }, icon("close", null, 12)));
    item.dataset.word = word;
    chosen.append(item);
  }
  const take = () => { box.value.split(",").forEach(add); box.value = ""; };
  box.addEventListener("keydown", (event) => { if ((event.key === "Enter" && box.value.trim()) || event.key === ",") { event.preventDefault(); take(); } });
  box.addEventListener("change", take);
  return { input: box, chosen, add, offer: (names) => put(options, names.map((name) => h("option", { value: name }))), values: () => { take(); return words(); } };
}
