"""Exports of a grid: static HTML, CSV, JSON Lines, Parquet, JUnit XML, preference pairs, baselines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast
from xml.etree import ElementTree as xml

from timestep_lab.evals.datasets.case import from_record
from timestep_lab.evals.judging import asked_of, role_of
from timestep_lab.evals.results import ScoreTables, cut, own_scores
from timestep_lab.evals.scorers.registry import ASSERTIONS
from timestep_lab.evals.statistics.intervals import within_unit
from timestep_lab.evals.statistics.paired import holm, paired_difference
from timestep_lab.evals.verdict import is_settled, pair_sentence
from timestep_lab.model.codec import Json, objects_of
from timestep_lab.model.comparison import (
    SHOWN_MEASURES,
    CandidateRecord,
    CandidateRow,
    CaseRecord,
    CellRecord,
    GridLike,
    PairRow,
    ScoreValue,
    cases_in_order,
    cell_json,
    conclusion,
    decision_table,
    headline,
    ranked,
    slice_columns,
)
from timestep_lab.model.display import cost_text, duration_text, tokens_text
from timestep_lab.model.errors import DataError, LabError, UsageError

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid


# --- Regression tests: each candidate compared with itself in a saved baseline, paired by case


FORM = "timestep-lab baseline 1"


@dataclass(frozen=True, slots=True)
class Regression:
    """The comparison of one candidate and scorer with the baseline. `pair.a` is the baseline, `pair.b` the new result;
    a positive `pair.diff` is an improvement. `worse`: significantly worse, after correction.
    """

    candidate: str
    pair: PairRow
    worse: bool
    new_cases: int
    """Number of new cases that the baseline does not have; they are not compared."""
    other_data: bool = False
    """Whether the data set has a different version than in the baseline."""

    def __str__(self) -> str:
        changed = (
            " The data set is another version than the baseline's: cases of one id may differ."
            if self.other_data
            else ""
        )
        return pair_sentence(self.pair) + changed


class Baseline(TypedDict):
    """The content of a baseline file."""

    form: str
    id: str
    name: str
    dataset_version: str
    scores: dict[str, dict[str, dict[str, list[float | None]]]]
    """By candidate, scorer and case: the score in each epoch."""


def baseline_json(grid: Grid) -> Baseline:
    """Scores by case, without answers: enough for later comparisons."""
    scores: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for cell in grid.cells:
        for score in cell.scores:
            scores.setdefault(cell.candidate, {}).setdefault(score.scorer, {}).setdefault(cell.case_id, []).append(
                score.value
            )
    return {
        "form": FORM, "id": grid.id, "name": grid.record.name, "dataset_version": grid.record.dataset_version, "scores": scores,
    }  # fmt: skip


def compare_with(grid: Grid, baseline: Grid | str | Path) -> list[Regression]:
    """Compare candidates and scorers that are in both. Raises `DataError` for a file that is not a baseline, or has
    nothing in common.
    """
    before = _read(Path(baseline)) if isinstance(baseline, str | Path) else baseline_json(baseline)
    compared = []
    for candidate, by_scorer in before["scores"].items():
        for scorer, by_case in by_scorer.items():
            if candidate in grid.candidates and scorer in grid.scorers:
                compared.append(
                    (
                        candidate,
                        _pair(grid, candidate, scorer, by_case),
                        len(grid.cases) - len(by_case.keys() & _ids(grid)),
                    )
                )
    if not compared:
        raise DataError(
            "The baseline has no candidate and scorer in common with this comparison.",
            "Compare the same ones, or save a new baseline.",
        )
    adjusted = holm([pair.p_value if pair.p_value is not None else float("nan") for _, pair, _ in compared])
    corrected = [
        (candidate, _with_holm(pair, p), new) for (candidate, pair, new), p in zip(compared, adjusted, strict=True)
    ]
    other = before.get("dataset_version") != grid.record.dataset_version
    return [
        Regression(candidate, pair, pair.diff < 0 and is_settled(pair), new, other)
        for candidate, pair, new in corrected
    ]


def _ids(grid: Grid) -> set[str]:
    return {case.case_id for case in grid.cases}


def _pair(grid: Grid, candidate: str, scorer: str, before: Mapping[str, list[float | None]]) -> PairRow:
    now, old = f"{candidate} now", f"{candidate} before"
    cells = [
        CellRecord(
            comparison_id="", case_id=case_id, candidate=old, epoch=epoch, status="done", scores=(ScoreValue(scorer=scorer, value=value),)
        )
        for case_id, values in before.items()
        for epoch, value in enumerate(values)
    ]  # fmt: skip
    epochs = max([len(values) for values in before.values()] + [cell.epoch + 1 for cell in grid.cells])
    tables = ScoreTables([case.case_id for case in grid.cases], epochs, [*grid.cells, *cells])
    r = paired_difference(tables.of(old, scorer), tables.of(candidate, scorer), groups=grid.groups)
    points = within_unit(tables.of(old, scorer)) and within_unit(tables.of(candidate, scorer))
    return PairRow(
        a=old, b=now, scorer=scorer, n=r.n, diff=r.diff, ci_low=r.ci_low, ci_high=r.ci_high, p_value=r.p_value, p_holm=None, test=r.test,
        decided_by=r.decided_by, cases_to_settle=r.cases_to_settle, points=points,
    )  # fmt: skip


def _with_holm(pair: PairRow, p: float) -> PairRow:
    from dataclasses import replace

    return replace(pair, p_holm=None if p != p else p)


def _read(path: Path) -> Baseline:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"The baseline {path} cannot be read: {error}.", 'Write one with grid.save("baseline.json").'
        ) from error
    if not isinstance(value, dict) or value.get("form") != FORM:
        raise DataError(f"{path} is not a baseline.", 'Write one with grid.save("baseline.json").')
    return cast("Baseline", value)


# --- The grid as HTML without scripts: verdict, one row per candidate, a chart of the differences, and the first cases.
#
# Used in a notebook's saved output, in files, and wherever the live matrix cannot run.


SHOWN_CASES = 50
_TEXT = 400
_CUTS = 4
"""Maximum number of columns by which an exported page is sliced."""
_CHART, _HALF = 260, 120

STYLE = """
.tl-grid{font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);color:var(--jp-ui-font-color1,#1b1b1b);
 background:var(--jp-layout-color1,#fff);font-variant-numeric:tabular-nums;
 padding:10px 14px;border:1px solid var(--jp-border-color2,#d4d4d4);border-radius:6px;overflow-x:auto}
.tl-grid svg{min-width:130px}
.tl-grid p.conclusion{font-size:17px;font-weight:600;margin:0 0 8px}
.tl-grid p.verdict{font-size:14px;max-width:72ch;margin:0 0 12px}
.tl-grid table{border-collapse:collapse;margin:0 0 12px}
.tl-grid caption{text-align:left;padding:4px 0;font-size:12px;color:var(--jp-ui-font-color2,#5a5a5a)}
.tl-grid th,.tl-grid td{border-bottom:1px solid var(--jp-border-color2,#d4d4d4);padding:4px 8px;text-align:left;vertical-align:top}
.tl-grid th{font-weight:600}.tl-grid td.n,.tl-grid th.n{text-align:right;white-space:nowrap}
.tl-grid .small{font-size:12px;color:var(--jp-ui-font-color2,#5a5a5a)}
.tl-grid .bad{color:var(--tl-error,#b23a12);font-weight:600}
.tl-grid td.cell{max-width:32ch;overflow-wrap:anywhere;white-space:pre-wrap}
"""


def grid_html(grid: GridLike, *, cases: int = SHOWN_CASES, slices: str = "") -> str:
    """An HTML fragment. All model output is escaped."""
    parts = [f"<style>{STYLE}</style><div class='tl-grid'>"]
    if grid.record.status != "running" and (won := conclusion(_deciding_pairs(grid))):
        parts.append(f"<p class='conclusion'>{escape(won)}</p>")
    parts += [_ranking(grid), f"<p class='verdict'>{escape(headline(grid))}</p>"]
    parts += [_differences(grid), _summary(grid), slices, _matrix(grid, cases), "</div>"]
    return "".join(parts)


def page_html(grid: GridLike) -> str:
    """A complete HTML page with all cases."""
    title = escape(f"{grid.record.name}: {', '.join(grid.candidates)}")
    parts = "".join(_slices(grid, by) for by in slice_columns(grid.cases)[:_CUTS]) if grid.deciding_scorer else ""
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title>"
        f"<style>body{{margin:24px;background:#fff}}@media (prefers-color-scheme:dark){{body{{background:#1b1b1b;"
        f"--jp-layout-color1:#1b1b1b;--jp-ui-font-color1:#eee;--jp-ui-font-color2:#aaa;--jp-border-color2:#444;--tl-error:#ff8a65}}}}</style>"
        f"<h1 style='font:600 15px system-ui;color:var(--jp-ui-font-color1)'>{title}</h1>{grid_html(grid, cases=len(grid.cases), slices=parts)}</html>"
    )


def _deciding_pairs(grid: GridLike) -> list[PairRow]:
    return [pair for pair in grid.pair_rows if pair.scorer == grid.deciding_scorer]


def _ranking(grid: GridLike) -> str:
    """The candidates from best to worst, with the facts needed for a decision."""
    words = dict(decision_table(grid.decision))
    if not words:
        return ""
    reference, scorer = grid.decision[0].reference, str(grid.deciding_scorer)
    heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in ("", scorer, *SHOWN_MEASURES))
    body = "".join(
        f"<tr><th scope='row'>{escape(row.name)}</th><td class='n'>{_grid_html_score(row.scores.get(scorer, {}))}</td>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in words.get(row.name, ["compared with" if row.name == reference else "–", "–", "–"]))
        + "</tr>"
        for row in ranked(grid.candidate_rows, scorer)
    )  # fmt: skip
    caption = (
        f"best first; quality, cost and time beside {escape(reference)}, with 95 % intervals; time is the typical ratio"
    )
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
    scores = "".join(f"<td class='n'>{_grid_html_score(row.scores.get(scorer, {}))}</td>" for scorer in scorers)
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


def _grid_html_score(numbers: object) -> str:
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
    pairs = [pair for pair in _deciding_pairs(grid) if pair.ci_low == pair.ci_low]
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
        f"<svg width='{_CHART}' height='16' viewBox='0 0 {_CHART} 16' role='img' aria-label='{words}'>"
        f"<line x1='{_CHART / 2}' x2='{_CHART / 2}' y1='0' y2='16' stroke='currentColor' opacity='.4'/>"
        f"<line x1='{x(pair.ci_low):.1f}' x2='{x(pair.ci_high):.1f}' y1='8' y2='8' stroke='currentColor' stroke-width='2'/>"
        f"<circle cx='{x(pair.diff):.1f}' cy='8' r='4' fill='currentColor'/></svg>"
    )
    return (
        f"<tr><td>{escape(pair.a)} → {escape(pair.b)}</td><td>{svg}</td><td class='n'>{words}</td><td class='n small'>{p}</td>"
        f"<td class='small'>{escape(pair.test)}, {pair.decided_by} of {pair.n} cases differ</td></tr>"
    )


def _slices(grid: GridLike, by: str) -> str:
    sliced = cut(grid, by)
    cells = {(row["slice"], row["candidate"]): _grid_html_score(row) for row in sliced["means"]}
    heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in (by, *grid.candidates, "told apart"))
    rows = ""
    for part in dict.fromkeys(row["slice"] for row in sliced["means"]):
        apart = "; ".join(
            f"{row['better']} better than {row['worse']}" for row in sliced["apart"] if row["slice"] == part
        )
        means = "".join(f"<td class='n'>{cells[part, name]}</td>" for name in grid.candidates)
        rows += f"<tr><th scope='row'>{escape(part)}</th>{means}<td>{escape(apart) or 'not settled'}</td></tr>"
    caption = f"{escape(sliced['scorer'])} by {escape(by)}; intervals and tests hold for all slices together"
    return f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _matrix(grid: GridLike, shown: int) -> str:
    by_place = {cell.key: cell for cell in grid.cells}
    heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in grid.candidates)
    rows = []
    for case in cases_in_order(grid)[:shown]:
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
    took = f"{duration_text(cell.latency_ms)}{', cached' if cell.cached else ''}"
    return f"{escape(_short(cell.output or ''))}<br><span class='small'>{chips} {took}</span>"


def _chip(score: ScoreValue) -> str:
    words = f"{_mark(score.value)} {escape(score.scorer)}{' (judged before)' if score.cached else ''}"
    return f"<span title='{escape(score.note)}'>{words}</span>" if score.value is None and score.note else words


def _mark(value: float | None) -> str:
    return "–" if value is None else "✓" if value == 1 else "✕" if value == 0 else f"{value:.2f}"


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


MARGIN = 0.5
"""Minimum score difference between the chosen and the rejected answer of a preference pair."""

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def save(grid: Grid, path: Path) -> Path:
    """Write the grid to a file. Raises `UsageError` for an unknown suffix, `LabError` if the file cannot be written."""
    kind = _kind(path)
    try:
        WRITERS[kind](grid, path)
    except OSError as error:
        raise LabError(
            f"{path} cannot be written: {error.strerror or error}. The comparison is kept as {grid.id}.",
            f"Write it to another path with: timestep-lab compare --resume {grid.id} --out …",
        ) from error
    return path


def check_path(path: Path) -> None:
    """Check that a file could be written, before a comparison is paid for. Raises `UsageError`."""
    _kind(path)
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Give a file name.", param="out")
    if not folder.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {folder}.", "Create it first.", param="out")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: permission denied.", "Choose another path.", param="out")


def _kind(path: Path) -> str:
    kind = next((ending for ending in WRITERS if path.name.endswith(ending)), None)
    if kind is None:
        raise UsageError(f"{path.name} has an unsupported suffix.", f"Supported suffixes: {', '.join(WRITERS)}.")
    return kind


def _csv(grid: Grid, path: Path) -> None:
    """CSV with a byte order mark for Excel, and a `'` before text that a spreadsheet would take for a formula."""
    cases = {case.case_id: case for case in grid.cases}
    frame = grid.df()
    wanted = [cases[id].expected for id in frame["case_id"]]
    frame.insert(4, "input", [cases[id].input for id in frame["case_id"]])
    frame.insert(
        5, "expected", [w if w is None or isinstance(w, str) else json.dumps(w, ensure_ascii=False) for w in wanted]
    )
    frame.map(_no_formula).to_csv(path, index=False, encoding="utf-8-sig")


def _no_formula(value: object) -> object:
    return (
        f"'{value}"
        if isinstance(value, str) and _FORMULA.match(value) and not _PLAIN_NUMBER.fullmatch(value)
        else value
    )


def _jsonl(grid: Grid, path: Path) -> None:
    """One cell per line, with its case."""
    cases = {case.case_id: case for case in grid.cases}
    with path.open("w", encoding="utf-8") as file:
        for cell in grid.cells:
            case = cases[cell.case_id]
            line = {
                **cell_json(cell), "input": case.input, "messages": list(case.messages), "expected": case.expected,
                "vars": dict(case.vars), "assertions": list(case.assertions), "metadata": dict(case.metadata),
            }  # fmt: skip
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _parquet(grid: Grid, path: Path) -> None:
    import duckdb

    frame = grid.df()
    with duckdb.connect() as db:
        db.register("frame", frame)
        columns = ", ".join(
            f'cast("{name}" as varchar) as "{name}"' if frame[name].isna().all() else f'"{name}"'
            for name in frame.columns
        )
        try:
            db.sql(f"select {columns} from frame").write_parquet(str(path))
        except duckdb.IOException as error:
            raise OSError(str(error)) from error


def _html(grid: Grid, path: Path) -> None:
    path.write_text(page_html(grid), encoding="utf-8")


def _fails(score: ScoreValue, cell: CellRecord, own: Sequence[str]) -> bool:
    """Whether the score counts as a failure. A case's own assertions pass or fail together: with a threshold, a mean
    below 1 may pass.
    """
    if score.scorer in own:
        verdict = next((s.label for s in cell.scores if s.scorer == ASSERTIONS), None)
        if verdict is not None:
            return verdict == "fail" and score.scorer == ASSERTIONS
    return score.value is not None and score.value < 1.0


def _junit(grid: Grid, path: Path) -> None:
    """JUnit XML: a suite per candidate, a test per case and epoch. A test fails if any scorer gives less than 1, has an
    error if there is no answer, and is skipped (not passed) if a scorer could not score it. What came from the cache is
    a property of the test."""
    root = xml.Element("testsuites", name=grid.record.name)
    cases, own = {case.case_id: case for case in grid.cases}, own_scores(grid.cases)
    for name in grid.candidates:
        cells = [cell for cell in grid.cells if cell.candidate == name]
        suite = xml.SubElement(root, "testsuite", name=name, tests=str(len(cells)))
        for cell in cells:
            title = _one_line(cases[cell.case_id].input) or cell.case_id
            if grid.record.epochs > 1:
                title += f" (epoch {cell.epoch + 1})"
            test = xml.SubElement(
                suite, "testcase", classname=name, name=title, time=f"{(cell.latency_ms or 0) / 1000:.3f}"
            )
            from_cache = [*(["answer"] if cell.cached else []), *(_clean(s.scorer) for s in cell.scores if s.cached)]
            if from_cache:
                properties = xml.SubElement(test, "properties")
                for what in from_cache:
                    xml.SubElement(properties, "property", name=what, value="from the cache")
            if cell.status == "error":
                xml.SubElement(test, "error", type=cell.error_type or "error", message=_clean(cell.error or ""))
            elif failed := [s for s in cell.scores if _fails(s, cell, own)]:
                message = "; ".join(f"{s.scorer}: {s.value:g}" + (f" ({s.note})" if s.note else "") for s in failed)
                xml.SubElement(test, "failure", message=_clean(message)).text = _clean(cell.output or "")
            elif missing := [s for s in cell.scores if s.value is None]:
                message = "; ".join(f"{s.scorer} could not score: {s.note or 'it gave no reason'}" for s in missing)
                xml.SubElement(test, "skipped", message=_clean(message))
        suite.set("errors", str(len(suite.findall("testcase/error"))))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    xml.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _dpo(grid: Grid, path: Path) -> None:
    """Preference pairs for training: a chosen and a rejected answer to the same prompt, according to the deciding
    scorer.
    """
    prompts = {str(one["name"]): cast("str | None", one.get("prompt")) for one in objects_of(grid.record.candidates)}
    by_case: dict[str, list[CellRecord]] = {}
    for cell in grid.cells:
        if cell.status == "done":
            by_case.setdefault(cell.case_id, []).append(cell)
    with path.open("w", encoding="utf-8") as file:
        for case in grid.cases:
            for a, b in combinations(by_case.get(case.case_id, []), 2):
                left, right = _score(a, grid.deciding_scorer), _score(b, grid.deciding_scorer)
                if (
                    left is None
                    or right is None
                    or abs(left - right) < MARGIN
                    or prompts[a.candidate] != prompts[b.candidate]
                ):
                    continue
                chosen, rejected = (a, b) if left > right else (b, a)
                line = {
                    "prompt": _messages(case, prompts[a.candidate]),
                    "chosen": [{"role": "assistant", "content": chosen.output}],
                    "rejected": [{"role": "assistant", "content": rejected.output}],
                    "metadata": {
                        "case_id": case.case_id, "chosen": chosen.candidate, "rejected": rejected.candidate,
                        "score_chosen": max(left, right), "score_rejected": min(left, right),
                    },
                }  # fmt: skip
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _baseline(grid: Grid, path: Path) -> None:
    path.write_text(json.dumps(baseline_json(grid), ensure_ascii=False, indent=1), encoding="utf-8")


def _messages(record: CaseRecord, prompt: str | None) -> list[dict[str, Json]]:
    """What was asked, in the form of Chat Completions."""
    case = from_record(record)
    if prompt is None and case.messages:
        where = f"A message of case {case.id}"
        return [{"role": role_of(m, where), "content": m["content"]} for m in objects_of(case.messages)]
    asked = asked_of(CandidateRecord(name="", prompt=prompt), case)
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    return [{"role": m["role"], "content": m["content"]} for m in objects_of(asked)]


def _score(cell: CellRecord, scorer: str | None) -> float | None:
    return next((score.value for score in cell.scores if score.scorer == scorer), None)


def _one_line(text: str) -> str:
    line = " ".join(_clean(text).split())
    return line if len(line) <= 120 else f"{line[:119]}…"


def _clean(text: str) -> str:
    """The text without control characters that XML 1.0 does not allow."""
    return "".join(
        c
        for c in text
        if c in "\t\n\r" or (ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF and c not in "\ufffe\uffff")
    )


WRITERS: Mapping[str, Callable[[Grid, Path], None]] = {
    ".dpo.jsonl": _dpo, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet, ".html": _html, ".xml": _junit, ".json": _baseline,
}  # fmt: skip
