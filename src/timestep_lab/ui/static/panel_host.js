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
      if (channel?.isOpen()) channel.send(content, (buffers ?? []).map(toBuffer));
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
// The view's own websocket, where the server offers one (app/view_channel.py says what is in a frame). Null where there is none.
function $channelTo(key) {
  if (!key) return Promise.resolve(null);
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/views/${key}`);
  socket.binaryType = "arraybuffer";
  const listeners = [];
  const tell = (message, buffers) => { for (const listener of listeners) listener(message, buffers); };
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") {
      for (const message of JSON.parse(data)) tell(message, []);
      return;
    }
    let at = 4 + new DataView(data).getUint32(0, true);
    const { message, sizes } = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, at - 4)));
    tell(message, sizes.map((size) => new DataView(data, (at += size) - size, size)));
  };
  const channel = {
    isOpen: () => socket.readyState === WebSocket.OPEN,
    hear: (listener) => listeners.push(listener),
    close: () => { socket.onclose = null; socket.close(); },
    send(message, buffers) {
      if (!buffers.length) return socket.send(JSON.stringify(message));
      const head = new TextEncoder().encode(JSON.stringify({ message, sizes: buffers.map((buffer) => buffer.byteLength) }));
      const length = new DataView(new ArrayBuffer(4));
      length.setUint32(0, head.byteLength, true);
      socket.send(new Blob([length, head, ...buffers]));
    },
  };
  return new Promise((resolve) => {
    socket.onopen = () => {
      socket.onclose = () => tell({ op: "lost" }, []);
      resolve(channel);
    };
    socket.onclose = () => resolve(null);
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
