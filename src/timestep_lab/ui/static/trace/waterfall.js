// Tree and bars in one list of rows: keyboard, zoom, folding, search, critical path. An updated span keeps its position.

import { debounce, h, perFrame } from "../shared/dom.js";
import { axis } from "./axis.js";
import { minimap } from "./minimap.js";
import { fillRow, makeRow, numbersTitle, ROW, rowTitle } from "./rows.js";
import { buildTree, criticalPath, endOf } from "./span_tree.js";
import { makeScale } from "./time_scale.js";
import { Viewport } from "./viewport.js";
import { waterfallTools } from "./waterfall_tools.js";

const OVERSCAN = 2;
const REST_MS = 90;

export class Waterfall {
  /** `on.select(row)` when a span is chosen, `on.leave()` when it is to be closed again, `on.decision(id)` → promise of how a
   * person decided on it, `on.find(text)` → promise of ids whose contents hold the text. */
  constructor(on) {
    this.on = on;
    this.uid = `w${Math.random().toString(36).slice(2, 8)}`;
    this.collapsed = new Set();
    this.selected = -1;
    /** Where keyboard navigation continues when nothing is selected. */
    this.left = -1;
    this.matches = null;
    /** Span id to the promise of a person's decision. */
    this.decisions = new Map();
    this.path = null;
    this.playHead = null;
    this.nameWidth = 300;
    /** The width of the name column; on a narrow screen less than requested. */
    this.nameRoom = 300;
    this.width = 600;
    this.now = 0;
    this.fold = true;
    this.isFlung = false;
    this.pool = [];
    this.draw = perFrame(() => this.paint());
    this.rest = debounce(() => this.settle(), REST_MS);
    this.viewport = new Viewport(() => { this.map.place(); this.draw(); });
    this.map = minimap(this.viewport);
    this.axis = axis();
    this.build();
  }

  build() {
    this.divider = h("div", { class: "tl-wf-divider", role: "separator", "aria-orientation": "vertical", "aria-label": "Width of the names", "aria-valuemin": 120, "aria-valuemax": 800, tabindex: 0 });
    this.head = h("div", { class: "tl-wf-head" },
      h("div", { class: "tl-wf-name tl-soft" }, "Step", this.divider),
      h("div", { class: "tl-wf-bars" }, this.map.element, this.axis.labels),
      h("div", { class: "tl-wf-number tl-soft" }, "Time"),
      h("div", { class: "tl-wf-number tl-wf-tokens tl-soft" }, "Tokens"),
      h("div", { class: "tl-wf-number tl-wf-cost tl-soft" }, "Cost"));
    this.space = h("div", { class: "tl-wf-space", role: "presentation" });
    this.window = h("div", { class: "tl-wf-window", role: "rowgroup" });
    this.linesBox = h("div", { class: "tl-wf-linesbox", role: "presentation" }, this.axis.lines);
    this.scroller = h("div", { class: "tl-wf-scroll", role: "treegrid", tabindex: 0, "aria-label": "Steps of the trace", "aria-colcount": 5 }, this.linesBox, this.space);
    this.space.append(this.window);
    this.tools = waterfallTools(this);
    this.element = h("div", { class: "tl-wf" }, this.tools.element, this.head, this.scroller);
    this.scroller.addEventListener("scroll", this.draw, { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.key(event));
    this.scroller.addEventListener("click", (event) => this.click(event));
    this.scroller.addEventListener("dblclick", (event) => { const i = this.rowAt(event); if (i >= 0) this.zoomTo(i); });
    this.scroller.addEventListener("pointerover", (event) => {
      const cell = event.target.closest(".tl-wf-name, .tl-wf-number");
      const i = cell ? this.rowAt(event) : -1;
      if (i >= 0) cell.title = cell.matches(".tl-wf-name") ? rowTitle(this.spans, i) : numbersTitle(this.spans, this.tree, i, this.now);
    });
    for (const target of [this.scroller, this.head]) target.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.dragName();
    this.dragBars();
    this.observer = new ResizeObserver(() => { const { height } = this; this.measure(); this.keepInSight(height); this.draw(); });
    this.observer.observe(this.element);
    this.setNameWidth(this.nameWidth);
  }

  /** New data for the same trace keeps the open, selected and visible rows; `fresh` resets. */
  set(spans, { now = 0, fresh = false, partial = false, isWaiting = false, trace = null } = {}) {
    const before = this.spans;
    const keep = !fresh && before;
    const chosen = keep && this.selected >= 0 ? before.id(this.selected) : null;
    const closed = keep ? [...this.collapsed].map((i) => before.id(i)) : [];
    this.spans = spans;
    this.now = now;
    this.tree = buildTree(spans, trace);
    this.partial = partial;
    // Branch totals and idle periods are known once the trace is complete.
    if (partial) forgetBranches(this.tree);
    const rowOf = closed.length + (chosen ? 1 : 0) > 3 ? indexIds(spans) : spans.rowOf;
    this.collapsed = new Set(closed.map(rowOf).filter((i) => i >= 0));
    this.selected = chosen ? rowOf(chosen) : -1;
    this.isWaiting = isWaiting;
    // While waiting for a person nothing runs, and nothing grows.
    this.isLive = !isWaiting && spans.status.includes(spans.statuses.indexOf("pending"));
    this.horizon = undefined;
    if (fresh) this.decisions.clear();
    if (fresh || this.left >= spans.n) this.left = -1;
    if (fresh) { this.scroller.scrollTop = 0; this.viewport.from = 0; this.viewport.to = Infinity; this.viewport.length = 0; }
    this.rescale();
    this.arrange();
    this.tools.refresh();
    if (this.path) this.showPath(true);
    if (this.matches) this.tools.searchAgain();
  }

  /** Open spans grow. The axis is extended in steps, so that bars do not move continuously. */
  tick(now) {
    if (!this.isLive || !this.spans) return;
    this.now = now;
    if (now > (this.horizon ?? 0)) this.rescale();
    this.draw();
  }

  rescale() {
    if (this.isLive) this.horizon = Math.max(this.now, latest(this.spans), 1000) * 1.25;
    this.scale = makeScale(this.spans, this.tree, { fold: this.fold && !this.isLive && !this.partial, now: this.now, isWaiting: this.isWaiting, end: this.isLive ? this.horizon : undefined });
    this.scaleNumber = (this.scaleNumber ?? 0) + 1;
    this.nameFolds();
    this.viewport.resize(this.scale.length);
    this.map.draw(this.spans, this.tree, this.scale, this.now);
  }

  /** Idle time before a tool may be a wait for approval; its contents tell. */
  nameFolds() {
    const { spans, scale } = this;
    for (const fold of scale.folds) {
      if (fold.next < 0) { fold.wait = { tool: null, decision: null }; continue; }
      if (spans.kinds[spans.kind[fold.next]] !== "tool") continue;
      const id = spans.id(fold.next);
      if (!this.decisions.has(id)) this.decisions.set(id, this.on.decision(id));
      this.decisions.get(id).then((decision) => {
        if (!decision || this.scale !== scale) return;
        fold.wait = { decision, tool: spans.word("name", fold.next) };
        this.axisDrawn = null;
        this.draw();
      });
    }
  }

  /** The visible rows, after expanding and collapsing. */
  arrange() {
    const { tree, collapsed, spans } = this;
    if (collapsed.size === 0) this.rows = tree.order;
    else {
      const rows = [];
      for (let at = 0; at < spans.n; at += 1) {
        const i = tree.order[at];
        rows.push(i);
        if (collapsed.has(i)) at = tree.last[i];
      }
      this.rows = Int32Array.from(rows);
    }
    this.space.style.height = `${this.rows.length * ROW}px`;
    this.scroller.setAttribute("aria-rowcount", this.rows.length + 1);
    this.draw();
  }

  measure() {
    this.element.style.setProperty("--tl-bar", `${this.scroller.offsetWidth - this.scroller.clientWidth}px`);
    const lines = this.linesBox.getBoundingClientRect();
    const bars = this.head.children[1].getBoundingClientRect();
    this.width = Math.max(20, bars.width);
    this.nameRoom = this.head.firstChild.clientWidth || this.nameWidth;
    this.linesBox.style.setProperty("--tl-lines-left", `${bars.left - lines.left}px`);
    this.linesBox.style.setProperty("--tl-lines-width", `${bars.width}px`);
    // Sizes are cached: reading one while rows are filled would force a layout in the middle of a frame.
    this.height = this.scroller.clientHeight;
    this.linesBox.style.setProperty("--tl-lines-height", `${this.height}px`);
    this.fill(Math.ceil(this.height / ROW) + 2 * OVERSCAN);
  }

  fill(wanted) {
    while (this.pool.length < wanted) {
      const row = makeRow(`${this.uid}-${this.pool.length}`);
      this.pool.push(row);
      this.window.append(row.element);
    }
  }

  paint() {
    if (!this.spans) return;
    if (!this.pool.length) this.measure();
    const top = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - OVERSCAN);
    this.moveTo(top);
    let active = null;
    for (let j = 0; j < this.pool.length; j += 1) {
      const row = this.pool[j];
      const index = top + j;
      const past = index >= this.rows.length;
      if (past !== row.past) { row.past = past; row.element.hidden = past; }
      if (past) continue;
      fillRow(row, this.rows[index], index, this);
      if (this.rows[index] === this.selected) active = row.element.id;
    }
    if (active !== this.activeRow) {
      this.activeRow = active;
      if (active) this.scroller.setAttribute("aria-activedescendant", active);
      else this.scroller.removeAttribute("aria-activedescendant");
    }
    // Vertical scrolling does not change the axis.
    const axis = `${this.viewport.from} ${this.viewport.to} ${this.width} ${this.playHead} ${this.scaleNumber}`;
    if (axis === this.axisDrawn) return;
    this.axisDrawn = axis;
    this.axis.draw(this.scale, this.viewport, this.width, this.playHead);
    this.tools.zoomed(!this.viewport.isWhole);
  }

  /** A row that stays visible keeps its element; others are moved from one end to the other, also in document order. */
  moveTo(top) {
    const by = top - (this.top ?? top);
    this.top = top;
    const { pool } = this;
    if (Math.abs(by) >= pool.length) this.jump();
    else if (by) {
      const left = by > 0 ? pool.splice(0, by) : pool.splice(by);
      if (by > 0) pool.push(...left); else pool.unshift(...left);
      this.window[by > 0 ? "append" : "prepend"](...left.map((row) => row.element));
    }
  }

  /** During fast scrolling, rows show only names and bars until the list comes to rest. */
  jump() {
    if (this.isJumping) this.fling(true);
    this.isJumping = true;
    this.rest();
  }

  settle() {
    this.isJumping = false;
    if (!this.isFlung) return;
    this.fling(false);
    this.draw();
  }

  fling(isFlung) {
    if (this.isFlung === isFlung) return;
    this.isFlung = isFlung;
    this.window.classList.toggle("tl-is-flung", isFlung);
  }

  // Selecting and expanding

  select(i, { quiet = false, reveal = true } = {}) {
    if (this.selected >= 0) this.left = this.selected;
    this.selected = i;
    if (i >= 0 && reveal) this.reveal(i);
    this.draw();
    if (!quiet) this.on.select(i);
  }

  /** Expand the ancestors of a row, and scroll only if it is not visible. */
  reveal(i) {
    let closed = false;
    for (let p = this.tree.parent[i]; p >= 0; p = this.tree.parent[p]) closed = this.collapsed.delete(p) || closed;
    if (closed) this.arrange();
    const y = this.indexOf(i) * ROW;
    const { scrollTop, clientHeight } = this.scroller;
    if (y < scrollTop) this.scroller.scrollTop = y;
    else if (y + ROW > scrollTop + clientHeight) this.scroller.scrollTop = y + ROW - clientHeight;
  }

  /** When the list gets shorter, as when the details open below, keep the selected row visible. */
  keepInSight(before) {
    if (this.selected < 0 || !this.height || !(this.height < before)) return;
    const y = this.indexOf(this.selected) * ROW;
    if (y >= this.scroller.scrollTop && y < this.scroller.scrollTop + before) this.reveal(this.selected);
  }

  indexOf(i) {
    return this.rows === this.tree.order ? this.tree.place[i] : this.rows.indexOf(i);
  }

  toggle(i, open = this.collapsed.has(i)) {
    if (this.tree.first[i] < 0) return;
    if (open) this.collapsed.delete(i); else this.collapsed.add(i);
    this.arrange();
  }

  /** Collapse or expand all branches. */
  toggleAll(open) {
    this.collapsed = new Set();
    if (!open) for (let i = 0; i < this.spans.n; i += 1) if (this.tree.first[i] >= 0) this.collapsed.add(i);
    this.arrange();
  }

  click(event) {
    const i = this.rowAt(event);
    if (i < 0) return;
    if (event.target.closest(".tl-wf-toggle")) this.toggle(i);
    else this.select(i);
  }

  rowAt(event) {
    const element = event.target.closest(".tl-wf-row");
    const row = element && this.pool.find((one) => one.element === element);
    return row ? this.rows[row.index] : -1;
  }

  key(event) {
    if (!this.rows?.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const i = this.selected >= 0 ? this.selected : this.left;
    const at = i >= 0 ? this.indexOf(i) : -1;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 1);
    const go = (index) => this.select(this.rows[Math.min(Math.max(0, index), this.rows.length - 1)]);
    const acts = {
      ArrowDown: () => go(at + 1), ArrowUp: () => go(at - 1), PageDown: () => go(at + page), PageUp: () => go(at - page),
      Home: () => go(0), End: () => go(this.rows.length - 1),
      ArrowRight: () => { if (i >= 0 && this.collapsed.has(i)) this.toggle(i, true); else if (i >= 0 && this.tree.first[i] >= 0) go(at + 1); },
      ArrowLeft: () => { if (i >= 0 && this.tree.first[i] >= 0 && !this.collapsed.has(i)) this.toggle(i, false); else if (i >= 0 && this.tree.parent[i] >= 0) this.select(this.tree.parent[i]); },
      Enter: () => { if (i >= 0) { this.select(i, { quiet: true }); this.on.select(i, { focus: true }); } }, " ": () => { if (i >= 0) this.toggle(i); },
      "+": () => this.viewport.zoom(0.6), "=": () => this.viewport.zoom(0.6), "-": () => this.viewport.zoom(1 / 0.6), 0: () => this.viewport.fit(),
      "<": () => this.viewport.pan((this.viewport.from - this.viewport.to) / 5), ">": () => this.viewport.pan((this.viewport.to - this.viewport.from) / 5),
      z: () => { if (i >= 0) this.zoomTo(i); }, "/": () => this.tools.focusSearch(), n: () => this.tools.step(1), N: () => this.tools.step(-1),
    };
    if (event.key === "Escape" && this.selected >= 0) acts.Escape = this.on.leave;
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  }

  // Time

  zoomTo(i) {
    const from = this.scale.to(this.spans.start[i]);
    const to = this.scale.to(endOf(this.spans, i, this.now));
    const margin = Math.max((to - from) * 0.1, 1e-3);
    this.viewport.show(from - margin, to + margin);
  }

  setFold(fold) {
    this.fold = fold;
    this.viewport.from = 0;
    this.viewport.to = this.viewport.length;
    this.rescale();
    this.draw();
  }

  showPath(on) {
    this.path = on ? criticalPath(this.spans, this.tree, this.now) : null;
    this.draw();
  }

  setPlayHead(ms) {
    this.playHead = ms;
    this.draw();
  }

  placeAt(event) {
    const box = this.head.children[1].getBoundingClientRect();
    return this.viewport.from + ((event.clientX - box.left) / box.width) * (this.viewport.to - this.viewport.from);
  }

  wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.viewport.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.01), this.placeAt(event));
      return;
    }
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (!sideways || (!event.shiftKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) || this.viewport.isWhole) return;
    event.preventDefault();
    this.viewport.pan((sideways / this.width) * (this.viewport.to - this.viewport.from));
  }

  // Dragging

  dragBars() {
    this.scroller.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch" || this.viewport.isWhole || !event.target.closest(".tl-wf-bars")) return;
      const begin = event.clientX;
      const { from, to } = this.viewport;
      const move = (next) => { const by = ((begin - next.clientX) / this.width) * (to - from); this.viewport.show(from + by, to + by); };
      dragging(this.scroller, event, move);
    });
  }

  dragName() {
    this.divider.addEventListener("pointerdown", (event) => {
      const begin = event.clientX - this.nameWidth;
      event.preventDefault();
      dragging(this.divider, event, (next) => this.setNameWidth(next.clientX - begin));
    });
    this.divider.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -16, ArrowRight: 16 }[event.key];
      if (by) { event.preventDefault(); event.stopPropagation(); this.setNameWidth(this.nameWidth + by); }
    });
  }

  setNameWidth(width) {
    this.nameWidth = Math.round(Math.min(Math.max(120, width), Math.max(160, (this.element.clientWidth || 900) * 0.7)));
    this.element.style.setProperty("--tl-name", `${this.nameWidth}px`);
    this.divider.setAttribute("aria-valuenow", this.nameWidth);
    this.measure();
    this.draw();
  }

  close() {
    this.observer.disconnect();
    this.draw.cancel();
    this.rest.cancel();
  }
}

function dragging(element, event, move) {
  const end = () => { element.removeEventListener("pointermove", move); element.removeEventListener("pointerup", end); element.removeEventListener("pointercancel", end); };
  element.setPointerCapture(event.pointerId);
  element.addEventListener("pointermove", move);
  element.addEventListener("pointerup", end);
  element.addEventListener("pointercancel", end);
}

function forgetBranches({ first, sums }) {
  for (let i = 0; i < first.length; i += 1) if (first[i] >= 0) { sums.tokens[i] = NaN; sums.cost[i] = NaN; sums.errors[i] = 0; }
}

function latest(spans) {
  let most = 0;
  for (let i = 0; i < spans.n; i += 1) most = Math.max(most, spans.start[i], spans.end[i] || 0);
  return most;
}

function indexIds(spans) {
  const rows = new Map();
  for (let i = 0; i < spans.n; i += 1) rows.set(spans.id(i), i);
  return (id) => rows.get(id) ?? -1;
}
