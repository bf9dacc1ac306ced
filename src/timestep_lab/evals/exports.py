"""A grid as files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as xml

from timestep_lab.evals.datasets.case import from_record
from timestep_lab.evals.prompts import filled
from timestep_lab.evals.regression import baseline_json
from timestep_lab.evals.results import own_scores
from timestep_lab.evals.scorers.apply import ASSERTIONS
from timestep_lab.model.comparison import CaseRecord, CellRecord, ScoreValue, cell_json
from timestep_lab.model.errors import LabError, UsageError

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid

MARGIN = 0.5
"""How much more the chosen answer of a preference pair must score than the rejected one."""

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def save(grid: Grid, path: Path) -> Path:
    """Raises `UsageError` for an ending that stands for nothing, `LabError` for a file that cannot be written."""
    kind = _kind(path)
    try:
        WRITERS[kind](grid, path)
    except OSError as error:
        raise LabError(
            f"{path} cannot be written: {error.strerror or error}. The comparison is kept as {grid.id}.",
            f"Write it elsewhere with: timestep-lab compare --resume {grid.id} --out …",
        ) from error
    return path


def check_path(path: Path) -> None:
    """Raises `UsageError` for a path that nothing could be written to: to be asked before a comparison is paid for."""
    _kind(path)
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Name a file.", param="out")
    if not folder.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {folder}.", "Make it first.", param="out")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: you may not write there.", "Name another place.", param="out")


def _kind(path: Path) -> str:
    kind = next((ending for ending in WRITERS if path.name.endswith(ending)), None)
    if kind is None:
        raise UsageError(f"{path.name} ends in nothing that can be written.", f"Known endings: {', '.join(WRITERS)}.")
    return kind


def _csv(grid: Grid, path: Path) -> None:
    """With a mark that tells Excel it is UTF-8, and a `'` before text that a spreadsheet would take for a formula."""
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
    """One cell a line, with its case."""
    cases = {case.case_id: case for case in grid.cases}
    with path.open("w", encoding="utf-8") as file:
        for cell in grid.cells:
            case = cases[cell.case_id]
            line = {
                **cell_json(cell), "input": case.input, "messages": list(case.messages), "expected": case.expected,
                "vars": dict(case.vars), "assertions": list(case.assertions),
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
    from timestep_lab.evals.grid_html import page_html

    path.write_text(page_html(grid), encoding="utf-8")


def _fails(score: ScoreValue, cell: CellRecord, own: Sequence[str]) -> bool:
    """A case's own assertions pass or fail together, as they say: with a threshold, a mean below 1 may do."""
    if score.scorer in own:
        verdict = next((s.label for s in cell.scores if s.scorer == ASSERTIONS), None)
        if verdict is not None:
            return verdict == "fail" and score.scorer == ASSERTIONS
    return score.value is not None and score.value < 1.0


def _junit(grid: Grid, path: Path) -> None:
    """A suite a candidate, a test a case and epoch: it fails when any scorer gives less than 1, errs when there is
    no answer, and is skipped, which is not passed, when a scorer could not score it."""
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
    """Preference pairs for training: to one prompt a chosen and a rejected answer, judged by the deciding scorer."""
    prompts = {candidate["name"]: candidate.get("prompt") for candidate in grid.record.candidates}
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


def _messages(case: CaseRecord, prompt: str | None) -> list[dict[str, str]]:
    if prompt is None and case.messages:
        return [{"role": m["role"], "content": m["content"]} for m in case.messages]
    asked = case.input if prompt is None else filled(prompt, from_record(case))
    if isinstance(asked, list):
        return [{"role": m["role"], "content": m["content"]} for m in asked]
    return [{"role": "user", "content": asked}]


def _score(cell: CellRecord, scorer: str | None) -> float | None:
    return next((score.value for score in cell.scores if score.scorer == scorer), None)


def _one_line(text: str) -> str:
    line = " ".join(_clean(text).split())
    return line if len(line) <= 120 else f"{line[:119]}…"


def _clean(text: str) -> str:
    """XML 1.0 has no place for most control characters."""
    return "".join(
        c
        for c in text
        if c in "\t\n\r" or (ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF and c not in "\ufffe\uffff")
    )


WRITERS: Mapping[str, Callable[[Grid, Path], None]] = {
    ".dpo.jsonl": _dpo, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet, ".html": _html, ".xml": _junit, ".json": _baseline,
}  # fmt: skip
