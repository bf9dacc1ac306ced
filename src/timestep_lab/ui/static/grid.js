// The component of ui/grid.py: verdict, chart of differences, quality against cost, and the matrix.

import { h, perFrame, put } from "./shared/dom.js";
import { count } from "./shared/format.js";
import { icon } from "./shared/icons.js";
import { latestOnly } from "./shared/link.js";
import { mount } from "./shared/mount.js";
import { GridModel, letter } from "./grid/model.js";
import { Matrix } from "./grid/matrix.js";
import { openedCase } from "./grid/opened.js";
import { progressLine } from "./grid/progress.js";
import { qualityChart } from "./grid/quality_chart.js";
import { ranking, slices, summary } from "./grid/summary.js";
import { TracePanel } from "./trace/trace_panel.js";

const FOLLOW_MS = 70;
const GROWING_MS = 500;
const LONG = 300;

function render({ model: host, el }) {
  const view = mount({ model: host, el }, "comparison");
  const { root, link } = view;
  const model = new GridModel();
  const shown = { differ: false, fail: false, failFirst: false, scorer: null, reference: 0, opened: null, column: 0 };
  /** Row and column of the case that was asked for last. */
  let wanted = null;
  const [sliced, cases, traces] = [latestOnly(), latestOnly(), latestOnly()];
  let following = 0;
  let panel = null;

  const conclusion = h("h2", { class: "tl-conclusion" });
  const verdict = h("p", { class: "tl-verdict", role: "status" });
  const all = h("button", { class: "tl-more tl-verdict-more", type: "button", hidden: true, onclick: () => { verdict.classList.remove("tl-is-long"); all.hidden = true; } }, "Show the whole verdict");
  const progress = progressLine(() => link.call("stop").catch(refuse));
  const table = summary();
  const rank = ranking();
  const cut = slices();
  const more = h("details", { class: "tl-sum-more" }, h("summary", { class: "tl-soft tl-small" }, "Every score, first token and tokens"), table.element);
  const chart = qualityChart();
  const trouble = h("div", { class: "tl-notice tl-is-bad", role: "alert", hidden: true });
  const rowsShown = h("span", { class: "tl-soft tl-num tl-small", role: "status" });
  const again = h("button", { class: "tl-more", type: "button", hidden: true }, "Check for updates");
  const toggle = (name, word, key) => h("button", { class: "tl-button", type: "button", "aria-pressed": "false", "aria-keyshortcuts": key, onclick: () => filter(name) }, word, h("kbd", {}, key));
  const buttons = { differ: toggle("differ", "Differ", "d"), fail: toggle("fail", "Failures", "f") };
  const traceKey = h("button", { class: "tl-button", type: "button", "aria-keyshortcuts": "t", onclick: () => traceOf(matrix.order[matrix.active.at], matrix.active.column) }, "Trace", h("kbd", {}, "t"));
  const scorer = h("select", { class: "tl-input", "aria-label": "Score" });
  const reference = h("select", { class: "tl-input", "aria-label": "Compare with" });
  const by = h("select", { class: "tl-input", "aria-label": "Slices" });
  const order = h("select", { class: "tl-input", "aria-label": "Order" }, h("option", { value: "" }, "as given"), h("option", { value: "fail" }, "failing first"));
  const picks = h("span", { class: "tl-picks" }, h("label", { class: "tl-small tl-soft" }, "Order ", order), h("label", { class: "tl-small tl-soft" }, "Slices ", by), h("label", { class: "tl-small tl-soft" }, "Score ", scorer), h("label", { class: "tl-small tl-soft" }, "Compare with ", reference));
  const matrix = new Matrix(model, { open, move: follow, trace: traceOf });
  const opened = openedCase({ trace: openTrace, step: (by) => { matrix.go(matrix.active.at + by, matrix.active.column, { tell: false }); open(matrix.order[matrix.active.at], matrix.active.column); }, close: closeCase });
  const traceBox = h("div", { class: "tl-trace-over", hidden: true });
  const lower = h("div", { class: "tl-grid-lower" }, matrix.element, opened.element, traceBox);
  root.append(conclusion, progress.element, h("div", { class: "tl-pictures" }, rank.element, chart.element), verdict, all, more, cut.element,
    h("div", { class: "tl-grid-tools" }, buttons.differ, buttons.fail, traceKey, rowsShown, again, picks), trouble, lower);

  function refuse(error) {
    if (error.closed) return;
    trouble.hidden = false;
    put(trouble, icon("error"), `${error.message} ${error.nextStep ?? ""}`);
  }

  const numbers = () => { rank.show(model, shown.scorer, shown.reference); table.show(model, shown.scorer); chart.show(model, shown.scorer); };
  const numbersSoon = perFrame(numbers);

  function filter(name) {
    if (name) shown[name] = !shown[name];
    for (const [key, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", shown[key]);
    const rows = model.rows(shown);
    const why = shown.fail && shown.differ ? "No case with failures differs." : shown.fail ? "No case has a failure." : shown.differ ? `No case's ${model.head.deciding ? "scores" : "answers"} differ.` : "No cases yet.";
    matrix.rows(rows, why);
    rowsShown.textContent = rows.length === model.cases.length ? count(rows.length, "case") : `${rows.length.toLocaleString("en")} of ${count(model.cases.length, "case")}`;
    again.hidden = true;
  }
  again.addEventListener("click", () => filter());

  function head(next, isNew) {
    model.setHead(next);
    root.toggleAttribute("data-tl-unread", Boolean(next.unread));
    // Keeps room for three lines from the start, so that nothing below moves when it ends.
    if (model.isRunning) verdict.classList.add("tl-has-room");
    if (verdict.textContent !== next.headline) {
      verdict.textContent = next.headline;
      const isLong = next.headline.length > LONG;
      verdict.classList.toggle("tl-is-long", isLong);
      all.style.visibility = isLong ? "" : "hidden";
      all.hidden = !isLong && next.candidates.length < 3;
    }
    conclusion.textContent = next.conclusion || (model.isRunning && model.width > 1 ? "No verdict yet" : "");
    conclusion.hidden = !conclusion.textContent;
    progress.show(next);
    if (isNew || !next.scorers.includes(shown.scorer)) shown.scorer = next.deciding;
    const options = (select, list, value) => { put(select, list.map(([key, word]) => h("option", { value: key }, word))); select.value = value; };
    options(scorer, next.scorers.map((name) => [name, name]), shown.scorer);
    options(reference, next.candidates.map(({ name }, column) => [String(column), `${letter(column)} · ${name}`]), String(shown.reference));
    options(by, [["", "none"], ...next.columns.map((name) => [name, name])], next.columns.includes(by.value) ? by.value : "");
    by.parentNode.hidden = !next.columns.length || !next.deciding;
    if (!model.isRunning && by.value) drawSlices();
    scorer.parentNode.hidden = next.scorers.length < 2;
    reference.parentNode.hidden = next.candidates.length < 2;
    buttons.differ.disabled = next.candidates.length < 2;
    numbers();
  }
  scorer.addEventListener("change", () => { shown.scorer = scorer.value; numbers(); });
  reference.addEventListener("change", () => { shown.reference = matrix.reference = Number(reference.value); numbers(); matrix.forget(); if (shown.opened) drawCase(); });

  by.addEventListener("change", drawSlices);
  order.addEventListener("change", () => { shown.failFirst = order.value === "fail"; filter(); });

  async function drawSlices() {
    sliced.forget();
    try {
      cut.show(model, by.value ? (await sliced(link.call("slices", { by: by.value }))).value : null);
    } catch (error) {
      refuse(error);
    }
  }

  function whole(next, buffers) {
    model.load(next, buffers[0]);
    // Finished comparisons are sorted by failures; while one runs, rows keep their position.
    shown.failFirst = !model.isRunning;
    order.value = shown.failFirst ? "fail" : "";
    head(next, true);
    matrix.columns();
    filter();
  }

  // An open case

  function open(row, column) {
    fetchCase(row, column).then((isShown) => { if (isShown) opened.element.focus({ preventScroll: true }); });
  }

  function follow(row, column) {
    if (opened.element.hidden) return;
    clearTimeout(following);
    // Holding an arrow key passes over many rows; only the last one is fetched.
    following = setTimeout(() => fetchCase(row, column), FOLLOW_MS);
  }

  /** True when it is what is shown now. */
  async function fetchCase(row, column) {
    wanted = { row, column };
    try {
      const { value } = await cases(link.call("case", { place: row }));
      trouble.hidden = true;
      shown.opened = value;
      shown.column = column;
      drawCase();
      if (root.clientWidth > 640) matrix.reveal();
      return true;
    } catch (error) {
      refuse(error);
      return false;
    }
  }

  function drawCase() {
    lower.classList.add("tl-has-open");
    opened.show(model, shown.opened, shown.column, shown.reference);
  }

  function closeCase() {
    clearTimeout(following);
    cases.forget();
    wanted = shown.opened = null;
    opened.close();
    lower.classList.remove("tl-has-open");
    matrix.grid.focus({ preventScroll: true });
  }

  const growing = setInterval(() => {
    if (shown.opened?.answers.some((answer) => answer.status === "running")) fetchCase(wanted.row, wanted.column);
  }, GROWING_MS);

  // A trace

  /** The trace of a cell, of a failing epoch if there is one. */
  async function traceOf(row, column) {
    try {
      const answers = (await traces(link.call("case", { place: row }))).value.answers.filter((answer) => answer.column === column && answer.trace_id);
      const failed = answers.find((answer) => answer.status === "error" || answer.scores?.some(({ scorer: by, value }) => by === model.head.deciding && value !== null && value < 0.5));
      const found = failed ?? answers[0];
      if (found) await openTrace(found.trace_id);
      else refuse({ message: "This answer has no trace.", nextStep: "Answers in progress and those of functions may not have one." });
    } catch (error) {
      refuse(error);
    }
  }

  async function openTrace(id) {
    try {
      const { value, buffers } = await traces(link.call("trace", { trace_id: id }));
      panel ??= new TracePanel(link);
      const back = h("button", { class: "tl-button tl-trace-back", type: "button", onclick: closeTrace }, icon("back"), "Answers");
      put(traceBox, back, panel.element);
      traceBox.hidden = false;
      panel.show(value, buffers[0]);
      back.focus();
    } catch (error) {
      refuse(error);
    }
  }

  function closeTrace() {
    traceBox.hidden = true;
    (opened.element.hidden ? matrix.grid : opened.element).focus({ preventScroll: true });
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "Escape" && !traceBox.hidden) closeTrace();
    else if (event.key === "Escape" && !opened.element.hidden) closeCase();
    else if (!traceBox.hidden) return;
    else if (event.key === "d" && !buttons.differ.disabled) filter("differ");
    else if (event.key === "f") filter("fail");
    else if (event.key === "t") traceOf(matrix.order[matrix.active.at], matrix.active.column);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  link.on("snap", whole);
  link.on("grid", whole);
  // The same comparison, read again: the visible rows stay.
  link.on("cells", (next, buffers) => {
    if (next.n_cases !== model.cases.length) return whole(next, buffers);
    model.load(next, buffers[0]); head(next, false);
    matrix.forget();
  });
  link.on("head", (op) => { head(op, false); matrix.forget(); if (wanted) fetchCase(wanted.row, wanted.column); });
  link.on("live", ({ cells, progress: now, scorers }) => {
    if (scorers && scorers.length > model.head.scorers.length) {
      // Same rule as in the engine: `overall` decides if it exists, else the first scorer.
      head({ ...model.head, scorers, deciding: scorers.includes("overall") ? "overall" : scorers[0], progress: null }, shown.scorer === null);
      matrix.forget();
    }
    for (const [place, change] of Object.entries(cells)) {
      const [row, column, epoch] = place.split(",").map(Number);
      model.change(row, column, epoch, change);
      matrix.touch(row, column);
    }
    if (!now) return;
    progress.update(now);
    numbersSoon();
    // Rows that newly match a filter are shown only on request: nothing moves by itself.
    if (shown.differ || shown.fail) again.hidden = model.rows(shown).length === matrix.order.length;
  });
  view.onClose(() => { clearInterval(growing); clearTimeout(following); numbersSoon.cancel(); matrix.close(); panel?.close(); });
  link.open();
  return view.close;
}
export default { render };
