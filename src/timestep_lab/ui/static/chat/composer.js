// Where a message is written: text that grows with its lines, files by button, drop and paste, Send or Stop.

import { h, put } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { bytes } from "../shared/format.js";

const TALLEST = 220;

/** `on.send(text, attachments)`, `on.stop()`, `on.attach(file)` → `{id, name, mime_type, size}`, `on.problem(error)`. */
export function composer(on) {
  let attachments = [];
  let uploading = 0;
  const field = h("textarea", { rows: 1, placeholder: "Ask anything", "aria-label": "Message", class: "tl-chat-field", enterkeyhint: "send" });
  const chips = h("div", { class: "tl-chat-files", hidden: true });
  const picker = h("input", { type: "file", multiple: true, hidden: true, tabindex: "-1", "aria-hidden": "true" });
  const clip = h("button", { type: "button", class: "tl-quiet tl-chat-clip", "aria-label": "Attach files", title: "Attach files", onclick: () => picker.click() }, icon("clip"));
  const send = h("button", { type: "button", class: "tl-button tl-primary tl-chat-send", "aria-label": "Send" }, icon("send"), h("span", {}, "Send"));
  const stop = h("button", { type: "button", class: "tl-button tl-chat-send", hidden: true, "aria-label": "Stop" }, icon("stop"), h("span", {}, "Stop"));
  const element = h("div", { class: "tl-chat-composer" }, chips, h("div", { class: "tl-chat-line" }, clip, field, send, stop), picker);

  const ready = () => { send.disabled = uploading > 0 || (!field.value.trim() && !attachments.length); };
  const grow = () => { field.style.height = "auto"; field.style.height = `${Math.min(field.scrollHeight, TALLEST)}px`; ready(); };
  const go = () => {
    const text = field.value.trim();
    if (send.disabled || send.hidden) return;
    field.focus();
    on.send(text, attachments);
    field.value = "";
    attachments = [];
    draw();
    grow();
  };
  function draw() {
    chips.hidden = !attachments.length && !uploading;
    put(chips, attachments.map((file) => h("span", { class: "tl-chip tl-chat-file" }, icon("clip"), h("span", { class: "tl-clip" }, nameOf(file)), file.size ? h("span", { class: "tl-soft" }, bytes(file.size)) : null,
      h("button", { type: "button", class: "tl-quiet", "aria-label": `Remove ${nameOf(file)}`, onclick: () => remove(file) }, icon("close", undefined, 10)))),
      uploading ? h("span", { class: "tl-chip", role: "status" }, icon("running"), `Uploading ${uploading}`) : null);
    ready();
  }
  const nameOf = (file) => file.name ?? file.id;
  function remove(file) {
    attachments = attachments.filter((other) => other !== file);
    draw();
    field.focus();
  }
  async function take(files) {
    field.focus();
    for (const file of files) {
      uploading += 1;
      draw();
      try {
        const kept = await on.attach(file);
        attachments = [...attachments, kept]; // After the wait: other files may have come meanwhile.
      } catch (error) {
        on.problem(error);
      } finally {
        uploading -= 1;
        draw();
      }
    }
  }
  field.addEventListener("input", grow);
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); go(); }
    if (event.key === "Escape" && !stop.hidden) { event.preventDefault(); on.stop(); }
  });
  field.addEventListener("paste", (event) => { if (event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files); } });
  send.addEventListener("click", go);
  stop.addEventListener("click", () => on.stop());
  picker.addEventListener("change", () => { take([...picker.files]); picker.value = ""; });
  ready();

  return {
    element,
    dropTarget(area) {
      area.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) { event.preventDefault(); area.dataset.tlDrop = ""; } });
      area.addEventListener("dragleave", (event) => { if (!area.contains(event.relatedTarget)) delete area.dataset.tlDrop; });
      area.addEventListener("drop", (event) => { event.preventDefault(); delete area.dataset.tlDrop; take([...event.dataTransfer.files]); });
    },
    busy(now) {
      const held = [send, stop].includes(element.getRootNode().activeElement);
      stop.hidden = !now;
      send.hidden = now;
      if (held) field.focus();
    },
    /** Write for the reader: a message to edit comes with the files it was sent with. */
    fill(text, files = []) {
      field.value = text;
      attachments = [...files];
      draw();
      grow();
      field.focus();
    },
    focus() { field.focus(); },
  };
}
