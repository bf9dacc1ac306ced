// The visible range of time, in positions of the time scale; `changed` is called after every move.

export class Viewport {
  constructor(changed) {
    this.changed = changed;
    this.length = 1;
    this.from = 0;
    this.to = 1;
  }

  get isWhole() {
    return this.from <= 0 && this.to >= this.length;
  }

  /** A new scale: a complete view stays complete, a zoomed view keeps its position. */
  resize(length) {
    const whole = this.isWhole;
    this.length = length;
    if (whole) { this.from = 0; this.to = length; } else this.clamp();
  }

  show(from, to) {
    this.from = Math.min(from, to);
    this.to = Math.max(from, to);
    this.clamp();
    this.changed();
  }

  fit() {
    this.show(0, this.length);
  }

  pan(by) {
    this.show(this.from + by, this.to + by);
  }

  /** `factor` below 1 zooms in; the position `at` stays in place. */
  zoom(factor, at = (this.from + this.to) / 2) {
    this.show(at - (at - this.from) * factor, at + (this.to - at) * factor);
  }

  clamp() {
    const width = Math.min(Math.max(this.to - this.from, this.length * 1e-7, 1e-4), this.length);
    this.from = Math.min(Math.max(0, this.from), this.length - width);
    this.to = this.from + width;
  }
}
