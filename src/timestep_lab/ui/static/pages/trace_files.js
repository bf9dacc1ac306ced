// Traces out of a file into the lab that serves the page, and into one. Nothing of it is shown anywhere else.

import { h } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { icon } from "../shared/icons.js";

/** A button and the field behind it: traces out of a file of one's own. */
export function importing(done, failed) {
  const file = h("input", { type: "file", hidden: true, "aria-label": "Trace file", accept: ".json,.jsonl,.ndjson,.parquet,.gz,.zip,.pb" });
  const button = h("button", { class: "tl-quiet", type: "button", title: "Import traces from a file: OpenTelemetry, Agents SDK, Phoenix, Jaeger, Zipkin, or exported by a lab", onclick: () => file.click() }, icon("plus"), "Import");
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    button.disabled = true;
    try {
      const answer = await fetch(`/api/v1/traces/upload?name=${encodeURIComponent(chosen.name)}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: chosen });
      const result = await answer.json();
      if (!answer.ok) throw new Error(result.error.message);
      if (!result.traces) throw new Error(`${chosen.name} contains no readable traces. ${result.problem}`);
      done(`${count(result.traces, "trace")} of ${chosen.name} ${result.added ? "imported" : "already existed"}${result.rejected ? `; ${count(result.rejected, "step")} could not be read: ${result.problem.replace(/\.$/, "")}` : ""}.`);
    } catch (error) {
      failed(error);
    } finally {
      file.value = "";
      button.disabled = false;
    }
  });
  return [button, file];
}

/** A trace as a file in one of the formats that only the server writes. */
export async function exported(traceId, format) {
  const answer = await fetch("/api/v1/traces/export", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ trace_ids: [traceId], format }) });
  if (!answer.ok) throw new Error(`The file could not be made (${answer.status}). Try again.`);
  return answer.blob();
}
