"""A trace of 100,000 spans in the browser: from mounting to paint, and frames while flinging, scrolling and zooming.

Frames per second are printed; held to is the processor time of the page's main thread a frame, which other work on the machine does
not change. Baselines of the same run: a trace of 1,000 spans, and a page that only writes new words into as many rows each frame.
Run: `pytest tests/benchmarks/bench_waterfall.py -m benchmark -s`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page
from tests.browser.conftest import browser, page_host, pages, show  # noqa: F401 - fixtures
from tests.ui.sample_traces import SampleSource, big_trace, weather_run

from timestep_lab.model.clock import utc_now
from timestep_lab.ui.columns import encode_spans
from timestep_lab.ui.trace_view import TraceView

pytestmark = pytest.mark.benchmark
LATER = 2.5
"""A hundred times the spans are painted this many times later at most. (In JupyterLab the first screen comes before the rest.)"""
FRAMES = 120

FRAMES_WHILE = """([frames, step]) => new Promise((done) => {
  const act = new Function("k", step); const times = []; let k = 0, before = performance.now();
  const next = (now) => { times.push(now - before); before = now; act(k); k += 1;
    if (k < frames) requestAnimationFrame(next); else { times.shift(); times.sort((a, b) => a - b);
      const mean = times.reduce((s, t) => s + t, 0) / times.length;
      done([1000 / mean, times[Math.floor(times.length * 0.95)]]); } };
  requestAnimationFrame(next); })"""
FLING = "const box = document.querySelector('.tl-wf-scroll'); box.scrollTop = (box.scrollHeight - box.clientHeight) * k / 120;"
"""From end to end in 120 frames, each past many screens, so that every row is new: rows have their names and bars, at rest the numbers too."""
WHEEL = "document.querySelector('.tl-wf-scroll').scrollTop = 2400 + 100 * k;"
"""As a wheel scrolls: four rows a frame, whole."""
WORDS = """if (!window.plain) { const box = document.createElement("div"); box.style.cssText = "position:fixed;inset:0;background:#fff;font:13px system-ui";
  window.plain = Array.from({length: 20}, () => { const row = document.createElement("div"); row.style.cssText = "height:24px;contain:strict;display:grid;grid-template-columns:300px 1fr 68px 68px 68px";
    const cells = Array.from({length: 5}, () => document.createElement("div")); const bar = document.createElement("i"); bar.style.cssText = "display:block;height:10px;background:#d90";
    cells[1].append(bar); row.append(...cells); box.append(row); return [cells[0], cells[2], cells[3], cells[4], bar]; }); document.body.append(box); }
  window.plain.forEach((cells, j) => { for (let c = 0; c < 4; c += 1) cells[c].textContent = `step ${k * 31 + j + c}`;
    cells[4].style.width = `${20 + (k * 7 + j) % 200}px`; cells[4].style.transform = `translateX(${(k + j) % 90}px)`; });"""
ZOOM = """const box = document.querySelector('.tl-wf-row .tl-wf-bars').getBoundingClientRect();
  document.querySelector('.tl-wf-scroll').dispatchEvent(new WheelEvent('wheel', {deltaY: k < 60 ? -30 : 30, ctrlKey: true, bubbles: true,
  cancelable: true, clientX: box.left + box.width / 3, clientY: box.top + 5}));"""

STEPS = {"fling": FLING, "wheel": WHEEL, "zoom": ZOOM, "plain rows": WORDS}


def view_of(n: int) -> TraceView:
    row, spans = weather_run(1, utc_now())
    source = SampleSource([(row, spans)])
    source.spans_of[row["trace_id"]] = big_trace(n)
    view = TraceView(source, row["trace_id"])
    view.snapshot()  # Reading and packing is Python's part, which is measured by itself.
    return view


def first_paint_s(show: Callable[..., Page], view: TraceView) -> tuple[float, Page]:  # noqa: F811
    """From mounting the component to the frame after its rows are there, in the page's own clock."""
    page = show(view)
    page.wait_for_selector(".tl-wf-row")
    return page.evaluate("window.firstRows - window.mounted") / 1000.0, page


def frames(page: Page, step: str) -> tuple[float, float, float]:
    """Frames per second, their 95th percentile in ms, and the main thread's processor time a frame in ms."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy_s() -> float:
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))

    before = busy_s()
    fps, p95_ms = page.evaluate(FRAMES_WHILE, [FRAMES, step])
    return fps, p95_ms, (busy_s() - before) * 1000.0 / FRAMES


def test_a_hundred_thousand_spans(show: Callable[..., Page]) -> None:  # noqa: F811
    columns = big_trace(100_000)
    packing = []
    for _ in range(3):
        begin = time.process_time()
        packed = encode_spans(columns)
        packing.append((time.process_time() - begin) * 1000.0)
    painted: dict[int, float] = {}
    measured: dict[tuple[int, str], tuple[float, float, float]] = {}
    for n in (1_000, 100_000):
        view = view_of(n)
        painted[n], page = min((first_paint_s(show, view) for _ in range(3)), key=lambda pair: pair[0])
        for name, step in STEPS.items():
            measured[n, name] = frames(page, step)
    print(f"\npacking 100,000 spans in Python: {min(packing):.0f} ms of processor time, {len(packed) / 1e6:.1f} MB")
    for n, seconds in painted.items():
        print(f"{n:>8,} spans: painted {seconds * 1000:.0f} ms after mounting")
    print(f"{'spans':>8} {'':>11} {'fps':>5} {'p95':>8} {'busy a frame':>13}")
    for (n, name), (fps, p95_ms, busy_ms) in measured.items():
        print(f"{n:>8,} {name:>11} {fps:>5.0f} {p95_ms:>5.0f} ms {busy_ms:>10.1f} ms")
    assert painted[100_000] < LATER * painted[1_000]
    for name in ("fling", "wheel", "zoom"):
        many, few, plain = (measured[key][2] for key in ((100_000, name), (1_000, name), (100_000, "plain rows")))
        assert many < 1.6 * few, f"{name}: drawing depends on the number of spans"
        assert many < 4.0 * plain, f"{name}: drawing falls behind what the browser can do"
