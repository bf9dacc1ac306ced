// The form for a new comparison: data, candidates and scorers, and the estimated cost.

import { data, h, put } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { wholeField } from "../shared/keep_written.js";
import { latestOnly } from "../shared/link.js";
import { shelf } from "../shared/shelf.js";
import { button, field, input, parsed, wrong } from "./parts.js";

const EXAMPLES = `What's the weather in Oakland?
{"input": "What's the weather in Tokyo?", "expected": "°F"}`;
const SOON_MS = 500;
const SHELF = "comparison";
const READ = ".csv,.tsv,.jsonl,.ndjson,.json,.xlsx,.parquet,.gz";
const SOURCES = [["text", "Type or paste"], ["file", "File"], ["stored", "Data set"], ["failures", "Failures of last week"]];

/** `{element, update(state)}`. `link`, `act` and `submit` are the page's; `on.cancelled()`, and `on.started()` before the comparison is opened. */
export function compareForm({ link, act, submit }, on) {
  const [looks, uploads] = [latestOnly(), latestOnly()];
  const cases = h("textarea", { name: "cases", class: "tl-input tl-mono", rows: 6, spellcheck: "false", value: EXAMPLES });
  const source = source_(() => { shown(); soon(); });
  const file = h("input", { type: "file", name: "file", class: "tl-input", accept: READ, "data-tl-kept": "" });
  const stored = h("select", { name: "stored", class: "tl-input" });
  const preview = h("div", { class: "tl-preview", role: "status", "aria-label": "Preview" });
  const models = chooser("model", { name: "models", placeholder: "openai/gpt-4.1" });
  const scorers = chooser("scorer", { name: "scorers", placeholder: "contains, tool_used:get_weather …", isWhole: true });
  const agents = h("fieldset", { name: "agents" });
  const prompts = h("textarea", { name: "prompts", class: "tl-input tl-mono", rows: 3, spellcheck: "false", placeholder: "Answer in one word: {{input}}\n---\nThink step by step, then answer: {{input}}" });
  const settings = h("textarea", { name: "settings", class: "tl-input tl-mono", rows: 2, spellcheck: "false", placeholder: '{"temperature": 0}\n{"temperature": 1}' });
  const epochs = input({ name: "epochs", type: "number", min: 1, max: 100, value: 1, required: true });
  const approve = h("input", { type: "checkbox" });
  const status = h("p", { class: "tl-soft", role: "status", "aria-label": "Estimated cost" });
  const start = button("Start", { name: "play", primary: true, type: "submit" });
  const plan = button("Estimate cost", { onclick: () => act(plan, async () => { status.textContent = "Counting …"; try { status.textContent = await looks(submit("plan", form())); } catch (error) { status.textContent = ""; throw error; } }) });
  const parts = {
    text: field("Cases", cases, "Paste a table with a header (from a spreadsheet, CSV or TSV), JSON Lines, or one question per line."),
    file: field("File", file, "CSV, TSV, JSON Lines, JSON, Excel (.xlsx) or Parquet. It is read once and not stored."),
    stored: field("Data set", stored, "Named data sets of this lab: lab.datasets."),
    failures: h("p", { class: "tl-soft" }, "Inputs of the traces of the last seven days that failed or have a failed step, with the corrected answer if there is one."),
  };
  const element = h("form", { class: "tl-form tl-panel", novalidate: true, "aria-label": "New comparison" }, h("h2", {}, "New comparison"),
    source.element, Object.values(parts), preview,
    h("div", { class: "tl-columns" },
      h("div", { class: "tl-stack" }, field("Models", models.input, "Every model runs every case."), models.chosen, field("Scorers", scorers.input, "How answers are scored: contains and exact use the expected answer; judge:correct and polite calls a judge model."), scorers.chosen),
      h("div", { class: "tl-stack" }, agents, field("Repeats", epochs, "Repeats show how much answers vary."),
        h("label", { class: "tl-check" }, approve, h("span", {}, "Approve tool calls that need approval")))),
    h("details", { class: "tl-more-candidates" }, h("summary", {}, "Prompts and settings as candidates"), h("div", { class: "tl-columns" },
      field("Prompts", prompts, "Templates with the data's columns, such as {{input}}; separate several by a line of ---."), field("Settings", settings, "One JSON object per line; each is a candidate."))),
    h("div", { class: "tl-form-foot" }, start, plan, button("Cancel", { onclick: on.cancelled })), status);

  const given = () => {
    const kind = source.value();
    if (kind === "text") return { kind, text: cases.value };
    if (kind === "stored") return { kind, name: stored.value };
    return { kind };
  };
  const form = () => ({
    data: given(), models: models.values(), scorers: scorers.values(), epochs: Number(epochs.value) || 1, approve: approve.checked,
    agents: [...agents.querySelectorAll("input:checked")].map((box) => box.value),
    prompts: prompts.value.split(/^---[ \t]*$/m).map((text) => text.trim()).filter(Boolean),
    settings: settings.value.split("\n").filter((line) => line.trim()).map((line, n) => parsed(line, `Line ${n + 1} of the settings`, "settings")),
  });

  function shown() {
    for (const [kind, part] of Object.entries(parts)) part.hidden = source.value() !== kind;
    if (source.value() === "file") takeUp();
  }

  // Update the preview and the estimate when the reader pauses. An incomplete form shows nothing yet.
  let waiting = 0;
  function soon() {
    clearTimeout(waiting);
    waiting = setTimeout(look, SOON_MS);
  }

  async function look() {
    looks.forget();
    if (element.hidden) return;
    try {
      if (source.value() === "file" && !file.files.length && !preview.dataset.file) { put(preview); return; }
      put(preview, table(await looks(submit("preview", { data: given() }))));
      status.textContent = await looks(submit("plan", form()));
    } catch (error) {
      if (error.closed) return;
      status.textContent = "";
      if (["cases", "stored", "file", "data"].includes(error.param)) put(preview, h("p", { class: "tl-soft tl-small" }, `${error.message} ${error.nextStep ?? ""}`));
    }
  }

  /** The chosen file outlives a reload, after which it is read again. */
  async function keep(chosen) {
    await forget();
    await shelf.add(SHELF, chosen);
  }
  async function forget() {
    for (const { kept } of await shelf.all(SHELF)) await shelf.remove(kept);
  }
  async function takeUp() {
    const [found] = await shelf.all(SHELF);
    if (!found || file.files.length || source.value() !== "file") return;
    const transfer = new DataTransfer();
    transfer.items.add(found.file);
    file.files = transfer.files;
    send();
  }

  async function send() {
    const [chosen] = file.files;
    if (!chosen) return;
    keep(chosen);
    looks.forget();
    uploads.forget();
    put(preview, h("p", { class: "tl-soft tl-small" }, "Reading …"));
    await act(file, async () => {
      delete preview.dataset.file;
      put(preview);
      for (let at = 0; at < chosen.size || at === 0; at += 2 ** 20) {
        const part = await uploads(chosen.slice(at, at + 2 ** 20).arrayBuffer());
        await uploads(link.call("file_part", { at, size: chosen.size }, [part]));
      }
      put(preview, table(await uploads(submit("read_file", { name: chosen.name }))));
      preview.dataset.file = chosen.name;
    });
    soon();
  }

  file.addEventListener("change", send);
  element.addEventListener("input", soon);
  element.addEventListener("change", soon);
  element.addEventListener("dragover", (event) => { if (event.dataTransfer?.types.includes("Files")) event.preventDefault(); });
  element.addEventListener("drop", (event) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    source.choose("file");
    file.files = event.dataTransfer.files;
    send();
  });
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    act(start, async () => {
      if (source.value() === "file" && !preview.dataset.file) throw wrong("No file has been uploaded yet.", "Choose a file.", "file");
      const id = await submit("start", form());
      on.started();
      location.assign(`/compare/${id}`);
    });
  });
  shown();

  let agentsMark = null;
  let first = true;
  /** `begun`: `{cases, models, settings, note}` from another page, instead of the examples. */
  async function update(state, begun = null) {
    const mark = JSON.stringify(state.agents);
    if (mark !== agentsMark) {
      const kept = new Set(agentsMark === null ? state.chosen_agents : form().agents);
      agentsMark = mark;
      put(agents, h("legend", {}, "Agents"), state.agents.map((name) => h("label", { class: "tl-check" }, h("input", { type: "checkbox", value: name, checked: kept.has(name) }), h("span", {}, data(name)))), h("p", { class: "tl-soft tl-small" }, "Without an agent, the model answers directly."));
    }
    const before = stored.value;
    put(stored, state.datasets.length ? state.datasets.map(({ name, n_cases: n }) => h("option", { value: name }, `${name} (${count(n, "case")})`)) : h("option", { value: "" }, "none yet"));
    if (before && state.datasets.some(({ name }) => name === before)) stored.value = before;
    scorers.offer(state.scorers);
    if (!first) return;
    first = false;
    if (begun) {
      cases.value = begun.cases;
      settings.value = begun.settings;
      settings.closest("details").open = Boolean(begun.settings);
      begun.models.forEach((name) => models.add(name));
      for (const box of agents.querySelectorAll("input:checked")) box.checked = false; // The request was for a model, not an agent.
      element.querySelector("h2").after(h("p", { class: "tl-soft" }, begun.note));
    } else {
      scorers.add("contains");
      models.add(state.default_model);
      if (state.default_model.startsWith("demo/")) models.add("demo/echo"); // Without a key, there is still something to compare.
    }
    models.offer((await link.call("models")).value);
  }

  return { element, update, look: soon, forget };
}

/** The source of the cases, as a group of toggle buttons. */
function source_(changed) {
  const name = `tl-source-${Math.random().toString(36).slice(2, 8)}`;
  const boxes = SOURCES.map(([value, word], n) => h("label", { class: "tl-source" }, h("input", { type: "radio", name, value, checked: n === 0, onchange: changed }), h("span", {}, word)));
  const element = h("fieldset", { class: "tl-sources" }, h("legend", {}, "Data"), boxes);
  return {
    element,
    value: () => element.querySelector("input:checked").value,
    choose: (value) => { element.querySelector(`input[value=${value}]`).checked = true; changed(); },
  };
}

/** A preview of the first cases. */
function table({ n, columns, rows, note }) {
  return [h("p", { class: "tl-small" }, h("strong", {}, count(n, "case")), note ? h("span", { class: "tl-soft" }, ` · ${note}`) : null),
    h("div", { class: "tl-preview-rows", tabindex: 0, role: "group", "aria-label": "First cases" }, h("table", {}, h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, data(column))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell === null ? h("span", { class: "tl-soft" }, "–") : data(cell))))))))];
}

/** An input for several texts, with suggestions (`isWhole`: texts may contain commas). Selected texts are listed below and can be removed. */
function chooser(what, { isWhole = false, ...props }) {
  const options = h("datalist", { id: `tl-choices-${Math.random().toString(36).slice(2, 8)}` });
  const box = input({ ...props, list: options.id });
  const chosen = h("ul", { class: "tl-chosen", "aria-label": `Chosen ${what}s` }, options);
  const words = () => [...chosen.querySelectorAll("li")].map((item) => item.dataset.word);
  const whole = wholeField(`chosen ${what}s`, words, (kept) => { for (const item of chosen.querySelectorAll("li")) item.remove(); kept.forEach(add); });
  chosen.append(whole.element);
  function add(text) {
    const word = text.trim();
    if (!word || words().includes(word)) return;
    const item = h("li", { class: "tl-chip" }, data(word), h("button", { class: "tl-quiet", type: "button", "aria-label": `Remove ${word}`, onclick: () => { item.remove(); whole.changed(); box.focus(); } }, icon("close", null, 12)));
    item.dataset.word = word;
    chosen.append(item);
  }
  const take = () => {
    if (!box.value.trim()) return;
    (isWhole ? [box.value] : box.value.split(",")).forEach(add);
    box.value = "";
    whole.changed();
  };
  box.addEventListener("keydown", (event) => { if ((event.key === "Enter" && box.value.trim()) || (event.key === "," && !isWhole)) { event.preventDefault(); take(); } });
  box.addEventListener("change", take);
  return { input: box, chosen, add, offer: (names) => put(options, names.map((name) => h("option", { value: name }))), values: () => { take(); return words(); } };
}
