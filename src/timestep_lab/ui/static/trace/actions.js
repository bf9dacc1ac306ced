// Actions on an open trace: a row of buttons, and a drawer for those that need input.

import { copy, data, debounce, h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { exported } from "../pages/trace_files.js";
import { latestOnly } from "../shared/link.js";
import { scoreBox } from "./scores.js";

/** The served app has addresses to link to; a notebook does not. */
export const isServed = () => document.querySelector("main.shell-main") !== null;
const isOurs = (threadId) => /^thr_/.test(threadId ?? "");
const FILES = [["html", "One HTML file"], ["jsonl", "JSON Lines"], ["json", "OpenTelemetry JSON"], ["parquet", "Parquet"]];
const TOOLS = [["ask", "Ask me before calling tools with side effects"], ["live", "Use the agents' own approval rules"], ["tape", "Answer tools from recorded runs"]];
const date = (text) => new Date(text).toLocaleDateString([], { day: "numeric", month: "long" });

/**
 * `{line, drawer, show(trace, scores), runAgain(span)}`. `on.openTrace(id)` after a new run began, where such a place exists; `on.deleted()`.
 */
export function traceActions(api, on) {
  const line = h("div", { class: "tl-acts" });
  const drawer = h("div", { class: "tl-drawer", hidden: true });
  let trace = null;
  let opened = null;
  let from = null;
  const ask = async (name, args = {}) => (await api.call(name, { trace_id: trace.trace_id, ...args })).value;

  function close({ focus = true } = {}) {
    const back = opened;
    opened = from = null;
    drawer.hidden = true;
    put(drawer);
    back?.setAttribute("aria-expanded", "false");
    if (focus) back?.focus();
  }
  function open(by, title, ...contents) {
    close({ focus: false });
    opened = by;
    by.setAttribute("aria-expanded", "true");
    drawer.setAttribute("aria-label", title);
    put(drawer, h("header", { class: "tl-drawer-head" }, h("h3", {}, title), h("button", { class: "tl-quiet", type: "button", "aria-label": "Close", onclick: () => close() }, icon("close"))), contents);
    drawer.hidden = false;
  }
  drawer.setAttribute("role", "region");
  drawer.addEventListener("keydown", (event) => { event.stopPropagation(); if (event.key === "Escape") { event.preventDefault(); close(); } });
  const opener = (word, sign, show, props) => {
    const button = h("button", { class: "tl-button tl-act", type: "button", "aria-expanded": "false", ...props, onclick: () => (opened === button ? close() : show(button)) }, icon(sign, null, 13), h("span", {}, word));
    return button;
  };

  // -- share

  function share(button) {
    const days = h("select", { class: "tl-input", "aria-label": "How long the link is valid" }, [[1, "1 day"], [7, "7 days"], [30, "30 days"]].map(([value, word]) => h("option", { value, selected: value === 7 }, word)));
    const status = h("p", { class: "tl-drawer-said", role: "status" });
    const links = h("ul", { class: "tl-links" });
    const make = h("button", { class: "tl-button tl-primary", type: "button" }, "Create link");
    const line = (link) => {
      const address = `${location.origin}${link.path}`;
      const item = h("li", {}, h("input", { class: "tl-input tl-mono", readonly: true, value: address, "aria-label": "The link", onfocus: (event) => event.target.select() }),
        h("button", { class: "tl-button", type: "button", onclick: async () => { await copy(address); put(status, "Copied."); } }, icon("copy"), "Copy"),
        h("button", { class: "tl-button", type: "button", onclick: () => doing(status, async () => { await ask("revoke", { share_id: link.id }); item.remove(); put(status, "The link no longer works."); }) }, "Revoke"),
        h("span", { class: "tl-soft tl-small" }, `until ${date(link.expires_at)}`));
      return item;
    };
    make.addEventListener("click", () => doing(status, async () => {
      const link = await ask("share", { days: Number(days.value) });
      links.prepend(line(link));
      await copy(`${location.origin}${link.path}`);
      put(status, `Copied. Whoever has this link can read this trace until ${date(link.expires_at)}, and nothing else.`);
    }, make));
    open(button, "Share this trace", h("p", { class: "tl-soft" }, "A read-only link that works without an account. Settings lists all your links."),
      h("div", { class: "tl-drawer-line" }, days, make, h("button", { class: "tl-button", type: "button", onclick: () => save("html", status) }, "As one HTML file")), status, links);
    make.focus();
    doing(status, async () => { for (const link of await ask("shares")) links.append(line(link)); });
  }

  // -- add to a data set

  function addToDataset(button) {
    const names = h("datalist", { id: `tl-sets-${Math.random().toString(36).slice(2, 8)}` });
    const name = h("input", { class: "tl-input", value: localStorage.getItem("timestep-dataset") ?? "", placeholder: "failures", required: true, maxlength: 200, list: names.id, "aria-label": "Name of the data set", autocomplete: "off" });
    const expected = h("input", { type: "checkbox" });
    const status = h("p", { class: "tl-drawer-said", role: "status" });
    const add = h("button", { class: "tl-button tl-primary" }, "Add");
    const form = h("form", { class: "tl-drawer-line" }, name, names, h("label", { class: "tl-drawer-check" }, expected, "use its answer as the expected answer"), add);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      doing(status, async () => {
        const record = await ask("add_to_dataset", { name: name.value.trim(), expected: expected.checked ? "output" : null });
        localStorage.setItem("timestep-dataset", record.name);
        put(status, `In “${record.name}”, version ${record.version}: ${record.n_cases} ${record.n_cases === 1 ? "case" : "cases"}.`);
      }, add);
    });
    open(button, "Add to a data set", h("p", { class: "tl-soft" }, "The input becomes a case that refers to this trace. A new name creates a new data set."), form, status);
    name.focus();
    doing(status, async () => put(names, (await ask("datasets")).map((value) => h("option", { value }))));
  }

  // -- run again

  function again(button, span = null) {
    from = span;
    const agent = span?.agent ?? String(trace.agent_path ?? "").split(/\s*(?:⇢|→)\s*/)[0] ?? "";
    const status = h("p", { class: "tl-drawer-said", role: "status" });
    const plan = h("p", { class: "tl-again-plan", role: "status" }, "…");
    const wide = (label, control, help = null) => h("label", { class: "tl-again-field" }, h("span", {}, label), control, help ? h("small", { class: "tl-soft" }, help) : null);
    const isTool = span?.kind === "tool";
    const callId = span?.attributes?.["gen_ai.tool.call.id"];
    const system = span?.kind === "generation" ? textOfInstructions(span.input) : "";
    const prompt = h("textarea", { class: "tl-input", rows: 2, value: String(trace.input ?? "") });
    const model = h("input", { class: "tl-input", placeholder: trace.model ?? "prefix/name", autocomplete: "off", spellcheck: "false" });
    const instructions = h("textarea", { class: "tl-input", rows: 3, value: system, placeholder: "Unchanged" });
    const output = typeof span?.output === "string" ? span.output : JSON.stringify(span?.output ?? "", null, 1);
    const result = h("textarea", { class: "tl-input tl-mono", rows: 3, value: output });
    const tools = h("select", { class: "tl-input" }, TOOLS.map(([value, word]) => h("option", { value }, word)));
    const start = h("button", { class: "tl-button tl-primary" }, icon("play"), "Run again");
    const changes = () => {
      const given = { on_tools: tools.value };
      if (model.value.trim()) given.model = model.value.trim();
      if (isTool && callId && result.value !== output) given.results = { [callId]: result.value };
      else if (span) given.span_id = span.span_id;
      if (!isTool && instructions.value.trim() && instructions.value !== system) given.instructions = { [agent]: instructions.value };
      if (!span && prompt.value !== String(trace.input ?? "")) given.prompt = prompt.value;
      if (!given.model && !given.results && !given.instructions && given.prompt === undefined) given.again = true;
      return given;
    };
    const plans = latestOnly();
    const tell = debounce(async () => {
      try {
        const planned = await plans(ask("plan_again", { changes: changes() }));
        put(plan, icon("turn", null, 13), h("span", {}, planned.text));
        start.disabled = false;
      } catch (error) {
        if (error.closed) return;
        put(plan, icon("error", "This cannot be run again", 13), h("span", {}, `${error.message} ${error.nextStep ?? ""}`));
        start.disabled = true;
      }
    }, 250);
    const form = h("form", { class: "tl-again" },
      span ? null : wide("Input", prompt),
      isTool ? wide(`Result of ${span.name} instead`, result) : wide(`Instructions of ${agent || "the agent"}`, instructions, system ? null : "Leave empty to keep them."),
      h("div", { class: "tl-again-row" }, wide("Model", model, "Leave empty to keep it."), wide("Live tools", tools)),
      plan, h("div", { class: "tl-drawer-line" }, start), status);
    // What would run is said before it can be started.
    form.addEventListener("input", () => { plans.forget(); start.disabled = true; tell(); });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      doing(status, async () => {
        const { trace_id: id } = await ask("run_again", { changes: changes() });
        if (on.openTrace) { close({ focus: false }); on.openTrace(id); } else put(status, "It is running. Its trace is ", h("code", {}, id), ".");
      }, start);
    });
    open(button, span ? `Run again from ${span.name || span.kind}` : "Run again with a change", form);
    const first = span ? (isTool ? result : model) : prompt;
    first.setSelectionRange(0, 0);
    first.focus();
    tell();
  }

  // -- files, and the end

  async function save(format, status) {
    await doing(status, async () => {
      const blob = format === "html" ? new Blob([(await ask("page")).page], { type: "text/html" }) : await exported(trace.trace_id, format);
      const link = h("a", { href: URL.createObjectURL(blob), download: `trace-${trace.trace_id.slice(0, 8)}.${format}` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
  }
  function more(button) {
    const status = h("p", { class: "tl-drawer-said", role: "status" });
    const sure = h("span", { class: "tl-drawer-line" });
    const away = h("button", { class: "tl-button tl-danger", type: "button", onclick: () => { put(sure, h("span", {}, "Delete this trace? Its conversation is kept."), yes, no); yes.focus(); } }, icon("trash"), "Delete");
    const yes = h("button", { class: "tl-button tl-danger", type: "button", onclick: () => doing(status, async () => { await ask("delete"); close({ focus: false }); on.deleted?.(); }, yes) }, "Delete");
    const no = h("button", { class: "tl-button", type: "button", onclick: () => { put(sure, away); away.focus(); } }, "Keep");
    put(sure, away);
    const files = FILES.filter(([format]) => format === "html" || isServed()).map(([format, word]) => h("button", { class: "tl-button", type: "button", onclick: () => save(format, status) }, word));
    open(button, "More", h("div", { class: "tl-drawer-line" }, isServed() ? h("button", { class: "tl-button", type: "button", onclick: async () => { await copy(`${location.origin}/traces/${trace.trace_id}`); put(status, "Copied. Only you can open it; use Share for a link for others."); } }, icon("copy"), "Copy link") : null,
      h("button", { class: "tl-button", type: "button", onclick: async () => { await copy(trace.trace_id); put(status, "Copied."); } }, icon("copy"), "Copy id")),
    h("div", { class: "tl-drawer-line" }, h("span", { class: "tl-soft" }, "Export"), files), sure, status);
    drawer.querySelector(".tl-drawer-line button").focus();
  }

  const shareButton = opener("Share", "branch", share);
  const againButton = opener("Run again…", "turn", (button) => again(button));
  const setButton = opener("Add to data set", "table", addToDataset);
  const moreButton = opener("More", "list", more, { title: "Copy link, export, delete" });
  return {
    line,
    drawer,
    show(next, scores) {
      const isNew = trace?.trace_id !== next.trace_id;
      trace = next;
      // Input in the drawer is kept when the trace is updated.
      if (!isNew && line.childElementCount && line.dataset.status === next.status) return;
      if (isNew) close({ focus: false });
      line.dataset.status = next.status;
      const goesOn = next.status === "running";
      put(line,
        isServed() && isOurs(next.thread_id) ? h("a", { class: "tl-button tl-act", href: `/chat/${next.thread_id}` }, icon("note", null, 13), h("span", {}, "Conversation")) : null,
        isServed() ? shareButton : null, goesOn ? null : againButton, setButton, moreButton,
        scoreBox(api, { target: "trace", target_id: next.trace_id, trace_id: next.trace_id }, scores));
    },
    /** Open from a step: `span` is the complete span. */
    runAgain: (span) => again(againButton, span),
  };
}

/** Run `work` with `button` disabled; errors are shown in `status`. */
async function doing(status, work, button = null) {
  if (button) button.disabled = true;
  status.classList.remove("tl-bad");
  try {
    await work();
  } catch (error) {
    if (error.closed) return;
    status.classList.add("tl-bad");
    put(status, data(`${error.message} ${error.nextStep ?? ""}`));
  } finally {
    if (button) button.disabled = false;
  }
}

function textOfInstructions(input) {
  const first = Array.isArray(input) ? input[0] : null;
  return first && ["system", "developer"].includes(first.role) && typeof first.content === "string" ? first.content : "";
}
