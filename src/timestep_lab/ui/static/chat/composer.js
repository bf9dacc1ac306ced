// The message input: grows with its text, attaches files by button, drop and paste, and sends or stops. Nothing written is lost: a draft,
// queued messages, and a message in transit when the connection was lost survive a reload of the page.

import { h, put, storage } from "../shared/dom.js";
import { icon } from "../shared/icons.js";
import { bytes } from "../shared/format.js";
import { shelf } from "../shared/shelf.js";

const TALLEST = 220;
const NEXT_AFTER_MS = 300;
const AGAIN_AFTER_MS = 1000;
const AWAY = "Reconnecting to the server. What you write here is kept.";

/**
 * `name` tells this composer's drafts from those of another kind of view. `on.send(text, attachments)` resolves once the message is stored and rejects with why it is not (`error.isLost`: nobody knows).
 * `on.newest()` is the id of the reader's last message that is stored. `on.stop()`, `on.attach(file)` → `{id, name, mime_type, size}`, `on.problem(error)`.
 */
export function composer(name, on) {
  let attachments = [];
  let uploading = 0;
  let shelving = 0; // Files being uploaded, or stored files being read: a message waits for them.
  let unsent = []; // Files whose upload was interrupted; restarted after reconnecting.
  let isWanted = false; // Enter was pressed while files were on their way: the message goes out once they are attached.
  let isBusy = false;
  let isHeld = false; // An approval is pending.
  let isAway = false;
  let queue = []; // Messages queued for after this turn.
  let onWay = null; // A sent message that is not confirmed as stored: `{text, attachments, after}`.
  let isUnsure = false; // The connection was lost, or the page reloaded, while it was in transit.
  let place = null; // Id of the conversation; "new" before it has one.
  const field = h("textarea", { rows: 1, placeholder: "Ask anything", "aria-label": "Message", class: "tl-chat-field", enterkeyhint: "send", "data-tl-kept": "" });
  const chips = h("div", { class: "tl-chat-files", hidden: true });
  const waiting = h("ul", { class: "tl-chat-queue", "aria-label": "Queued messages", hidden: true });
  const away = h("div", { class: "tl-chat-away", role: "status" });
  const picker = h("input", { type: "file", multiple: true, hidden: true, tabindex: "-1", "aria-hidden": "true", "data-tl-kept": "" });
  const clip = h("button", { type: "button", class: "tl-quiet tl-chat-clip", "aria-label": "Attach files", title: "Attach files", onclick: () => picker.click() }, icon("clip"));
  const sendWord = h("span", {}, "Send");
  const send = h("button", { type: "button", class: "tl-button tl-primary tl-chat-send", "aria-label": "Send" }, icon("send"), sendWord);
  const stop = h("button", { type: "button", class: "tl-button tl-chat-send", hidden: true, "aria-label": "Stop" }, icon("stop"), h("span", {}, "Stop"));
  const element = h("div", { class: "tl-chat-composer" }, away, waiting, chips, h("div", { class: "tl-chat-line" }, clip, field, send, stop), picker);

  const isEmpty = () => !field.value.trim() && !attachments.length;
  const isAttaching = () => shelving + uploading > 0;
  const ready = () => {
    send.disabled = isAway || isAttaching() || unsent.length > 0 || isEmpty();
    send.title = isAway ? AWAY : "";
    // During a turn there is a Stop button, and once something is written, a button to queue it.
    send.hidden = isBusy && isEmpty();
    put(sendWord, isBusy ? "Send next" : "Send");
    send.setAttribute("aria-label", isBusy ? "Send next" : "Send");
    stop.disabled = isAway;
  };
  const grow = () => { field.style.height = "auto"; field.style.height = `${Math.min(field.scrollHeight, TALLEST)}px`; ready(); };
  const go = () => {
    ready();
    isWanted = isAttaching() && !isAway && !isEmpty();
    if (send.disabled || send.hidden) return;
    field.focus();
    const message = { text: field.value.trim(), attachments };
    field.value = "";
    attachments = [];
    if (isBusy || onWay) queue.push(message);
    else deliver(message);
    draw();
    grow();
    keep();
  };
  async function deliver(message) {
    const mine = { ...message, after: on.newest() };
    onWay = mine;
    keep();
    try {
      await on.send(message.text, message.attachments);
    } catch (error) {
      if (error.isLost || error.closed) { isUnsure = true; return; } // `settle` finds out when the conversation is read again.
      giveBack(message);
      on.problem(error);
    }
    if (onWay === mine) onWay = null;
    keep();
    next();
  }
  /** Back into the input, before the text written since. */
  function giveBack(message) {
    field.value = [message.text, field.value].filter(Boolean).join("\n");
    attachments = [...message.attachments, ...attachments];
    draw();
    grow();
  }
  function next() {
    if (!queue.length) return;
    setTimeout(() => {
      if (isBusy || isHeld || isAway || onWay || !queue.length) return;
      deliver(queue.shift());
      draw();
    }, NEXT_AFTER_MS);
  }

  // -- state that survives a reload

  const keyOf = (where) => `timestep-${name}:${where}`;
  function keep() {
    if (place === null) return;
    const kept = { text: field.value, attachments, queue, onWay };
    const isNothing = !kept.text && !attachments.length && !queue.length && !onWay;
    storage((tab) => (isNothing ? tab.removeItem(keyOf(place)) : tab.setItem(keyOf(place), JSON.stringify(kept))));
  }
  function restore() {
    const kept = JSON.parse(storage((tab) => tab.getItem(keyOf(place))) ?? "null");
    if (!kept) return;
    ({ queue, onWay } = kept);
    isUnsure = onWay !== null;
    giveBack(kept);
  }

  function draw() {
    waiting.hidden = !queue.length;
    put(waiting, queue.map((message) => h("li", { class: "tl-chip tl-chat-queued" }, icon("paused", "Waits"), h("span", { class: "tl-clip" }, message.text || message.attachments.map(nameOf).join(", ")),
      h("button", { type: "button", class: "tl-quiet", "aria-label": `Edit: ${message.text.slice(0, 40)}`, title: "Edit again", onclick: () => { queue = queue.filter((other) => other !== message); giveBack(message); keep(); field.focus(); } }, icon("edit")),
      h("button", { type: "button", class: "tl-quiet", "aria-label": `Discard: ${message.text.slice(0, 40)}`, title: "Discard", onclick: () => { queue = queue.filter((other) => other !== message); draw(); keep(); field.focus(); } }, icon("close", undefined, 10)))));
    chips.hidden = !attachments.length && !uploading && !unsent.length;
    put(chips, attachments.map((file) => h("span", { class: "tl-chip tl-chat-file" }, icon("clip"), h("span", { class: "tl-clip" }, nameOf(file)), file.size ? h("span", { class: "tl-soft" }, bytes(file.size)) : null,
      h("button", { type: "button", class: "tl-quiet", "aria-label": `Remove ${nameOf(file)}`, onclick: () => remove(file) }, icon("close", undefined, 10)))),
      unsent.map((one) => h("span", { class: "tl-chip tl-chat-file" }, icon("paused", "Waiting for the server"), h("span", { class: "tl-clip" }, one.file.name),
        h("button", { type: "button", class: "tl-quiet", "aria-label": `Remove ${one.file.name}`, onclick: () => { unsent = unsent.filter((other) => other !== one); shelf.remove(one.kept); draw(); field.focus(); } }, icon("close", undefined, 10)))),
      uploading ? h("span", { class: "tl-chip", role: "status" }, icon("running"), `Uploading ${uploading}`) : null);
    ready();
  }
  const nameOf = (file) => file.name ?? file.id;
  function remove(file) {
    attachments = attachments.filter((other) => other !== file);
    draw();
    keep();
    field.focus();
  }
  async function take(files) {
    field.focus();
    shelving += files.length;
    ready();
    for (const file of files) {
      const kept = await shelf.add(keyOf(place), file).finally(() => { shelving -= 1; });
      await upload({ file, kept });
    }
  }
  /** Send what was sent too early, unless a file is still on its way or was not attached. */
  function goAfterFiles() {
    if (isWanted && !isAttaching()) go();
  }
  async function upload(one) {
    uploading += 1;
    draw();
    try {
      const attached = await on.attach(one.file);
      attachments = [...attachments, attached]; // After the wait: other files may have been added meanwhile.
      keep();
      shelf.remove(one.kept);
    } catch (error) {
      isWanted = false;
      if (error.isLost || error.closed || error.isDead) {
        unsent = [...unsent, one]; // It stays on the shelf until it is attached or removed.
        if (error.isDead) on.problem(error);
        else setTimeout(uploadAgain, AGAIN_AFTER_MS); // The connection may already be back.
      } else {
        shelf.remove(one.kept);
        on.problem(Object.assign(error, { message: `${one.file.name} was not attached. ${error.message}` }));
      }
    } finally {
      uploading -= 1;
      draw();
      goAfterFiles();
    }
  }
  async function uploadAgain() {
    if (isAway) return;
    const again = unsent;
    unsent = [];
    shelving += again.length;
    for (const one of again) {
      shelving -= 1;
      await upload(one);
    }
  }
  field.addEventListener("input", () => { grow(); keep(); });
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
    /** Send a text that was not typed. */
    say(text) {
      if (isBusy || onWay) queue.push({ text, attachments: [] });
      else deliver({ text, attachments: [] });
      draw();
      keep();
    },
    /** `now`: a run is active in the conversation. `held`: it waits for an approval, as do queued messages. */
    busy(now, held) {
      const hadFocus = [send, stop].includes(element.getRootNode().activeElement);
      isBusy = now;
      isHeld = held;
      stop.hidden = !now;
      ready();
      if (hadFocus) field.focus();
      next();
    },
    /** Whether the server can be reached. */
    connected(now) {
      isAway = !now;
      put(away, isAway ? [icon("running"), AWAY] : null);
      uploadAgain();
      ready();
      next();
    },
    /** The conversation shown, null for a new one. Its saved draft is restored. */
    at(id) {
      const before = place;
      place = id ?? "new";
      if (before === place) return;
      if (before !== null) {
        storage((tab) => tab.removeItem(keyOf(before)));
        isWanted = false;
      }
      if (isEmpty() && !queue.length && !onWay) restore();
      // Only for a newly loaded page: current uploads need no restart.
      if (before === null) {
        shelving += 1;
        shelf.all(keyOf(place)).then((found) => { unsent = [...unsent, ...found]; }).finally(() => { shelving -= 1; draw(); uploadAgain(); goAfterFiles(); });
      }
      keep();
    },
    /** The conversation was read; `last` is the reader's last message in it, `{id, text}`, or null. */
    settle(last) {
      if (onWay && isUnsure) {
        const wasStored = last !== null && last.id !== onWay.after && last.text === onWay.text;
        if (!wasStored) giveBack(onWay);
        onWay = null;
        isUnsure = false;
      }
      draw();
      keep();
      next();
    },
    /** Prefill the input: a message to edit keeps its attachments. */
    fill(text, files = []) {
      field.value = text;
      attachments = [...files];
      draw();
      grow();
      keep();
      field.focus();
    },
    focus() { field.focus(); },
  };
}
