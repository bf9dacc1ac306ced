// Weather icons, by the names of the Lucide icons that the weather card uses; other names are icons of the lab.

import { svg } from "../shared/dom.js";
import { icon } from "../shared/icons.js";

const SUN = ["M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6z", "M8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3.1 3.1l1.1 1.1M11.8 11.8l1.1 1.1M12.9 3.1l-1.1 1.1M4.2 11.8l-1.1 1.1"];
const CLOUD = ["M4.6 12.5a2.8 2.8 0 0 1-.3-5.6 3.9 3.9 0 0 1 7.5.6 2.5 2.5 0 0 1-.4 5z"];
const HIGH_CLOUD = ["M4.6 9.5a2.6 2.6 0 0 1-.3-5.2 3.8 3.8 0 0 1 7.4.6 2.3 2.3 0 0 1-.3 4.6z"];
const DRAWINGS = {
  sun: SUN,
  moon: ["M13 9.6A5.6 5.6 0 0 1 6.4 3 5.6 5.6 0 1 0 13 9.6z"],
  "cloud-sun": ["M6 4.2a2.6 2.6 0 0 1 4.9-.4M6.6 1v.9M2.9 2.6l.7.7M2 6h.9M11 2.6l-.5.5", "M5 13.2a2.5 2.5 0 0 1-.2-5 3.6 3.6 0 0 1 6.8.6 2.2 2.2 0 0 1-.3 4.4z"],
  cloud: CLOUD,
  fog: [...HIGH_CLOUD, "M2.5 12h11M4.5 14.5h7"],
  drizzle: [...HIGH_CLOUD, "M5.5 12v.6M8 13.4v.6M10.5 12v.6"],
  rain: [...HIGH_CLOUD, "M5.6 11.6 4.8 14M8.4 11.6 7.6 14M11.2 11.6l-.8 2.4"],
  snow: [...HIGH_CLOUD, "M5.4 12.2v1.8M4.6 13.1h1.6M10.4 12.2v1.8M9.6 13.1h1.6"],
  storm: [...HIGH_CLOUD, "M8.6 10.8 6.8 13h2.4l-1.6 2.2"],
};
const OTHER_NAMES = {
  "cloud-moon": "moon", "cloud-fog": "fog", "cloud-drizzle": "drizzle", "cloud-rain": "rain", "cloud-rain-wind": "rain", "cloud-hail": "snow",
  "cloud-snow": "snow", snowflake: "snow", "cloud-sun-rain": "rain", "cloud-moon-rain": "rain", "cloud-lightning": "storm",
};

export function weatherIcon(fullName, size) {
  const name = fullName.replace(/^lucide:/, "");
  const key = name in DRAWINGS ? name : OTHER_NAMES[name];
  const side = typeof size === "number" ? size : { sm: 14, md: 16, lg: 20, xl: 24, "2xl": 32, "3xl": 40 }[size] ?? 16;
  if (!key) return icon(name, undefined, side);
  const paths = DRAWINGS[key].map((d) => svg("path", { d }));
  return svg("svg", { class: "tl-icon", viewBox: "0 0 16 16", width: side, height: side, "aria-hidden": "true" }, paths);
}
