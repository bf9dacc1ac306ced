"""Data sets by name and version, and what a comparison says of slices of them."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from timestep_lab import Lab
from timestep_lab.model.errors import ConflictError, DataError, NotFoundError, UsageError

ROWS = [{"input": f"Say word{n}.", "expected": f"word{n}", "topic": "even" if n % 2 == 0 else "odd"} for n in range(4)]


async def test_a_data_set_has_a_name_and_versions_that_do_not_change(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("input,expected\nSay lamp.,lamp\n")
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        first = lab.datasets.create("hard cases", ROWS, tags=["v"], metadata={"by": "me"})
        assert (first.version, first.n_cases, first.tags, first.metadata) == (1, 4, ("v",), {"by": "me"})
        assert lab.datasets.save("hard cases", ROWS).id == first.id
        second = lab.datasets.save("hard cases", pandas.DataFrame(ROWS[:2]))
        third = lab.datasets.extend("hard cases", str(tmp_path / "q.csv"))
        assert [(r.version, r.n_cases) for r in lab.datasets.versions("hard cases")] == [(3, 3), (2, 2), (1, 4)]
        assert lab.datasets["hard cases@1"].cases == lab.datasets["hard cases@1"].cases
        assert [case.input for case in lab.datasets["hard cases"]] == ["Say word0.", "Say word1.", "Say lamp."]
        assert lab.datasets["hard cases@1"].cases[0].vars == {"topic": "even"}
        assert (second.hash, third.version) == (lab.datasets["hard cases@2"].version, 3)
        seen = lab.sql("select version, count(*) as n from datasets where name = 'hard cases' group by 1 order by 1")
        assert list(seen["n"]) == [4, 2, 3]
        with pytest.raises(ConflictError, match="already"):
            lab.datasets.create("hard cases", ROWS)
        with pytest.raises(NotFoundError, match="Did you mean 'hard cases'"):
            lab.datasets["hard case"]
        with pytest.raises(UsageError, match="is not a valid name"):
            lab.datasets.create("a@2", ROWS)
        lab.datasets.delete("hard cases@2")
        assert [r.version for r in lab.datasets.versions("hard cases")] == [3, 1]
        lab.datasets.delete("hard cases")
        assert len(lab.datasets) == 0


async def test_cases_of_a_data_set_are_had_by_place_id_and_slice(tmp_path: Path) -> None:
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        lab.datasets.create("hard cases", ROWS)
        found = lab.datasets["hard cases"]
        assert (found[0].input, found[-1]["input"], found[1]["topic"]) == ("Say word0.", "Say word3.", "odd")
        assert found[found[2].id] == found[2]
        assert ([case.input for case in found[1:3]], len(found[:3]), len(found[9:])) == (
            ["Say word1.", "Say word2."],
            3,
            0,
        )
        grid = await lab.compare(found[1:3], models="demo/echo", scorers="contains")
        assert [case.input for case in grid.cases] == ["Say word1.", "Say word2."]
        assert list(found.df()["topic"]) == ["even", "odd", "even", "odd"]
        assert [record.name for record in lab.datasets] == ["hard cases"]
        with pytest.raises(NotFoundError, match="has no case 4: it has 4 cases, numbered from 0"):
            found[4]
        with pytest.raises(NotFoundError, match="has no case 'x'"):
            found["x"]
        with pytest.raises(NotFoundError, match=r"has no 'topc'.*Did you mean 'topic'"):
            found[0]["topc"]
        with pytest.raises(UsageError, match="is not a valid index"):
            found[1.5]  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="0 is not the name of a data set"):
            lab.datasets[0]  # type: ignore[index]
        with pytest.raises(DataError, match="contains no cases"):
            await lab.compare(found[9:], models="demo/echo")


async def test_a_data_set_is_compared_by_its_name(tmp_path: Path) -> None:
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        lab.datasets.create("hard cases", ROWS)
        grid = await lab.compare("hard cases@1", models="demo/echo", scorers="contains")
        assert (grid.record.dataset, len(grid.cases)) == ("hard cases@1", 4)
        assert (await lab.plan("hard cases", models="demo/echo")).cache_hits == 4
        with pytest.raises(DataError, match="file nothing does not exist"):
            await lab.compare("nothing", models="demo/echo")


async def test_traces_become_cases_with_the_corrected_answer(tmp_path: Path) -> None:
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        runs = [await lab.run(f"Say word{n}.", model="demo/echo") for n in range(2)]
        lab.trace_source.score("trace", runs[0].trace_id, "correction", note="word0, please")
        made = lab.datasets.from_traces("from traces", 'model == "demo/echo"')
        first, second = lab.datasets["from traces"]
        assert made.metadata == {"filter": 'model == "demo/echo"'}
        assert (first.input, first.expected, first.metadata["trace_id"]) == (
            "Say word0.",
            "word0, please",
            runs[0].trace_id,
        )
        assert second.expected is None
        lab.datasets.from_traces("from traces", expected="output")
        assert "Say word1." in str(lab.datasets["from traces"].cases[1].expected)
        lab.datasets.create("by sql", "select input, output as expected from traces order by started_at")
        assert len(lab.datasets["by sql"]) == 2
        with pytest.raises(NotFoundError, match="No trace matches"):
            lab.datasets.from_traces("none", 'model == "x"')


async def test_the_failures_of_a_comparison_become_a_data_set(tmp_path: Path) -> None:
    rows = [*ROWS, {"input": "Say lamp.", "expected": "bulb"}]
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        grid = await lab.compare(rows, models=["demo/echo", "demo/flaky?rate=1&error=auth"], scorers="contains")
        assert len(grid.failures()) == 5
        [case] = grid.failures(candidate="demo/echo")
        assert (case.input, case.metadata["failed"], case.metadata["comparison"]) == (
            "Say lamp.",
            ["demo/echo"],
            grid.id,
        )
        assert lab.datasets.save("failures", grid.failures(candidate="demo/echo")).n_cases == 1
        with pytest.raises(UsageError, match="no 'exact'"):
            grid.failures("exact")


async def test_slices_have_intervals_that_allow_for_looking_at_many(tmp_path: Path) -> None:
    def wrong_on_odd(question: str) -> str:
        return question if question.split("word")[1][:-1] in {str(n) for n in range(0, 40, 2)} else "no"

    rows = [
        {"input": f"Say word{n}.", "expected": f"word{n}.", "topic": "even" if n % 2 == 0 else "odd", "tags": ["all", f"mod {n % 3}"]}
        for n in range(40)
    ]  # fmt: skip
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        grid = await lab.compare(rows, models="demo/echo?bare=1", agents=wrong_on_odd, scorers="contains")
    means = grid.summary(by="topic").set_index(["slice", "candidate"])
    assert means.loc[("odd", "wrong_on_odd"), "mean"] == 0.0
    assert means.loc[("even", "wrong_on_odd"), ["n", "mean"]].tolist() == [20, 1.0]
    from timestep_lab.evals.statistics import wilson

    assert means.loc[("even", "wrong_on_odd"), "ci_low"] == pytest.approx(wilson(20, 20, 1 - 0.05 / 2).low)
    pairs = grid.significance(by="topic").set_index("slice")
    assert pairs.loc["odd", "p_holm"] == pytest.approx(2 * 2**-19)
    assert pairs.loc["even", "p_holm"] == 1.0
    tagged = grid.summary(by="tags")
    assert sorted(set(tagged["slice"])) == ["all", "mod 0", "mod 1", "mod 2"]
    assert tagged[tagged["slice"] == "all"]["n"].tolist() == [40, 40]
    assert {row["slice"] for row in grid.to_json(by="topic")["slices"]} == {"even", "odd"}
    with pytest.raises(UsageError, match="Did you mean 'topic'"):
        grid.summary(by="topics")


async def test_labels_have_precision_recall_and_f1_over_all_cases(tmp_path: Path) -> None:
    said = dict(
        zip("abcdefgh", ["bug", "bug", "bug", "praise", "praise", "none of them", "question", "bug"], strict=True)
    )
    right = ["bug", "bug", "praise", "praise", "praise", "bug", "question", "question"]
    rows = [{"input": letter, "expected": label} for letter, label in zip("abcdefgh", right, strict=True)]
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        grid = await lab.compare(rows, agents=lambda question: said[question], scorers="label:bug,question,praise")
    table = grid.labels().set_index("label")
    assert table.loc["bug", ["n", "precision", "recall"]].tolist() == [3, 0.5, pytest.approx(2 / 3)]
    assert table.loc["praise", "f1"] == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert table.loc["question", ["precision", "recall"]].tolist() == [1.0, 0.5]
    everything = table.loc["(all)"]
    assert everything["f1"] == pytest.approx(table["f1"].iloc[:3].mean())
    assert 0 <= everything["f1_ci_low"] < everything["f1"] < everything["f1_ci_high"] <= 1
    with pytest.raises(UsageError, match="No scorer 'contains' gave labels"):
        grid.labels("contains")
