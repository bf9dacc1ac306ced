// The component of server/views/tools.py: MCP servers, what they offer, and any tool called by hand.

import { data, h, put } from "../shared/dom.js";
import { count, duration } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { jsonView } from "../shared/json_view.js";
import { longText } from "../shared/long_text.js";
import { askFirst, button, empty, field, input, page, parsed } from "./parts.js";

function render(context) {
  const view = page(context, "tools", "Tools", "MCP servers and their tools. Any tool can be called manually.");
  const { link, act, submit, tell, root } = view;
  const servers = h("ul", { class: "tl-rows" });
  const adding = h("div", { hidden: true });
  const add = button("Add a server", { name: "plus", "aria-expanded": "false", onclick: () => { adding.hidden = !adding.hidden; add.setAttribute("aria-expanded", String(!adding.hidden)); if (!adding.hidden) adding.querySelector("input").focus(); } });
  const search = input({ type: "search", placeholder: "Find a tool", "aria-label": "Find a tool", oninput: () => drawTools() });
  const tools = h("ul", { class: "tl-rows" });
  const number = h("span", { class: "tl-soft tl-small" });
  const opened = h("section", { class: "tl-panel", "aria-label": "Tool" });
  view.actions.append(add);
  view.body.append(adding, h("section", { class: "tl-panel", "aria-label": "Servers" }, h("h2", {}, "Servers"), servers),
    h("div", { class: "tl-tools" }, h("section", { class: "tl-panel", "aria-label": "Tools" }, h("div", { class: "tl-panel-head" }, h("h2", {}, "Tools"), number), search, tools), opened));
  let state = null;
  let chosen = null;
  let drawn = null;

  /** A call or input in a row is kept while the servers have not changed. */
  function drawServers() {
    const mark = JSON.stringify([state.servers, state.tools.map((tool) => tool.id)]);
    if (servers.dataset.tlMark === mark) return;
    servers.dataset.tlMark = mark;
    put(servers, state.servers.map((server) => {
      const offered = state.tools.filter((tool) => tool.server_id === server.id).length;
      const said = h("span", { class: "tl-small tl-soft", role: "status" }, server.problem ? null : count(offered, "tool"));
      const test = button("Test", { "aria-label": `Test ${server.name}`, onclick: () => act(test, async () => { said.textContent = "Asking …"; try { const { value } = await link.call("test", { server_id: server.id }); said.textContent = `answers in ${duration(value.took_ms)}, ${count(value.n_tools, "tool")}`; } catch (error) { said.textContent = ""; throw error; } }) });
      return h("li", {}, h("div", { class: "tl-line tl-server" },
        h("span", { class: server.problem ? "tl-bad" : "tl-good" }, icon(server.problem ? "error" : "ok", server.problem ? "does not answer" : "answers")),
        h("span", { class: "tl-grow" }, h("strong", {}, data(server.name)), h("span", { class: "tl-soft tl-small tl-clip" }, data(server.place), server.headers.length ? ` · sends ${server.headers.join(", ")}` : "", server.asks ? " · requires approval for every call" : ""),
          server.problem ? h("span", { class: "tl-bad tl-small tl-server-problem" }, data(`${server.problem.message} ${server.problem.next_step}`)) : null),
        said, test, server.builtin ? null : askFirst(`Remove ${server.name}`, `Remove ${server.name}?`, "Remove", (box) => act(box, () => link.call("remove", { server_id: server.id })), { quiet: true })));
    }));
  }

  function drawTools() {
    const words = search.value.trim().toLowerCase();
    const found = state.tools.filter((tool) => `${tool.server} ${tool.name} ${tool.description}`.toLowerCase().includes(words));
    number.textContent = count(found.length, "tool");
    put(tools, found.length ? found.map((tool) => h("li", {}, h("button", { class: `tl-line${tool.id === chosen ? " tl-is-current" : ""}`, type: "button", "aria-current": tool.id === chosen ? "true" : null, onclick: () => choose(tool.id) },
      h("span", { class: "tl-kind-tool tl-tool-sign" }, icon("tool")), h("span", { class: "tl-grow" }, h("code", { class: "tl-clip" }, `${tool.server}.${tool.name}`), h("span", { class: "tl-soft tl-small tl-clip" }, data(tool.description.split("\n")[0])))))) : h("li", {}, h("p", { class: "tl-soft" }, "No tool matches.")));
  }

  /** The chosen tool is in the address: over a reload its arguments stay with it. */
  function choose(id) {
    chosen = id;
    root.dispatchEvent(new CustomEvent("tl-place", { detail: { page: "/tools", id }, bubbles: true, composed: true }));
    drawTools();
    drawTool();
  }

  function drawTool() {
    const tool = state.tools.find((each) => each.id === chosen);
    const mark = JSON.stringify(tool ?? null);
    if (mark === drawn) return;
    drawn = mark;
    if (!tool) return put(opened, empty("Select a tool", "Its schema is shown here, and you can call it."));
    const args = h("textarea", { name: "arguments", class: "tl-input tl-mono", rows: 5, value: JSON.stringify(example(tool.input_schema), null, 2), spellcheck: "false" });
    const call = button("Call", { name: "play", primary: true, type: "submit" });
    const result = h("div", { class: "tl-result", "aria-live": "polite" });
    const form = h("form", { class: "tl-form", "aria-label": `Call ${tool.server}.${tool.name}` }, field("Arguments", args), h("div", { class: "tl-form-foot" }, call, h("span", { class: "tl-soft tl-small" }, "Called directly by you, without approval rules.")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      act(call, async () => {
        put(result, h("p", { class: "tl-soft" }, "Calling …"));
        try {
          const given = parsed(args.value, "The arguments", "arguments");
          const value = await submit("call", { tool_id: tool.id, arguments: given }).catch((error) => { throw Object.assign(error, { param: error.param ? "arguments" : null }); });
          put(result, h("p", { class: "tl-soft tl-small tl-num" }, `Answered in ${duration(value.took_ms)}`), answer(value.output));
        } catch (error) { put(result); throw error; }
      });
    });
    put(opened, h("div", { class: "tl-panel-head" }, h("h2", {}, h("code", {}, `${tool.server}.${tool.name}`)), tool.read_only ? h("span", { class: "tl-chip" }, "changes nothing") : null), longText(tool.description || "This tool has no description."), form, result,
      h("details", {}, h("summary", {}, "Schema of the arguments"), jsonView(tool.input_schema)), tool.output_schema ? h("details", {}, h("summary", {}, "Schema of the result"), jsonView(tool.output_schema)) : null);
    return null;
  }

  function addForm() {
    const name = input({ name: "name", required: true, maxlength: 200, placeholder: "docs" });
    const url = input({ name: "url", type: "url", placeholder: "https://example.org/mcp" });
    const command = input({ name: "command", placeholder: "mcp-server-time --local-timezone UTC" });
    const headers = h("textarea", { name: "headers", class: "tl-input tl-mono", rows: 2, placeholder: '{"Authorization": "Bearer …"}', spellcheck: "false", autocomplete: "off", "data-tl-secret": "" });
    const ask = h("input", { type: "checkbox" });
    const save = button("Add", { primary: true, type: "submit" });
    const form = h("form", { class: "tl-form", novalidate: true }, field("Name", name, "Its tools are named name.tool."), field("Address", url, "The address of a streamable HTTP server."),
      state.may_start_commands ? field("or a command", command, "A program that is started on this machine and uses standard input and output.") : null,
      field("Headers", headers, "Sent with every request. Secret: they are not shown again."), h("label", { class: "tl-check" }, ask, h("span", {}, "Require approval for every call")),
      h("div", { class: "tl-form-foot" }, save, button("Cancel", { onclick: () => { add.click(); add.focus(); } })));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      act(save, async () => {
        await submit("add", { name: name.value, url: url.value, command: command.value, headers: parsed(headers.value, "Headers", "headers"), ask: ask.checked });
        const added = name.value;
        form.reset();
        add.click();
        add.focus();
        tell(servers, `Added ${added}`);
      });
    });
    return h("section", { class: "tl-panel", "aria-label": "Add a server" }, h("h2", {}, "Add a server"), form);
  }

  return view.open((next) => {
    const first = state === null;
    state = next;
    if (first) { put(adding, addForm()); chosen = (next.tools.find(({ id }) => id === new URL(location.href).searchParams.get("id")) ?? next.tools[0])?.id ?? null; }
    drawServers();
    drawTools();
    drawTool();
  });
}

function answer(output) {
  try {
    const value = JSON.parse(output);
    if (value !== null && typeof value === "object") return jsonView(value);
  } catch {
    // It is plain text and shown as such.
  }
  return longText(output, { mono: true });
}

/** Initial arguments: every required one, by its default, its first choice, or its type. */
function example(schema) {
  const names = schema.required ?? [];
  return Object.fromEntries(names.map((name) => {
    const part = schema.properties?.[name] ?? {};
    return [name, part.default ?? part.examples?.[0] ?? part.enum?.[0] ?? { string: "", number: 0, integer: 0, boolean: false, array: [], object: {} }[part.type] ?? null];
  }));
}
export default { render };
