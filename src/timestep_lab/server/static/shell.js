// The frame of every page: the theme, the number of pending approvals, and the notice of a lost connection.
(() => {
  const html = document.documentElement;
  const isDark = () => (html.dataset.tlTheme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const choose = (theme) => { html.dataset.tlTheme = theme; localStorage.setItem("timestep-theme", theme); };
  for (const button of document.querySelectorAll(".shell-theme")) button.addEventListener("click", () => choose(isDark() ? "light" : "dark"));
  // An agent switched the theme (the client tool `switch_theme`): the chat notifies the page.
  document.addEventListener("tl-theme", (event) => choose(event.detail.theme));

  // The item that the page was opened with has set the tab's title.
  const main = document.getElementById("main");
  const { title } = document;
  const named = new URL(location.href).searchParams.get("id");

  // The open item is part of the address, so that reload, bookmarks and shared links return to it.
  document.addEventListener("tl-place", ({ detail: { id } }) => {
    const address = new URL(location.href);
    if (id) address.searchParams.set("id", id);
    else address.searchParams.delete("id");
    history.replaceState(history.state, "", address);
    document.title = id === named ? title : `${main.getAttribute("aria-label")} · Timestep Lab`;
  });

  // The view renders in a shadow root and has its own websocket.
  const view = document.querySelector(".shell-view");
  if (view) {
    const el = document.createElement("div");
    view.attachShadow({ mode: "open" }).append(el);
    import(view.dataset.module).then(({ default: open }) => open(el, view.dataset.key));
  }

  // Show a skeleton until the view has rendered.
  document.addEventListener("tl-ready", () => document.querySelector(".shell-skeleton")?.remove(), { once: true });

  for (const time of document.querySelectorAll("main time[datetime]")) {
    const at = new Date(time.dateTime);
    const min = Math.floor((Date.now() - at) / 60000);
    time.title = at.toLocaleString();
    time.textContent = min < 1 ? "just now" : min < 60 ? `${min} min ago` : min < 1440 ? `${Math.floor(min / 60)} h ago` : at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }

  // On a phone the less frequent pages are behind one button.
  const more = document.querySelector(".shell-more");
  const sheet = document.getElementById("shell-sheet");
  const unfold = (now) => { sheet.hidden = !now; more.setAttribute("aria-expanded", String(now)); if (now) sheet.querySelector("a").focus(); };
  more.addEventListener("click", () => unfold(sheet.hidden));
  document.addEventListener("pointerdown", (event) => { if (!sheet.hidden && !event.target.closest(".shell-nav")) unfold(false); });
  sheet.addEventListener("keydown", (event) => { if (event.key === "Escape") { unfold(false); more.focus(); } });

  let counts = 0;
  async function count() {
    const mine = (counts += 1);
    try {
      const answer = await fetch("/api/v1/runs?status=needs_approval&limit=100");
      if (!answer.ok) return;
      const waiting = (await answer.json()).length;
      if (mine !== counts) return; // Counted anew since.
      const link = document.querySelector('[data-page="approvals"]');
      if (waiting) link.dataset.count = waiting;
      else delete link.dataset.count;
    } catch {
      // The server cannot be reached; the notice below says so.
    }
  }

  // Notified of changes to pending approvals by any process; after a reconnect they are counted again.
  const lost = document.querySelector(".shell-lost");
  const tell = (words, canReload = false) => {
    lost.hidden = !words;
    lost.querySelector("span").textContent = words;
    lost.querySelector("button").hidden = !canReload;
  };
  let isGone = false;
  let leaving = false;
  function listen(pause) {
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/v1/changes?topic=approvals`);
    socket.onopen = () => { pause = 500; count(); if (!isGone) tell(""); };
    socket.onmessage = count;
    socket.onclose = () => {
      if (!leaving && !isGone) tell("The connection to the server was lost. Reconnecting…");
      setTimeout(() => listen(Math.min(2 * pause, 10000)), pause);
    };
  }
  addEventListener("pagehide", () => { leaving = true; });
  listen(500);
  addEventListener("offline", () => tell("This device is offline. Reconnecting…"));

  // The server was started again, or closed this page's session: only a new page helps. A field that keeps its text over a reload says so
  // (data-tl-kept); where something else was typed, the reader says when.
  const written = new Set();
  addEventListener("input", (event) => { written.add(event.composedPath()[0]); }, { capture: true });
  /** Text that has been sent or closed since need not be copied. */
  const holdsText = (field) => field.isConnected && field.dataset?.tlKept === undefined && field.getClientRects().length > 0 && (field.type === "checkbox" || field.type === "radio" || field.value !== "");
  addEventListener("tl-gone", () => {
    isGone = true;
    const typed = [...written].some(holdsText);
    const last = Number(sessionStorage.getItem("timestep-reloaded"));
    if (typed || Date.now() - last < 5000) {
      tell(typed ? "The server was restarted. Your text is still here: copy it, then reload." : "The server was restarted.", true);
      return;
    }
    sessionStorage.setItem("timestep-reloaded", Date.now());
    location.reload();
  });
})();
