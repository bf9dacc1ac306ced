// The component of server/pages/playground.py: a request to edit, and the answers of up to four models side by side.

import { data, debounce, h, perFrame, put, storage } from "../shared/dom.js";
import { cost, count, duration, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { Markdown } from "../chat/markdown.js";
import { button, field, input, page, parsed, when, worded, wrong } from "./parts.js";

const DRAFT = "timestep-lab playground";
const COMPARISON = "timestep-lab comparison";
const ROLES = [["user", "User"], ["assistant", "Assistant"], ["system", "System"], ["developer", "Developer"]];
const TEXTS = ["input_text", "output_text"];
const MAC = /Mac|iP(hone|ad)/.test(navigator.platform);
const KEYS = MAC ? "⌘ ↵" : "Ctrl ↵";
const isMessage = (item) => ["message", undefined].includes(item.type) && "role" in item;
const isText = (item) => isMessage(item) && (typeof item.content === "string" || item.content.every((part) => TEXTS.includes(part.type)));
const textOf = (item) => (typeof item.content === "string" ? item.content : item.content.map((part) => part.text).join(""));
const pretty = (value) => JSON.stringify(value, null, 2);
const outputOf = (item) => (typeof item.output === "string" ? item.output : pretty(item.output));

function render(context) {
  const view = page(context, "playground", "Playground", "Send one request to up to four models side by side. Edit it and run it again.");
  const { link, act, submit, root } = view;
  let state = null;
  let columns = [];
  let made = 0;

  // -- the request

  const kept = { "data-tl-kept": "" };
  const origin = h("p", { class: "tl-soft tl-small tl-play-origin" });
  const instructions = h("textarea", { class: "tl-input", name: "instructions", rows: 4, placeholder: "How the model should behave", ...kept });
  const messages = h("ol", { class: "tl-play-messages", "aria-label": "Messages" });
  const tools = h("textarea", { class: "tl-input tl-mono", name: "tools", rows: 6, spellcheck: "false", placeholder: '[{"name": "lookup", "description": "…", "parameters": {"type": "object", "properties": {}}}]', ...kept });
  const schema = h("textarea", { class: "tl-input tl-mono", name: "response_format", rows: 6, spellcheck: "false", placeholder: '{"type": "object", "properties": {"city": {"type": "string"}}}', ...kept });
  const temperature = input({ name: "temperature", inputmode: "decimal", placeholder: "the model's own", ...kept });
  const most = input({ name: "max_tokens", inputmode: "numeric", placeholder: "no limit", ...kept });
  const settings = h("textarea", { class: "tl-input tl-mono", name: "model_settings", rows: 3, spellcheck: "false", placeholder: '{"top_p": 0.9, "reasoning": {"effort": "low"}}', ...kept });
  const toolCount = h("span", { class: "tl-soft" });
  const run = button("Run", { name: "play", primary: true, type: "submit", title: `Run all models (${KEYS})` });
  const stop = button("Stop", { name: "stop", hidden: true, onclick: () => columns.forEach((column) => column.stop()) });
  const form = h("form", { class: "tl-form tl-panel tl-play-request", novalidate: true, "aria-label": "Request" }, h("h2", {}, "Request"), origin,
    field("Instructions", instructions), h("div", { class: "tl-field" }, h("span", { class: "tl-play-label" }, "Messages"), messages,
      button("Add message", { name: "plus", onclick: () => { addRow({ role: "user", content: "" }).querySelector("textarea").focus(); changed(); } })),
    h("div", { class: "tl-play-settings" }, field("Temperature", temperature), field("Max tokens", most)),
    h("details", {}, h("summary", {}, "Tools ", toolCount), field("Functions as JSON", tools, "The model may request a call. Tools are not executed; the request is shown.")),
    h("details", {}, h("summary", {}, "Response format"), field("JSON schema", schema, "Leave empty for plain text.")),
    h("details", {}, h("summary", {}, "More settings"), field("Settings as JSON", settings)),
    h("div", { class: "tl-form-foot" }, run, stop, h("kbd", { class: "tl-soft tl-small" }, KEYS)));
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
  });
  form.addEventListener("input", () => changed());

  /** One item of the conversation: a message, a call, its result, or an item that can only be edited as JSON. */
  function addRow(item, before = null) {
    const row = h("li", { class: "tl-play-message" });
    const remove = h("button", { class: "tl-quiet", type: "button", "aria-label": "Remove this message", title: "Remove", onclick: () => { row.remove(); changed(); } }, icon("close", null, 12));
    const area = (value, label, props = {}) => h("textarea", { class: "tl-input", rows: Math.min(10, Math.max(2, value.split("\n").length, Math.ceil(value.length / 60))), "aria-label": label, value, ...kept, ...props });
    const mono = { class: "tl-input tl-mono", spellcheck: "false" };
    if (isText(item)) {
      const was = textOf(item);
      const role = h("select", { class: "tl-input", "aria-label": "Role", ...kept }, ROLES.map(([value, word]) => h("option", { value, selected: value === item.role }, word)));
      const text = area(was, "Message", { dir: "auto", name: "prompt" });
      row.append(h("div", { class: "tl-play-message-head" }, role, remove), text);
      row.item = () => (text.value === was && role.value === item.role && was ? item : { role: role.value, content: text.value });
    } else if (item.type === "function_call") {
      const text = area(item.arguments, `Arguments of ${item.name}`, mono);
      row.append(h("div", { class: "tl-play-message-head" }, h("span", { class: "tl-kind-tool tl-play-call" }, icon("tool", null, 13), "Calls ", data(item.name)), remove), text);
      row.item = () => ({ ...item, arguments: text.value });
    } else if (item.type === "function_call_output") {
      const was = outputOf(item);
      const text = area(was, "Result of the call", mono);
      row.append(h("div", { class: "tl-play-message-head" }, h("span", { class: "tl-kind-tool tl-play-call" }, icon("turn", null, 13), "Result of the call"), remove), text);
      row.item = () => (text.value === was ? item : { ...item, output: text.value });
    } else {
      const text = area(pretty(item), "Item as JSON", mono);
      row.append(h("div", { class: "tl-play-message-head" }, h("span", { class: "tl-soft" }, item.type === "reasoning" ? "Reasoning" : "Message with a file"), remove), h("details", {}, h("summary", {}, "as JSON"), text));
      row.item = () => parsed(text.value, "An item of the conversation", "prompt");
    }
    messages.insertBefore(row, before);
    return row;
  }

  function fill(request) {
    instructions.value = request.instructions ?? "";
    put(messages);
    for (const item of request.items ?? []) addRow(item);
    if (!messages.childElementCount) addRow({ role: "user", content: "" });
    tools.value = request.tools?.length ? pretty(request.tools) : "";
    const asked = request.response_format;
    schema.value = asked ? pretty(asked.type === "json_schema" ? asked.schema : asked) : "";
    const { temperature: warm, max_tokens: limit, ...rest } = request.model_settings ?? {};
    temperature.value = warm ?? "";
    most.value = limit ?? "";
    settings.value = Object.keys(rest).length ? pretty(rest) : "";
    counted();
  }

  const number = (control, what, name) => {
    const text = control.value.trim();
    if (!text) return {};
    if (!Number.isFinite(Number(text))) throw wrong(`${what} is not a number: ${text}.`, "Enter a number, or leave it empty.", name);
    return { [name]: Number(text) };
  };
  const modelSettings = () => ({ ...parsed(settings.value, "The settings", "model_settings"), ...number(temperature, "The temperature", "temperature"), ...number(most, "The limit of tokens", "max_tokens") });
  function toolList() {
    if (!tools.value.trim()) return [];
    let value;
    try { value = JSON.parse(tools.value); } catch (error) { throw wrong(`The tools cannot be read as JSON: ${error.message}.`, 'Use a list: [{"name": "…", "parameters": {…}}].', "tools"); }
    if (!Array.isArray(value)) throw wrong("The tools are not a list.", 'Use a list: [{"name": "…", "parameters": {…}}].', "tools");
    return value;
  }
  function request() {
    const items = [...messages.children].map((row) => row.item()).filter((item) => !isText(item) || textOf(item).trim());
    if (!items.length) throw wrong("There are no messages.", "Add a message for the model.", "prompt");
    const form_ = parsed(schema.value, "The response format", "response_format");
    const response_format = !schema.value.trim() ? null : form_.type === "json_object" ? form_ : { type: "json_schema", name: "answer", schema: form_ };
    return { prompt: items, instructions: instructions.value, tools: toolList(), response_format, model_settings: modelSettings() };
  }
  function counted() {
    let n = 0;
    try { n = toolList().length; } catch { n = null; }
    put(toolCount, n === null ? "cannot be read" : n ? count(n, "function") : "none");
  }

  // -- drafts that survive a reload

  const remember = debounce(() => {
    const draft = { address: place(), instructions: instructions.value, items: [...messages.children].map((row) => { try { return row.item(); } catch { return null; } }).filter(Boolean), tools: tools.value, schema: schema.value, temperature: temperature.value, most: most.value, settings: settings.value };
    storage((tab) => tab.setItem(DRAFT, JSON.stringify(draft)));
  }, 200);
  // Also what was written right before the page is left or loaded again.
  addEventListener("pagehide", remember.now);
  view.onClose(() => { remember.now(); removeEventListener("pagehide", remember.now); });
  function changed() { counted(); remember(); }
  function place() {
    const { searchParams } = new URL(location.href);
    return `${searchParams.get("trace") ?? ""} ${searchParams.get("step") ?? ""}`;
  }
  function restore() {
    const draft = JSON.parse(storage((tab) => tab.getItem(DRAFT)) ?? "null");
    if (draft?.address !== place()) return;
    fill({ instructions: draft.instructions, items: draft.items });
    Object.assign(tools, { value: draft.tools });
    Object.assign(schema, { value: draft.schema });
    for (const [control, value] of [[temperature, draft.temperature], [most, draft.most], [settings, draft.settings]]) control.value = value;
    counted();
  }

  // -- the models and their answers

  const known = h("datalist", { id: `tl-models-${Math.random().toString(36).slice(2, 8)}` });
  const beside = h("div", { class: "tl-play-columns" });
  const add = button("Add a model", { name: "plus", onclick: () => { addColumn("").model.focus(); placed(); } });
  const answers = h("section", { class: "tl-play-answers", "aria-label": "Answers" }, known, beside, h("div", {}, add));

  function addColumn(name) {
    const id = `c${(made += 1)}-${Math.random().toString(36).slice(2, 7)}`;
    const model = input({ value: name, list: known.id, placeholder: "prefix/name", "aria-label": "Model", class: "tl-input tl-mono", autocapitalize: "off", ...kept });
    const sign = h("span", { class: "tl-play-sign", role: "status" });
    const end = h("button", { class: "tl-quiet", type: "button", "aria-label": "Stop this answer", title: "Stop", hidden: true, onclick: () => column.stop() }, icon("stop", null, 12));
    const remove = h("button", { class: "tl-quiet", type: "button", "aria-label": "Remove this model", title: "Remove", onclick: () => { column.element.remove(); columns = columns.filter((one) => one !== column); link.call("forget", { column: id }).catch(() => {}); placed(); } }, icon("close", null, 12));
    const body = h("div", { class: "tl-play-answer", tabindex: 0, role: "group", "aria-label": "Answer" });
    const facts = h("footer", { class: "tl-play-facts tl-soft tl-small tl-num" });
    const element = h("article", { class: "tl-panel tl-play-column" }, h("header", { class: "tl-play-column-head" }, model, end, remove), sign, body, facts);
    const column = { id, element, model, remove, shown: null, stop: () => { if (column.shown?.status === "running") link.call("stop", { column: id }).catch(() => {}); } };
    let prose = null;
    let calls = new Map();
    const paint = perFrame(() => { prose?.flush(); if (follows) body.scrollTop = body.scrollHeight; });
    let follows = true;
    view.onClose(() => paint.cancel());
    model.addEventListener("input", placed);

    column.show = (answer) => {
      column.shown = answer;
      const { status } = answer;
      end.hidden = status !== "running";
      put(sign, status === "running" ? [icon("running", null, 13), answer.text || answer.calls.length ? "answers" : "is asked"] : null);
      sign.className = "tl-play-sign tl-small tl-soft";
      put(body);
      calls = new Map();
      prose = null;
      if (answer.reasoning) reason(answer.reasoning);
      if (answer.text) write(answer.text);
      for (const call of answer.calls) callView(call);
      if (answer.error) body.append(h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), h("span", {}, worded(answer.error.message), " ", worded(answer.error.next_step ?? ""))));
      if (status === "stopped") body.append(h("p", { class: "tl-soft tl-small" }, "Stopped."));
      if (status === "done" && !answer.text && !answer.calls.length) body.append(h("p", { class: "tl-soft" }, "An empty answer."));
      const used = answer.input_tokens === null || answer.input_tokens === undefined ? null : answer.input_tokens + answer.output_tokens;
      put(facts, status === "done" ? [
        h("span", { title: answer.ttft_ms ? `First token after ${duration(answer.ttft_ms)}` : null }, duration(answer.duration_ms)),
        h("span", { title: used === null ? null : `${answer.input_tokens.toLocaleString("en")} in, ${answer.output_tokens.toLocaleString("en")} out` }, tokens(used)),
        h("span", {}, cost(answer.cost_usd)), answer.stop_reason && answer.stop_reason !== "stop" ? h("span", { class: "tl-warn" }, STOPPED[answer.stop_reason] ?? answer.stop_reason) : null,
      ] : null, answer.trace_id && status !== "running" ? h("a", { href: `/traces/${answer.trace_id}` }, "trace") : null);
      busy();
    };
    const write = (text) => {
      if (!prose) { const box = h("div", { class: "tl-prose", dir: "auto" }); body.append(box); prose = new Markdown(box); }
      prose.push(text);
      if (column.shown.status === "running") paint();
      else prose.flush();
    };
    const reason = (text) => {
      const at = body.querySelector(".tl-play-reasoning");
      if (at) at.lastChild.append(text);
      else body.prepend(h("details", { class: "tl-play-reasoning" }, h("summary", { class: "tl-soft tl-small" }, "Reasoning"), h("div", { class: "tl-plain tl-small", dir: "auto" }, text)));
    };
    const callView = ({ call_id: callId, tool, arguments: args }) => {
      const text = h("code", {}, args);
      calls.set(callId, text);
      body.append(h("div", { class: "tl-play-wants tl-kind-tool" }, h("span", { class: "tl-play-call" }, icon("tool", null, 13), "Wants to call ", data(tool)), h("pre", {}, text)));
    };
    column.grow = ({ field: part, delta, call_id: callId, tool }) => {
      follows = body.scrollHeight - body.scrollTop - body.clientHeight < 24;
      if (part === "text") { column.shown.text += delta; write(delta); }
      else if (part === "reasoning") reason(delta);
      else if (calls.has(callId)) calls.get(callId).append(delta);
      else { column.shown.calls.push({}); callView({ call_id: callId, tool, arguments: delta }); }
      put(sign, icon("running", null, 13), "answers");
      paint();
    };
    put(body, h("p", { class: "tl-soft" }, "Not run yet."));
    columns.push(column);
    beside.append(element);
    return column;
  }

  function placed() {
    add.hidden = columns.length >= (state?.most_models ?? 4);
    for (const column of columns) column.remove.hidden = columns.length === 1;
    beside.style.setProperty("--columns", columns.length === 4 && beside.clientWidth < 1000 ? 2 : columns.length);
    const address = new URL(location.href);
    address.searchParams.delete("model");
    for (const name of names()) address.searchParams.append("model", name);
    history.replaceState(history.state, "", address);
  }
  const names = () => columns.map(({ model }) => model.value.trim()).filter(Boolean);
  function busy() {
    const goesOn = columns.some(({ shown }) => shown?.status === "running");
    stop.hidden = !goesOn;
    run.querySelector("span").textContent = goesOn ? "Run again" : "Run";
  }

  const ask = () => act(run, async () => {
    const given = request();
    const empty = columns.find(({ model }) => !model.value.trim());
    if (empty) { empty.model.focus(); throw wrong("A column has no model.", "Enter its name as prefix/name, or remove the column."); }
    placed();
    await Promise.all(columns.map(async (column) => {
      column.show({ status: "running", text: "", reasoning: "", calls: [] });
      try { await link.call("ask", { column: column.id, model: column.model.value.trim(), request: given }); } catch (error) {
        if (!error.closed) column.show({ status: "failed", text: "", reasoning: "", calls: [], error: { message: error.message, next_step: error.nextStep } });
      }
    }));
    if (innerWidth <= 860) answers.scrollIntoView({ block: "start", behavior: "smooth" });
  });
  const of = (id) => columns.find((column) => column.id === id);
  link.on("answer", ({ column, answer }) => of(column)?.show(answer));
  link.on("delta", (op) => of(op.column)?.grow(op));
  link.on("snap", (snap) => { for (const [id, answer] of Object.entries(snap.answers ?? {})) of(id)?.show(answer); });

  // -- saving and further use

  const keepButton = button("Save as a prompt version", { name: "note", "aria-expanded": "false", onclick: () => toggle(keeping.hidden) });
  const agent = h("select", { class: "tl-input", name: "agent" });
  const name = input({ name: "name", maxlength: 200 });
  const nameField = field("Name of the new agent", name);
  const withModel = h("input", { type: "checkbox" });
  const withWords = h("span", {});
  const keep = button("Keep", { primary: true, type: "submit" });
  const keeping = h("form", { class: "tl-form tl-panel tl-play-keep", hidden: true, novalidate: true, "aria-label": "Save as a prompt version" },
    h("h2", {}, "Save as a prompt version"), h("p", { class: "tl-soft tl-none" }, "The instructions become the newest version of an agent; earlier versions are kept and can be compared and restored."),
    h("div", { class: "tl-columns" }, field("Agent", agent), nameField), h("label", { class: "tl-check" }, withModel, withWords),
    h("div", { class: "tl-form-foot" }, keep, button("Cancel", { onclick: () => { toggle(false); keepButton.focus(); } })));
  const shownName = () => { nameField.hidden = agent.value !== ""; };
  agent.addEventListener("change", shownName);
  function toggle(shown) {
    keeping.hidden = !shown;
    keepButton.setAttribute("aria-expanded", String(shown));
    if (!shown) return;
    put(withWords, "also its model, ", data(names()[0] ?? ""), ", and the settings");
    agent.focus();
  }
  keeping.addEventListener("submit", (event) => {
    event.preventDefault();
    act(keep, async () => {
      const also = withModel.checked ? { model: names()[0] ?? null, model_settings: modelSettings() } : {};
      const before = state.agents.find(({ id }) => id === agent.value)?.version;
      const record = await submit("keep", { agent: agent.value, name: name.value, instructions: instructions.value, ...also });
      view.tell(keep, [data(record.name), record.version === before ? ` has these instructions already, as version ${before}. ` : ` is now version ${record.version}. `, h("a", { href: `/agents/${record.id}` }, "Open the agent")]);
    });
  });
  const compare = button("Create a comparison", { name: "table", onclick: () => act(compare, async () => {
    const given = request();
    if (!given.prompt.every(isText)) throw wrong("Cases of a comparison contain only messages, but this request has calls or files.", "Remove them here, or compare the agent itself on its question.");
    const chat = given.prompt.map((item) => ({ role: item.role, content: textOf(item) }));
    const asked = chat.filter(({ role }) => role === "user").at(-1)?.content ?? "";
    const isPlain = chat.length === 1 && !given.instructions.trim();
    const messages_ = given.instructions.trim() ? [{ role: "system", content: given.instructions }, ...chat] : chat;
    const left = [given.tools.length ? "tools" : null, given.response_format ? "the response format" : null].filter(Boolean);
    const draft = { cases: JSON.stringify(isPlain ? { input: asked } : { input: asked, messages: messages_ }), models: names(), settings: Object.keys(given.model_settings).length ? JSON.stringify(given.model_settings) : "",
      note: left.length ? `From the playground, without its ${left.join(" and ")}: a comparison runs models directly.` : "From the playground." };
    sessionStorage.setItem(COMPARISON, JSON.stringify(draft));
    location.assign("/compare?new");
  }) });
  view.actions.append(keepButton, compare);

  const recent = h("section", { class: "tl-panel", "aria-label": "Start from a recorded step" });
  view.body.append(keeping, h("div", { class: "tl-play" }, form, h("div", { class: "tl-stack" }, answers, recent)));

  function drawOrigin() {
    const { request: from, problem, notes } = state;
    const about = from ? [icon("generation", null, 13), " A step of ", h("a", { href: `/traces/${from.trace_id}` }, "this trace"), from.agent ? [", by ", data(from.agent)] : null, ". The recorded step is not changed. ", h("button", { class: "tl-more", type: "button", onclick: () => { fill(state.request); remember(); } }, "Reset to the recording")] : null;
    put(origin, problem ? h("span", { class: "tl-bad" }, problem.message, " ", problem.next_step) : about);
    origin.hidden = !problem && !from;
    for (const note of notes) { origin.hidden = false; origin.append(h("span", { class: "tl-play-note" }, icon("note", null, 12), " ", note)); }
  }
  function drawRecent() {
    recent.hidden = state.request !== null;
    put(recent, h("h2", {}, "Start from a recorded step"), h("p", { class: "tl-soft tl-none" }, "Open a trace, select a model step, and press “Open in playground” to edit its request here. Or start from a recent trace:"),
      state.recent.length ? h("ul", { class: "tl-rows" }, state.recent.map((row) => h("li", {}, h("a", { class: "tl-line", href: `/playground?trace=${encodeURIComponent(row.trace_id)}` }, h("span", { class: "tl-grow" }, data(row.words, { class: "tl-clip" }), h("span", { class: "tl-soft tl-small tl-clip" }, row.model ?? "")), when(row.started_at)))))
        : h("p", {}, "No trace yet. ", h("a", { href: "/chat" }, "Chat with an agent"), ", or write a request here and press Run."));
  }

  return view.open((next) => {
    const isFirst = state === null;
    state = next;
    const before = agent.value;
    put(agent, state.agents.map(({ id, name: word, version }) => h("option", { value: id }, `${word} (version ${version})`)), h("option", { value: "" }, "A new agent"));
    const isChosen = !isFirst && (before === "" || state.agents.some(({ id }) => id === before));
    agent.value = isChosen ? before : (state.agents.find((one) => one.name === state.request?.agent) ?? state.agents[0])?.id ?? "";
    shownName();
    drawOrigin();
    drawRecent();
    if (!isFirst) return;
    fill(state.request ?? {});
    restore();
    for (const model of state.models) addColumn(model);
    placed();
    link.call("models").then(({ value }) => put(known, value.map((model) => h("option", { value: model })))).catch(() => {});
  });
}

const STOPPED = { length: "cut at the limit of tokens", tool_calls: "wants tools", content_filter: "filtered", refusal: "refused" };

export default { render };
