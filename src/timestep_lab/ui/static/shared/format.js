// Numbers and times for display, as in model/display.py. Unknown values are shown as unknown, never as zero.

export const UNKNOWN = "unknown";

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** Milliseconds to `5.3 ms`, `312 ms`, `1.24 s`, `2 min 05 s`, `3 h 12 min`. */
export function duration(ms) {
  if (!known(ms)) return UNKNOWN;
  if (ms < 0.9995) return ms === 0 ? "0 ms" : `${ms.toPrecision(2)} ms`;
  if (ms < 999.5) return `${ms.toFixed(ms < 9.95 ? 1 : 0)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9_995 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  const minutes = Math.round(ms / 60_000);
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** 950, 4123 to `4.1k`, `12k`, `2.3M`. */
export function short(count) {
  if (!known(count)) return UNKNOWN;
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (count >= size * 0.9995) return `${(count / size).toFixed(count < size * 9.95 ? 1 : 0).replace(/\.0$/, "")}${letter}`;
  }
  return count.toFixed(0);
}

export const tokens = (count) => (known(count) ? `${short(count)} tok` : "tokens unknown");

/** US dollars: `$0.0031`, `$1.24`, `$1,235`, `<$0.0001`. `free` is said only when it is known to be; else `cost unknown`.
 * `unpriced` calls have no known price: `at least $0.0031`. */
export function cost(usd, unpriced = 0) {
  if (!known(usd) || (unpriced && usd === 0)) return "cost unknown";
  if (unpriced) return `at least ${cost(usd)}`;
  if (usd === 0) return "free";
  if (usd < 0.00005) return "<$0.0001";
  if (usd < 100) return `$${usd.toFixed(usd < 0.1 ? 4 : 2)}`;
  return `$${Math.round(usd).toLocaleString("en")}`;
}

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export function bytes(n) {
  if (n < 1000) return `${n} B`;
  return n < 999_500 ? `${(n / 1000).toFixed(0)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}

/** `3 min ago` within a day, then the date. `when` and `now` in milliseconds since 1970. */
export function ago(when, now = Date.now()) {
  const s = (now - when) / 1000;
  if (s < 5) return "now";
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ago`;
  const sameYear = new Date(when).getFullYear() === new Date(now).getFullYear();
  return inWords(when, { day: "numeric", month: "short", ...(sameYear ? {} : { year: "numeric" }) });
}

const formats = new Map();

/** These parts of a date and time, in the reader's language. The formatters are kept: to make one takes longer than to use it a hundred times. */
function inWords(when, parts) {
  if (!known(when)) return UNKNOWN;
  const key = JSON.stringify(parts);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(undefined, parts));
  return formats.get(key).format(when);
}

/** Local date and time with milliseconds and time zone. */
export function exactTime(when) {
  return inWords(when, {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
    fractionalSecondDigits: 3, timeZoneName: "short",
  });
}

/** A difference with its sign: `+120 ms`, `−$0.0012`, `±0`. */
export function signed(value, format) {
  if (!known(value)) return UNKNOWN;
  if (value === 0) return "±0";
  return `${value > 0 ? "+" : "−"}${format(Math.abs(value))}`;
}
