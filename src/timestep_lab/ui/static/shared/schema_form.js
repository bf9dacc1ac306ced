// A form for a JSON Schema with primitive fields, as used by MCP elicitation: texts, numbers, booleans, choices.

import { data, h, put, storage } from "./dom.js";

const TYPES = { email: "email", uri: "url", date: "date", "date-time": "datetime-local" };
let forms = 0;

/**
 * `{element, read()}`: `read()` gives the object that was filled in, or null after marking what is missing or does not fit. `key` names what
 * is asked: under it what was typed outlives a reload of the page.
 */
export function schemaForm(schema, key) {
  const id = `tl-form-${(forms += 1)}-${Math.random().toString(36).slice(2, 7)}`;
  const required = schema.required ?? [];
  const kept = keptText(key);
  const fields = Object.entries(schema.properties ?? {}).map(([name, spec], n) => makeField(name, spec ?? {}, required.includes(name), `${id}-${n}`, kept.get()[name]));
  const element = h("div", { class: "tl-schema-form" }, fields.map((field) => field.element));
  element.addEventListener("input", () => kept.set(Object.fromEntries(fields.map((field) => [field.name, field.typed()]))));
  return {
    element,
    read() {
      const answer = {};
      let first = null;
      for (const field of fields) {
        const { value, wrong } = field.read();
        field.say(wrong ?? "");
        if (wrong) first ??= field;
        else if (value !== undefined) answer[field.name] = value;
      }
      first?.focus();
      return first ? null : answer;
    },
    done: () => kept.set(null),
  };
}

/** `[value, label]` of the choices, null for free text. */
function choices(spec) {
  const named = (options) => options.map((one) => [one.const, one.title ?? String(one.const)]);
  if (spec.oneOf ?? spec.anyOf) return named(spec.oneOf ?? spec.anyOf);
  if (spec.enum) return spec.enum.map((value, n) => [value, spec.enumNames?.[n] ?? String(value)]);
  return null;
}

function makeField(name, spec, isRequired, id, typed) {
  const isMany = spec.type === "array";
  const options = choices(isMany ? spec.items ?? {} : spec);
  const start = typed ?? spec.default;
  const { control, value, text, bare = false } = options ? chosen(spec, options, isMany, start, id, isRequired) : spec.type === "boolean" ? yesOrNo(start, id) : written(spec, start, id, isRequired);
  const wrong = h("p", { class: "tl-bad tl-small tl-schema-wrong", role: "alert", id: `${id}-wrong` });
  const help = spec.description ? h("p", { class: "tl-soft tl-small", id: `${id}-help` }, data(spec.description)) : null;
  const label = [data(spec.title ?? name), isRequired ? h("span", { class: "tl-bad", "aria-hidden": "true" }, " *") : null];
  const described = [help ? `${id}-help` : null, `${id}-wrong`].filter(Boolean).join(" ");
  const inputs = control.matches("input, select, textarea") ? [control] : [...control.querySelectorAll("input")];
  for (const one of inputs) { one.setAttribute("aria-describedby", described); one.dataset.tlKept = ""; }
  const element = bare ? h("div", { class: "tl-schema-field" }, h("label", { class: "tl-schema-check" }, control, h("span", {}, label)), help, wrong)
    : control.matches("fieldset") ? h("div", { class: "tl-schema-field" }, put(control, h("legend", {}, label), ...control.childNodes), help, wrong)
    : h("div", { class: "tl-schema-field" }, h("label", { for: id }, label), control, help, wrong);
  return {
    name,
    element,
    typed: text,
    focus: () => inputs[0]?.focus(),
    say(words) {
      put(wrong, words);
      for (const one of inputs) { if (words) one.setAttribute("aria-invalid", "true"); else one.removeAttribute("aria-invalid"); }
    },
    read() {
      const found = value();
      if (found.wrong || found.value !== undefined) return found;
      return isRequired ? { wrong: options ? "Select one." : "This field is required." } : {};
    },
  };
}

function chosen(spec, options, isMany, start, id, isRequired) {
  if (isMany) {
    const boxes = options.map(([value, words]) => [value, h("input", { type: "checkbox", checked: (start ?? []).includes(value) }), words]);
    const picked = () => boxes.filter(([, box]) => box.checked).map(([value]) => value);
    const { minItems = 0, maxItems = Infinity } = spec;
    return {
      control: h("fieldset", {}, boxes.map(([, box, words]) => h("label", { class: "tl-schema-check" }, box, h("span", {}, data(words))))),
      text: picked,
      value() {
        const values = picked();
        if (values.length < minItems) return { wrong: `Select at least ${minItems}.` };
        if (values.length > maxItems) return { wrong: `Select at most ${maxItems}.` };
        return { value: values.length || isRequired ? values : undefined };
      },
    };
  }
  const select = h("select", { class: "tl-input", id, "aria-required": isRequired ? "true" : null }, h("option", { value: "" }, isRequired ? "Choose …" : "none"), options.map(([, words], n) => h("option", { value: String(n) }, words)));
  const at = options.findIndex(([value]) => value === start);
  select.value = at < 0 ? "" : String(at);
  const value = () => (select.value === "" ? undefined : options[Number(select.value)][0]);
  return { control: select, text: value, value: () => ({ value: value() }) };
}

function yesOrNo(start, id) {
  const box = h("input", { type: "checkbox", id, checked: start === true });
  return { control: box, bare: true, text: () => box.checked, value: () => ({ value: box.checked }) };
}

function written(spec, start, id, isRequired) {
  const isNumber = spec.type === "number" || spec.type === "integer";
  const isText = spec.type === "string" || spec.type === undefined;
  const props = { class: "tl-input", id, value: start === undefined ? "" : typeof start === "string" ? start : JSON.stringify(start), autocomplete: "off", "aria-required": isRequired ? "true" : null };
  const control = isText && (spec.maxLength ?? 0) <= 300 || isNumber
    ? h("input", { type: isText ? TYPES[spec.format] ?? "text" : "text", inputmode: isNumber ? (spec.type === "integer" ? "numeric" : "decimal") : null, ...props })
    : h("textarea", { rows: 3, ...props });
  return { control, text: () => control.value, value: () => (isNumber ? numberOf(control.value, spec) : isText ? textOf(control, spec) : jsonOf(control.value)) };
}

function numberOf(text, spec) {
  if (!text.trim()) return {};
  const value = Number(text.trim().replace(",", "."));
  if (!Number.isFinite(value)) return { wrong: "Enter a number." };
  if (spec.type === "integer" && !Number.isInteger(value)) return { wrong: "Enter a whole number." };
  if (value < (spec.minimum ?? -Infinity)) return { wrong: `At least ${spec.minimum}.` };
  if (value > (spec.maximum ?? Infinity)) return { wrong: `At most ${spec.maximum}.` };
  return { value };
}

function textOf(control, spec) {
  const text = control.value;
  if (!text.trim()) return {};
  if (text.length < (spec.minLength ?? 0)) return { wrong: `At least ${spec.minLength} characters.` };
  if (text.length > (spec.maxLength ?? Infinity)) return { wrong: `At most ${spec.maxLength} characters.` };
  if (!control.validity.valid) return { wrong: control.validationMessage };
  return { value: spec.format === "date-time" ? new Date(text).toISOString() : text };
}

function jsonOf(text) {
  if (!text.trim()) return {};
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { wrong: `Enter valid JSON: ${error.message}.` };
  }
}

/** The input in sessionStorage, if available (not in a sandboxed notebook output). */
function keptText(key) {
  const name = `timestep-form:${key}`;
  return {
    get: () => JSON.parse(storage((tab) => tab.getItem(name)) ?? "{}"),
    set: (values) => storage((tab) => (values ? tab.setItem(name, JSON.stringify(values)) : tab.removeItem(name))),
  };
}
