// What is shown, as a place in the history of the served app's page: the address says which trace is opened, which are listed and how.
// A notebook's history is not ours to lengthen.

const PAGE = "/traces";
const PLAIN = { source: "live", order: "started_at desc" };
/** Of the query: what stands in the address as it is. */
const PARTS = ["filter", "search", "source", "order", "range", "since_s", "since", "until"];
const RELATIVE = new Set(["today", "yesterday", "last week"]);

/** What the address says of the query; null where it says nothing of one. */
export function queryOf(params) {
  if (!PARTS.some((name) => params.has(name))) return null;
  const query = { filter: params.get("filter") ?? "", search: params.get("search") ?? "", source: params.get("source") === "all" ? "" : params.get("source") ?? PLAIN.source, order: params.get("order") ?? PLAIN.order, range: params.get("range") ?? "" };
  const since_s = Number(params.get("since_s")) || null;
  return { ...query, since_s, since: params.get("since"), until: params.get("until") };
}

/** The other way round: only what is not as usual. */
export function paramsOf(query) {
  const params = new URLSearchParams();
  for (const name of PARTS) {
    const value = query[name];
    if (value === null || value === undefined || (value === "" && name !== "source") || value === PLAIN[name]) continue;
    if ((name === "since" || name === "until") && RELATIVE.has(query.range)) continue; // "yesterday" is another day tomorrow.
    params.set(name, value === "" ? "all" : value);
  }
  return params;
}

/** `{open(id, {isStep}), close(), query(query, {isStep}), end()}`; `on(id, query)` when Back or Forward lead elsewhere: `id` null is the list. */
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
    /** What the address says as the page is opened. */
    first: () => (isPage() ? queryOf(new URL(location.href).searchParams) : null),
    /** `isStep`: somebody went there, so Back leads to where they were before. */
    open(id, { isStep = false } = {}) {
      if (isStep && isPage()) history.pushState({ tlSteps: steps() + 1 }, "");
      tell(id);
    },
    /** Other traces are listed. */
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
    /** To the list: back over all that was opened since, so that the next Back leads out of it. */
    close() {
      if (steps()) history.go(-steps());
      else { tell(null); on(null, null); }
    },
    end: () => window.removeEventListener("popstate", moved),
  };
}
