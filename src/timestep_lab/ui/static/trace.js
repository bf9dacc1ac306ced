// The component of ui/trace_view.py: one trace.

import { mount } from "./shared/mount.js";
import { TracePanel } from "./trace/trace_panel.js";

function render({ model, el }) {
  const view = mount({ model, el }, "trace");
  const panel = new TracePanel(view.link, { onSelect: (_trace, spanId) => { if (view.root.dataset.tlState === "ready") view.link.call("select", { span_id: spanId }).catch(() => {}); } });
  view.root.append(panel.element);
  view.onClose(() => panel.close());
  view.link.on("snap", (state, buffers) => panel.show(state, buffers[0]));
  view.link.on("trace", (op, buffers) => panel.show(op.value, buffers[0]));
  view.link.on("select", (op) => panel.chooseId(op.span_id));
  view.link.open();
  return view.close;
}
export default { render };
