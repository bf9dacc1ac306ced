// Icons as 16 x 16 line drawings in the colour of the surrounding text. Meaningful icons also have a text.

import { svg } from "./dom.js";

const PATHS = {
  // span kinds
  agent: ["M8 2.2v1.6", "M3.5 5.6a1.8 1.8 0 0 1 1.8-1.8h5.4a1.8 1.8 0 0 1 1.8 1.8v4.6a1.8 1.8 0 0 1-1.8 1.8H5.3a1.8 1.8 0 0 1-1.8-1.8z", "M6.2 7.4v.8M9.8 7.4v.8", "M1.8 7v2.4M14.2 7v2.4", "M6 14h4"],
  generation: ["M8 1.8 9.5 6.3 14 8l-4.5 1.6L8 14.2 6.5 9.6 2 8l4.5-1.7z"],
  tool: ["M9.9 2.3a3.4 3.4 0 0 0-3.6 4.6L2.2 11a1.6 1.6 0 0 0 0 2.3l.5.5a1.6 1.6 0 0 0 2.3 0l4.1-4.1a3.4 3.4 0 0 0 4.6-3.6l-2 2-2.3-.5-.5-2.3z"],
  handoff: ["M2 4.5h6.5a3 3 0 0 1 3 3v4", "M8.8 9 11.5 11.8 14.2 9", "M2 9.5h4"],
  guardrail: ["M8 1.8 13 3.6v4c0 3.2-2.1 5.4-5 6.6-2.9-1.2-5-3.4-5-6.6v-4z", "M5.8 8l1.6 1.6 2.8-3"],
  retrieval: ["M3 4.2c0-1.1 2.2-2 5-2s5 .9 5 2-2.2 2-5 2-5-.9-5-2z", "M3 4.2v7.6c0 1.1 2.2 2 5 2s5-.9 5-2V4.2", "M3 8c0 1.1 2.2 2 5 2s5-.9 5-2"],
  embedding: ["M2.5 13.5 13 3", "M9 3h4v4", "M2.5 8v5.5H8"],
  task: ["M2.5 3h11v10h-11z", "M5 6.5l1.2 1.2L8.5 5.5M5 10.5h6"],
  turn: ["M13 8a5 5 0 1 1-1.6-3.7", "M13.2 2v3h-3"],
  other: ["M8 3.2a4.8 4.8 0 1 0 0 9.6 4.8 4.8 0 0 0 0-9.6z"],
  // status
  ok: ["M3 8.5 6.5 12 13 4.5"],
  error: ["M8 1.8 14.8 13.5H1.2z", "M8 6.2v3.3M8 11.5v.1"],
  running: ["M8 2a6 6 0 1 1-6 6"],
  paused: ["M5.5 3.5v9M10.5 3.5v9"],
  cancelled: ["M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2z", "M4 12 12 4"],
  interrupted: ["M9 1.8 4 9h4l-1 5.2L12 7H8z"],
  // actions
  chevron: ["M6 3.5 10.5 8 6 12.5"],
  back: ["M10 3.5 5.5 8 10 12.5"],
  search: ["M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9z", "M10.4 10.4 14 14"],
  filter: ["M2 3.5h12L9.5 8.8v4.7l-3-1.5V8.8z"],
  close: ["M3.5 3.5l9 9M12.5 3.5l-9 9"],
  copy: ["M5.5 5.5h8v8h-8z", "M10.5 5.5v-3h-8v8h3"],
  play: ["M4.5 2.8 13 8l-8.5 5.2z"],
  pause: ["M5 3v10M11 3v10"],
  start: ["M12.5 3 6 8l6.5 5zM3.5 3v10"],
  fit: ["M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10"],
  fold: ["M8 1.5v4M6 4l2 2 2-2M8 14.5v-4M6 12l2-2 2 2M2 8h12"],
  path: ["M3 13a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM13 6a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3z", "M4.5 11.5H8a2 2 0 0 0 2-2v-3a2 2 0 0 1 2-2"],
  expand: ["M4 6.5 8 10.5 12 6.5"],
  score: ["M8 1.8l1.9 4 4.3.6-3.1 3 .8 4.4L8 11.7l-3.9 2.1.8-4.4-3.1-3 4.3-.6z"],
  note: ["M2.5 3h11v7.5H8L5 13.5v-3H2.5z"],
  sql: ["M5 4 1.5 8 5 12M11 4l3.5 4L11 12M9.2 2.8 6.8 13.2"],
  clock: ["M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2z", "M8 4.8V8l2.3 1.5"],
  table: ["M2.5 3h11v10h-11zM2.5 6.3h11M2.5 9.6h11M6 3v10"],
  clip: ["M13 7.2 7.7 12.5a3 3 0 0 1-4.2-4.2l5.6-5.6a2 2 0 0 1 2.8 2.8l-5.5 5.5a1 1 0 0 1-1.4-1.4l4.9-4.9"],
  send: ["M2.2 8 13.8 2.4 10.6 13.6 7.6 9z", "M7.6 9 13.8 2.4"],
  stop: ["M4 4h8v8H4z"],
  plus: ["M8 3v10M3 8h10"],
  trash: ["M2.8 4.2h10.4M6.2 4V2.4h3.6V4M4 4.2l.7 9.3h6.6l.7-9.3M6.7 6.8v4.2M9.3 6.8v4.2"],
  list: ["M5.5 4h8M5.5 8h8M5.5 12h8M2.5 4h.1M2.5 8h.1M2.5 12h.1"],
  edit: ["M10.6 2.6l2.8 2.8L5.6 13.2l-3.4.6.6-3.4z", "M9.2 4l2.8 2.8"],
  branch: ["M4.5 5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM4.5 14a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM11.5 7a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3z", "M4.5 5v6M11.5 7c0 2.5-2.5 3-4.5 3.2"],
  person: ["M8 8a2.8 2.8 0 1 0 0-5.6A2.8 2.8 0 0 0 8 8z", "M2.8 14c.5-2.8 2.6-4.2 5.2-4.2s4.7 1.4 5.2 4.2"],
  book: ["M3 2.5h7.5A2.5 2.5 0 0 1 13 5v8.5H5.5A2.5 2.5 0 0 1 3 11z", "M3 11a2.5 2.5 0 0 1 2.5-2.5H13"],
};

/** An icon. With a `label` it is an image for screen readers; without one it is decorative. */
export function icon(name, label, size = 14) {
  const meaning = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  const paths = (PATHS[name] ?? PATHS.other).map((d) => svg("path", { d }));
  return svg("svg", { class: `tl-icon tl-icon-${name in PATHS ? name : "other"}`, viewBox: "0 0 16 16", width: size, height: size, ...meaning }, paths);
}

/** An icon that can change without new elements: `turn(name, label)`. For rows that are refilled every frame. */
export function turningIcon(size = 14) {
  const line = svg("path", { d: "" });
  const element = svg("svg", { class: "tl-icon", viewBox: "0 0 16 16", width: size, height: size, role: "img" }, line);
  return {
    element,
    turn(name, label) {
      line.setAttribute("d", (PATHS[name] ?? PATHS.other).join(""));
      element.setAttribute("class", `tl-icon tl-icon-${name}`);
      element.setAttribute("aria-label", label);
    },
  };
}
