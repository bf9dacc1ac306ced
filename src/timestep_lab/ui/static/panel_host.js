// Adapts Panel's component model to the model that anywidget passes to render(). Appended to the component in the bundle.
function $hostOf(panelModel) {
  let waiting = {};
  const wrapped = new Map();
  const toView = (value) => (value instanceof ArrayBuffer ? new DataView(value) : value);
  const toBuffer = (value) =>
    value instanceof ArrayBuffer ? value : value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength);
  return {
    get: (key) => (key in waiting ? waiting[key] : toView(panelModel[key])),
    set: (key, value) => { waiting[key] = value; },
    save_changes: () => { const changes = waiting; waiting = {}; Object.assign(panelModel, changes); },
    send: (content, _callbacks, buffers) => panelModel.send_msg({ content, buffers: (buffers ?? []).map(toBuffer) }),
    on: (event, callback) => {
      const listener = event === "msg:custom" ? (data) => callback(data.content, (data.buffers ?? []).map(toView)) : () => callback();
      wrapped.set(callback, listener);
      panelModel.on(event, listener);
    },
    off: (event, callback) => {
      if (wrapped.has(callback)) panelModel.off(event, wrapped.get(callback));
      wrapped.delete(callback);
    },
  };
}
async function $renderInPanel({ model, el }) {
  const cleanup = await $component.render({ model: $hostOf(model), el });
  if (typeof cleanup === "function") model.on("remove", cleanup);
}
export default { render: $renderInPanel };
