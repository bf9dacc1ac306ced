"""The grid as HTML without script: verdict, one row a candidate, the picture of the differences, and the first cases.

It stands in a notebook's output, in a saved file, and wherever the live matrix cannot run.
"""

from __future__ import annotations

from html import escape

from timestep_lab.model.comparison import (
    SHOWN_MEASURES,
    CandidateRow,
    CellRecord,
    GridLike,
    PairRow,
    ScoreValue,
    decision_table,
    headline,
)
from timestep_lab.model.numbers import cost_text, duration_text, tokens_text

SHOWN_CASES = 50
_TEXT = 400
_CHART, _HALF = 260, 120

STYLE = """
.tl-grid{font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);color:var(--jp-ui-font-color1,#1b1b1b);
 background:var(--jp-layout-color1,#fff);font-variant-numeric:tabular-nums}
.tl-grid p.verdict{font-size:15px;max-width:72ch;margin:0 0 12px}
.tl-grid table{border-collapse:collapse;margin:0 0 12px}
.tl-grid caption{text-align:left;padding:4px 0;font-size:12px;color:var(--jp-ui-font-color2,#5a5a5a)}
.tl-grid th,.tl-grid td{border-bottom:1px solid var(--jp-border-color2,#d4d4d4);padding:4px 8px;text-align:left;vertical-align:top}
.tl-grid th{font-weight:600}.tl-grid td.n,.tl-grid th.n{text-align:right;white-space:nowrap}
.tl-grid .small{font-size:12px;color:var(--jp-ui-font-color2,#5a5a5a)}
.tl-grid .bad{color:var(--tl-error,#b23a12);font-weight:600}
.tl-grid td.cell{max-width:32ch;overflow-wrap:anywhere;white-space:pre-wrap}
"""


def grid_html(grid: GridLike, *, cases: int = SHOWN_CASES) -> str:
    """A fragment. Everything from models is escaped."""
    parts = [f"<style>{STYLE}</style><div class='tl-grid'>", f"<p class='verdict'>{escape(headline(grid))}</p>"]
    parts += [_decision(grid), _summary(grid), _differences(grid), _matrix(grid, cases), "</div>"]
    return "".join(parts)


def page_html(grid: GridLike) -> str:
    """One file, complete, all cases."""
    title = escape(f"{grid.record.name}: {', '.join(grid.candidates)}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title>"
        f"<style>body{{margin:24px;background:#fff}}@media (prefers-color-scheme:dark){{body{{background:#1b1b1b;"
        f"--jp-layout-color1:#1b1b1b;--jp-ui-font-color1:#eee;--jp-ui-font-color2:#aaa;--jp-border-color2:#444;--tl-error:#ff8a65}}}}</style>"
        f"<h1 style='font:600 15px system-ui;color:var(--jp-ui-font-color1)'>{title}</h1>{grid_html(grid, cases=len(grid.cases))}</html>"
    )


def _decision(grid: GridLike) -> str:
    rows = decision_table(grid.decision)
    if not rows:
        return ""
    heads = "".join(f"<th scope='col'>{name}</th>" for name in ("", *SHOWN_MEASURES))
    body = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>{''.join(f'<td>{escape(words)}</td>' for words in cells)}</tr>" for name, cells in rows
    )  # fmt: skip
    caption = f"beside {escape(grid.decision[0].reference)}, with 95 % intervals; time is the typical ratio"
    return f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _summary(grid: GridLike) -> str:
    heads = ["<th scope='col'>candidate</th><th class='n' scope='col'>answers</th>"]
    heads += [f"<th class='n' scope='col'>{escape(scorer)}</th>" for scorer in grid.scorers]
    heads += [f"<th class='n' scope='col'>{name}</th>" for name in ("cost", "p50 time", "p50 first token", "tokens")]
    rows = "".join(_summary_row(row, grid.scorers) for row in grid.candidate_rows)
    caption = f"{len(grid.cases)} cases, {grid.record.epochs} epoch{'s' if grid.record.epochs > 1 else ''}; means with 95 % intervals"
    return f"<table><caption>{caption}</caption><thead><tr>{''.join(heads)}</tr></thead><tbody>{rows}</tbody></table>"


def _summary_row(row: CandidateRow, scorers: list[str]) -> str:
    answers = f"{row.n}" + (f" <span class='bad'>✕ {row.errors} failed</span>" if row.errors else "")
    scores = "".join(f"<td class='n'>{_score(row.scores.get(scorer, {}))}</td>" for scorer in scorers)
    tokens = None if row.input_tokens is None or row.output_tokens is None else row.input_tokens + row.output_tokens
    tail = (
        cost_text(row.cost_usd),
        duration_text(row.latency_ms_p50),
        duration_text(row.ttft_ms_p50),
        tokens_text(tokens),
    )
    return (
        f"<tr><th scope='row'>{escape(row.name)}</th><td class='n'>{answers}</td>{scores}"
        + "".join(f"<td class='n'>{t}</td>" for t in tail)
        + "</tr>"
    )


def _score(numbers: object) -> str:
    values = dict(numbers)  # type: ignore[call-overload]
    if values.get("mean") is None:
        return "–"
    interval = (
        f" <span class='small'>{values['ci_low']:.2f} – {values['ci_high']:.2f}</span>"
        if values.get("ci_low") is not None
        else ""
    )
    return f"{values['mean']:.3f}{interval}"


def _differences(grid: GridLike) -> str:
    pairs = [pair for pair in grid.pair_rows if pair.scorer == grid.deciding_scorer and pair.ci_low == pair.ci_low]
    if not pairs:
        return ""
    reach = max([0.01] + [abs(x) for pair in pairs for x in (pair.ci_low, pair.ci_high)])
    rows = "".join(_difference_row(pair, reach) for pair in pairs)
    caption = (
        f"differences on {escape(str(grid.deciding_scorer))}, second minus first, with 95 % intervals; the line is zero"
    )
    return f"<table><caption>{caption}</caption><tbody>{rows}</tbody></table>"


def _difference_row(pair: PairRow, reach: float) -> str:
    def x(value: float) -> float:
        return _CHART / 2 + _HALF * value / reach

    scale, unit = (100.0, " points") if pair.points else (1.0, "")
    words = f"{pair.diff * scale:+.1f}{unit} ({pair.ci_low * scale:.1f} to {pair.ci_high * scale:.1f})".replace(
        "-", "−"
    )
    p = (
        escape(pair.outcome or "")
        if pair.p_holm is None
        else f"p = {pair.p_holm:.3f}"
        if pair.p_holm >= 0.001
        else "p &lt; 0.001"
    )
    svg = (
        f"<svg width='{_CHART}' height='16' role='img' aria-label='{words}'>"
        f"<line x1='{_CHART / 2}' x2='{_CHART / 2}' y1='0' y2='16' stroke='currentColor' opacity='.4'/>"
        f"<line x1='{x(pair.ci_low):.1f}' x2='{x(pair.ci_high):.1f}' y1='8' y2='8' stroke='currentColor' stroke-width='2'/>"
        f"<circle cx='{x(pair.diff):.1f}' cy='8' r='4' fill='currentColor'/></svg>"
    )
    return (
        f"<tr><td>{escape(pair.a)} → {escape(pair.b)}</td><td>{svg}</td><td class='n'>{words}</td><td class='n small'>{p}</td>"
        f"<td class='small'>{escape(pair.test)}, {pair.decided_by} of {pair.n} cases differ</td></tr>"
    )


def _matrix(grid: GridLike, shown: int) -> str:
    by_place = {cell.key: cell for cell in grid.cells}
    heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in grid.candidates)
    rows = []
    for case in grid.cases[:shown]:
        expected = (
            ""
            if case.expected is None
            else f"<br><span class='small'>expected: {escape(_short(str(case.expected)))}</span>"
        )
        cells = "".join(
            f"<td class='cell'>{'<hr>'.join(_cell(by_place.get((case.case_id, name, e))) for e in range(grid.record.epochs))}</td>"
            for name in grid.candidates
        )
        asked = case.input or ", ".join(f"{k}={v}" for k, v in case.vars.items() if not k.startswith("__"))
        rows.append(f"<tr><td class='cell'>{escape(_short(asked))}{expected}</td>{cells}</tr>")
    more = f"<p class='small'>{len(grid.cases) - shown} more cases: grid.df()</p>" if len(grid.cases) > shown else ""
    return (
        f"<table><thead><tr><th scope='col'>case</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}"
    )


def _cell(cell: CellRecord | None) -> str:
    if cell is None:
        return "<span class='small'>not answered</span>"
    if cell.status == "error":
        return f"<span class='bad'>✕ {escape(_short(cell.error or 'failed'))}</span>"
    chips = " ".join(_chip(score) for score in cell.scores)
    return f"{escape(_short(cell.output or ''))}<br><span class='small'>{chips} {duration_text(cell.latency_ms)}</span>"


def _chip(score: ScoreValue) -> str:
    words = f"{_mark(score.value)} {escape(score.scorer)}"
    return f"<span title='{escape(score.note)}'>{words}</span>" if score.value is None and score.note else words


def _mark(value: float | None) -> str:
    return "–" if value is None else "✓" if value == 1 else "✕" if value == 0 else f"{value:.2f}"


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"
