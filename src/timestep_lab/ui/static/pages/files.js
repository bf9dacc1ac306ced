// The component of server/pages/files.py: files, uploaded by button or drop, and vector stores.

import { data, h, put } from "../shared/dom.js";
import { ago, bytes, count } from "../shared/format.js";
import { icon } from "../shared/icons.js";
import { longText } from "../shared/long_text.js";
import { askFirst, button, empty, field, input, page, when, worded, wrong } from "./parts.js";

function render(context) {
  const view = page(context, "files", "Files", "Files for your agents, and vector stores to search them.");
  const { link, act, say, submit, tell, root } = view;
  const chooser = h("input", { type: "file", multiple: true, hidden: true, onchange: () => { take([...chooser.files]); chooser.value = ""; } });
  view.actions.append(chooser, button("Upload", { name: "plus", primary: true, onclick: () => chooser.click() }));
  const coming = h("ul", { class: "tl-rows", "aria-label": "Uploads" });
  const list = h("div", {});
  const stores = h("div", { class: "tl-stack" });
  const makeStore = h("div", {});
  view.body.append(coming, h("div", { class: "tl-columns" },
    h("section", { class: "tl-panel", "aria-label": "Files" }, h("h2", {}, "Files"), list),
    h("div", { class: "tl-stack" }, h("section", { class: "tl-panel", "aria-label": "Vector stores" }, h("h2", {}, "Vector stores"), makeStore), stores)));
  let state = null;
  const shownStores = new Map();

  async function take(files) {
    say(null);
    for (const file of files) await send(file);
  }

  async function send(file) {
    const bar = h("progress", { max: 1, value: 0, "aria-label": `Uploading ${file.name}` });
    let stopped = false;
    let uploadId = null;
    const row = h("li", {}, h("div", { class: "tl-line" }, icon("clip"), h("span", { class: "tl-grow" }, data(file.name, { class: "tl-clip" }), bar), h("span", { class: "tl-soft tl-small tl-num" }, bytes(file.size)), button("Stop", { onclick: () => { stopped = true; } })));
    coming.append(row);
    try {
      uploadId = (await link.call("begin", { name: file.name, size: file.size })).value;
      const parts = [];
      for (let at = 0; at < file.size; at += state.part_bytes) {
        if (stopped) return await link.call("cancel", { upload_id: uploadId });
        const piece = await file.slice(at, at + state.part_bytes).arrayBuffer();
        parts.push((await link.call("part", { upload_id: uploadId }, [piece])).value);
        bar.value = Math.min(1, (at + piece.byteLength) / file.size);
      }
      await link.call("finish", { upload_id: uploadId, part_ids: parts });
    } catch (error) {
      say(error);
    } finally {
      row.remove();
    }
    return undefined;
  }

  root.addEventListener("dragover", (event) => { if (event.dataTransfer?.types.includes("Files")) { event.preventDefault(); root.dataset.tlDrop = "1"; } });
  root.addEventListener("dragleave", (event) => { if (!root.contains(event.relatedTarget)) delete root.dataset.tlDrop; });
  root.addEventListener("drop", (event) => { event.preventDefault(); delete root.dataset.tlDrop; take([...event.dataTransfer.files]); });

  function drawFiles() {
    const mark = JSON.stringify(state.files);
    if (list.dataset.tlMark === mark) return undefined;
    list.dataset.tlMark = mark;
    if (!state.files.length) return put(list, empty("No files yet", `Drop files here, or press Upload. At most ${Math.round(state.most_bytes / 2 ** 20)} MB each.`));
    return put(list, h("ul", { class: "tl-rows" }, state.files.map((file) => h("li", {}, h("div", { class: "tl-line" }, h("span", { class: "tl-soft" }, icon("book")),
      h("span", { class: "tl-grow" }, data(file.name, { class: "tl-clip" }), h("span", { class: "tl-soft tl-small tl-num" }, `${file.type} · ${bytes(file.bytes)} · `, when(file.created_at))),
      askFirst(`Delete ${file.name}`, "Delete it here and in every store?", "Delete", (box) => act(box, () => link.call("delete_file", { file_id: file.id })), { quiet: true }))))));
  }

  function drawMaker() {
    const { problem } = state.embeddings;
    const name = input({ name: "name", placeholder: "handbook", required: true, disabled: Boolean(problem) });
    const save = button("Create", { type: "submit", disabled: Boolean(problem) });
    const form = h("form", { class: "tl-form" }, field("New store", name, state.files.length ? "It starts with all files above; files without text are reported." : "Upload files first, or add them later."), h("div", { class: "tl-form-foot" }, save));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      act(save, async () => {
        if (!name.value.trim()) throw wrong("A store needs a name.", "Enter a name.", "name");
        await submit("create_store", { name: name.value, file_ids: state.files.map((file) => file.id) });
        tell(save, `Created ${name.value.trim()}`);
        form.reset();
      });
    });
    const why = problem ? h("p", { class: "tl-notice tl-none" }, icon("error"), h("span", {}, "A store needs embeddings, which are unavailable: ", worded(`${problem.message} ${problem.next_step}`))) : null;
    put(makeStore, h("div", { class: "tl-stack" }, why, form));
  }

  function drawStores() {
    for (const [id, shown] of shownStores) if (!state.stores.some((store) => store.id === id)) { shown.element.remove(); shownStores.delete(id); }
    for (const store of state.stores) {
      if (!shownStores.has(store.id)) { const made = storePanel(store); shownStores.set(store.id, made); stores.append(made.element); }
      shownStores.get(store.id).show(store);
    }
  }

  function storePanel({ id, name, embedding_model: model }) {
    const files = h("ul", { class: "tl-rows" });
    const more = h("div", {});
    const query = input({ type: "search", placeholder: "Search this store", "aria-label": `Search ${name}` });
    const hits = h("ol", { class: "tl-hits", "aria-live": "polite" });
    const go = button("Search", { name: "search", type: "submit" });
    const form = h("form", { class: "tl-form-foot tl-searching" }, query, go);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      act(go, async () => { const { value } = await link.call("search", { store_id: id, query: query.value }); put(hits, value.length ? value.map(hit) : h("li", { class: "tl-soft" }, "Nothing found.")); });
    });
    const element = h("section", { class: "tl-panel", "aria-label": `Vector store ${name}` }, h("div", { class: "tl-panel-head" }, h("h2", {}, data(name)), askFirst(`Delete the store ${name}`, "Delete the store? Its files are kept.", "Delete", (box) => act(box, () => link.call("delete_store", { store_id: id })), { quiet: true })),
      h("p", { class: "tl-soft tl-small tl-none" }, `Embeddings: ${model}`), files, more, form, hits);
    return {
      element,
      show(store) {
        put(files, store.files.map((file) => h("li", {}, h("div", { class: "tl-line" }, h("span", { class: "tl-grow" }, data(file.name, { class: "tl-clip" }), whichOne(file.id), file.error ? h("span", { class: "tl-bad tl-small" }, data(file.error)) : null),
          h("span", { class: `tl-small ${file.status === "failed" ? "tl-bad" : "tl-soft"}` }, file.status === "completed" ? count(file.n_chunks, "passage") : file.status.replace("_", " ")),
          h("button", { class: "tl-quiet", type: "button", title: "Remove from this store", "aria-label": `Remove ${file.name} from ${store.name}`, onclick: (event) => act(event.currentTarget, () => link.call("take_from_store", { store_id: id, file_id: file.id })) }, icon("close", null, 12))))));
        const others = state.files.filter((file) => !store.files.some((inside) => inside.id === file.id));
        const choice = h("select", { class: "tl-input", "aria-label": `File to add to ${store.name}` }, others.map((file) => h("option", { value: file.id }, `${file.name} (${bytes(file.bytes)}, ${ago(Date.parse(file.created_at))})`)));
        const add = button("Add", { name: "plus", onclick: () => act(add, () => link.call("add_to_store", { store_id: id, file_id: choice.value })) });
        put(more, others.length ? h("div", { class: "tl-form-foot tl-searching" }, choice, add) : null);
      },
    };
  }

  /** Size and date distinguish files with the same name. */
  function whichOne(id) {
    const file = state.files.find((other) => other.id === id);
    return file ? h("span", { class: "tl-soft tl-small tl-num" }, `${bytes(file.bytes)} · `, when(file.created_at)) : null;
  }

  return view.open((next) => {
    const first = state === null || state.files.length !== next.files.length;
    state = next;
    drawFiles();
    if (first) drawMaker();
    drawStores();
  });
}

function hit(found) {
  const share = (value) => `${Math.round(100 * value)} %`;
  return h("li", {}, h("div", { class: "tl-hit-head" }, h("meter", { min: 0, max: 1, value: found.score, "aria-label": "Score" }), h("strong", { class: "tl-num" }, share(found.score)), h("span", { class: "tl-soft tl-small tl-num" }, `semantic ${share(found.vector_score)} · keyword ${share(found.keyword_score)}`), h("span", { class: "tl-soft tl-small tl-clip" }, data(`${found.filename}, passage ${found.position + 1}`))), longText(found.text));
}
export default { render };
