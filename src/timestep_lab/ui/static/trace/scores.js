// Annotations of a trace or a span, and a form to add one.

import { h } from "../shared/dom.js";
import { ago } from "../shared/format.js";
import { icon } from "../shared/icons.js";

/** `target` is `{target: "trace" | "span", target_id, trace_id}`; `api.call("score", …)` stores and gives the score back. */
export function scoreBox(api, target, scores) {
  const list = h("div", { class: "tl-scores" }, (scores ?? []).map(chip));
  const what = target.target === "trace" ? "trace" : "step";
  const add = h("button", { class: "tl-quiet", type: "button", "aria-label": `Score this ${what}`, "aria-expanded": "false" }, icon("score", null, 13), "Score");
  const box = h("div", { class: "tl-score-box" }, list, add);
  add.addEventListener("click", () => {
    const form = scoreForm(async (values) => {
      const { value } = await api.call("score", { ...target, ...values });
      list.append(chip(value));
    }, () => { form.remove(); add.hidden = false; add.setAttribute("aria-expanded", "false"); add.focus(); });
    form.setAttribute("aria-label", `Score of this ${what}`);
    add.hidden = true;
    add.setAttribute("aria-expanded", "true");
    box.append(form);
    form.querySelector("input").focus();
  });
  return box;
}

/** Only the annotations. */
export const scoreChips = (scores) => h("div", { class: "tl-scores" }, (scores ?? []).map(chip));

function chip(score) {
  const value = score.value === null || score.value === undefined ? score.label : `${Number(score.value.toFixed(4))}${score.label ? ` ${score.label}` : ""}`;
  return h("span", { class: "tl-chip", title: [score.note, `by ${score.source}, ${ago(Date.parse(score.created_at))}`].filter(Boolean).join(" · ") },
    h("bdi", {}, score.name), value ? h("b", {}, h("bdi", {}, value)) : null, score.note ? icon("note", "has a note", 12) : null);
}

function scoreForm(save, close) {
  const name = h("input", { class: "tl-input", value: "quality", "aria-label": "Name of the score", required: true });
  const value = h("input", { class: "tl-input", type: "number", step: "any", placeholder: "value", "aria-label": "Value" });
  const label = h("input", { class: "tl-input", placeholder: "label", "aria-label": "Label" });
  const note = h("input", { class: "tl-input", placeholder: "note", "aria-label": "Note" });
  const problem = h("span", { class: "tl-bad tl-small", role: "alert" });
  const form = h("form", { class: "tl-score-form" }, name, value, label, note,
    h("button", { class: "tl-button tl-primary", type: "submit" }, "Save"), h("button", { class: "tl-button", type: "button", onclick: close }, "Cancel"), problem);
  form.addEventListener("keydown", (event) => { event.stopPropagation(); if (event.key === "Escape") { event.preventDefault(); close(); } });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const number = value.value === "" ? null : Number(value.value);
    if (number === null && !label.value && !note.value) { problem.textContent = "Give a value, a label or a note."; return; }
    try {
      await save({ name: name.value.trim(), value: number, label: label.value.trim() || null, note: note.value.trim() || null });
      close();
    } catch (error) {
      problem.textContent = `${error.message} ${error.nextStep ?? ""}`;
    }
  });
  return form;
}
