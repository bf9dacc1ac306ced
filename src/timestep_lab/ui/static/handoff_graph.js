// The component of ui/handoff_graph.py: one handoff graph, or two combined.

import { h } from "./shared/dom.js";
import { mount } from "./shared/mount.js";
import { graphView } from "./graph/graph_view.js";

function render({ model, el }) {
  const view = mount({ model, el }, "handoff-graph");
  const title = h("h2", { class: "tl-graph-title" });
  const graph = graphView(null);
  view.root.append(title, graph.element);
  view.link.on("snap", (state) => {
    title.hidden = !state.title;
    title.textContent = state.title;
    graph.show(state);
  });
  view.link.open();
  return view.close;
}
export default { render };
