// Tracks the focus and whether the reader is typing, so that updates do not take it away.

const PAUSE_MS = 2000;
const FIELDS = "textarea, select, input:not([type=checkbox], [type=radio], [type=file])";

/**
 * `focused()`: the element of `root` that has the focus. `isWriting()`: that is a field which holds text, or had a key a moment ago.
 * `isLost()`: nothing on the page has the focus. `done()`: what was written is sent, the keys so far count no longer.
 */
export function writing(root) {
  let last = -Infinity;
  const note = (event) => { if (event.target.matches(FIELDS)) last = performance.now(); };
  for (const kind of ["keydown", "input"]) root.addEventListener(kind, note, { capture: true });

  function focused() {
    const active = root.getRootNode().activeElement;
    return active && root.contains(active) ? active : null;
  }
  function isWriting() {
    const field = focused();
    if (!field?.matches(FIELDS)) return false;
    const holdsText = !field.matches("select") && field.value !== "";
    return holdsText || performance.now() - last < PAUSE_MS;
  }
  return {
    focused,
    isWriting,
    isLost: () => [null, document.body, document.documentElement].includes(document.activeElement),
    done() { last = -Infinity; },
  };
}
