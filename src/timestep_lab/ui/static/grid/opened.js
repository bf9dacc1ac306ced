// An open case: the input, and every candidate's complete answer side by side, each with its trace.

import { data, h, put, safeText } from "../shared/dom.js";
import { cost, duration, tokens } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { jsonView } from "../shared/json_view.js";
import { copyButton, longText } from "../shared/long_text.js";
import { badge, changedWords, otherColumn, scoreChip } from "./cell.js";

const MARKED = 6000;

/** `{element, show(model, opened, column, reference), close()}`; `on.trace(id)`, `on.step(by)`, `on.close()`. */
export function openedCase(on) {
  const title = h("h3", {});
  const inside = h("div", { class: "tl-open-inside" });
  const button = (label, name, act) => h("button", { class: "tl-quiet", type: "button", title: label, "aria-label": label, onclick: act }, icon(name));
  const element = h("section", { class: "tl-open", tabindex: -1, "aria-label": "Opened case", hidden: true },
    h("header", {}, title, h("span", { class: "tl-open-tools" }, button("Previous case", "back", () => on.step(-1)), button("Next case", "chevron", () => on.step(1)), button("Close", "close", () => on.close()))), inside);
  return {
    element,
    show(model, opened, column, reference) {
      const { case: asked, answers, place } = opened;
      const scroll = element.hidden || element.dataset.place !== String(place) ? 0 : inside.scrollTop;
      element.dataset.place = place;
      element.hidden = false;
      title.textContent = `Case ${(place + 1).toLocaleString("en")} of ${model.cases.length.toLocaleString("en")}`;
      put(inside, question(asked), h("div", { class: "tl-open-answers", tabindex: 0, role: "group", "aria-label": "Answers to this case" }, model.head.candidates.map((candidate, k) => {
        const own = answers.filter((answer) => answer.column === k);
        const against = answers.find((answer) => answer.column === otherColumn(model, k, reference) && answer.epoch === 0);
        return h("article", { class: k === column ? "tl-open-answer tl-on" : "tl-open-answer", "aria-label": candidate.name }, h("h4", {}, badge(k), data(candidate.name, { class: "tl-clip", title: candidate.name })),
          own.length ? own.map((answer) => one(model, answer, own.length > 1, against, on)) : h("p", { class: "tl-soft" }, "Not answered."));
      })));
      inside.scrollTop = scroll;
      inside.querySelector(".tl-open-answer.tl-on")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    },
    close() { element.hidden = true; put(inside); },
  };
}

function question(asked) {
  const rest = Object.fromEntries(Object.entries({ variables: asked.vars, metadata: asked.metadata, messages: asked.messages }).filter(([, value]) => value && Object.keys(value).length));
  return h("div", { class: "tl-open-asked" },
    h("div", {}, h("span", { class: "tl-soft tl-small" }, "Asked"), longText(asked.input || "(filled from its variables)")),
    asked.expected === null ? null : h("div", {}, h("span", { class: "tl-soft tl-small" }, "Expected"), typeof asked.expected === "string" ? longText(asked.expected) : jsonView(asked.expected)),
    Object.keys(rest).length ? h("details", {}, h("summary", { class: "tl-soft tl-small" }, "More of this case"), jsonView(rest)) : null);
}

function one(model, answer, isRepeat, against, on) {
  const facts = [isRepeat ? `epoch ${answer.epoch + 1}` : null, answer.cached ? "from the cache" : null, answer.scores?.some((score) => score.cached) ? "judged before" : null, duration(answer.latency_ms), answer.ttft_ms === null || answer.ttft_ms === undefined ? null : `first token ${duration(answer.ttft_ms)}`,
    tokens((answer.input_tokens ?? null) === null || (answer.output_tokens ?? null) === null ? null : answer.input_tokens + answer.output_tokens), cost(answer.cost_usd), answer.attempts > 1 ? `${answer.attempts} tries` : null];
  if (answer.status === "running") return h("div", { class: "tl-open-one" }, h("p", { class: "tl-soft tl-small" }, icon("running", null, 12), " answering"), longText(answer.output));
  return h("div", { class: "tl-open-one" },
    h("div", { class: "tl-open-scores" }, answer.scores.map((score) => (score.value === null ? h("span", { class: "tl-score" }, data(score.scorer), " unknown") : scoreChip(model, score.scorer, { value: score.value, n: 1 })))),
    answer.scores.some((score) => score.note) ? h("ul", { class: "tl-open-notes tl-small tl-soft" }, answer.scores.filter((score) => score.note).map((score) => h("li", {}, data(score.scorer), ": ", h("bdi", { dir: "auto" }, safeText(score.note))))) : null,
    answer.status === "error" ? h("div", { class: "tl-notice tl-is-bad" }, icon("error", "failed"), h("div", { class: "tl-text" }, longText(`${answer.error_type ?? "Error"}: ${answer.error ?? ""}`))) : text(answer, against),
    answer.steps.length ? h("details", {}, h("summary", { class: "tl-small tl-soft" }, `${answer.steps.length} ${answer.steps.length === 1 ? "step" : "steps"}`), h("ol", { class: "tl-open-steps tl-small" }, answer.steps.map((step) => h("li", {}, stepText(step))))) : null,
    h("div", { class: "tl-open-foot tl-small tl-soft tl-num" }, h("span", { class: "tl-facts" }, facts.filter(Boolean).map((fact) => h("span", {}, fact))),
      answer.status === "error" ? null : copyButton(() => answer.output ?? "", "Copy the answer"),
      answer.trace_id ? h("button", { class: "tl-button", type: "button", onclick: () => on.trace(answer.trace_id) }, icon("path"), "Trace") : null));
}

function text(answer, against) {
  const own = answer.output ?? "";
  const other = against?.status === "done" ? against.output ?? "" : null;
  if (!own) return h("p", { class: "tl-soft" }, "An empty answer.");
  if (other === null || own === other || own.length > MARKED || other.length > MARKED) return longText(own);
  return h("div", { class: "tl-text tl-plain", dir: "auto" }, changedWords(other, own));
}

/** A step of a trajectory in words. */
export function stepText(step) {
  if (step.type === "handoff") return [icon("handoff", "handoff", 12), " ", data(step.from ?? ""), " to ", data(step.to ?? "")];
  return [icon("tool", "tool", 12), " ", data(step.name ?? step.type ?? "step"), " ", h("code", { dir: "ltr" }, safeText(short(step.arguments))), step.error ? h("span", { class: "tl-bad" }, " ✕ ", safeText(String(step.error))) : null];
}

const short = (value) => {
  const text = value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
};
