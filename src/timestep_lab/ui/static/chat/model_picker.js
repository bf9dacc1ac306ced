// Selects the model: from a list, or by name.

import { h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";

const OTHER = "?";

/** `on.pick(name)` for a listed model, "" for the agent's own. `on.name(name)` for a typed one: its promise is rejected if the model is invalid. */
export function modelPicker(on) {
  let chosen = "";
  const id = `tl-models-${Math.random().toString(36).slice(2, 10)}`;
  const select = h("select", { class: "tl-chat-select", "aria-label": "Model" });
  const known = h("datalist", { id });
  const problem = h("span", { class: "tl-bad", role: "alert", id: `${id}-problem` });
  const field = h("input", {
    class: "tl-input tl-mono", list: id, placeholder: "prefix/name", "aria-label": "Model as prefix/name", "aria-describedby": `${id}-problem`,
    autocomplete: "off", autocapitalize: "off", spellcheck: "false",
  });
  const use = h("button", { class: "tl-button" }, "Use");
  const form = h("form", { class: "tl-chat-other", hidden: true, novalidate: true }, field, known, use,
    h("button", { type: "button", class: "tl-quiet", "aria-label": "Keep the current model", title: "Keep the current model", onclick: () => close() }, icon("close")), problem);

  function say(error) {
    put(problem, error?.message ?? "", error?.nextStep ? h("span", { class: "tl-soft" }, ` ${error.nextStep}`) : null);
    if (error) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
  function open() {
    form.hidden = false;
    field.value = chosen;
    say(null);
    field.focus();
    field.select();
  }
  function close() {
    form.hidden = true;
    select.focus();
  }
  select.addEventListener("change", () => {
    if (select.value !== OTHER) { form.hidden = true; on.pick(select.value); return; }
    select.value = chosen;
    open();
  });
  field.addEventListener("input", () => say(null));
  form.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") { event.preventDefault(); close(); }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = field.value.trim();
    if (!name) { say({ message: "Enter a model's name.", nextStep: "Use the form prefix/name, for example demo/echo." }); return; }
    use.disabled = true;
    try {
      await on.name(name);
      close();
    } catch (error) {
      if (!error.closed) say(error);
    } finally {
      use.disabled = false;
    }
  });

  return {
    select,
    form,
    /** `own`: what answers if no model is selected. */
    draw(models, model, own) {
      chosen = model ?? "";
      const names = chosen && !models.includes(chosen) ? [chosen, ...models] : models;
      put(select, h("option", { value: "" }, own), names.map((name) => h("option", { value: name }, name)), h("option", { value: OTHER }, "Other…"));
      select.value = chosen;
      put(known, models.map((name) => h("option", { value: name })));
    },
  };
}
