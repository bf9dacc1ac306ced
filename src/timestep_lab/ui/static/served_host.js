// The host of a page of the served app: the view's websocket (frames are described in server/panel.py). Appended to the component in the bundle.
// Events for the view in addition to the server's messages: `lost`, `found` (reconnected), `gone` (the server no longer has this view).
const $NO_SUCH_VIEW = 1008;
const $FIRST_PAUSE_MS = 400;
const $LONGEST_PAUSE_MS = 10000;
function $channelTo(key) {
  const listeners = [];
  const tell = (message, buffers) => { for (const listener of listeners) listener(message, buffers); };
  let socket = null;
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
    leave: (listener) => listeners.splice(listeners.indexOf(listener), 1),
    send(message, buffers) {
      // Closing, which its `onclose` has not been told yet.
      if (socket.readyState !== WebSocket.OPEN) throw Object.assign(new Error("The connection to the server is lost."), { isLost: true });
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
        if (wasOpen) tell({ op: "lost" }, []);
        if (code === $NO_SUCH_VIEW) { tell({ op: "gone" }, []); return; }
        setTimeout(open, wasOpen ? $FIRST_PAUSE_MS : pause, Math.min(2 * pause, $LONGEST_PAUSE_MS));
      };
    })($FIRST_PAUSE_MS);
  });
}
/** Render the view in `el` once its websocket is open. */
export default async function open(el, key) {
  const channel = await $channelTo(key);
  const listens = (listener) => (event, callback) => { if (event === "msg:custom") listener(callback); };
  const model = {
    get: () => undefined,
    send: (content, _callbacks, buffers) => channel.send(content, (buffers ?? []).map((part) => (part instanceof ArrayBuffer ? part : part.buffer.slice(part.byteOffset, part.byteOffset + part.byteLength)))),
    on: listens(channel.hear),
    off: listens(channel.leave),
  };
  return $component.render({ model, el });
}
