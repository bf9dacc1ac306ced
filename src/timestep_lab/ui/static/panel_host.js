// Panel's component model, dressed as the model that anywidget hands to render(). Follows the component in one text.
function $hostOf(panelModel, channel) {
  let waiting = {};
  const wrapped = new Map();
  const toView = (value) => (value instanceof ArrayBuffer ? new DataView(value) : value);
  const toBuffer = (value) =>
    value instanceof ArrayBuffer ? value : value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength);
  return {
    get: (key) => (key in waiting ? waiting[key] : toView(panelModel[key])),
    set: (key, value) => { waiting[key] = value; },
    save_changes: () => { const changes = waiting; waiting = {}; Object.assign(panelModel, changes); },
    send: (content, _callbacks, buffers) => {
      if (channel) channel.send(content, (buffers ?? []).map(toBuffer));
      else panelModel.send_msg({ content, buffers: (buffers ?? []).map(toBuffer) });
    },
    on: (event, callback) => {
      const listener = event === "msg:custom" ? (data) => callback(data.content, (data.buffers ?? []).map(toView)) : () => callback();
      wrapped.set(callback, listener);
      panelModel.on(event, listener);
      if (event === "msg:custom") channel?.hear(callback);
    },
    off: (event, callback) => {
      if (wrapped.has(callback)) panelModel.off(event, wrapped.get(callback));
      wrapped.delete(callback);
    },
  };
}
// The view's own websocket, where the server offers one (server/panel.py says what is in a frame). Null where there is none.
// Told to the view beside the server's messages: `lost`, `found` (opened again), `gone` (the server no longer has this view).
const $NO_SUCH_VIEW = 1008;
const $FIRST_PAUSE_MS = 400;
const $LONGEST_PAUSE_MS = 10000;
function $channelTo(key) {
  if (!key) return Promise.resolve(null);
  const listeners = [];
  const tell = (message, buffers) => { for (const listener of listeners) listener(message, buffers); };
  let socket = null;
  let isClosed = false;
  let retry = null;
  function read({ data }) {
    if (typeof data === "string") {
      for (const message of JSON.parse(data)) tell(message, []);
      return;
    }
    let at = 4 + new DataView(data).getUint32(0, true);
    const { message, sizes } = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, at - 4)));
    tell(message, sizes.map((size) => new DataView(data, (at += size) - size, size)));
  }
  const channel = {
    hear: (listener) => listeners.push(listener),
    close: () => { isClosed = true; clearTimeout(retry); socket.close(); },
    send(message, buffers) {
      if (socket.readyState !== WebSocket.OPEN) throw new Error("The connection to the server is lost.");
      if (!buffers.length) return socket.send(JSON.stringify(message));
      const head = new TextEncoder().encode(JSON.stringify({ message, sizes: buffers.map((buffer) => buffer.byteLength) }));
      const length = new DataView(new ArrayBuffer(4));
      length.setUint32(0, head.byteLength, true);
      socket.send(new Blob([length, head, ...buffers]));
    },
  };
  return new Promise((resolve) => {
    let isFirst = true;
    (function open(pause) {
      let wasOpen = false;
      socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/views/${key}`);
      socket.binaryType = "arraybuffer";
      socket.onmessage = read;
      socket.onopen = () => {
        wasOpen = true;
        if (isFirst) resolve(channel);
        else tell({ op: "found" }, []);
        isFirst = false;
      };
      socket.onclose = ({ code }) => {
        if (isClosed) return;
        if (isFirst) { resolve(null); return; }
        if (wasOpen) tell({ op: "lost" }, []);
        if (code === $NO_SUCH_VIEW) { tell({ op: "gone" }, []); return; }
        retry = setTimeout(open, wasOpen ? $FIRST_PAUSE_MS : pause, Math.min(2 * pause, $LONGEST_PAUSE_MS));
      };
    })($FIRST_PAUSE_MS);
  });
}
async function $renderInPanel({ model, el }) {
  const channel = await $channelTo(model.channel);
  const cleanup = await $component.render({ model: $hostOf(model, channel), el });
  model.on("remove", () => {
    if (typeof cleanup === "function") cleanup();
    channel?.close();
  });
}
export default { render: $renderInPanel };
