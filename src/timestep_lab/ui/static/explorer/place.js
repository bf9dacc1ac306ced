// Keeps the history of the served app's page in sync: the address contains the open trace and the query of the list.
// Not used in notebooks.

const PAGE = "/traces";
const PLAIN = { source: "live", order: "started_at desc" };
/** The parts of the query that are stored in the address unchanged. */
const PARTS = ["filter", "search", "source", "order", "range", "since_s", "since", "until"];
const RELATIVE = new Set(["today", "yesterday", "last week"]);

/** The query in the address; null if there is none. */
export function queryOf(params) {
  if (!PARTS.some((name) => params.has(name))) return null;
  const query = { filter: params.get("filter") ?? "", search: params.get("search") ?? "", source: params.get("source") === "all" ? "" : params.get("source") ?? PLAIN.source, order: params.get("order") ?? PLAIN.order, range: params.get("range") ?? "" };
  const since_s = Number(params.get("since_s")) || null;
  return { ...query, since_s, since: params.get("since"), until: params.get("until") };
}

/** The inverse: only values that differ from the defaults. */
export function paramsOf(query) {
  const params = new URLSearchParams();
  for (const name of PARTS) {
    const value = query[name];
    if (value === null || value === undefined || (value === "" && name !== "source") || value === PLAIN[name]) continue;
    if ((name === "since" || name === "until") && RELATIVE.has(query.range)) continue; // Relative ranges such as "yesterday" change over time.
    params.set(name, value === "" ? "all" : value);
  }
  return params;
}

/** `{open(id, {isStep}), close(), query(query, {isStep}), end()}`; `on(id, query)` is called on Back and Forward: `id` null is the list. */
export function places(root, on) {
  const isPage = () => location.pathname === PAGE;
  const steps = () => (isPage() ? history.state?.tlSteps ?? 0 : 0);
  const tell = (id) => root.dispatchEvent(new CustomEvent("tl-place", { detail: { page: PAGE, id }, bubbles: true, composed: true }));
  const moved = () => {
    if (!isPage()) return;
    const { searchParams } = new URL(location.href);
    const id = searchParams.get("id");
    tell(id);
    on(id, queryOf(searchParams));
  };
  window.addEventListener("popstate", moved);
  return {
    /** The address when the page was opened. */
    first: () => (isPage() ? queryOf(new URL(location.href).searchParams) : null),
    /** `isStep`: the reader navigated, so Back returns to the previous place. */
    open(id, { isStep = false } = {}) {
      if (isStep && isPage()) history.pushState({ tlSteps: steps() + 1 }, "");
      tell(id);
    },
    /** The query of the list has changed. */
    query(query, { isStep = false } = {}) {
      if (!isPage()) return;
      const address = new URL(location.href);
      const id = address.searchParams.get("id");
      const params = paramsOf(query);
      if (id) params.set("id", id);
      const next = `${location.pathname}${params.size ? `?${params}` : ""}`;
      if (next === `${location.pathname}${location.search}`) return;
      if (isStep) history.pushState({ tlSteps: 0 }, "", next);
      else history.replaceState(history.state, "", next);
    },
    /** Return to the list, removing everything opened since from the history. */
    close() {
      if (steps()) history.go(-steps());
      else { tell(null); on(null, null); }
    },
    end: () => window.removeEventListener("popstate", moved),
  };
}
