// A component on a standalone page, with the data in the page instead of Python.

import { answers } from "./answers.js";

/** Mount `component` in `el`, with the packed data in `source` (gzip, base64). */
export async function mountOffline(component, el, source) {
  const packed = Uint8Array.from(atob(source.textContent.trim()), (c) => c.charCodeAt(0));
  const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const known = answers(JSON.parse(text));
  const listeners = new Set();
  let seq = 0;
  const tell = (message, buffers = []) => { for (const listener of [...listeners]) listener(message, buffers); };
  const answer = (content) => {
    if (content.op === "sync") {
      const { value, buffers } = known.snapshot();
      tell({ op: "snap", seq, state: value, config: { theme: "auto", height: null, static: null } }, buffers);
    } else if (content.op === "call") {
      try {
        const { value, buffers, ops } = known.call(content.name, content.args);
        if (ops) tell({ op: "batch", seq: (seq += 1), ops });
        tell({ op: "reply", id: content.id, value }, buffers);
      } catch (error) {
        tell({ op: "reply", id: content.id, error: { message: error.message, next_step: error.nextStep ?? "" } });
      }
    }
  };
  const model = {
    send: (content) => queueMicrotask(() => answer(content)),
    on: (_event, listener) => listeners.add(listener),
    off: (_event, listener) => listeners.delete(listener),
  };
  return component.render({ model, el });
}
