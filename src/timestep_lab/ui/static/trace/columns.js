// Decodes the format of ui/columns.py.

const TYPES = { f8: Float64Array, f4: Float32Array, i4: Int32Array, u4: Uint32Array, u2: Uint16Array, u1: Uint8Array };

const NUMBERS = ["input_tokens", "output_tokens", "cost_usd", "ttft_ms"];
const PENDING = 2 ** 32 - 1;

function milliseconds(micros) {
  const times = new Float64Array(micros.length);
  for (let i = 0; i < micros.length; i += 1) times[i] = micros[i] === PENDING ? NaN : micros[i] / 1000;
  return times;
}

/** The rows of finished spans whose end is unknown; each is placed at its start. */
function withoutDuration(spans) {
  const rows = new Set();
  const pending = spans.statuses.indexOf("pending");
  for (let i = 0; i < spans.n; i += 1) {
    if (spans.end[i] === spans.end[i] || spans.status[i] === pending) continue;
    rows.add(i);
    spans.end[i] = spans.start[i];
  }
  return rows;
}

/** A DataView to `{n, t0, kinds, statuses, start, end, untimed, parent, kind, status, …, word(column, row), id(row)}`. */
export function decodeSpans(view) {
  const headerLength = view.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + 4, headerLength)));
  const base = view.byteOffset + 4 + headerLength;
  // Typed arrays need aligned memory; a buffer from a larger message may have any offset.
  const [buffer, shift] = base % 8 === 0 ? [view.buffer, base] : [view.buffer.slice(base, view.byteOffset + view.byteLength), 0];
  const spans = { n: header.n, t0: header.t0, kinds: header.kinds, statuses: header.statuses };
  for (const { name, type, offset } of header.columns) {
    const length = name === "id" && type === "u4" && !header.words.id ? 2 * header.n : header.n;
    spans[name] = new TYPES[type](buffer, shift + offset, length);
  }
  for (const name of ["start", "end"]) if (spans[name] instanceof Uint32Array) spans[name] = milliseconds(spans[name]);
  for (const name of NUMBERS) spans[name] ??= new Float32Array(header.n).fill(NaN);
  spans.untimed = withoutDuration(spans);
  const { words } = header;
  const ids = spans.id;
  const hex = (n) => n.toString(16).padStart(8, "0");
  spans.word = (column, row) => { const at = spans[column][row]; return at ? words[column][at - 1] : null; };
  spans.texts = (column) => words[column];
  spans.id = words.id ? (row) => words.id[ids[row] - 1] : (row) => hex(ids[2 * row]) + hex(ids[2 * row + 1]);
  spans.rowOf = (id) => {
    if (words.id || id?.length !== 16) { for (let i = 0; i < spans.n; i += 1) if (spans.id(i) === id) return i; return -1; }
    const high = parseInt(id.slice(0, 8), 16);
    const low = parseInt(id.slice(8), 16);
    for (let i = 0; i < spans.n; i += 1) if (ids[2 * i] === high && ids[2 * i + 1] === low) return i;
    return -1;
  };
  return spans;
}
