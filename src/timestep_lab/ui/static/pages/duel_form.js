// Two models and a button. A live duel has an address of its own, which can be shared.

import { h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { card } from "./parts.js";

export function duelForm(link) {
  const names = h("datalist", { id: `tl-duel-${Math.random().toString(36).slice(2, 7)}` });
  const fields = ["First model", "Second model"].map((label) => h("input", { class: "tl-input", "aria-label": label, placeholder: label, list: names.id, required: true }));
  const blind = h("input", { type: "checkbox", checked: true });
  const form = h("form", { class: "tl-duel-form" }, names, fields, h("label", { class: "tl-duel-blind" }, blind, "Blind"), h("button", { class: "tl-button" }, icon("play"), "Start a duel"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = new URLSearchParams(fields.map((field) => ["duel", field.value.trim()]));
    if (!blind.checked) asked.set("named", "1");
    window.location.assign(`/compare?${asked}`);
  });
  form.addEventListener("focusin", async () => put(names, (await link.call("models", {})).value.map((value) => h("option", { value }))), { once: true });
  return card("Live duel", h("p", { class: "tl-soft tl-none" }, "Two models answer each of your messages side by side, and you vote."), form);
}
