// Keyboard shortcuts of the served app: `?` help, `/` filter, `j` and `k` in lists, `g` and a letter for a page, Ctrl or ⌘ K to search.
(() => {
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };
  const MAC = /Mac|iP(hone|ad)/.test(navigator.platform);
  for (const kbd of document.querySelectorAll(".shell-find kbd")) kbd.textContent = MAC ? "⌘ K" : "Ctrl K";

  /** All visible elements that match, including those in the shadow roots of components. */
  function* all(selector, root = document) {
    for (const node of root.querySelectorAll("*")) {
      if (node.matches(selector) && node.getClientRects().length) yield node;
      if (node.shadowRoot) yield* all(selector, node.shadowRoot);
    }
  }
  const first = (selector, root) => all(selector, root).next().value ?? null;
  const main = document.getElementById("main");
  const isTyped = (node) => node instanceof Element && (node.matches("input, textarea, select") || node.isContentEditable);

  // -- search: pages, actions, agents, conversations, traces

  const pages = [...document.querySelectorAll(".shell-links > a")].map((link) => ({ words: link.textContent.trim(), kind: "page", key: link.dataset.key, go: () => location.assign(link.href) }));
  const actions = [
    ["New conversation", "/chat"], ["Failed traces", `/traces?filter=${encodeURIComponent('status == "failed"')}`], ["Waiting for approval", "/approvals"], ["New comparison", "/compare?new"], ["New agent", "/agents"],
    ["Shared links", "/settings"], ["My data: export, delete", "/settings"],
  ].map(([words, href]) => ({ words, kind: "action", go: () => location.assign(href) }));
  actions.push({ words: "Switch between light and dark", kind: "action", go: () => document.querySelector(".shell-theme").click() }, { words: "Keyboard shortcuts", kind: "action", go: () => help() });

  const field = make("input", { type: "text", placeholder: "Find a page, an agent, a conversation, a trace …", spellcheck: false, autocomplete: "off" });
  const found = make("ul", { className: "shell-found", id: "shell-found" });
  const none = make("p", { hidden: true });
  none.setAttribute("role", "status");
  const palette = make("dialog", { className: "shell-dialog" }, field, found, none);
  palette.setAttribute("aria-label", "Find");
  for (const [name, value] of Object.entries({ role: "combobox", "aria-expanded": "true", "aria-controls": "shell-found", "aria-label": "Find", "aria-autocomplete": "list" })) field.setAttribute(name, value);
  found.setAttribute("role", "listbox");
  found.setAttribute("aria-label", "Found");
  document.body.append(palette);
  let shown = [];
  let at = 0;
  let asked = 0;
  let isAsking = false;
  let isTaken = false;

  function draw(items) {
    shown = items;
    at = 0;
    found.replaceChildren(...items.map((item, n) => {
      const line = make("li", { id: `shell-found-${n}` }, make("span", { dir: "auto" }, item.words), make("span", { className: "shell-kind" }, item.kind));
      line.setAttribute("role", "option");
      if (item.key) line.append(make("kbd", {}, `g ${item.key}`));
      line.addEventListener("click", () => take(n));
      return line;
    }));
    none.hidden = items.length > 0;
    none.textContent = isAsking ? "Searching …" : "Nothing found.";
    choose(0);
  }
  function choose(next) {
    if (!shown.length) { field.removeAttribute("aria-activedescendant"); return; }
    at = (next + shown.length) % shown.length;
    [...found.children].forEach((line, n) => line.setAttribute("aria-selected", String(n === at)));
    found.children[at].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", `shell-found-${at}`);
  }
  function take(n) { const item = shown[n]; palette.close(); item?.go(); }
  const read = async (path) => { const answer = await fetch(path); return answer.ok ? answer.json() : null; };
  let agents = null;
  let waiting = 0;

  /** Pages and actions at once, the rest when it was found. Enter before that takes the first that comes. */
  function look() {
    clearTimeout(waiting);
    const text = field.value.trim().toLowerCase();
    const mine = (asked += 1);
    const here = [...pages, ...actions].filter(({ words }) => words.toLowerCase().includes(text));
    isAsking = text !== "";
    isTaken = false;
    draw(here);
    if (text) waiting = setTimeout(() => search(text, mine, here), 120);
  }
  async function search(text, mine, here) {
    const query = encodeURIComponent(text);
    agents ??= read("/api/v1/agents");
    const [known, threads, traces] = await Promise.all([agents, read(`/api/v1/threads?search=${query}&limit=6`), read(`/api/v1/traces?search=${query}&limit=6`)].map((answer) => answer.catch(() => null)));
    if (mine !== asked) return;
    isAsking = false;
    const matching = (known ?? []).filter(({ name }) => name.toLowerCase().includes(text));
    const kept = at;
    draw([
      ...here,
      ...matching.flatMap(({ id, name }) => [{ words: name, kind: "agent", go: () => location.assign(`/agents/${id}`) }, { words: `Chat with ${name}`, kind: "action", go: () => location.assign(`/chat?agent=${id}`) }]),
      ...(threads?.data ?? []).map(({ id, title }) => ({ words: title || "Untitled", kind: "conversation", go: () => location.assign(`/chat/${id}`) })),
      ...(traces?.data ?? []).map((trace) => ({ words: String(trace.input || trace.workflow || trace.trace_id).slice(0, 120), kind: "trace", go: () => location.assign(`/traces/${trace.trace_id}`) })),
    ]);
    choose(Math.min(kept, shown.length - 1));
    if (isTaken && palette.open) take(at);
  }
  field.addEventListener("input", look);
  field.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) { event.preventDefault(); choose(at + by); }
    if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); if (shown.length) take(at); else isTaken = isAsking; }
  });
  palette.addEventListener("click", (event) => { if (event.target === palette) palette.close(); });
  function find() {
    if (palette.open) { palette.close(); return; }
    field.value = "";
    palette.showModal();
    field.focus();
    look();
  }
  for (const button of document.querySelectorAll(".shell-find")) button.addEventListener("click", find);

  // -- help

  const KEYS = [[MAC ? "⌘ K" : "Ctrl K", "Find pages, agents, conversations, traces and actions"], ["/", "Go to the page's filter or search"], ["j  k", "Move down and up in a list"], ["Enter", "Open the selected item"], ["Esc", "Close, or leave a field"],
    ...[...pages].map(({ key, words }) => [`g ${key}`, words]), ["?", "These shortcuts"]];
  const table = make("dl", {}, ...KEYS.flatMap(([keys, words]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, words)]));
  const card = make("dialog", { className: "shell-dialog" }, make("div", { className: "shell-keys" }, make("h2", {}, "Keyboard"), table, make("button", { type: "button", onclick: () => card.close() }, "Close")));
  card.setAttribute("aria-label", "Keyboard shortcuts");
  card.addEventListener("click", (event) => { if (event.target === card) card.close(); });
  document.body.append(card);
  const help = () => card.showModal();

  // -- keys

  /** A list with a role handles the arrow keys itself; in rows of links and buttons the focus moves from one to the next. */
  function move(by) {
    const list = first('[role="listbox"], [role="grid"], [role="treegrid"]', main);
    if (list) {
      list.focus();
      list.dispatchEvent(new KeyboardEvent("keydown", { key: by > 0 ? "ArrowDown" : "ArrowUp", bubbles: true, composed: true, cancelable: true }));
      return;
    }
    const rows = [...all("a.tl-line, button.tl-line, .tl-chat-thread", main)];
    if (!rows.length) return;
    const now = rows.findIndex((row) => row.matches(":focus"));
    rows[Math.min(Math.max(0, now + by), rows.length - 1)].focus();
  }

  let going = 0;
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      find();
      return;
    }
    const target = event.composedPath()[0];
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || palette.open || card.open) return;
    if (isTyped(target)) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const isGoing = Date.now() - going < 1200;
    going = 0;
    if (isGoing) {
      const page = pages.find(({ key }) => key === event.key);
      if (page) { event.preventDefault(); page.go(); }
      return;
    }
    const acts = {
      g: () => { going = Date.now(); }, "?": help, j: () => move(1), k: () => move(-1),
      "/": () => (first('input[role="combobox"], input[type="search"]', main) ?? field).focus(),
    };
    // A key that a button of the page names presses it, wherever the focus is.
    const named = /^[a-z0-9]$/.test(event.key) ? first(`button[aria-keyshortcuts="${event.key}"]:enabled`, main) : null;
    if (named) acts[event.key] = () => named.click();
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    acts[event.key]();
  });
})();
