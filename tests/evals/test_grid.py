"""A grid's tables, words, files and rules, from cells made by hand."""

from __future__ import annotations

import gzip
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as xml

import duckdb
import numpy as np
import pandas as pd
import pytest

from tests.evals.loopback import Trouble, model_server
from timestep_lab.evals.datasets import load_dataset
from timestep_lab.evals.exports import page_html
from timestep_lab.evals.grid import Grid, JudgeError, judge_errors
from timestep_lab.evals.results import cut
from timestep_lab.evals.statistics import wilson
from timestep_lab.evals.verdict import pair_sentence
from timestep_lab.lab import Lab
from timestep_lab.model.comparison import (
    CaseRecord,
    CellRecord,
    ComparisonRecord,
    Outcome,
    PairRow,
    ScoreValue,
    conclusion,
)
from timestep_lab.model.errors import DataError, LabError, UsageError
from timestep_lab.model.records import Json, ScoreRecord
from timestep_lab.runtime.settings import Settings
from timestep_lab.ui.columns import json_safe
from timestep_lab.ui.grid import GridState, head


def grid(
    a: list[float | None], b: list[float | None], *, epochs: int = 1, outputs: tuple[str, str] = ("from A", "from B")
) -> Grid:
    """Scores of candidates A and B, case by case (epochs side by side); None is a failed answer."""
    n = len(a) // epochs
    cases = tuple(
        CaseRecord(comparison_id="cmp_1", case_id=f"case_{i}", position=i, input=f"question {i} <b>", expected="yes")
        for i in range(n)
    )
    cells = [
        CellRecord(
            comparison_id="cmp_1", case_id=f"case_{i // epochs}", candidate=name, epoch=i % epochs, status="error" if value is None else "done",
            output=None if value is None else output, error=None if value is not None else "it broke", latency_ms=100.0 + i,
            input_tokens=10, output_tokens=5, cost_usd=0.001 if name == "A" else None, trace_id=f"{name}{i}",
            scores=() if value is None else (ScoreValue(scorer="exact", value=value),),
        )
        for name, values, output in (("A", a, outputs[0]), ("B", b, outputs[1]))
        for i, value in enumerate(values)
    ]  # fmt: skip
    record = ComparisonRecord(
        id="cmp_1", user_id="u", name="demo", status="completed", candidates=({"name": "A"}, {"name": "B"}), epochs=epochs, n_cases=n,
        scorers=({"type": "exact", "name": "exact"},),
    )  # fmt: skip
    return Grid(record, cases, cells)


def told(*outcomes: tuple[str, str, Outcome], n: int = 40) -> str:
    return conclusion(
        [
            PairRow(
                a=a, b=b, scorer="exact", n=n, diff=0.0, ci_low=0.0, ci_high=0.0, p_value=None, p_holm=None, test="", decided_by=0,
                cases_to_settle=None, outcome=outcome,
            )
            for a, b, outcome in outcomes
        ]
    )  # fmt: skip


def test_one_line_says_who_won() -> None:
    assert told(("A", "B", "better")) == "B wins: A is worse."
    assert told(("A", "B", "not settled")) == "No winner: A and B tie."
    assert told(("A", "B", "no worse")) == "No winner: B is no worse than A."
    assert told(("A", "B", "no better")) == "No winner: A is no worse than B."
    assert told(("A", "B", "worse"), ("A", "C", "worse"), ("B", "C", "not settled")) == "A wins: B and C are worse."
    four: list[tuple[str, str, Outcome]] = [
        ("A", "B", "worse"), ("A", "C", "not settled"), ("A", "D", "not settled"),
        ("B", "C", "better"), ("B", "D", "not settled"), ("C", "D", "not settled"),
    ]  # fmt: skip
    assert told(*four) == "No winner: A, C and D tie; B is worse."
    chain: list[tuple[str, str, Outcome]] = [("A", "B", "worse"), ("A", "C", "not settled"), ("B", "C", "worse")]
    assert told(*chain) == "A leads, but is not significantly better than C."
    assert told(("A", "B", "not settled"), n=0) == "No winner: no case has scores of two candidates."
    assert told() == ""


def test_the_page_leads_with_who_won_and_the_failing_cases() -> None:
    page = grid([1.0] * 20, [1.0, 0.0] * 10)._repr_html_()
    assert page.index("A wins: B is worse.") < page.index("best first") < page.index("A beats B") < page.index(">case<")
    assert page.index("question 1 &") < page.index("question 0 &")
    assert grid([1.0] * 20, [1.0, 0.0] * 10).to_json()["conclusion"] == "A wins: B is worse."


def test_a_saved_page_is_cut_by_the_columns_of_the_data(tmp_path: Path) -> None:
    result = grid([1.0] * 40, [1.0, 0.0] * 20)
    result.cases = tuple(replace(case, metadata={"topic": ["odd", "even"][case.position % 2]}) for case in result.cases)
    page = result.save(tmp_path / "grid.html").read_text("utf-8")
    assert "exact by topic" in page
    assert "A better than B" in page


MIXED = ([1.0] * 6 + [0.0] * 34, [1.0] * 18 + [0.0] * 22)


def test_the_tables_have_the_promised_shape() -> None:
    result = grid(*MIXED)
    assert list(result.df().columns) == [
        "comparison_id", "case_id", "candidate", "epoch", "output", "latency_ms", "ttft_ms", "input_tokens", "output_tokens", "cost_usd",
        "trace_id", "error", "cached", "exact",
    ]  # fmt: skip
    assert len(result.df()) == 80
    told = result.to_json()
    assert set(told["candidates"][0]) == {
        "name", "n", "errors", "scores", "cost_usd", "latency_ms_p50", "ttft_ms_p50", "input_tokens", "output_tokens",
    }  # fmt: skip
    assert set(told["candidates"][0]["scores"]["exact"]) == {"mean", "ci_low", "ci_high"}
    assert set(told["pairs"][0]) == {
        "a", "b", "scorer", "n", "diff", "ci_low", "ci_high", "p_value", "p_holm", "test", "decided_by", "cases_to_settle",
        "outcome", "margin", "looked", "level",
    }  # fmt: skip
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["candidates"][0]["cost_usd"] == pytest.approx(0.04)
    assert told["candidates"][1]["cost_usd"] is None


def test_the_verdict_says_who_wins_by_how_much_and_what_decided_it() -> None:
    assert (
        grid(*MIXED).verdict == "B beats A by 30.0 points on exact (95 % CI 18.1 to 45.4); 12 of 40 cases decided it."
    )


def test_the_verdict_does_not_say_beats_when_the_test_does_not() -> None:
    words = grid([1.0, 0.0] * 10, [1.0, 0.0] * 9 + [1.0, 1.0]).verdict
    assert words.startswith("B is ahead of A by 5.0 points on exact")
    assert (
        "1 of 20 cases decided it; if the true difference is as large as seen, about 140 more cases would settle it with 80 % power"
        in words
    )
    assert words.endswith("to any number within the interval).")


def test_the_verdict_turns_the_pair_so_that_the_winner_comes_first() -> None:
    assert grid(*MIXED[::-1]).verdict.startswith("A beats B by 30.0 points on exact (95 % CI 18.1 to 45.4)")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"diff": 0.0, "decided_by": 0, "p_value": 1.0}, "A and B do not differ on quality in any of 50 cases"),
        ({"diff": 0.0, "decided_by": 8, "p_value": 1.0}, "A and B are level on quality"),
        ({"n": 0, "diff": float("nan")}, "have no case in common"),
        ({"p_value": 0.01, "p_holm": 0.06}, "not settled"),
        ({"cases_to_settle": 2_000_000, "p_value": 0.5}, "more than 100,000 further cases"),
        ({"points": False, "diff": 12.5, "p_value": 0.001}, "B beats A by 12.5 on quality"),
        ({"diff": 0.01, "p_value": 0.001}, "by 1.0 point on"),
    ],
)
def test_a_sentence_fits_every_outcome(changes: dict[str, object], says: str) -> None:
    pair = {
        "a": "A", "b": "B", "scorer": "quality", "n": 50, "diff": 0.1, "ci_low": 0.02, "ci_high": 0.18, "p_value": 0.02, "p_holm": None,
        "test": "skew-corrected t", "decided_by": 20, "cases_to_settle": 30,
    }  # fmt: skip
    assert says in pair_sentence(PairRow(**{**pair, **changes}))  # type: ignore[arg-type]


def test_failed_answers_count_for_nobody_and_are_told() -> None:
    result = grid([1.0, None, 0.0, 1.0], [1.0, 1.0, None, 0.0])
    assert list(result.summary()["errors"]) == [1, 1]
    assert result.pair_rows[0].n == 2
    assert result.verdict.endswith("1 of 4 calls of A and 1 of 4 calls of B failed and are not in this.")
    assert result._repr_html_().count("failed and") == 1


def test_a_candidate_that_never_answers_is_told_from_one_that_is_no_worse() -> None:
    result = grid([None] * 4, [1.0] * 4)
    assert result.scorers == ["exact"]
    assert result.verdict == (
        "A and B have no case in common with a score for exact, so nothing can be said. 4 of 4 calls of A failed and are not in this."
    )
    assert grid([None] * 2, [None] * 2).scorers == ["exact"]
    assert "Add scorers" not in grid([None] * 2, [None] * 2)._repr_html_()


FLAKY = ([1.0] * 7 + [None] * 13, [1.0] * 20)


@pytest.mark.parametrize(
    ("rule", "values", "holds"),
    [
        ("exact>=0.8", [0.35, 1.0], [False, True]),
        ("0.8", [0.35, 1.0], [False, True]),
        ("exact>0.3", [0.35, 1.0], [True, True]),
        ("exact<=0.5", [1.0, 1.0], [False, False]),
        ("exact==1", [0.35, 1.0], [False, True]),
        ("A:exact.ci_high>=0.9", [pytest.approx(0.5671, abs=1e-4)], [False]),
    ],
)
def test_a_call_that_failed_is_a_miss_whichever_way_the_rule_looks(
    rule: str, values: list[float], holds: list[bool]
) -> None:
    results = grid(*FLAKY).check(rule)
    assert [result.value for result in results] == values
    assert [result.holds for result in results] == holds


def test_a_rule_that_fails_for_failed_calls_says_so() -> None:
    [broken, _] = grid(*FLAKY).check("exact>=0.8")
    assert str(broken) == "A: exact is 0.35 with 13 failed calls as misses; the rule exact>=0.8 does not hold."


def test_a_rule_about_a_candidate_that_never_answered_does_not_hold() -> None:
    assert [result.holds for result in grid([None] * 4, [1.0] * 4).check("exact>=0.8")] == [False, True]


def test_failed_calls_have_no_place_on_a_scale_without_ends_and_the_rule_does_not_hold() -> None:
    [a, b] = grid([7.0, None], [7.0, 8.0]).check("exact>=2")
    assert (a.value, a.holds, b.holds) == (None, False, True)


def test_what_a_scorer_could_not_score_is_counted_with_its_reason() -> None:
    whole = grid([1.0] * 4, [1.0] * 4)
    notes = ["ZeroDivisionError: division by zero"] * 2 + ["the case has no expected answer"]
    scores = [(ScoreValue(scorer="exact", value=None, note=note),) for note in notes] + [whole.cells[0].scores] * 5
    cells = [replace(cell, scores=score) for cell, score in zip(whole.cells, scores, strict=True)]
    result = Grid(whole.record, whole.cases, cells)
    says = "exact could not score 3 of 8 answers: ZeroDivisionError: division by zero (2); the case has no expected answer (1)."
    assert result.notes == [says]
    assert result.to_json()["notes"] == [says]
    assert says in result._repr_html_()
    assert "title='ZeroDivisionError" in result._repr_html_()


def part_scored() -> Grid:
    """One answer of A could be scored, three could not; B answers nothing."""
    whole = grid([1.0] * 4, [None] * 4)
    silent = (ScoreValue(scorer="exact", value=None, note="the judge was not there"),)
    cells = [replace(cell, scores=silent) if cell.trace_id in ("A1", "A2", "A3") else cell for cell in whole.cells]
    return Grid(whole.record, whole.cases, cells)


def test_answers_that_could_not_be_scored_do_not_pass_a_rule_unless_a_smaller_share_is_asked_for() -> None:
    [broken, _] = part_scored().check("exact>=0.9")
    assert (broken.value, broken.holds, broken.unscored) == (1.0, False, 3)
    assert str(broken) == (
        "A: exact is 1, 3 of 4 answers not scored (at least 100% must be); the rule exact>=0.9 does not hold."
    )
    assert part_scored().check("exact>=0.9", min_scored=0.25)[0].holds
    assert not part_scored().check("exact>=0.9", min_scored=0.5)[0].holds
    assert part_scored().check("A:errors<=0")[0].holds
    with pytest.raises(UsageError, match="min_scored=2"):
        part_scored().check("exact>=0.9", min_scored=2)


def test_answers_that_could_not_be_scored_are_counted_in_the_summary_and_skipped_in_junit(tmp_path: Path) -> None:
    result = part_scored()
    assert result.summary()["exact_unscored"].tolist()[0] == 3
    assert result.to_json()["candidates"][0]["scores"]["exact"]["unscored"] == 3
    suite = xml.parse(result.save(tmp_path / "g.xml")).getroot()[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "0", "errors": "0", "skipped": "3",
    }  # fmt: skip
    assert suite.find("testcase/skipped").get("message") == "exact could not score: the judge was not there"  # type: ignore[union-attr]


def test_calls_that_failed_are_told_with_their_reason() -> None:
    assert part_scored().notes[0] == "4 of 4 calls of B failed: it broke."


def test_a_test_that_rejects_is_not_believed_against_an_interval_that_does_not() -> None:
    words = grid([0.5] * 6, [0.6] * 6).verdict
    assert words.startswith("In these 6 cases, B is ahead of A by 10.0 points on exact")
    assert "not settled" in words
    assert "B beats A" in grid([0.5] * 60, [0.6] * 60).verdict


def test_a_sweep_of_five_says_that_one_more_would_settle_it() -> None:
    assert (
        "5 of 5 cases decided it; if the true difference is as large as seen, about 1 more case would settle it"
        in grid([0.0] * 5, [1.0] * 5).verdict
    )


def test_differences_alike_on_a_scale_without_ends_are_told_without_an_interval() -> None:
    assert grid([1.0] * 80, [4.0] * 80).verdict == (
        "B beats A by 3.0 on exact (no interval can be said: all cases differ by the same); 80 of 80 cases decided it."
    )
    assert "B is ahead of A by 3.0 on exact" in grid([1.0] * 71, [4.0] * 71).verdict
    assert grid([1.0] * 8, [4.0] * 8).to_json()["pairs"][0]["ci_low"] is None


def test_a_single_case_is_not_said_to_be_alike() -> None:
    assert grid([0.2], [0.4]).verdict == (
        "In this case, B is ahead of A by 20.0 points on exact, which is not settled; 1 of 1 case decided it."
    )


def test_a_file_that_cannot_be_written_names_the_comparison_and_the_way_on(tmp_path: Path) -> None:
    for name in ("g.csv", "g.parquet"):
        with pytest.raises(LabError, match=r"kept as cmp_1.*compare --resume cmp_1 --out"):
            grid(*MIXED).save(tmp_path / "missing" / name)


def test_repeats_give_pass_at_k_and_pass_hat_k() -> None:
    row = grid([1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], epochs=2).candidate_rows[0].scores["exact"]
    assert (row["pass_at_k"], row["pass_hat_k"]) == (1.0, 0.5)


def test_the_page_is_readable_without_javascript_and_runs_nothing_of_a_models() -> None:
    page = grid(
        [1.0, 0.0], [0.0, 0.0], outputs=("<script>alert(1)</script>", "<img src=x onerror=alert(1)>")
    )._repr_html_()
    assert "<script" not in page.replace("&lt;script", "")
    assert "<img" not in page
    assert "question 0 &lt;b&gt;" in page
    assert "A is ahead of B" in page
    assert "http" not in page


def test_every_kind_of_file_holds_the_cells(tmp_path: Path) -> None:
    result = grid([1.0, 0.0, None], [1.0, 1.0, 1.0])
    frame = pd.read_csv(result.save(tmp_path / "g.csv"))
    assert list(frame["candidate"]) == ["A", "B"] * 3
    lines = [json.loads(line) for line in result.save(tmp_path / "g.jsonl").read_text().splitlines()]
    assert lines[0]["input"] == "question 0 <b>"
    assert lines[0]["scores"][0]["value"] == 1.0
    path = result.save(tmp_path / "g.parquet")
    assert duckdb.sql(f"select count(*), count(error) from '{path}'").fetchall() == [(6, 1)]
    page = result.save(tmp_path / "g.html").read_text()
    assert page.startswith("<!doctype html>")
    suites = {suite.get("name"): suite for suite in xml.parse(result.save(tmp_path / "g.xml")).getroot()}
    assert {k: (s.get("tests"), s.get("failures"), s.get("errors")) for k, s in suites.items()} == {
        "A": ("3", "1", "1"),
        "B": ("3", "0", "0"),
    }
    [pair] = [json.loads(line) for line in result.save(tmp_path / "g.dpo.jsonl").read_text().splitlines()]
    assert pair["prompt"] == [{"role": "user", "content": "question 1 <b>"}]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("from B", "from A")
    example = {"role": "system", "name": "example_user", "content": "like this"}
    one = replace(result.cases[1], input="", messages=(example, {"role": "user", "content": "now you"}))
    Grid(result.record, (result.cases[0], one, result.cases[2]), result.cells).save(tmp_path / "messages.dpo.jsonl")
    [pair] = [json.loads(line) for line in (tmp_path / "messages.dpo.jsonl").read_text().splitlines()]
    assert pair["prompt"] == [{"role": "user", "content": "like this"}, {"role": "user", "content": "now you"}]
    with pytest.raises(UsageError, match=r"Supported suffixes: \.dpo\.jsonl, \.csv"):
        result.save(tmp_path / "g.docx")


def behaves(said: str, before: int) -> str | Trouble:
    """Every third answer is wrong, one call fails, one judgement cannot be read."""
    number = int(re.findall(r"question (\d+)", said)[-1])
    if not said.startswith("Rubric"):
        return Trouble(400) if number == 7 else f"answer {0 if number % 3 == 0 else number}, so to say"
    return "hm" if number == 5 else json.dumps({"pass": number % 2 == 0})


def words(output: str) -> float:
    return float(len(output))


async def test_every_number_is_the_same_number_wherever_it_is_told(tmp_path: Path) -> None:
    data = [
        {"input": f"question {n}", "expected": f"answer {n}", "topic": "ab"[n % 2], "document": f"d{n % 8}"}
        for n in range(24)
    ]
    models = ["openai_compatible/loop/a", "openai_compatible/loop/b"]
    with model_server(lambda said, before: behaves(said, before)) as server:
        async with Lab(tmp_path / "lab.duckdb", settings=Settings(openai_compatible={"loop": server.url})) as lab:
            scorers = ["contains", {"type": "judge", "rubric": "fine", "model": models[0]}, words]
            first = await lab.compare(data, models=models, scorers=scorers, epochs=2)
            again = await lab.compare(data, models=models, scorers=scorers, epochs=2)
            for one in (first, lab.comparison(first.id), again):
                told_alike(one, tmp_path, lab)
            assert list(again.df()["cached"]) == [cell.status == "done" for cell in again.cells]
            assert again.notes[-1].startswith("92 of 96 answers and 88 of 92 judgements from the cache")
            page = page_html(again)
            assert (page.count(", cached<"), page.count("(judged before)")) == (92, 88)
            settled = await lab.compare(
                data, models=models, scorers=scorers, group="document", stop="settled", margin=0.3
            )
            told_alike(settled, tmp_path, lab)


def told_alike(one: Grid, folder: Path, lab: Lab) -> None:
    """Frames, JSON, files, rows in the store and what a page draws."""
    told, frame, state = one.to_json(), one.df(), GridState.of(one)
    drawn, page, summary = head(state), page_html(one), one.summary().set_index("name")
    lines = [json.loads(line) for line in one.save(folder / "g.jsonl").read_text("utf-8").splitlines()]
    flat = [{**line, **{score["scorer"]: score["value"] for score in line["scores"]}} for line in lines]
    frames = [
        frame,
        pd.read_csv(one.save(folder / "g.csv")),
        duckdb.sql(f"from '{one.save(folder / 'g.parquet')}'").df(),
        pd.DataFrame(flat),
    ]
    assert json.loads(json.dumps(drawn["summary"])) == [{**row, "not_judged": 0} for row in told["candidates"]]
    for row in told["candidates"]:
        name = row["name"]
        for scorer, numbers in row["scores"].items():
            means = [f[f["candidate"] == name].groupby("case_id")[scorer].mean().mean() for f in frames]
            sql = "select avg(m) from (select avg(value) as m from comparisons where comparison_id = ? and candidate = ? and scorer = ? group by case_id)"
            [stored] = lab.sql(sql, [one.id, name, scorer]).iloc[0]
            assert [*means, stored, summary.loc[name, scorer]] == [pytest.approx(numbers["mean"], abs=1e-12)] * 6
            assert summary.loc[name, f"{scorer}_ci_low"] == numbers["ci_low"]
            assert (
                f"{numbers['mean']:.3f} <span class='small'>{numbers['ci_low']:.2f} – {numbers['ci_high']:.2f}" in page
            )
        own = frame[frame["candidate"] == name]
        answered = own[own["error"].isna()]
        assert (row["n"], row["errors"]) == (summary.loc[name, "n"], summary.loc[name, "errors"])
        assert (row["n"], row["errors"]) == (len(answered), len(own) - len(answered))
        p50 = pytest.approx(row["latency_ms_p50"])
        assert [summary.loc[name, "latency_ms_p50"], answered["latency_ms"].median()] == [p50, p50]
        for whole, part in (("input_tokens", "input_tokens"), ("output_tokens", "output_tokens")):
            assert row[whole] == summary.loc[name, whole] == answered[part].sum()
        assert row["cost_usd"] is None
        assert pd.isna(summary.loc[name, "cost_usd"])
        assert answered["cost_usd"].isna().all()
    suites = {suite.get("name"): suite for suite in xml.parse(one.save(folder / "g.xml")).getroot()}
    for name, of in frame.groupby("candidate"):
        wrong = int(((of["contains"] < 1) | (of["judge"] < 1) | (of["words"] < 1)).sum())
        assert {key: int(suites[name].get(key) or 0) for key in ("tests", "errors", "failures")} == {
            "tests": len(of), "errors": int(of["error"].notna().sum()), "failures": wrong,
        }  # fmt: skip
    assert one.significance().replace({np.nan: None}).to_dict("records") == pd.DataFrame(told["pairs"]).replace(
        {np.nan: None}
    ).to_dict("records")
    pairs: list[dict[str, Json]] = json_safe(drawn["pairs"])
    assert [{key: value for key, value in pair.items() if key != "points"} for pair in pairs] == told["pairs"]
    for decided, shown in zip(one.decision, drawn["decision"], strict=True):  # type: ignore[arg-type]
        assert shown["words"] == decided.words  # type: ignore[index, call-overload]
        assert decided.measure not in ("quality", "cost", "time") or html.escape(decided.words) in page
    assert (drawn["scorers"], drawn["deciding"]) == (one.scorers, one.deciding_scorer)
    assert one.verdict == told["verdict"]
    assert html.escape(one.verdict) in page
    assert str(drawn["headline"]).startswith(one.verdict)
    sliced = one.to_json(by="topic")["slices"]
    assert sliced == one.summary(by="topic").to_dict("records")
    for cell in cut(one, "topic")["means"]:
        assert cell in sliced


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("0.1", [True, True]),
        ("0.2", [False, True]),
        ("exact>=0.4", [False, True]),
        ("exact >= 40%", [False, True]),
        ("A:exact>=0.1", [True]),
        ("exact.ci_low>=0.2", [False, True]),
        ("errors<=0", [True, True]),
        ("cost_usd<=1", [True, False]),
        ("latency_ms_p50<100", [False, False]),
    ],
)
def test_a_rule_holds_or_does_not(rule: str, holds: list[bool]) -> None:
    assert [result.holds for result in grid(*MIXED).check(rule)] == holds


@pytest.mark.parametrize(
    ("rule", "says"),
    [("exat>=1", "Did you mean 'exact'"), ("exact~1", "is not a rule"), ("C:exact>=1", "does not exist")],
)
def test_a_rule_that_cannot_be_read_is_refused(rule: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        grid(*MIXED).check(rule)


def test_a_regression_against_a_baseline_is_found_and_told(tmp_path: Path) -> None:
    before = grid([1.0] * 40, [0.0] * 40)
    path = before.save(tmp_path / "baseline.json")
    now = grid([1.0] * 28 + [0.0] * 12, [0.0] * 40)
    found = {r.candidate: r for r in now.regression(path)}
    assert found["A"].worse
    assert not found["B"].worse
    assert str(found["A"]).startswith("A before beats A now by 30.0 points on exact")
    assert [r.worse for r in now.regression(before)] == [r.worse for r in now.regression(path)]


def test_a_regression_on_a_scale_of_its_own_is_told_on_that_scale() -> None:
    now, before = grid([200.0, 205.0, 211.0] * 24, [1.0] * 72), grid([195.0, 201.0, 206.0] * 24, [1.0] * 72)
    told = str(now.regression(before)[0])
    assert told.startswith("A now beats A before by 4.7 on exact")
    assert "version" not in told


def test_a_regression_against_another_version_of_the_data_says_so() -> None:
    now = grid([1.0] * 12, [1.0] * 12)
    before = Grid(replace(now.record, dataset_version="older"), now.cases, now.cells)
    assert "The data set is another version than the baseline's" in str(now.regression(before)[0])


def test_a_judges_error_is_of_so_many_cases_and_not_of_all_their_answers() -> None:
    """Four candidates answer twenty cases alike, and the judge errs in the same one: that is what twenty answers say, not eighty."""

    def error_of(candidates: int, cases: int) -> JudgeError:
        cells = [
            CellRecord(
                comparison_id="cmp_1", case_id=f"case_{n}", candidate=name, epoch=0, status="done", output="o", trace_id=f"{name}{n}",
                scores=(ScoreValue(scorer="judge", value=float(n % 3 != 0), source="judge"),),
            )
            for name in "ABCD"[:candidates] for n in range(cases)
        ]  # fmt: skip
        right = [
            ScoreRecord(id=f"s{cell.trace_id}", user_id="u", target="trace", target_id=str(cell.trace_id), name="judge", value=float(n % cases > 1 and n % cases % 3 != 0))
            for n, cell in enumerate(cells)
        ]  # fmt: skip
        [error] = judge_errors(cells, right)
        return error

    many, few = error_of(4, 20), error_of(1, 20)
    assert (many.n, few.n) == (80, 20)
    alone = wilson(76, 80)
    assert many.agree_high - many.agree_low > 1.4 * (alone.high - alone.low)
    assert many.ci_high - many.ci_low == pytest.approx(2 * 2.093 * 0.05, rel=0.01), (
        "as far as 20 differences say, by Student's t"
    )
    assert "of 8 answers (kappa" in error_of(2, 4).sentence, "of four cases no interval can be said"
    assert few.ci_low < few.diff < few.ci_high


def test_a_judge_that_agreed_with_everybody_so_far_is_not_known_never_to_err() -> None:
    cells = [
        replace(cell, scores=(ScoreValue(scorer="judge", value=1.0, source="judge"),))
        for cell in grid([1.0] * 10, [1.0] * 10).cells
        if cell.candidate == "A"
    ]
    right = [
        ScoreRecord(id=f"s{n}", user_id="u", target="trace", target_id=str(cell.trace_id), name="judge", value=1.0)
        for n, cell in enumerate(cells)
    ]
    [error] = judge_errors(cells, right)
    assert (error.agree, error.diff, error.agree_high) == (10, 0.0, 1.0)
    assert error.agree_low < 0.8
    assert error.ci_low < -0.2
    assert error.ci_high > 0.2


def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match="not a baseline"):
        grid([1.0], [0.0]).regression(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["g.csv", "g.jsonl", "g.jsonl.gz"])
def test_a_saved_comparison_is_a_dataset_of_its_cases(tmp_path: Path, name: str) -> None:
    result = grid([1.0, 0.0], [1.0, 1.0], outputs=("line\u2028separator", "=HYPERLINK(1)"))
    odd = replace(result.cases[1], input="=1+1\u0085is?", expected="-x")
    result = Grid(result.record, (replace(result.cases[0], metadata={"topic": "lamps"}), odd), result.cells)
    path = result.save(tmp_path / name.removesuffix(".gz"))
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    again = load_dataset(tmp_path / name)
    if "jsonl" in name:
        assert [c.metadata for c in again] == [{"topic": "lamps"}, {}]
    assert [(c.id, c.input, c.expected) for c in again] == [(c.case_id, c.input, c.expected) for c in result.cases]


def test_a_spreadsheet_runs_nothing_of_a_saved_table(tmp_path: Path) -> None:
    path = grid([1.0], [1.0], outputs=('=HYPERLINK("http://x")', "-5")).save(tmp_path / "g.csv")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert list(pd.read_csv(path, dtype=str)["output"]) == ['\'=HYPERLINK("http://x")', "-5"]


def shipped(
    scores: dict[str, list[float]], *, cost: dict[str, float] | None = None, ms: dict[str, float] | None = None, margin: float | None = None
) -> Grid:  # fmt: skip
    """Candidates with one answer a case; `cost` and `ms` are factors on what a case takes, which varies from case to case."""
    n, chance = len(next(iter(scores.values()))), np.random.default_rng(0)
    takes, noise = chance.lognormal(0, 0.8, n), {name: chance.lognormal(0, 0.1, n) for name in scores}
    cases = tuple(
        CaseRecord(comparison_id="cmp_1", case_id=f"case_{i}", position=i, input=f"question {i}") for i in range(n)
    )
    cells = [
        CellRecord(
            comparison_id="cmp_1", case_id=f"case_{i}", candidate=name, epoch=0, status="done", output="o",
            latency_ms=1000 * takes[i] * noise[name][i] * (ms or {}).get(name, 1.0),
            cost_usd=0.01 * takes[i] * noise[name][i] * cost[name] if cost else None,
            scores=(ScoreValue(scorer="exact", value=values[i]),),
        )
        for name, values in scores.items() for i in range(n)
    ]  # fmt: skip
    record = ComparisonRecord(
        id="cmp_1", user_id="u", name="demo", status="completed", candidates=tuple({"name": name} for name in scores), n_cases=n,
        scorers=({"type": "exact", "name": "exact"},), settings={} if margin is None else {"margin": margin},
    )  # fmt: skip
    return Grid(record, cases, cells)


def test_the_decision_says_of_quality_cost_and_time_whether_it_is_better_no_worse_or_worse() -> None:
    passes = [1.0] * 380 + [0.0] * 20
    result = shipped(
        {"A": passes, "B": [*passes[2:], 1.0, 0.0], "C": [0.0] * 80 + passes[80:]},
        cost={"A": 1.0, "B": 0.5, "C": 1.0}, ms={"A": 1.0, "B": 2.0, "C": 0.7},
    )  # fmt: skip
    found = {(row.candidate, row.measure): row for row in result.decision}
    assert {key: row.outcome for key, row in found.items()} == {
        ("B", "quality"): "no worse", ("B", "cost"): "better", ("B", "time"): "worse", ("B", "time p50"): "worse", ("B", "time p95"): "worse",
        ("C", "quality"): "worse", ("C", "cost"): "no worse", ("C", "time"): "better", ("C", "time p50"): "better",
        ("C", "time p95"): "better",
    }  # fmt: skip
    assert found["B", "time"].estimate == pytest.approx(2.0, rel=0.03)
    assert found["C", "time"].words.startswith("better (0.7")
    # The table is the same wherever it is shown.
    page = result._repr_html_()
    for measure in ("quality", "cost", "time"):
        for name in ("B", "C"):
            assert html.escape(found[name, measure].words) in page
    assert [(row["candidate"], row["outcome"]) for row in result.to_json()["decision"]] == [
        (row.candidate, row.outcome) for row in result.decision
    ]
    assert page.index("no worse") < page.index("p50 first token")


def test_few_cases_settle_neither_quality_nor_tails_and_unknown_costs_are_unknown() -> None:
    result = shipped({"A": [1.0] * 8, "B": [1.0] * 8})
    found = {row.measure: row for row in result.decision}
    assert found["quality"].outcome == "not settled"
    assert (found["cost"].words, found["time p95"].estimate) == ("not settled (unknown)", None)
    assert shipped({"A": [1.0]}).decision == []


def test_a_larger_margin_makes_a_smaller_loss_no_worse() -> None:
    a, b = [1.0] * 100, [0.0] * 4 + [1.0] * 96
    assert [shipped({"A": a, "B": b}, margin=m).pair_rows[0].outcome for m in (0.05, 0.15, 0)] == [
        "no better", "no worse", "not settled"
    ]  # fmt: skip
    assert shipped({"A": b, "B": a}, margin=0.15).verdict.startswith(
        "B is ahead of A by 4.0 points on exact (95 % CI 0.2 to 9.8), which is not settled, but it is no worse by more than 15.0 points"
    )


def test_of_many_candidates_three_lines_say_who_leads_who_ties_and_what_would_settle_it() -> None:
    chance = np.random.default_rng(2)
    rates = {"A": 0.3, "B": 0.72, "C": 0.75, "D": 0.5, "E": 0.3, "F": 0.2}
    words = shipped(
        {name: [float(x) for x in chance.random(150) < p] for name, p in rates.items()}
    ).verdict.splitlines()
    assert len(words) == 3
    assert re.match(
        r"[BC] leads on exact: it beats D, A, E and F, the next one, D, by \d+\.\d points \(95 % CI", words[0]
    )
    assert re.match(r"Not told apart from it: [BC] \(.* behind, 95 % CI", words[1])
    assert "more cases would settle it with 80 % power" in words[2]
    level = shipped({name: [1.0, 0.0] * 20 for name in "ABC"}).verdict
    assert level.startswith("A, B and C are level on exact.")
    clear = shipped({"A": [0.0] * 40, "B": [1.0] * 40, "C": [0.0] * 39 + [1.0]}).verdict
    assert clear.startswith("B leads on exact: it beats all 2 others")
    assert "\n" not in clear
