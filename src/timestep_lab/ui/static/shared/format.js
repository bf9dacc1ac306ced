// Numbers and times for people. What is unknown is said to be, never shown as zero.

export const UNKNOWN = "unknown";

const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

/** Milliseconds to `312 ms`, `1.24 s`, `2 m 05 s`, `3 h 12 m`. */
export function duration(ms) {
  if (!known(ms)) return UNKNOWN;
  if (ms < 0.9995) return ms === 0 ? "0 ms" : `${ms.toPrecision(2)} ms`;
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_995) return `${(ms / 1000).toFixed(ms < 9_995 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${String(seconds % 60).padStart(2, "0")} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} m`;
}

/** 4123 to `4.1k`. */
export function short(count) {
  if (!known(count)) return UNKNOWN;
  if (count < 1000) return String(Math.round(count));
  if (count < 999_500) return `${(count / 1000).toFixed(count < 9_950 ? 1 : 0).replace(/\.0$/, "")}k`;
  return `${(count / 1e6).toFixed(1).replace(/\.0$/, "")}M`;
}

export const tokens = (count) => (known(count) ? `${short(count)} tok` : UNKNOWN);

/** US dollars with enough digits to mean something: `$0.0031`, `$1.24`; `free` for a model that nobody sends a bill for. */
export function cost(usd) {
  if (!known(usd)) return UNKNOWN;
  if (usd === 0) return "free";
  if (usd < 0.00005) return "< $0.0001";
  if (usd < 0.1) return `$${usd.toFixed(4)}`;
  return `$${usd < 100 ? usd.toFixed(2) : Math.round(usd).toLocaleString("en")}`;
}

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export function bytes(n) {
  if (n < 1000) return `${n} B`;
  return n < 999_500 ? `${(n / 1000).toFixed(0)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}

/** `3 min ago` for a day, then the date. `when` and `now` in milliseconds since 1970. */
export function ago(when, now = Date.now()) {
  const s = (now - when) / 1000;
  if (s < 5) return "now";
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ago`;
  const date = new Date(when);
  const sameYear = date.getFullYear() === new Date(now).getFullYear();
  return date.toLocaleDateString(undefined, { day: "numeric", month: "short", ...(sameYear ? {} : { year: "numeric" }) });
}

/** Local date and time with milliseconds and zone. */
export function exactTime(when) {
  return new Date(when).toLocaleString(undefined, {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
    fractionalSecondDigits: 3, timeZoneName: "short",
  });
}

/** A change with its sign: `+120 ms`, `−$0.0012`, `±0`. */
export function signed(value, format) {
  if (!known(value)) return UNKNOWN;
  if (value === 0) return "±0";
  return `${value > 0 ? "+" : "−"}${format(Math.abs(value))}`;
}
