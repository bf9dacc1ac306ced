// The contents of one cell of the matrix: three lines of the answer, scores, time and tokens.

import { h, safeText } from "../shared/dom.js";
import { cost, duration, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { wordDiff } from "../trace/word_diff.js";
import { letter } from "./model.js";

const SIGNS = { good: ["✓", "passed"], bad: ["✕", "failed"], part: ["◐", "in part"] };

/** The letter of a candidate in its colour. */
export function badge(column) {
  return h("span", { class: `tl-cand tl-cand-${(column % 8) + 1}`, "aria-hidden": "true" }, letter(column));
}

export const number = (value) => (Number.isInteger(value) ? String(value) : Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(1)).replace("-", "−");

/** One score: sign, name, value. `score` as in `GridModel.score`. */
export function scoreChip(model, scorer, score) {
  const judged = model.judge(scorer, score.value);
  const [sign, word] = SIGNS[judged] ?? ["", ""];
  const value = score.n > 1 && score.isPassFail ? `${score.sum}/${score.n}` : number(score.value);
  return h("span", { class: `tl-score tl-score-${judged ?? "none"}`, title: `${scorer}: ${value}${word ? `, ${word}` : ""}` },
    sign ? h("span", { "aria-hidden": "true" }, sign) : null, word ? h("span", { class: "tl-sr" }, `${word}, `) : null, h("span", { class: "tl-clip" }, scorer), h("b", {}, value));
}

/** The contents of a cell. `reference`: the column that the others are compared with, or -1. */
export function cellContents(model, row, column, reference) {
  const epochs = (model.at(row, column) ?? []).filter(Boolean);
  const cell = epochs[0];
  if (!cell) return [h("div", { class: "tl-mx-text tl-soft" }, model.isRunning ? "waiting" : "not answered"), null];
  if (cell.status === "running" && !cell.text) return [h("div", { class: "tl-mx-text tl-soft" }, icon("running", null, 12), " asking"), null];
  if (cell.status === "error") return [h("div", { class: "tl-mx-text tl-bad" }, icon("error", "failed", 13), " ", h("bdi", { dir: "auto" }, safeText(cell.text))), facts(epochs)];
  return [h("div", { class: "tl-mx-text", dir: "auto" }, marked(model, row, column, reference, cell)), facts(epochs, model, row, column)];
}

function marked(model, row, column, reference, cell) {
  const other = otherColumn(model, column, reference);
  const against = other < 0 ? null : model.at(row, other)?.[0];
  // Differences are marked only in complete answers; marks on streaming text would flicker.
  if (cell.status !== "done" || against?.status !== "done" || cell.hash === against.hash) return h("bdi", { dir: "auto" }, safeText(cell.text));
  return changedWords(against.text, cell.text);
}

/** `own` with the words marked that `other` does not have; none if less than half is alike. */
export function changedWords(other, own) {
  const [, marked, alike] = wordDiff(other, own);
  return alike < 0.5 ? h("bdi", { dir: "auto" }, safeText(own)) : marked;
}

/** With two candidates each is compared with the other; with more, each with the reference. */
export function otherColumn(model, column, reference) {
  if (model.width === 2) return 1 - column;
  return column === reference ? -1 : reference;
}

function facts(epochs, model, row, column) {
  const ended = epochs.filter((cell) => cell.status !== "running");
  const chips = [];
  let more = 0;
  if (model) {
    const { deciding, scorers } = model.head;
    for (const scorer of [deciding, ...scorers.filter((name) => name !== deciding)]) {
      const score = scorer && model.score(row, column, scorer);
      if (!score) continue;
      if (chips.length < model.chips) chips.push(scoreChip(model, scorer, score)); else more += 1;
    }
  }
  const [first] = ended;
  const said = !first ? [] : [first.isCached ? "cached" : duration(first.ms), first.tokens === null ? null : tokens(first.tokens)];
  return h("div", { class: "tl-mx-facts" }, chips, more ? h("span", { class: "tl-soft" }, `+${more}`) : null,
    h("span", { class: "tl-mx-said tl-num tl-soft", title: first ? `${duration(first.ms)}, ${tokens(first.tokens)}, ${cost(first.usd)}` : null },
      said.filter(Boolean).map((fact, k) => h("span", {}, k ? ` · ${fact}` : fact))));
}
