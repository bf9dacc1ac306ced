// The component of server/views/settings.py: what is set up, what is missing, the theme, and the way out.

import { copy, data, h, put } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { askFirst, button, card, page, worded, wrong } from "./parts.js";

function render(context) {
  const view = page(context, "settings", "Settings", "What is set up, and what is missing. Keys are read from the environment or a .env file; this page shows none.");
  const { link, act } = view;
  const mine = myData();
  const shared = sharedLinks();
  let drawn = false;

  return view.open((state) => {
    mine.show(state.my_data);
    shared.show(state.links);
    if (drawn) return;
    drawn = true;
    put(view.body, h("div", { class: "tl-columns" }, providers(state.providers), h("div", { class: "tl-stack" }, models(state), appearance(), mine.element, shared.element, lab(state), account(state), limits(state))));
  });

  function providers(rows) {
    const ready = rows.filter((row) => row.ready);
    const others = rows.filter((row) => !row.ready);
    const line = (row) => {
      const status = h("p", { class: "tl-small tl-none", role: "status" });
      const ask = button("List models", { "aria-label": `List models of ${row.prefix}`, onclick: () => act(ask, async () => { status.className = "tl-small tl-none tl-soft"; put(status, "Asking …"); const { value } = await link.call("ask", { prefix: row.prefix }); status.classList.toggle("tl-bad", Boolean(value.problem)); put(status, value.problem ? worded(`${value.problem} ${value.next_step}`) : data(value.models.length ? `${count(value.models.length, "model")}: ${value.models.slice(0, 6).join(", ")}${value.models.length > 6 ? " …" : ""}` : "It responds but has no models.")); }) });
      return h("li", { class: "tl-provider" }, h("span", { class: row.ready ? "tl-good" : "tl-soft" }, icon(row.ready ? "ok" : "other", row.ready ? "ready" : "not set up")),
        h("div", { class: "tl-grow" }, h("span", { class: "tl-provider-name" }, h("strong", {}, h("code", {}, row.prefix)), row.badge ? h("span", { class: "tl-chip" }, row.badge) : null), h("p", { class: "tl-soft tl-none" }, worded(row.detail)), row.next_step ? h("p", { class: "tl-none" }, worded(row.next_step)) : null, status), row.ready ? ask : null);
    };
    return card("Providers", h("ul", { class: "tl-rows" }, ready.map(line)), others.length ? h("h3", { class: "tl-sub" }, "Not set up") : null, h("ul", { class: "tl-rows" }, others.map(line)));
  }

  function models(state) {
    return card("Default models", h("dl", { class: "tl-facts" }, h("dt", {}, "Agents"), h("dd", {}, h("code", {}, state.default_model), state.default_model_is_chosen ? null : h("span", { class: "tl-soft" }, " Chosen by the lab, as the first provider that is ready; set ", h("code", {}, "DEFAULT_AGENT_MODEL"), " for another.")), h("dt", {}, "Embeddings"), h("dd", {}, h("code", {}, state.embeddings.model), state.embeddings.problem ? h("span", { class: "tl-warn" }, " Not ready. ", worded(`${state.embeddings.problem.message} ${state.embeddings.problem.next_step}`)) : null)));
  }

  function appearance() {
    const group = h("div", { class: "tl-segments", role: "group", "aria-label": "Theme" });
    const show = () => {
      const kept = localStorage.getItem("timestep-theme") ?? "auto";
      put(group, ["light", "dark", "auto"].map((name) => h("button", { type: "button", "aria-pressed": String(name === kept), onclick: () => choose(name) }, { light: "Light", dark: "Dark", auto: "System" }[name])));
    };
    const choose = (name) => {
      if (name === "auto") { localStorage.removeItem("timestep-theme"); delete document.documentElement.dataset.tlTheme; }
      else document.dispatchEvent(new CustomEvent("tl-theme", { detail: { theme: name } }));
      show();
      group.querySelector('[aria-pressed="true"]').focus();
    };
    const watcher = new MutationObserver(show);
    watcher.observe(document.documentElement, { attributes: true, attributeFilter: ["data-tl-theme"] });
    view.onClose(() => watcher.disconnect());
    show();
    return card("Theme", group);
  }

  function lab(state) {
    return card("Lab", h("dl", { class: "tl-facts" }, h("dt", {}, "Version"), h("dd", { class: "tl-num" }, state.version), h("dt", {}, "Store"), h("dd", {}, state.store.kind, state.store.place ? [" ", h("code", {}, data(state.store.place))] : null), h("dt", {}, "API"), h("dd", {}, h("a", { href: "/api/openapi.json" }, "OpenAPI document"))));
  }

  function limits(state) {
    const words = { files: "Files", megabytes: "Megabytes of files", threads: "Threads", traces: "Traces", runs: "Runs at once", comparisons: "Comparisons", agents: "Agents", tool_servers: "MCP servers", vector_stores: "Vector stores", query_megabytes: "Megabytes of a query" };
    const line = (row) => [h("dt", {}, words[row.name]), h("dd", { class: "tl-num" }, row.most === 0 ? "no limit" : row.kept === null ? row.most.toLocaleString("en") : `${row.kept.toLocaleString("en")} of ${row.most.toLocaleString("en")}`)];
    return card("Limits for guests", h("dl", { class: "tl-facts" }, state.guest_limits.map(line)), state.is_owner ? h("p", { class: "tl-soft tl-none" }, worded("These do not apply to you. Change them with `TIMESTEP_LAB_GUEST_FILES` and similar environment variables.")) : h("p", { class: "tl-soft tl-none" }, "The lab's owner can change them."));
  }

  function myData() {
    const kinds = [["conversations", "Conversations", "conversations with their runs and traces"], ["traces", "Traces", "traces, with annotations and shared links"], ["files", "Files", "files and vector stores"],
      ["comparisons", "Comparisons", "comparisons and votes"], ["datasets", "Data sets", "data sets"], ["agents", "Agents", "agents and MCP servers; the built-in ones are created again"]];
    const counts = new Map();
    const remove = (kind, box) => act(box, () => link.call("delete", { kind }));
    const line = ([kind, label, all]) => {
      counts.set(kind, h("span", { class: "tl-num tl-soft" }));
      return h("li", {}, h("div", { class: "tl-line" }, h("span", { class: "tl-grow" }, label), counts.get(kind), askFirst(`Delete all ${label.toLowerCase()}`, `Delete all ${all}?`, "Delete", (box) => remove(kind, box), { quiet: true })));
    };
    const element = card("My data", h("ul", { class: "tl-rows" }, kinds.map(line)),
      h("div", { class: "tl-form-foot" }, h("a", { class: "tl-button", href: "/api/v1/my-data/export", download: "my-data.zip" }, "Export everything"),
        askFirst("Delete everything", "Delete everything permanently?", "Delete everything", (box) => remove("everything", box))));
    return { element, show(now) { for (const [kind, cell] of counts) put(cell, (now[kind] ?? 0).toLocaleString("en")); } };
  }

  function sharedLinks() {
    const rows = h("ul", { class: "tl-rows" });
    const none = h("p", { class: "tl-soft tl-none" }, "No traces are shared. Open a trace and press Share: anyone with the link can see that trace, and nothing else.");
    const element = card("Shared links", rows, none);
    const line = (share) => {
      const take = button("Copy", { name: "copy", "aria-label": `Copy the link to ${share.title || "the trace"}`, onclick: async () => { await copy(`${location.origin}${share.path}`); view.tell(take, "Copied."); } });
      return h("li", {}, h("div", { class: "tl-line" }, h("span", { class: "tl-grow" }, h("a", { class: "tl-clip", href: `/traces/${share.trace_id}` }, data(share.title || "Trace")), h("span", { class: "tl-soft tl-small" }, `until ${new Date(share.expires_at).toLocaleDateString([], { dateStyle: "medium" })}`)),
        take, askFirst("Revoke", "The link will stop working.", "Revoke", (box) => act(box, () => link.call("revoke", { share_id: share.id })), { name: "cancelled", quiet: true })));
    };
    return { element, show(links) { none.hidden = links.length > 0; put(rows, links.map(line)); } };
  }

  function account(state) {
    const leave = async () => {
      const answer = await fetch("/api/v1/auth/sign-out", { method: "POST" });
      if (!answer.ok) throw wrong(`Signing out failed (${answer.status}).`, "Reload the page and try again.");
      location.assign("/");
    };
    const warning = state.is_owner ? "The link printed in the terminal signs you in again." : "Without an account you cannot sign in again: your threads and traces become inaccessible.";
    return card("You", h("p", { class: "tl-none" }, state.is_owner ? "Signed in as the lab's own user." : ["Signed in without an account as ", h("code", {}, state.user_id), "."]), h("p", { class: "tl-soft tl-none" }, warning), h("div", {}, askFirst("Sign out", "Sign out of this browser?", "Sign out", (box) => act(box, leave), { name: "person" })));
  }
}
export default { render };
