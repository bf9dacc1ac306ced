// The component of server/pages/agents.py: a card per agent, and a drawer with its fields, versions, handoffs and a chat to try it.

import { data, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { latestOnly } from "../shared/link.js";
import { graphView } from "../graph/graph_view.js";
import { wordDiff } from "../trace/word_diff.js";
import { render as chat } from "../chat.js";
import { agentForm } from "./agent_form.js";
import { askFirst, button, empty, page, when } from "./parts.js";

const NEW = { id: null, name: "", description: "", instructions: "", model: null, model_settings: {}, tools: [], handoffs: [], approvals: {}, budget_usd: null, max_tokens_total: null, timeout_s: null, max_tool_calls: null, version: 0 };
const TABS = [["fields", "Fields"], ["versions", "Versions"], ["handoffs", "Handoffs"], ["try", "Try it"]];
const FEW = 4;
/** Below it the drawer stands under the cards. */
const NARROW = 860;
const ALIKE = 0.5;
/** Chat calls that start a turn: they include the current fields of the form. */
const TURNS = ["send", "edit", "retry"];

function render(context) {
  const view = page(context, "agents", "Agents", "Your agents, with their models, tools and handoffs.");
  const { link, act, say, submit, root } = view;
  const add = button("New agent", { name: "plus", primary: true, "aria-expanded": "false", onclick: () => choose(NEW) });
  view.actions.append(add);
  const cards = h("nav", { class: "tl-agent-cards", "aria-label": "Agents" });
  const title = h("h2", {});
  const facts = h("span", { class: "tl-soft tl-small tl-clip" });
  const close = h("button", { type: "button", class: "tl-quiet", "aria-label": "Close", title: "Close", onclick: () => choose(null) }, icon("close"));
  const bar = h("div", { class: "tl-tabs", role: "tablist", "aria-label": "Of this agent" });
  const panes = new Map();
  const tabs = new Map();
  for (const [id, word] of TABS) {
    const pane = h("section", { class: `tl-agent-pane tl-agent-${id}`, role: "region", "aria-label": word });
    const tab = h("button", { class: `tl-tab tl-tab-${id}`, role: "tab", type: "button", "aria-selected": "false", onclick: () => open(id) }, word);
    panes.set(id, pane);
    tabs.set(id, tab);
    bar.append(tab);
  }
  bar.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
    const shown = [...tabs].filter(([, tab]) => tab.getClientRects().length && !tab.disabled);
    const at = shown.findIndex(([id]) => id === opened) + (event.key === "ArrowRight" ? 1 : -1);
    const [id, tab] = shown[(at + shown.length) % shown.length];
    open(id);
    tab.focus();
  });
  const drawer = h("section", { class: "tl-panel tl-agent-drawer", "aria-label": "Agent", hidden: true },
    h("header", { class: "tl-agent-head" }, h("span", { class: "tl-grow" }, title, facts), close), bar, h("div", { class: "tl-agent-panes" }, [...panes.values()]));
  drawer.addEventListener("keydown", (event) => { if (event.key === "Escape" && !event.defaultPrevented && !event.target.closest(".tl-chat")) choose(null); });
  const body = h("div", { class: "tl-agents" }, cards, drawer);
  const troubles = h("div", { class: "tl-stack", hidden: true });
  view.body.append(troubles, body);
  const graph = graphView((node) => { const found = state.agents.find((agent) => agent.name === node.name); if (found) choose(found); });
  panes.get("handoffs").append(graph.element);

  let state = null;
  let chosen = null; // The agent when its form was drawn.
  let form = null;
  let opened = "fields";
  let drawn = "";
  let saved = null; // The agent whose fields were just saved, and the confirmation.
  const [graphs, histories, trials] = [latestOnly(), latestOnly(), latestOnly()];
  const isTouched = () => panes.get("fields").dataset.tlTouched !== undefined;

  // -- the cards

  function drawCards() {
    const names = new Map([...state.tools.map((tool) => [tool.id, tool.name]), ...state.agents.map((agent) => [agent.id, agent.name])]);
    const chips = (ids, sign, kind, word) => (ids.length ? h("span", { class: "tl-agent-chips", role: "group", "aria-label": word }, ids.slice(0, FEW).map((id) => h("span", { class: `tl-chip ${kind}` }, icon(sign), data(names.get(id) ?? id))), ids.length > FEW ? h("span", { class: "tl-chip tl-soft" }, `${ids.length - FEW} more`) : null) : null);
    const held = cards.contains(focused()) ? focused().dataset.agent : null;
    put(cards, state.agents.length ? state.agents.map((agent) => h("article", { class: `tl-agent-card${agent.id === chosen?.id ? " tl-is-current" : ""}` },
      h("button", { class: "tl-agent-open", type: "button", "data-agent": agent.id, "aria-current": agent.id === chosen?.id ? "true" : null, onclick: () => choose(agent) },
        h("span", { class: "tl-kind-agent tl-agent-sign" }, icon("agent")), data(agent.name, { class: "tl-agent-name tl-clip" }), h("span", { class: "tl-soft tl-small tl-num" }, `v${agent.version}`)),
      agent.description ? h("p", { class: "tl-agent-about" }, data(agent.description)) : null,
      h("p", { class: "tl-soft tl-small tl-clip" }, agent.model ?? `default model (${state.default_model})`),
      chips(agent.tools, "tool", "tl-kind-tool", "Tools"), chips(agent.handoffs, "handoff", "tl-kind-handoff", "Hands off to"),
      h("footer", { class: "tl-agent-foot" }, h("span", { class: "tl-soft tl-small" }, agent.used_at ? ["used ", when(agent.used_at)] : "never used"), h("a", { href: `/chat?agent=${agent.id}`, class: "tl-agent-chat", "aria-label": `Chat with ${agent.name}` }, "Chat")))) : empty("No agents", "Create one to chat with it."));
    if (held) cards.querySelector(`[data-agent="${CSS.escape(held)}"]`)?.focus();
  }
  const focused = () => root.getRootNode().activeElement;

  // -- the drawer

  /** Open an agent, `NEW`, or with null close the drawer. Unsaved input is kept until another agent is opened. */
  function choose(agent) {
    const before = chosen;
    if (agent?.id !== saved?.id) saved = null;
    chosen = agent;
    say(null);
    drawer.hidden = agent === null;
    add.setAttribute("aria-expanded", String(agent === NEW));
    body.classList.toggle("tl-has-open", agent !== null);
    root.dispatchEvent(new CustomEvent("tl-place", { detail: { page: "/agents", id: agent?.id ?? null }, bubbles: true, composed: true }));
    delete panes.get("fields").dataset.tlTouched;
    drawCards();
    if (agent === null) {
      graphs.forget();
      histories.forget();
      leave();
      put(panes.get("fields"));
      (cards.querySelector(`[data-agent="${CSS.escape(before?.id ?? "")}"]`) ?? add).focus();
      return;
    }
    for (const id of ["versions", "handoffs"]) tabs.get(id).disabled = !agent.id;
    drawForm();
    if (agent.id !== before?.id || !tried) begin();
    open(agent.id === before?.id ? opened : "fields");
    if (root.clientWidth < NARROW && (before === null || agent.id !== before.id)) drawer.scrollIntoView({ block: "nearest" });
  }

  function open(id) {
    opened = id;
    for (const [each, pane] of panes) {
      pane.classList.toggle("tl-is-open", each === id);
      tabs.get(each).setAttribute("aria-selected", String(each === id));
      tabs.get(each).tabIndex = each === id ? 0 : -1;
    }
    if (!chosen?.id) return;
    if (id === "versions") drawVersions();
    if (id === "handoffs") drawGraph();
  }

  function drawForm() {
    const agent = chosen;
    const pane = panes.get("fields");
    drawn = marked(agent);
    put(title, agent.id ? data(agent.name) : "New agent");
    put(facts, agent.id ? [`version ${agent.version} · saved `, when(agent.updated_at), agent.saved_by ? [" by ", data(agent.saved_by)] : null] : null);
    form = agentForm(agent, state, async () => (await link.call("models")).value);
    const save = button(agent.id ? "Save" : "Create", { primary: true, type: "submit" });
    const kept = h("span", { class: "tl-soft tl-small", role: "status" }, agent.id && agent.id === saved?.id ? saved.word : null);
    const element = h("form", { class: "tl-form", novalidate: true }, form.parts, h("div", { class: "tl-form-foot" }, save,
      agent.id ? h("a", { class: "tl-button", href: `/chat?agent=${agent.id}` }, icon("note"), h("span", {}, "Chat with it")) : button("Discard", { onclick: () => { choose(null); add.focus(); } }),
      agent.id ? h("a", { class: "tl-button", href: `/traces?filter=${encodeURIComponent(`any(s.agent == ${JSON.stringify(agent.name)} for s in spans)`)}` }, "Its traces") : null, kept,
      agent.id ? h("span", { class: "tl-push" }, askFirst("Delete", `Delete ${agent.name}? Its threads and traces are kept.`, "Delete", (box) => act(box, async () => { await link.call("delete", { agent_id: agent.id }); choose(null); }))) : null));
    element.addEventListener("input", () => { pane.dataset.tlTouched = ""; saved = null; kept.textContent = "Not saved yet"; });
    element.addEventListener("submit", (event) => {
      event.preventDefault();
      act(save, async () => {
        const id = await submit("save", { agent_id: agent.id, fields: form.fields() });
        saved = { id, word: agent.id ? "Saved" : "Created" };
        choose(state.agents.find((other) => other.id === id));
        pane.querySelector("button[type=submit]").focus(); // The form was redrawn, including the pressed button.
      });
    });
    const held = pane.contains(focused()) ? focused() : null;
    put(pane, element);
    if (!agent.id) form.name.focus();
    else if (held) (held.name ? pane.querySelector(`[name="${held.name}"]`) : pane.querySelector("button[type=submit]"))?.focus();
  }
  /** The parts of the page's state that a form shows. */
  const marked = (agent) => JSON.stringify([{ ...agent, used_at: null }, state.tools, state.agents.map((other) => [other.id, other.name])]);

  async function drawGraph() {
    try {
      graph.show((await graphs(link.call("graph", { agent_id: chosen.id }))).value);
    } catch (error) { say(error); }
  }

  // -- versions

  async function drawVersions() {
    const pane = panes.get("versions");
    try {
      const { value } = await histories(link.call("versions", { agent_id: chosen.id }));
      const mark = JSON.stringify(value);
      if (pane.dataset.tlMark === mark) return;
      pane.dataset.tlMark = mark;
      put(pane, h("ol", { class: "tl-rows" }, value.map((version, n) => versionRow(version, n === 0))));
    } catch (error) { say(error); }
  }

  function versionRow({ version, at, by, changed, since }, isNewest) {
    const words = changed === null ? "first version" : changed.map(({ part }) => partName(part)).join(", ");
    const restore = isNewest ? h("span", { class: "tl-chip" }, "newest") : button("Restore", { "aria-label": `Restore version ${version}`, onclick: () => act(restore, async () => {
      await link.call("restore", { agent_id: chosen.id, version });
      saved = { id: chosen.id, word: `Restored version ${version}` };
      choose(state.agents.find((agent) => agent.id === chosen.id));
    }) });
    const diff = h("div", { class: "tl-version-diff" });
    const sides = [["what it changed", changed], ["changes since then", since]].filter(([, parts]) => parts?.length);
    const more = sides.length ? h("details", {}, h("summary", {}, "Differences"), diff) : null;
    more?.addEventListener("toggle", () => { if (more.open && !diff.childElementCount) put(diff, sides.map(([heading, parts]) => [h("h3", {}, heading), table(parts)])); });
    return h("li", { class: "tl-version", "data-version": version }, h("div", { class: "tl-line" }, h("strong", { class: "tl-num" }, `Version ${version}`), h("span", { class: "tl-grow tl-soft tl-small" }, h("span", {}, words)), h("span", { class: "tl-soft tl-small" }, when(at), by ? [" by ", data(by)] : null), restore), more);
  }

  function partName(part) {
    const [, kind, id] = /^(tool|handoff|approval of) (.+)$/.exec(part) ?? [];
    if (!kind) return part.replaceAll("_", " ");
    const found = (kind === "handoff" ? state.agents : state.tools).find((each) => each.id === id);
    return `${kind} ${found?.name ?? id}`;
  }

  function table(parts) {
    return h("div", { class: "tl-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["", "Before", "After"].map((word) => h("th", { scope: "col" }, word)))), h("tbody", {}, parts.map(({ part, before, after }) => {
      const [left, right, alike] = typeof before === "string" && typeof after === "string" ? wordDiff(before, after) : [null, null, 0];
      const texts = alike >= ALIKE ? [left, right] : [shown(before), shown(after)]; // For texts with little in common, every word would be marked.
      return h("tr", {}, h("th", { scope: "row" }, partName(part)), h("td", {}, texts[0]), h("td", {}, texts[1]));
    }))));
  }
  const shown = (value) => (value === null || value === undefined ? h("span", { class: "tl-soft" }, "none") : value === true ? "yes" : typeof value === "string" ? data(value) : h("code", {}, JSON.stringify(value)));

  // -- trying the agent: a chat within this page, which uses the page's connection

  let tried = null; // {hear, close}

  async function begin() {
    leave();
    const { id } = chosen;
    const pane = h("div", { class: "tl-try" });
    // The conversation belongs to this pane, not to the page's address.
    pane.addEventListener("tl-place", (event) => event.stopPropagation());
    put(panes.get("try"), h("p", { class: "tl-soft tl-small tl-none" }, "Answers with the current fields, including unsaved changes."), pane);
    try { await trials(link.call("try", { agent_id: id })); } catch (error) { say(error); return; }
    const listeners = [];
    const mine = { hear: (message, buffers = []) => { for (const listener of listeners) listener(message, buffers); } };
    tried = mine;
    const model = {
      get: () => undefined,
      on: (event, listener) => { if (event === "msg:custom") listeners.push(listener); },
      off: (event, listener) => { if (listeners.includes(listener)) listeners.splice(listeners.indexOf(listener), 1); },
      send(content, _callbacks, buffers) {
        const refuse = (error) => mine.hear({ op: "reply", id: content.id, error: { message: error.message, next_step: error.nextStep ?? "" } });
        let draft = null;
        try {
          if (content.op === "call" && TURNS.includes(content.name) && (isTouched() || !id)) draft = written(form.fields());
        } catch (error) {
          setTimeout(refuse, 0, error);
          return;
        }
        link.call("chat", { content, draft }, buffers).catch((error) => { if (!error.closed && !error.isLost) refuse(error); });
      },
    };
    mine.close = chat({ model, el: pane, within: `try:${id ?? "new"}` });
  }
  /** A new agent can be tried before it has a name. */
  const written = ({ name, ...fields }) => (name.trim() ? { name, ...fields } : fields);

  function leave() {
    trials.forget();
    tried?.close();
    tried = null;
    put(panes.get("try"));
  }
  link.on("chat", ({ message }, buffers) => tried?.hear(message, buffers));
  link.on("connection", ({ isLost }) => tried?.hear({ op: isLost ? "lost" : "found" }));
  // The page was reloaded after missed messages: the chat reloads, too.
  link.on("snap", () => { if (tried) { tried.hear({ op: "lost" }); tried.hear({ op: "found" }); } });
  view.onClose(leave);

  return view.open((next) => {
    const first = state === null;
    state = next;
    if (first) {
      drawCards();
      const named = state.agents.find((agent) => agent.id === next.selected);
      if (named) choose(named);
      // In the flow of the page: what lies over it would hide what is opened.
      const away = () => { troubles.hidden = true; };
      put(troubles, next.problems.map((words) => h("div", { class: "tl-notice tl-is-bad", role: "alert" }, icon("error"), h("span", { class: "tl-grow" }, data(words)), h("button", { class: "tl-quiet", type: "button", "aria-label": "Dismiss", onclick: away }, icon("close", null, 12)))));
      troubles.hidden = !next.problems.length;
      return;
    }
    drawCards();
    if (!chosen?.id) return;
    const now = state.agents.find((agent) => agent.id === chosen.id);
    if (!now) { choose(null); return; }
    // Redrawn only if the stored agent changed and the form has no edits.
    if (marked(now) !== drawn && !isTouched()) { chosen = now; drawForm(); }
    if (opened === "versions") drawVersions();
    if (opened === "handoffs") drawGraph();
  });
}
export default { render };
