// The browser's end of ui/view.py: pull on mount, numbered batches, calls with answers; and which of several answers counts.

/**
 * `link.on("snap", (state, buffers) => …)` draws from nothing; `link.on(kind, (op, buffers) => …)` applies one change;
 * `await link.call(name, args, buffers)` asks Python and gives `{value, buffers}`, or throws an Error with `.nextStep`; with `.isLost` it
 * is not known whether the call arrived, with `.isDead` only a new view helps. `link.on("connection", ({isLost}) => …)`; `link.on("gone", …)`: only a new page helps.
 */
export function connect(model) {
  const lost = () => Object.assign(new Error("The connection to the server is lost."), { isLost: true, nextStep: "It is opened again by itself; try again then." });
  const mount = Math.random().toString(36).slice(2, 10);
  const listeners = new Map();
  const waiting = new Map();
  let seq = null;
  let calls = 0;
  let isLost = false;

  const tell = (kind, ...args) => { for (const listener of listeners.get(kind) ?? []) listener(...args); };
  const sync = () => {
    seq = null;
    try {
      model.send({ op: "sync", mount });
    } catch (error) {
      if (!error.isLost) throw error; // Once the connection is found again, this is asked again.
    }
  };

  function receive(message, buffers) {
    if (message.op === "lost") {
      // Pending replies were lost with the connection.
      isLost = true;
      for (const { reject } of waiting.values()) reject(lost());
      waiting.clear();
      tell("connection", { isLost });
    } else if (message.op === "found") {
      isLost = false;
      tell("connection", { isLost });
      sync(); // Changes made in the meantime.
    } else if (message.op === "gone") {
      tell("gone");
    } else if (message.op === "snap") {
      // A snapshot requested by another browser on the same model contains nothing new.
      if (seq !== null && message.seq <= seq) return;
      seq = message.seq;
      tell("config", { config: message.config });
      tell("snap", message.state, buffers ?? []);
    } else if (message.op === "batch") {
      if (seq === null || message.seq <= seq) return;
      if (message.seq !== seq + 1) return sync();
      seq = message.seq;
      let at = 0;
      for (const op of message.ops) {
        const own = (buffers ?? []).slice(at, (at += op.buffers ?? 0));
        tell(op.kind, op, own);
      }
      tell("batch");
    } else if (message.op === "reply" && waiting.has(message.id)) {
      const { resolve, reject } = waiting.get(message.id);
      waiting.delete(message.id);
      if (message.error) reject(Object.assign(new Error(message.error.message), { nextStep: message.error.next_step }));
      else resolve({ value: message.value, buffers: buffers ?? [] });
    }
  }
  const listener = (message, buffers) => receive(message, buffers);
  const early = () => {
    const first = model.get("first");
    if (!first || seq !== null) return;
    tell("config", { config: first.config });
    tell("snap", first.state, first.buffers);
  };

  return {
    on(kind, listener) {
      if (!listeners.has(kind)) listeners.set(kind, new Set());
      listeners.get(kind).add(listener);
      return () => listeners.get(kind).delete(listener);
    },
    open() {
      model.on("msg:custom", listener);
      // A notebook's model contains what to draw until the cell has ended and the kernel responds.
      if (model.get?.("first") !== undefined) {
        model.on("change:first", early);
        early();
      }
      sync();
    },
    call(name, args = {}, buffers = undefined) {
      if (isLost) return Promise.reject(lost());
      const id = `${mount}.${(calls += 1)}`;
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        try {
          model.send({ op: "call", id, name, args }, undefined, buffers);
        } catch (error) {
          waiting.delete(id);
          // A restarted kernel does not know this widget's connection; JupyterLab then throws "Cannot send".
          reject(error.isLost ? lost() : Object.assign(new Error("This view has no connection to Python."), { isDead: true, cause: error, nextStep: "If the kernel was restarted, run the cell again." }));
        }
      });
    },
    close() {
      model.off("msg:custom", listener);
      model.off("change:first", early);
      for (const { reject } of waiting.values()) reject(Object.assign(new Error("The view was closed."), { closed: true }));
      waiting.clear();
      try {
        model.send({ op: "bye", mount });
      } catch {
        // The kernel or session has already ended.
      }
    },
  };
}

/**
 * Answers may come in another order than they were asked for. `const latest = latestOnly()`, then `await latest(link.call(…))`, gives the answer
 * unless something was asked through the same `latest` since: then it throws as a closed view does (`error.closed`), for nobody waits for it any
 * more. `latest.forget()`: what is on its way is not wanted any more.
 */
export function latestOnly() {
  let asked = 0;
  const latest = async (answer) => {
    const mine = (asked += 1);
    try {
      const value = await answer;
      if (mine === asked) return value;
    } catch (error) {
      if (mine === asked) throw error;
    }
    throw Object.assign(new Error("Something else was asked since."), { closed: true });
  };
  latest.forget = () => { asked += 1; };
  return latest;
}
