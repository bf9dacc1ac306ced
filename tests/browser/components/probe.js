// The smallest component: a log of text, a call with an answer, bytes both ways.
import { h, put } from "../../../src/timestep_lab/ui/static/shared/dom.js";
import { mount } from "../../../src/timestep_lab/ui/static/shared/mount.js";

function render({ model, el }) {
  const view = mount({ model, el }, "probe");
  const log = h("pre", { class: "log" });
  const answer = h("output", { class: "answer" });
  const ask = async () => {
    try {
      const { value, buffers } = await view.link.call("double", { number: 21 }, [new Uint8Array([1, 2, 3])]);
      answer.textContent = `${value} ${new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength).join()}`;
    } catch (error) {
      answer.textContent = `${error.message} | ${error.nextStep}`;
    }
  };
  view.root.append(log, answer, h("button", { class: "ask", onclick: ask }, "Ask"));
  view.root.append(h("button", { class: "fail", onclick: () => view.link.call("refuse").catch((error) => put(answer, `${error.message} | ${error.nextStep}`)) }, "Fail"));
  view.link.on("snap", (state) => { log.textContent = state.text; });
  view.link.on("add", (op) => { log.textContent += op.text; });
  view.link.open();
  return view.close;
}
export default { render };
