// The form of an agent: model (searchable list), settings, tools, handoffs and approval rules.

import { data, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { wholeField } from "../shared/keep_written.js";
import { button, field, input, parsed, wrong } from "./parts.js";

const LIMITS = [["budget_usd", "Budget in US dollars"], ["max_tokens_total", "Tokens, input and output"], ["timeout_s", "Seconds of work"], ["max_tool_calls", "Tool calls"]];
const MANY = 8;
const MOST_MODELS = 60;

/**
 * The form of `agent`: `{name, parts, fields()}`. `known`: the page's state. `models()` gives a promise of the models that there are.
 * `fields()` gives what an agent is made or changed with, or throws an Error that names the field.
 */
export function agentForm(agent, known, models) {
  const name = input({ name: "name", value: agent.name, maxlength: 200, required: true });
  const description = input({ name: "description", value: agent.description });
  const instructions = h("textarea", { name: "instructions", class: "tl-input tl-instructions", rows: 8, value: agent.instructions });
  const model = modelField(agent.model, known.default_model, models);
  const settings = settingFields(agent.model_settings, known.efforts);
  const tools = picks("Tools", toolChoices(agent, known), agent.tools, "No tools. Add an MCP server on the Tools page.");
  const handoffs = picks("Hands off to", known.agents.filter((other) => other.id !== agent.id).map((other) => ({ id: other.id, name: other.name, note: other.description })), agent.handoffs, "There are no other agents yet.");
  const rules = ruleFields(agent.approvals, known.tools);
  const limits = LIMITS.map(([key, label]) => [label, input({ name: key, value: agent[key] ?? "", inputmode: "decimal", placeholder: "no limit" })]);
  const open = (isSet) => ({ class: "tl-more-fields", open: Boolean(isSet) });
  return {
    name,
    parts: [
      field("Name", name), field("Description", description, "Description for other agents that may hand off to this one."), field("Instructions", instructions),
      field("Model", model.input, "Type to search. Empty: the lab's default."), model.list, tools.element, handoffs.element, rules.element,
      h("details", open(Object.keys(agent.model_settings).length), h("summary", {}, "Model settings"), settings.element),
      h("details", open(LIMITS.some(([key]) => agent[key] !== null)), h("summary", {}, "Limits of a run"), h("div", { class: "tl-form tl-field-grid" }, limits.map(([label, box]) => field(label, box)))),
    ],
    fields: () => ({
      name: name.value, description: description.value, instructions: instructions.value, model: model.input.value.trim() || null, model_settings: settings.read(),
      tools: tools.chosen(), handoffs: handoffs.chosen(), approvals: rules.read(), ...Object.fromEntries(limits.map(([label, box]) => [box.name, number(box.value, label, box.name, "no limit")])),
    }),
  };
}

// -- the model

/** A text input with a list of matches: every word must occur in the name. */
function modelField(value, fallback, models) {
  const id = `tl-models-${Math.random().toString(36).slice(2, 8)}`;
  const list = h("ul", { class: "tl-options", role: "listbox", id, "aria-label": "Models", hidden: true });
  const box = input({ name: "model", value: value ?? "", placeholder: `default: ${fallback}`, role: "combobox", "aria-expanded": "false", "aria-autocomplete": "list", "aria-controls": id });
  let names = null;
  let at = -1;
  async function open(all) {
    if (!names) {
      put(list, h("li", { class: "tl-soft tl-option" }, "Asking the providers …"));
      show(true);
      try { names = await models(); } catch { show(false); return; } // Without the list, a model can still be typed.
      if (list.hidden) return;
    }
    const words = all ? [] : box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = names.filter((each) => words.every((word) => each.toLowerCase().includes(word)));
    at = -1;
    box.removeAttribute("aria-activedescendant");
    put(list, found.slice(0, MOST_MODELS).map((each, n) => h("li", { class: "tl-option", role: "option", id: `${id}-${n}`, "aria-selected": "false", onpointerdown: (event) => { event.preventDefault(); take(each); } }, each)),
      found.length > MOST_MODELS ? h("li", { class: "tl-soft tl-option" }, `${found.length - MOST_MODELS} more: type a part of the name`) : null,
      found.length ? null : h("li", { class: "tl-soft tl-option" }, "This model is not listed. It is checked when you save."));
    show(true);
  }
  function show(now) {
    list.hidden = !now;
    box.setAttribute("aria-expanded", String(now));
  }
  function take(each) {
    box.value = each;
    box.dispatchEvent(new Event("input", { bubbles: true, composed: true }));
    show(false);
  }
  function choose(next) {
    const options = [...list.querySelectorAll("[role=option]")];
    if (!options.length) return;
    at = (next + options.length) % options.length;
    options.forEach((option, n) => option.setAttribute("aria-selected", String(n === at)));
    options[at].scrollIntoView({ block: "nearest" });
    box.setAttribute("aria-activedescendant", options[at].id);
  }
  box.addEventListener("click", () => { if (list.hidden) open(true); });
  box.addEventListener("input", (event) => { if (event.isTrusted) open(false); });
  box.addEventListener("blur", () => show(false));
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open(true);
      else choose(at + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter" && !list.hidden && at >= 0) {
      event.preventDefault();
      take(list.children[at].textContent);
    } else if (event.key === "Escape" && !list.hidden) {
      event.stopPropagation();
      show(false);
    }
  });
  return { input: box, list };
}

// -- its settings

const OWN = ["temperature", "top_p", "max_tokens", "reasoning", "tool_choice", "parallel_tool_calls"];

function settingFields(settings, efforts) {
  const numbers = [["temperature", "Temperature", "0 to 2"], ["top_p", "Top p", "0 to 1"], ["max_tokens", "Maximum output tokens", "no limit"]].map(([key, label, placeholder]) => [key, label, input({ name: `model_settings.${key}`, value: settings[key] ?? "", inputmode: "decimal", placeholder })]);
  const effort = select("model_settings.reasoning", settings.reasoning?.effort ?? "", [["", "the model's own"], ...efforts.map((each) => [each, each])]);
  const choice = typeof settings.tool_choice === "string" || settings.tool_choice === undefined ? settings.tool_choice ?? "" : "";
  const tool = select("model_settings.tool_choice", choice, [["", "the model's own"], ["auto", "automatically"], ["required", "always one"], ["none", "never"], ...(["", "auto", "required", "none"].includes(choice) ? [] : [[choice, choice]])]);
  const parallel = select("model_settings.parallel_tool_calls", String(settings.parallel_tool_calls ?? ""), [["", "the model's own"], ["true", "several at once"], ["false", "sequentially"]]);
  const isWritten = (key) => !OWN.includes(key) || (key === "tool_choice" && typeof settings[key] !== "string");
  const others = Object.fromEntries(Object.entries(settings).filter(([key]) => isWritten(key)));
  const rest = h("textarea", { name: "model_settings", class: "tl-input tl-mono", rows: 2, value: Object.keys(others).length ? JSON.stringify(others, null, 2) : "", placeholder: '{"frequency_penalty": 0.2}', spellcheck: "false" });
  return {
    element: h("div", { class: "tl-form" }, h("div", { class: "tl-form tl-field-grid" }, numbers.map(([, label, box]) => field(label, box)), field("Reasoning effort", effort), field("Calls tools", tool), field("Parallel calls", parallel)),
      field("Other settings", rest, "A JSON object, for settings without a field here.")),
    read() {
      const given = parsed(rest.value, "Other settings", "model_settings");
      for (const [key, label, box] of numbers) {
        const value = number(box.value, label, box.name, "the model's own");
        if (value !== null) given[key] = value;
      }
      const { effort: before, ...reasoning } = settings.reasoning ?? {};
      if (effort.value) reasoning.effort = effort.value;
      if (Object.keys(reasoning).length) given.reasoning = reasoning;
      if (tool.value) given.tool_choice = tool.value;
      if (parallel.value) given.parallel_tool_calls = parallel.value === "true";
      return given;
    },
  };
}

function select(name, value, options, props = {}) {
  const box = h("select", { name, class: "tl-input", ...props }, options.map(([key, words]) => h("option", { value: key }, words)));
  box.value = value;
  return box;
}

/** A typed number; null if empty. */
function number(text, label, name, empty) {
  if (!text.trim()) return null;
  const value = Number(text.trim());
  if (!Number.isFinite(value)) throw wrong(`${label}: ${text.trim()} is not a number.`, `Enter a number, or leave it empty for ${empty}.`, name);
  return value;
}

// -- approval rules

const EVERY = "*";

function ruleFields(rules, tools) {
  const rows = h("div", { class: "tl-rules" });
  const none = h("p", { class: "tl-soft tl-none" }, "No rules: tools are called without approval, unless their server requires it.");
  const add = button("Add a rule", { name: "plus", onclick: () => { make(EVERY, "always"); changed(); rows.lastElementChild.querySelector("select").focus(); } });
  const made = [];
  const whole = wholeField("rules", () => made.map((one) => one.typed()), (kept) => { rows.replaceChildren(); made.length = 0; kept.forEach(makeAs); none.hidden = made.length > 0; });
  const element = h("fieldset", { name: "approvals" }, h("legend", {}, "Require approval for"), none, rows, h("div", {}, add), whole.element);
  const changed = () => { none.hidden = made.length > 0; whole.changed(); };
  rows.addEventListener("input", () => whole.changed());
  /** A rule as it was typed, and not yet saved. */
  function makeAs([id, test, argument, value, isText]) {
    make(id, ["always", "never"].includes(test) ? test : { argument, [test]: value }, isText);
  }

  function make(id, rule, isText = typeof (rule.contains ?? rule.equals ?? "") === "string") {
    const known = tools.some((tool) => tool.id === id) || id === EVERY;
    const which = select(null, id, [[EVERY, "all tools without a rule"], ...tools.map((tool) => [tool.id, tool.server === "lab" ? tool.name : `${tool.server}: ${tool.name}`]), ...(known ? [] : [[id, `${id} (not available)`]])], { "aria-label": "Tool", "data-tl-kept": "" });
    const test = typeof rule === "string" ? rule : "contains" in rule ? "contains" : "equals";
    const when = select(null, test, [["always", "every call"], ["never", "no call"], ["contains", "if an argument contains"], ["equals", "if an argument is"]], { "aria-label": "Which calls", "data-tl-kept": "" });
    const argument = input({ value: rule.argument ?? "", "aria-label": "Argument", "data-tl-kept": "", placeholder: "argument", list: `tl-args-${Math.random().toString(36).slice(2, 8)}` });
    const names = h("datalist", { id: argument.getAttribute("list") });
    const first = rule.contains ?? rule.equals ?? "";
    const value = input({ value: typeof first === "string" ? first : JSON.stringify(first), "aria-label": "Value", "data-tl-kept": "", placeholder: "value" });
    const looks = h("span", { class: "tl-rule-test" }, argument, names, value);
    const row = h("div", { class: "tl-rule" }, which, when, looks, h("button", { type: "button", class: "tl-quiet", "aria-label": "Remove the rule", title: "Remove the rule", onclick: () => { made.splice(made.indexOf(one), 1); row.remove(); changed(); add.focus(); } }, icon("close", null, 12)));
    const argumentsOf = () => tools.find((tool) => tool.id === which.value)?.arguments ?? {};
    const fit = () => { looks.hidden = ["always", "never"].includes(when.value); put(names, Object.keys(argumentsOf()).map((each) => h("option", { value: each }))); };
    for (const box of [which, when]) box.addEventListener("change", fit);
    fit();
    /** The value in the type of the tool's argument; if its schema has none, in the type of the saved rule, else text. */
    function typed() {
      const type = argumentsOf()[argument.value.trim()] ?? (isText ? "string" : "json");
      if (type === "string" || when.value === "contains") return value.value;
      try {
        return JSON.parse(value.value);
      } catch {
        throw wrong(`${argument.value.trim()} has the type ${type}, but ${value.value || "nothing"} does not.`, "Use JSON syntax.", "approvals");
      }
    }
    const one = {
      typed: () => [which.value, when.value, argument.value, value.value, isText],
      read() {
        if (looks.hidden) return [which.value, when.value];
        if (!argument.value.trim() || !value.value) throw wrong("An approval rule has no argument or no value.", "Enter both, or require approval for every call.", "approvals");
        return [which.value, { argument: argument.value.trim(), [when.value]: typed() }];
      },
    };
    made.push(one);
    rows.append(row);
  }
  for (const [id, rule] of Object.entries(rules)) make(id, rule);
  none.hidden = made.length > 0;
  return {
    element,
    read() {
      const read = made.map((one) => one.read());
      const twice = read.find(([id], n) => read.findIndex(([other]) => other === id) !== n);
      if (twice) throw wrong("A tool has two approval rules.", "Remove one of them.", "approvals");
      return Object.fromEntries(read);
    },
  };
}

// -- tools and handoffs

/** What is available, and what the agent refers to although it is unavailable. */
function toolChoices(agent, known) {
  const offered = known.tools.map((tool) => ({ id: tool.id, name: tool.name, group: tool.server, note: tool.description }));
  const missing = agent.tools.filter((id) => !offered.some((tool) => tool.id === id)).map((id) => ({ id, name: id, group: "not offered now", note: id.endsWith(".*") ? "all tools of this server" : "not available from any server" }));
  return [...offered, ...missing];
}

function picks(legend, choices, chosen, none) {
  const boxes = choices.map(({ id, name, note, group }) => {
    const box = h("input", { type: "checkbox", value: id, checked: chosen.includes(id) });
    return { box, group, text: `${group} ${name} ${note}`.toLowerCase(), row: h("label", { class: "tl-check" }, box, h("span", {}, data(name), note ? h("span", { class: "tl-soft tl-small" }, " ", data(note.split("\n")[0].slice(0, 140))) : null)) };
  });
  const groups = [...new Set(boxes.map(({ group }) => group))].filter((group) => group !== undefined);
  const lists = groups.length > 1 ? groups.map((group) => h("div", { class: "tl-pick-group" }, h("div", { class: "tl-soft tl-small" }, data(group)), boxes.filter((one) => one.group === group).map(({ row }) => row))) : boxes.map(({ row }) => row);
  const search = boxes.length > MANY ? input({ type: "search", placeholder: "Find", "aria-label": `${legend}: find` }) : null;
  search?.addEventListener("input", (event) => {
    event.stopPropagation(); // Viewing the form does not change the agent.
    const word = search.value.trim().toLowerCase();
    for (const { row, text } of boxes) row.hidden = !text.includes(word);
    for (const list of lists) if (list.matches(".tl-pick-group")) list.hidden = ![...list.querySelectorAll("label")].some((row) => !row.hidden);
  });
  return {
    element: h("fieldset", {}, h("legend", {}, legend), search, boxes.length ? h("div", { class: "tl-pick-list" }, lists) : h("p", { class: "tl-soft tl-none" }, none)),
    chosen: () => boxes.filter(({ box }) => box.checked).map(({ box }) => box.value),
  };
}
