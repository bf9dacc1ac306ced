"""`timestep-lab compare`: what it refuses before anything is paid for, what it says of failures, and how it is stopped and gone on with."""

from __future__ import annotations

import contextlib
import csv
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Done
from timestep_lab.model.comparison import CellDone
from timestep_lab.model.events import Event

Cli = Callable[..., Done]
CASES = 20


@pytest.fixture(autouse=True)
def cases(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESTEP_LAB_DEMO_DELAY_MS", "0")
    with Path("q.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["input", "expected"])
        rows.writerows([f"Say word{n}.", f"word{n}"] for n in range(CASES))


def asked(cli: Cli) -> int:
    return int(cli("sql", "select count(*) as n from comparisons", "--json").json[0]["n"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--fail-under", "bogus"), "is not a rule"),
        (("--fail-under", "exact>=0.8"), "'exact', which does not exist"),
        (("--fail-under", "demo/ecko:contains>=0.8"), "'demo/ecko:contains', which does not exist"),
        (("--fail-under", "assertions>=0.8"), "'assertions', which does not exist"),
        (("--out", "nowhere/x.csv"), "there is no folder nowhere"),
        (("--out", "x.docx"), "Supported suffixes"),
        (("--group", "document"), "has no 'document'"),
        (("--by", "topic"), "no column 'topic' to slice by"),
    ],
)
def test_what_could_never_be_done_is_refused_before_the_first_call(cli: Cli, more: tuple[str, ...], says: str) -> None:
    done = cli("compare", "q.csv", "--models", "demo/echo", "--scorers", "contains", *more)
    assert done.code == 2, done.err
    assert says in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("error")]) == 1
    assert asked(cli) == 0


def test_a_file_that_is_a_folder_is_refused_before_the_first_call(cli: Cli, folder: Path) -> None:
    (folder / "folder.csv").mkdir()
    done = cli("compare", "q.csv", "--models", "demo/echo", "--out", "folder.csv")
    assert (done.code, asked(cli)) == (2, 0)
    assert "is a folder" in done.err


def test_a_rule_without_any_scorer_is_refused_before_the_first_call(cli: Cli) -> None:
    done = cli("compare", "q.csv", "--models", "demo/echo", "--fail-under", "0.8")
    assert (done.code, asked(cli)) == (2, 0)
    assert "needs a scorer" in done.err


@pytest.mark.parametrize("rate", ["0.9", "1"])
def test_a_candidate_that_fails_most_calls_does_not_pass_on_the_few_it_answered(cli: Cli, rate: str) -> None:
    command = ("compare", "q.csv", "--models", f"demo/flaky?rate={rate}&error=request", "--scorers", "contains")
    done = cli(*command, "--fail-under", "contains>=0.8")
    assert done.code == 100, done.err
    assert re.search(
        r"contains is 0[.\d]* with \d+ failed calls as misses; the rule contains>=0.8 does not hold", done.err
    )


def test_a_candidate_alone_is_told_to_have_failed_too(cli: Cli) -> None:
    done = cli("compare", "q.csv", "--models", "demo/flaky?rate=1&error=request", "--scorers", "contains")
    assert "20 of 20 calls of demo/flaky?rate=1&error=request failed: demo/flaky failed on purpose" in done.out
    assert done.code == 1
    assert "Every call failed" in done.err


def test_the_verdict_says_whose_calls_failed(cli: Cli) -> None:
    models = "demo/echo,demo/flaky?rate=0.9&error=request"
    done = cli("compare", "q.csv", "--models", models, "--scorers", "contains", "--json")
    failed = next(row["errors"] for row in done.json["candidates"] if "flaky" in row["name"])
    assert failed > 0
    assert (
        f"{failed} of 20 calls of demo/flaky?rate=0.9&error=request failed and are not in this." in done.json["verdict"]
    )


def test_repeating_answers_without_chance_does_not_make_a_winner(cli: Cli) -> None:
    Path("four.csv").write_text("input,expected\n" + "".join(f"word{n},word{n}\n" for n in range(4)))
    command = ("compare", "four.csv", "--models", "demo/echo,demo/echo?bare=1", "--scorers", "exact", "--json")
    once, thrice = (cli(*command, "--epochs", n).json for n in ("1", "3"))
    assert once["pairs"] == thrice["pairs"]
    assert once["pairs"][0]["p_value"] == 0.125
    assert "not settled" in thrice["verdict"]


def test_what_a_scorer_could_not_score_is_said(cli: Cli) -> None:
    Path("some.jsonl").write_text('{"input": "say yes", "expected": "yes"}\n{"input": "say no"}\n{"input": "say so"}\n')
    done = cli("compare", "some.jsonl", "--models", "demo/echo", "--scorers", "contains")
    assert done.code == 0
    assert "contains could not score 2 of 3 answers: the case has no expected answer." in done.out
    told = cli("compare", "some.jsonl", "--models", "demo/echo", "--scorers", "contains", "--json").json
    assert told["notes"] == [
        "contains could not score 2 of 3 answers: the case has no expected answer.",
        "3 of 3 answers from the cache, with their original timings.",
    ]


def test_a_file_that_cannot_be_written_at_the_end_says_how_to_get_it_all_the_same(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timestep_lab.evals import exports

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(exports.WRITERS, ".csv", full)  # type: ignore[arg-type]
        done = cli("compare", "q.csv", "--models", "demo/echo", "--scorers", "contains", "--out", "grid.csv")
    assert done.code == 1
    assert "No space left" in done.err
    assert "demo/echo" in done.out, "the result is shown all the same"
    [again] = re.findall(r"compare --resume (cmp_\w+) --out", done.err)
    assert cli("compare", "--resume", again, "--out", "elsewhere.csv").code == 0
    assert len(Path("elsewhere.csv").read_text().splitlines()) == CASES + 1


def test_traces_and_comparisons_are_scored_afterwards(cli: Cli) -> None:
    made = cli("compare", "q.csv", "--models", "demo/echo", "--scorers", "contains", "--limit", "2", "--json").json
    rows = cli("traces", "score", '"word1" in input', "--scorers", "contains:word1,contains:word0", "--json").json
    assert [(row["contains:word1"], row["contains:word0"]) for row in rows] == [(1.0, 0.0)]
    assert "contains:word1: mean 0.50 of 2 traces" in cli("traces", "score", "--scorers", "contains:word1").out
    again = cli("compare", "--rescore", made["id"], "--scorers", "contains:word0", "--json").json
    assert again["candidates"][0]["scores"]["contains:word0"]["mean"] == 0.5
    assert cli("compare", "--rescore", made["id"]).code == 2


def test_a_function_of_a_module_is_a_candidate(cli: Cli) -> None:
    Path("my_app.py").write_text("async def answer(question):\n    return 'It is ' + question\n")
    made = cli(
        "compare", "q.csv", "--agents", "my_app:answer", "--models", "demo/echo", "--scorers", "contains", "--json"
    ).json
    assert [(c["name"], c["scores"]["contains"]["mean"]) for c in made["candidates"]] == [
        ("demo/echo", 1.0),
        ("answer", 1.0),
    ]
    assert "no function 'anser'" in cli("compare", "q.csv", "--agents", "my_app:anser").err


def test_failures_are_kept_as_a_data_set_and_compared_by_name(cli: Cli) -> None:
    with Path("t.csv").open("w") as file:
        file.write("input,expected,topic\nSay lamp.,lamp,a\nSay bulb.,lamp,b\n")
    made = cli("compare", "t.csv", "--models", "demo/echo", "--scorers", "contains", "--by", "topic", "--json").json
    assert [(s["slice"], s["mean"]) for s in made["slices"]] == [("a", 1.0), ("b", 0.0)]
    assert "failures@1: 1 case" in cli("datasets", "save", "failures", "--failures", made["id"]).out
    assert cli("datasets", "list", "--json").json[0]["name"] == "failures"
    assert [case["input"] for case in cli("datasets", "show", "failures", "--json").json] == ["Say bulb."]
    again = cli("compare", "failures", "--models", "demo/echo", "--scorers", "contains", "--by", "topic")
    assert "0.00" in again.out
    assert "Removed" in cli("datasets", "remove", "failures").out


def test_comparisons_are_listed_newest_first(cli: Cli) -> None:
    assert cli("compare", "list").out.splitlines() == ["comparison\tname\tstatus\tcandidates\tcases\tstarted"]
    for model in ("demo/echo", "demo/echo?bare=1"):
        assert cli("compare", "q.csv", "--models", model, "--limit", "2").code == 0
    listed = cli("compare", "list", "--json").json
    assert [(one["name"], one["status"], one["candidates"][0]["name"], one["n_cases"]) for one in listed] == [
        ("q", "completed", "demo/echo?bare=1", 2), ("q", "completed", "demo/echo", 2),
    ]  # fmt: skip
    assert listed[1]["id"] in cli("compare", "list").out.splitlines()[2]
    assert "compare list" in cli("compare", "--resume", "cmp_none").err


def test_ctrl_c_says_how_to_go_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from timestep_lab.cli import compare

    @contextlib.contextmanager
    def presses_it(*, quiet: bool) -> Iterator[Callable[[Event], None]]:
        yield lambda event: signal.raise_signal(signal.SIGINT) if isinstance(event, CellDone) else None

    with monkeypatch.context() as patch:
        patch.setattr(compare, "progress_line", presses_it)
        patch.setenv("TIMESTEP_LAB_DEMO_DELAY_MS", "20")
        done = cli("compare", "q.csv", "--models", "demo/echo", "--concurrency", "1")
    assert done.code == 130, done.err
    [id] = re.findall(r"Resume with: timestep-lab compare --resume (cmp_\w+)", done.err)
    again = cli("compare", "--resume", id, "--json")
    assert again.code == 0
    assert again.json["candidates"][0]["n"] == CASES


def test_stop_settled_says_what_the_margin_needs_and_ends_when_one_is_better(cli: Cli) -> None:
    done = cli(
        "compare", "q.csv", "--models", "demo/echo,demo/slow?ttft=0&tps=100000&n=2", "--scorers", "contains", "--stop", "settled", "--margin",
        "0.05", "--concurrency", "2",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "no worse by more than 5 points takes about 314 cases" in " ".join(done.err.split())
    told = " ".join(done.out.split())
    assert "demo/echo beats demo/slow?ttft=0&tps=100000&n=2 by 100.0 points on contains (95 % CI at every look" in told
    assert re.search(r"Settled after \d+ of 20 cases: \d+ of 40 calls were not needed\.", told)
    assert asked(cli) < 40
    refused = cli("compare", "q.csv", "--models", "demo/echo", "--scorers", "contains", "--stop", "settled")
    assert refused.code == 2
    assert "Early stopping needs at least two candidates" in refused.err
