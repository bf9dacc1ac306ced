// The component of server/pages/agents.py: the list, every field of one agent, and where its handoffs lead.

import { data, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { graphView } from "../graph/graph_view.js";
import { askFirst, button, empty, field, input, page, parsed, wrong } from "./parts.js";

const NEW = { id: null, name: "", description: "", instructions: "", model: null, model_settings: {}, tools: [], handoffs: [], approvals: {}, budget_usd: null, max_tokens_total: null, timeout_s: null, max_tool_calls: null };
const LIMITS = [["budget_usd", "Budget in US dollars"], ["max_tokens_total", "Tokens, input and output"], ["timeout_s", "Seconds of work"], ["max_tool_calls", "Tool calls"]];
const pretty = (value) => (Object.keys(value).length ? JSON.stringify(value, null, 2) : "");

function render(context) {
  const view = page(context, "agents", "Agents", "Who answers, with which model and tools, and to whom they hand off.");
  const { link, act, say, submit, root } = view;
  const add = button("New agent", { name: "plus", primary: true, onclick: () => { draft = { ...NEW }; choose(null); } });
  view.actions.append(add);
  const list = h("nav", { class: "tl-panel tl-agent-list", "aria-label": "Agents" });
  const form = h("section", { class: "tl-panel", "aria-label": "Fields" });
  const graph = graphView((node) => { const found = state.agents.find((agent) => agent.name === node.name); if (found) choose(found.id); });
  const beside = h("section", { class: "tl-panel tl-agent-graph", "aria-label": "Handoffs" }, h("h2", {}, "Handoffs"), graph.element);
  const models = h("datalist", { id: `tl-models-${Math.random().toString(36).slice(2, 7)}` });
  view.body.append(models, h("div", { class: "tl-agents" }, list, h("div", { class: "tl-stack" }, beside, form)));
  let state = null;
  let chosen = null;
  let draft = null;
  let drawn = "";
  let asked = false;
  let saved = null; // whose fields are as they were kept just now, and the word for it: told until something is typed or another is chosen

  function choose(id) {
    if (id !== saved?.id) saved = null;
    chosen = id;
    if (id !== null) draft = null;
    say(null);
    drawList();
    drawForm(true);
    drawGraph();
  }
  const current = () => (draft ? draft : state.agents.find((agent) => agent.id === chosen) ?? state.agents[0] ?? null);

  function drawList() {
    put(list, h("ul", { class: "tl-rows" }, state.agents.map((agent) => {
      const here = !draft && agent.id === current()?.id;
      return h("li", {}, h("button", { class: `tl-line${here ? " tl-is-current" : ""}`, type: "button", "aria-current": here ? "true" : null, onclick: () => choose(agent.id) },
        h("span", { class: "tl-kind-agent tl-agent-sign" }, icon("agent")), h("span", { class: "tl-grow" }, data(agent.name, { class: "tl-clip tl-agent-name" }), h("span", { class: "tl-soft tl-small tl-clip" }, agent.model ?? "default model"))));
    })));
  }

  async function drawGraph() {
    const agent = current();
    beside.hidden = !agent?.id;
    if (!agent?.id) return;
    try {
      const { value } = await link.call("graph", { agent_id: agent.id });
      if (current()?.id === agent.id) graph.show(value);
    } catch (error) { say(error); }
  }

  /** Drawn anew only for another agent, or when the stored one changed while nobody had edited it: what is being written stays. */
  function drawForm(force = false) {
    const agent = current();
    if (!agent) return put(form, empty("No agents", "Create one to chat with it."));
    const mark = JSON.stringify([agent, state.tools, state.agents.map((other) => [other.id, other.name])]);
    if (!force && (mark === drawn || form.dataset.tlTouched)) return null;
    drawn = mark;
    delete form.dataset.tlTouched;

    const name = input({ name: "name", value: agent.name, maxlength: 200, required: true });
    const description = input({ name: "description", value: agent.description });
    const instructions = h("textarea", { name: "instructions", class: "tl-input tl-instructions", rows: 8, value: agent.instructions });
    const model = input({ name: "model", value: agent.model ?? "", placeholder: `default: ${state.default_model}`, list: models.id });
    model.addEventListener("focus", offerModels);
    const settings = h("textarea", { name: "model_settings", class: "tl-input tl-mono", rows: 3, value: pretty(agent.model_settings), placeholder: '{"temperature": 0.2}', spellcheck: "false" });
    const approvals = h("textarea", { name: "approvals", class: "tl-input tl-mono", rows: 3, value: pretty(readable(agent.approvals)), placeholder: '{"get_weather": {"argument": "location", "contains": "berkeley"}}', spellcheck: "false" });
    const limits = LIMITS.map(([name, label]) => [label, input({ name, value: agent[name] ?? "", inputmode: "decimal", placeholder: "no limit" })]);
    const tools = picks("Tools", toolChoices(agent), agent.tools, "No tools. Add an MCP server on the page Tools.");
    const handoffs = picks("Hands off to", state.agents.filter((other) => other.id !== agent.id).map((other) => ({ id: other.id, name: other.name, note: other.description })), agent.handoffs, "There is no other agent yet.");

    const save = button(agent.id ? "Save" : "Create", { primary: true, type: "submit" });
    const kept = h("span", { class: "tl-soft tl-small", role: "status" }, agent.id && agent.id === saved?.id ? saved.word : null);
    const body = h("form", { class: "tl-form", novalidate: true },
      field("Name", name), field("Description", description, "What another agent reads when it may hand off to this one."), field("Instructions", instructions),
      field("Model", model, "prefix/name. Empty: the lab's default."), tools.element, handoffs.element,
      h("details", { class: "tl-more-fields", open: Boolean(Object.keys(agent.model_settings).length || Object.keys(agent.approvals).length) }, h("summary", {}, "Model settings and approval rules"),
        h("div", { class: "tl-form" }, field("Model settings", settings, "A JSON object: temperature, top_p, max_tokens, reasoning …"),
          field("Approval rules", approvals, 'Tool to "always", "never", or {"argument": …, "contains": …}: such a call waits for a person.'))),
      h("details", { class: "tl-more-fields", open: LIMITS.some(([name]) => agent[name] !== null) }, h("summary", {}, "Limits of a run"),
        h("div", { class: "tl-form" }, limits.map(([label, box]) => field(label, box)))),
      h("div", { class: "tl-form-foot" }, save, agent.id ? h("a", { class: "tl-button", href: `/traces?filter=${encodeURIComponent(`any(s.agent == ${JSON.stringify(agent.name)} for s in spans)`)}` }, "Its traces") : button("Discard", { onclick: () => { draft = null; choose(state.agents[0]?.id ?? null); add.focus(); } }), kept,
        agent.id ? h("a", { class: "tl-button", href: `/chat?agent=${agent.id}` }, icon("note"), h("span", {}, "Chat with it")) : null,
        agent.id ? h("span", { class: "tl-push" }, askFirst("Delete", `Delete ${agent.name}? Its threads and traces stay.`, "Delete", (box) => act(box, async () => { await link.call("delete", { agent_id: agent.id }); delete form.dataset.tlTouched; choose(state.agents.find((other) => other.id !== agent.id)?.id ?? null); }))) : null));
    body.addEventListener("input", () => { form.dataset.tlTouched = "1"; saved = null; kept.textContent = "Not saved yet"; });
    body.addEventListener("submit", (event) => {
      event.preventDefault();
      act(save, async () => {
        if (!name.value.trim()) throw wrong("An agent needs a name.", "Write at least one letter.", "name");
        const fields = {
          name: name.value, description: description.value, instructions: instructions.value, model: model.value.trim() || null,
          model_settings: parsed(settings.value, "Model settings", "model_settings"), tools: tools.chosen(), handoffs: handoffs.chosen(), approvals: parsed(approvals.value, "Approval rules", "approvals"),
          ...Object.fromEntries(limits.map(([label, box]) => [box.name, number(box.value, label, box.name)])),
        };
        const id = await submit("save", { agent_id: agent.id, fields });
        delete form.dataset.tlTouched;
        draft = null;
        saved = { id, word: agent.id ? "Saved" : "Created" };
        choose(id);
        form.querySelector("button[type=submit]").focus(); // The form was drawn anew, and with it the button that was pressed.
      });
    });
    const held = form.contains(root.getRootNode().activeElement) ? root.getRootNode().activeElement : null;
    put(form, h("h2", {}, agent.id ? agent.name : "New agent"), body);
    if (!agent.id) name.focus();
    else if (held) form.querySelector(held.name ? `[name="${held.name}"]` : "button[type=submit]").focus();
    return null;
  }

  /** Built-in tools by their bare names, as one writes them. */
  function readable(rules) {
    const names = new Map(state.tools.filter((tool) => tool.server === "lab").map((tool) => [tool.id, tool.name]));
    return Object.fromEntries(Object.entries(rules).map(([id, rule]) => [names.get(id) ?? id, rule]));
  }

  /** What can be had, and what the agent names though it cannot be had now. */
  function toolChoices(agent) {
    const known = state.tools.map((tool) => ({ id: tool.id, name: tool.name, note: tool.server === "lab" ? tool.description : `${tool.server}: ${tool.description}` }));
    const missing = agent.tools.filter((id) => !known.some((tool) => tool.id === id)).map((id) => ({ id, name: id, note: id.endsWith(".*") ? "all tools of this server" : "not offered by any server now" }));
    return [...known, ...missing];
  }

  async function offerModels() {
    if (asked) return;
    asked = true;
    try { put(models, (await link.call("models")).value.map((name) => h("option", { value: name }))); } catch { asked = false; }
  }

  return view.open((next) => {
    const first = state === null;
    state = next;
    if (first) chosen = next.selected ?? next.agents[0]?.id ?? null;
    drawList();
    drawForm(first);
    drawGraph();
    for (const problem of first ? next.problems : []) say({ message: problem });
  });
}

/** A limit as it was written; null when there is none. */
function number(text, label, name) {
  if (!text.trim()) return null;
  const value = Number(text.trim());
  if (!Number.isFinite(value)) throw wrong(`${label}: ${text.trim()} is no number.`, "Write digits, or leave it empty for no limit.", name);
  return value;
}

function picks(legend, choices, chosen, none) {
  const boxes = choices.map(({ id, name, note }) => {
    const box = h("input", { type: "checkbox", value: id, checked: chosen.includes(id) });
    return { box, row: h("label", { class: "tl-check" }, box, h("span", {}, data(name), note ? h("span", { class: "tl-soft tl-small" }, " ", data(note.split("\n")[0].slice(0, 140))) : null)) };
  });
  return {
    element: h("fieldset", {}, h("legend", {}, legend), boxes.length ? boxes.map(({ row }) => row) : h("p", { class: "tl-soft tl-none" }, none)),
    chosen: () => boxes.filter(({ box }) => box.checked).map(({ box }) => box.value),
  };
}
export default { render };
