// What is opened, as a place in the history of the served app's page, whose address says it. A notebook's history is not ours to lengthen.

const PAGE = "/traces";

/** `{open(id, {isStep}), close(), end()}`; `on(id)` when Back or Forward lead to another trace, `on(null)` when they lead to the list. */
export function places(root, on) {
  const isPage = () => location.pathname === PAGE;
  const steps = () => (isPage() ? history.state?.tlSteps ?? 0 : 0);
  const tell = (id) => root.dispatchEvent(new CustomEvent("tl-place", { detail: { page: PAGE, id }, bubbles: true, composed: true }));
  const moved = () => {
    if (!isPage()) return;
    const id = new URL(location.href).searchParams.get("id");
    tell(id);
    on(id);
  };
  window.addEventListener("popstate", moved);
  return {
    /** `isStep`: somebody went there, so Back leads to where they were before. */
    open(id, { isStep = false } = {}) {
      if (isStep && isPage()) history.pushState({ tlSteps: steps() + 1 }, "");
      tell(id);
    },
    /** To the list: back over all that was opened since, so that the next Back leads out of it. */
    close() {
      if (steps()) history.go(-steps());
      else { tell(null); on(null); }
    },
    end: () => window.removeEventListener("popstate", moved),
  };
}
