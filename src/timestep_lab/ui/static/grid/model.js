// The data of the matrix, as sent by ui/grid.py: one small record per cell.

const FIELDS = ["status", "text", "ms", "tokens", "usd", "isCached", "hash", "scores", "hasTrace"];
const record = (row, at = 0) => Object.fromEntries(FIELDS.map((name, k) => [name, row[at + k] ?? null]));

export class GridModel {
  constructor() {
    this.head = { candidates: [], scorers: [], summary: [], pairs: [], decision: [], epochs: 1, n_cases: 0, deciding: null, status: "running" };
    this.cases = [];
    this.cells = [];
    this.beyondUnit = new Set();
    /** How many scores fit into a cell. */
    this.chips = 2;
  }

  /** A complete comparison; `buffer` contains cases and cells. */
  load(head, buffer) {
    const { cases, cells } = JSON.parse(new TextDecoder().decode(buffer));
    this.cases = cases;
    this.cells = [];
    this.beyondUnit.clear();
    this.setHead(head);
    for (const row of cells) this.put(row[0], row[1], row[2], record(row, 3));
  }

  setHead(head) {
    this.head = head;
    this.width = head.candidates.length;
  }

  get isRunning() { return this.head.status === "running"; }

  put(row, column, epoch, cell) {
    const epochs = this.at(row, column) ?? (this.cells[row * this.width + column] = []);
    epochs[epoch] = cell;
    for (const [name, value] of Object.entries(cell.scores ?? {})) {
      if (value !== null && (value < 0 || value > 1)) this.beyondUnit.add(name);
    }
  }

  /** A live change: `{row}` replaces a cell, `{more}` appends to its text. */
  change(row, column, epoch, { row: fresh, more }) {
    if (fresh) this.put(row, column, epoch, record(fresh));
    if (more) {
      const cell = this.at(row, column)?.[epoch];
      if (cell) cell.text += more;
    }
  }

  /** The epochs of a cell, or undefined before the first one started. */
  at(row, column) { return this.cells[row * this.width + column]; }

  /** Mean score over the epochs, with their number; null if there is none. */
  score(row, column, scorer) {
    let sum = 0;
    let n = 0;
    let whole = true;
    for (const cell of this.at(row, column) ?? []) {
      const value = cell?.scores?.[scorer];
      if (value === null || value === undefined) continue;
      sum += value;
      n += 1;
      if (value !== 0 && value !== 1) whole = false;
    }
    return n ? { value: sum / n, sum, n, isPassFail: whole } : null;
  }

  /** `good`, `bad` or `part` for scores from 0 to 1; null for other scores. */
  judge(scorer, value) {
    if (this.beyondUnit.has(scorer)) return null;
    return value >= 1 ? "good" : value < 0.5 ? "bad" : "part";
  }

  hasFailed(row) {
    for (let column = 0; column < this.width; column += 1) {
      const cells = this.at(row, column);
      if (cells?.some((cell) => cell?.status === "error")) return true;
      const score = this.head.deciding && this.score(row, column, this.head.deciding);
      if (score && this.judge(this.head.deciding, score.value) === "bad") return true;
    }
    return false;
  }

  /** Whether the candidates' scores differ; without scorers, their answers. */
  differs(row) {
    const seen = new Set();
    for (let column = 0; column < this.width; column += 1) {
      const cells = (this.at(row, column) ?? []).filter((cell) => cell && cell.status !== "running");
      if (!cells.length) continue;
      if (cells.every((cell) => cell.status === "error")) seen.add("error");
      else if (this.head.deciding) seen.add(this.score(row, column, this.head.deciding)?.value.toFixed(9));
      else seen.add(cells.map((cell) => cell.hash).join());
    }
    return seen.size > 1;
  }

  /** The rows to show, in their own order; with `failFirst`, those with a failure first. */
  rows({ differ, fail, failFirst }) {
    const rows = [];
    for (let row = 0; row < this.cases.length; row += 1) {
      if ((!differ || this.differs(row)) && (!fail || this.hasFailed(row))) rows.push(row);
    }
    return failFirst ? rows.sort((a, b) => this.hasFailed(b) - this.hasFailed(a) || a - b) : rows;
  }

  /** One line per candidate while the comparison runs: means so far, without intervals. */
  soFar() {
    return this.head.candidates.map(({ name }, column) => {
      const line = { name, n: 0, errors: 0, scores: {}, cost_usd: 0, latency_ms_p50: null, input_tokens: 0, output_tokens: 0 };
      const sums = {};
      const times = [];
      for (let row = 0; row < this.cases.length; row += 1) {
        for (const cell of this.at(row, column) ?? []) {
          if (cell?.status === "error") line.errors += 1;
          if (cell?.status !== "done") continue;
          line.n += 1;
          line.cost_usd = cell.usd === null || line.cost_usd === null ? null : line.cost_usd + cell.usd;
          line.input_tokens = cell.tokens === null || line.input_tokens === null ? null : line.input_tokens + cell.tokens;
          if (cell.ms !== null) times.push(cell.ms);
          for (const [scorer, value] of Object.entries(cell.scores)) {
            if (value === null) continue;
            sums[scorer] ??= [0, 0];
            sums[scorer][0] += value;
            sums[scorer][1] += 1;
          }
        }
      }
      if (!line.n) line.cost_usd = line.input_tokens = null;
      if (times.length) line.latency_ms_p50 = times.sort((a, b) => a - b)[times.length >> 1];
      for (const [scorer, [sum, n]] of Object.entries(sums)) line.scores[scorer] = { mean: sum / n, ci_low: null, ci_high: null };
      return line;
    });
  }
}

/** A, B, C … with a number after the 26th. */
export const letter = (column) => String.fromCharCode(65 + (column % 26)) + (column < 26 ? "" : String(Math.floor(column / 26) + 1));
