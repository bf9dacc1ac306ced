// Cases as rows, candidates as columns. Only rows near the viewport are in the document; all rows have the same height.

import { debounce, h, perFrame, put, safeText } from "../shared/dom.js";
import { badge, cellContents } from "./cell.js";
import { letter } from "./model.js";

export const ROW = 102;
const OVERSCAN = 3;
const SETTLED_MS = 90;
const FIRST = 0;

export class Matrix {
  /** `on.open(row, column)` when a cell is opened, `on.move(row, column)` when the active cell changes. */
  constructor(model, on) {
    this.model = model;
    this.on = on;
    this.uid = `x${Math.random().toString(36).slice(2, 8)}`;
    this.order = [];
    this.active = { at: 0, column: FIRST };
    this.reference = 0;
    this.drawn = new Map();
    this.dirty = new Set();
    this.headRow = h("div", { class: "tl-mx-head", role: "row", "aria-rowindex": 1 });
    this.body = h("div", { class: "tl-mx-body", role: "rowgroup" });
    this.inner = h("div", { class: "tl-mx-inner", role: "presentation" }, h("div", { role: "rowgroup" }, this.headRow), this.body);
    this.inner.firstChild.className = "tl-mx-top";
    this.none = h("p", { class: "tl-mx-none tl-soft", hidden: true });
    this.grid = h("div", { class: "tl-mx", role: "grid", tabindex: 0, "aria-label": "Answers, a row for each case", "aria-readonly": "true" }, this.inner);
    this.element = h("div", { class: "tl-mx-box" }, this.grid, this.none);
    this.soon = perFrame(() => this.draw());
    this.settled = debounce(() => this.fill(), SETTLED_MS);
    this.grid.addEventListener("scroll", this.soon, { passive: true });
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.grid.addEventListener("click", (event) => this.click(event));
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.grid);
  }

  /** Rebuild the columns. */
  columns() {
    const { candidates, n_cases: cases } = this.model.head;
    this.inner.style.setProperty("--tl-mx-columns", candidates.length);
    put(this.headRow, h("div", { class: "tl-mx-case", role: "columnheader", "aria-colindex": 1 }, "Case"),
      candidates.map((candidate, column) => h("div", { class: "tl-mx-name", role: "columnheader", "aria-colindex": column + 2, title: candidate.name },
        badge(column), h("span", { class: "tl-sr" }, `${letter(column)}: `), h("bdi", { class: "tl-clip" }, candidate.name))));
    this.fit();
    this.grid.setAttribute("aria-colcount", candidates.length + 1);
    this.grid.setAttribute("aria-rowcount", cases + 1);
  }

  /** Show these rows of the comparison, in this order. */
  rows(order, why) {
    const kept = this.order[this.active.at];
    this.order = order;
    this.active.at = Math.max(0, order.indexOf(kept));
    this.body.style.height = `${order.length * ROW}px`;
    this.none.hidden = order.length > 0;
    this.none.textContent = why;
    this.forget();
  }

  /** Redraw every row. */
  forget() {
    for (const { element } of this.drawn.values()) element.remove();
    this.drawn.clear();
    this.draw();
  }

  /** A cell has changed. */
  touch(row, column) {
    this.dirty.add(row * this.model.width + column);
    this.soon();
  }

  draw() {
    const top = Math.floor(this.grid.scrollTop / ROW);
    const end = Math.ceil((this.grid.scrollTop + this.grid.clientHeight) / ROW);
    // While scrolling fast, rows show only the question until the matrix comes to rest.
    const flung = this.drawn.size > 0 && !this.drawn.has(top) && !this.drawn.has(end - 1);
    const first = Math.max(0, top - (flung ? 0 : OVERSCAN));
    const last = Math.min(this.order.length, end + (flung ? 0 : OVERSCAN));
    for (const [at, { element }] of this.drawn) {
      if (at < first || at >= last) { element.remove(); this.drawn.delete(at); }
    }
    const added = document.createDocumentFragment();
    for (let at = first; at < last; at += 1) {
      if (!this.drawn.has(at)) this.drawn.set(at, this.row(at, added, flung));
    }
    if (flung) this.settled();
    if (added.childNodes.length) this.body.append(added);
    if (this.dirty.size) this.redraw();
    this.mark();
  }

  /** When scrolling stops, rows get the rest of their contents. */
  fill() {
    for (const [at, { element, isGlimpse }] of this.drawn) {
      if (isGlimpse) { element.remove(); this.drawn.delete(at); }
    }
    this.draw();
  }

  /** Narrow cells show one score, wide ones two. */
  fit() {
    const chips = (this.headRow.children[1]?.offsetWidth ?? 0) < 320 ? 1 : 2;
    if (chips !== this.model.chips) { this.model.chips = chips; this.forget(); } else this.soon();
  }

  row(at, into, isGlimpse = false) {
    const row = this.order[at];
    const [asked, expected] = this.model.cases[row];
    const cells = this.model.head.candidates.map((_, column) =>
      h("div", { class: "tl-mx-cell", role: "gridcell", id: `${this.uid}-${row}-${column}`, "aria-colindex": column + 2, "data-at": at, "data-column": column }, isGlimpse ? null : cellContents(this.model, row, column, this.reference)));
    const element = h("div", { class: "tl-mx-row", role: "row", "aria-rowindex": row + 2, style: { top: `${at * ROW}px` } },
      h("div", { class: "tl-mx-case", role: "rowheader", "aria-colindex": 1, "data-at": at, "data-column": 0 }, h("div", { class: "tl-mx-text", dir: "auto" }, safeText(asked)),
        isGlimpse ? null : h("div", { class: "tl-mx-facts" }, h("span", { class: "tl-num tl-soft" }, row + 1), expected === null ? null : h("span", { class: "tl-soft tl-clip", title: expected }, "expected ", h("bdi", {}, safeText(expected))))),
      cells);
    into.append(element);
    return { row, element, cells, isGlimpse };
  }

  redraw() {
    for (const { row, cells, isGlimpse } of this.drawn.values()) {
      if (!isGlimpse) cells.forEach((cell, column) => {
        // A cell is marked relative to another one, so it changes with that, too.
        const changed = this.dirty.has(row * this.model.width + column);
        const other = this.model.width === 2 ? 1 - column : this.reference;
        if (changed || this.dirty.has(row * this.model.width + other)) put(cell, cellContents(this.model, row, column, this.reference));
      });
    }
    this.dirty.clear();
  }

  mark() {
    this.grid.querySelector(".tl-on")?.classList.remove("tl-on");
    const cell = this.drawn.get(this.active.at)?.cells[this.active.column];
    cell?.classList.add("tl-on");
    if (cell) this.grid.setAttribute("aria-activedescendant", cell.id); else this.grid.removeAttribute("aria-activedescendant");
  }

  go(at, column, { tell = true } = {}) {
    if (!this.order.length) return;
    this.active = { at: Math.min(Math.max(0, at), this.order.length - 1), column: Math.min(Math.max(0, column), this.model.width - 1) };
    this.reveal();
    this.draw();
    if (tell) this.on.move(this.order[this.active.at], this.active.column);
  }

  /** Scroll the active cell into view, no further than needed. */
  reveal() {
    const { grid } = this;
    const head = this.headRow.offsetHeight;
    const top = this.active.at * ROW;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + ROW + head > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + ROW + head - grid.clientHeight;
    const name = this.headRow.children[this.active.column + 1];
    const left = name.offsetLeft;
    const first = this.headRow.firstChild.offsetWidth;
    if (left - first < grid.scrollLeft) grid.scrollLeft = left - first;
    else if (left + name.offsetWidth > grid.scrollLeft + grid.clientWidth) grid.scrollLeft = left + name.offsetWidth - grid.clientWidth;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { at, column } = this.active;
    const page = Math.max(1, Math.floor(this.grid.clientHeight / ROW) - 1);
    const move = {
      ArrowDown: [at + 1, column], ArrowUp: [at - 1, column], ArrowRight: [at, column + 1], ArrowLeft: [at, column - 1],
      PageDown: [at + page, column], PageUp: [at - page, column], Home: [0, column], End: [this.order.length - 1, column],
    }[event.key];
    if (!move && event.key !== "Enter") return;
    event.preventDefault();
    event.stopPropagation();
    if (move) this.go(...move);
    else if (this.order.length) this.on.open(this.order[at], column);
  }

  click(event) {
    const cell = event.target.closest("[data-at]");
    if (!cell || String(document.getSelection())) return;
    this.go(Number(cell.dataset.at), Number(cell.dataset.column), { tell: false });
    this.on.open(this.order[this.active.at], this.active.column);
  }

  close() {
    this.soon.cancel();
    this.settled.cancel();
    this.sizes.disconnect();
  }
}
