"""Cases from whatever the user has; what cannot be read is refused with its place."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterator
from datetime import date, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from timestep_lab.evals.datasets import Case, Dataset, load_dataset, render
from timestep_lab.evals.datasets.load import pasted, uploaded
from timestep_lab.evals.judging import asked_of
from timestep_lab.evals.scorers.registry import assertion_problems
from timestep_lab.model.comparison import CandidateRecord
from timestep_lab.model.errors import DataError, UsageError
from timestep_lab.resources import data_path

QUESTIONS = [{"input": "Capital of France?", "expected": "Paris"}, {"input": "2 + 2?", "expected": "4"}]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def asked(dataset: Dataset) -> list[tuple[str, object]]:
    return [(case.input, case.expected) for case in dataset]


EXPECTED = [("Capital of France?", "Paris"), ("2 + 2?", "4")]


def test_the_same_cases_come_out_of_every_form(tmp_path: Path) -> None:
    rows = pd.DataFrame(QUESTIONS)
    parquet = str(tmp_path / "q.parquet")
    duckdb.sql(
        "select 'Capital of France?' as input, 'Paris' as expected union all select '2 + 2?', '4'"
    ).write_parquet(parquet)
    sources = [
        QUESTIONS,
        rows,
        write(tmp_path / "q.csv", "input,expected\nCapital of France?,Paris\n2 + 2?,4\n"),
        write(tmp_path / "q.json", json.dumps(QUESTIONS)),
        write(tmp_path / "q.jsonl", "\n".join(json.dumps(row) for row in QUESTIONS) + "\n"),
        parquet,
    ]
    datasets = [load_dataset(source) for source in sources]
    assert all(asked(dataset) == EXPECTED for dataset in datasets)
    assert len({dataset.version for dataset in datasets}) == 1
    assert len({tuple(case.id for case in dataset) for dataset in datasets}) == 1


def test_a_text_is_a_question() -> None:
    assert asked(load_dataset(["One?", "Two?"])) == [("One?", None), ("Two?", None)]


def test_the_version_follows_the_content_and_nothing_else() -> None:
    base = load_dataset(QUESTIONS)
    renamed = load_dataset(QUESTIONS, name="another name")
    annotated = load_dataset([{**row, "metadata": {"by": "me"}} for row in QUESTIONS])
    changed = load_dataset([QUESTIONS[0], {**QUESTIONS[1], "expected": "four"}])
    assert base.version == renamed.version == annotated.version
    assert len({base.version, changed.version, load_dataset(QUESTIONS[::-1]).version, base.head(1).version}) == 4


def test_a_case_keeps_its_id_when_others_come_and_go() -> None:
    assert load_dataset(QUESTIONS).cases[1].id == load_dataset(QUESTIONS[1:]).cases[0].id


def test_the_same_question_twice_is_two_cases() -> None:
    first, second = load_dataset(["Why?", "Why?"])
    assert first.id != second.id


def test_two_cases_with_one_id_of_their_own_are_refused() -> None:
    with pytest.raises(DataError, match="'a'"):
        load_dataset([{"id": "a", "input": "1"}, {"id": "a", "input": "2"}])


def test_other_columns_become_variables_for_the_prompt() -> None:
    [case] = load_dataset([{"question": "Say it", "language": "French", "n": 3}])
    assert case.input == "Say it"
    assert render("{{question}} in {{language}}, {{ n }} times", case.template_vars()) == "Say it in French, 3 times"


def test_columns_may_be_named() -> None:
    [case] = load_dataset([{"frage": "Wie?", "antwort": "So."}], input="frage", expected="antwort")
    assert (case.input, case.expected) == ("Wie?", "So.")


def test_two_columns_that_could_be_the_question_are_not_guessed_between() -> None:
    with pytest.raises(DataError, match="question and prompt"):
        load_dataset([{"prompt": "a", "question": "b"}])


def test_missing_values_of_a_frame_are_nothing_not_nan() -> None:
    frame = pd.DataFrame({"input": ["a", "b"], "expected": [1.0, None], "when": [pd.Timestamp("2026-01-02"), pd.NaT]})
    first, second = load_dataset(frame)
    assert (first.expected, first.vars["when"]) == (1.0, "2026-01-02")
    assert (second.expected, second.vars["when"]) == (None, None)


def test_whole_numbers_of_a_frame_stay_whole_beside_a_missing_one() -> None:
    frame = pd.DataFrame({"input": ["a", "b"], "expected": [18, None], "half": [0.5, None]})
    first, second = load_dataset(frame)
    assert (repr(first.expected), second.expected, first.vars["half"]) == ("18", None, 0.5)


@pytest.mark.parametrize(
    ("name", "text", "case"),
    [
        ("a.jsonl", '{"input": "a\u2028b\u0085\x0c", "expected": "x"}\n'.replace("\x0c", "c"), ("a\u2028b\u0085c", "x")),
        ("a.csv", "input,expected\nfoo\u0085b\x0ca\u2028r,x\n", ("foo\u0085b\x0ca\u2028r", "x")),
        ("a.csv", 'input,expected\r\n"two\r\nlines",x\r\n', ("two\nlines", "x")),
        ("a.csv", "input;expected\nWhat is 2+2?;4\n", ("What is 2+2?", "4")),
        ("a.csv", 'input, expected\na, b\n', ("a", "b")),
        ("a.csv", "input,expected\nx, y\n", ("x", " y")),
        ("a.csv", "input,expected\nx,\n", ("x", None)),
        ("a.CSV", "input,expected\nx,y\n", ("x", "y")),
        ("a.tsv", "input\texpected\nx, y\tz\n", ("x, y", "z")),
        ("a.csv", f"input,expected\n{'x' * 200_000},y\n", ("x" * 200_000, "y")),
    ],
)  # fmt: skip
def test_a_table_of_text_is_read_as_it_was_written(tmp_path: Path, name: str, text: str, case: tuple[str, str]) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert asked(load_dataset(str(tmp_path / name))) == [case]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert asked(load_dataset(str(tmp_path / f"{name}.gz"))) == [case]


def test_choices_are_shown_and_a_letter_is_expected() -> None:
    mmlu, letter, arc = load_dataset(
        [
            {"question": "Capital of Italy?", "choices": ["Oslo", "Rome"], "answer": 1},
            {"question": "Capital of Italy?", "choices": ["Oslo", "Rome", "Bern"], "answer": "B"},
            {"question": "Capital of Italy?", "choices": {"text": ["Oslo", "Rome"], "label": ["1", "2"]}, "answerKey": "2"},
        ]
    )  # fmt: skip
    assert mmlu.input == "Capital of Italy?\n\nA. Oslo\nB. Rome\n\nAnswer with the letter of one choice."
    assert [case.expected for case in (mmlu, letter, arc)] == ["B", "B", "B"]


def test_the_right_choice_of_truthfulqa_is_not_always_the_first() -> None:
    rows = [
        {"question": f"q{i}", "mc1_targets": {"choices": [f"right {i}", "wrong", "no"], "labels": [1, 0, 0]}}
        for i in range(20)
    ]
    cases = load_dataset(rows).cases
    assert all(case.vars["choices"]["ABC".index(str(case.expected))].startswith("right") for case in cases)
    assert len({case.expected for case in cases}) > 1
    assert load_dataset(rows).cases == cases


def test_an_answer_that_is_none_of_the_choices_is_refused() -> None:
    with pytest.raises(DataError, match="case 1 has 2 choices, and the answer 'Paris' is not one of them"):
        load_dataset([{"question": "?", "choices": ["Oslo", "Rome"], "answer": "Paris"}])


def test_a_text_in_brackets_is_no_list_of_choices() -> None:
    [case] = load_dataset([{"question": "?", "options": "[A] yes [B] no", "answer": "A"}])
    assert (case.input, case.vars["options"], case.expected) == ("?", "[A] yes [B] no", "A")


def test_of_a_worked_answer_the_result_is_expected() -> None:
    worked = "She sells 16 - 7 = <<16-7=9>>9 eggs.\nThat is 9 * 2 = $18.\n#### 18"
    [case] = load_dataset([{"question": "How much?", "answer": worked}])
    assert (case.expected, case.metadata["worked_answer"]) == ("18", worked)


def test_the_parts_of_a_message_are_sent_in_the_form_of_the_sdk_and_calls_of_tools_are_refused() -> None:
    candidate = CandidateRecord(name="m", model="m")
    said = {"role": "user", "content": [{"type": "text", "text": "Q?"}]}
    [message] = asked_of(candidate, load_dataset([{"messages": [said]}]).cases[0])
    assert message == {"role": "user", "content": [{"type": "input_text", "text": "Q?"}]}
    for other in (
        {"role": "tool", "content": "x", "tool_call_id": "1"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ):
        with pytest.raises(DataError, match=r"the role 'tool'|tool calls instead of text"):
            asked_of(candidate, load_dataset([{"messages": [said, other]}]).cases[0])


def test_openai_evals_conversations_are_gone_on_with(tmp_path: Path) -> None:
    line = {
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of Italy?"}],
        "ideal": ["Rome", "Roma"],
    }
    [case] = load_dataset(write(tmp_path / "samples.jsonl", json.dumps(line)))
    assert case.input == "Capital of Italy?"
    assert [m["role"] for m in case.messages] == ["system", "user"]
    assert case.expected == ["Rome", "Roma"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "", "header"),
        ("a.csv", "input,expected\n", "no cases"),
        ("a.csv", "input,expected\nx,y,z\n", "line 2 has 3 values for 2 columns"),
        ("a.jsonl", '{"input": "x"}\n{"input": \n', "line 2 is not valid JSON"),
        ("a.json", '{"input": "x"}', "without cases"),
        ("a.json", "[3]", "case 1 is a number"),
        ("a.yaml", "tests: [", "not valid YAML"),
        ("a.yaml", "prompts: [x]", "no tests"),
        ("a.txt", "x", "not a supported file type"),
        ("a.xlsx", "x", "not a zip file"),
        ("a.jsonl.gz", "x", "not a valid gzip file"),
        ("a.csv", "i\0n\0p\0u\0t\0", "U\\+0000"),
        ("a.json", '{"items": ["2 + 2?"], "answers": ["4"]}', "'items' and 'answers' as lists of 1"),
        ("a.json", '[{"input": "a", "input": "b"}]', "'input' twice"),
        ("a.csv", "question,choices,answer\nq,\"['a' 'b']\",1\n", "line 2 has choices that are not a list"),
        ("a.parquet", "not parquet", "Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_dataset(write(tmp_path / name, text))


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("input\nGrüße\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        load_dataset(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("data", [[], {"input": "x"}, 7, [None], [""], [{"expected": "x"}]])
def test_what_is_no_dataset_is_refused(data: object) -> None:
    with pytest.raises(DataError):
        load_dataset(data)


def test_a_missing_file_is_said_to_be_missing() -> None:
    with pytest.raises(DataError, match=r"The file nowhere\.csv"):
        load_dataset("nowhere.csv")


def test_a_template_reaches_into_objects_and_writes_others_as_json() -> None:
    assert render("{{who.name}}: {{tags}}", {"who": {"name": "Ada"}, "tags": ["x"]}) == 'Ada: ["x"]'


def test_a_template_that_asks_for_what_is_not_there_says_what_is() -> None:
    with pytest.raises(DataError, match=r"Did you mean 'language'\?.*language"):
        render("{{langage}}", Case(input="x", vars={"language": "de"}).template_vars())


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% if premium %}Priority: {% endif %}{{ issue }}", "broken lamp"),
        ("{{ tags | join(', ') }}{% for t in tags %} {{ loop.index }}.{{ t | upper }}{% endfor %}", "a, b 1.A 2.B"),
        ("{% if issue === 'x' %}1{% elseif tags.length == 2 %}2{% else %}3{% endif %}", "2"),
        ("{{ who | dump }} {{ (note | load).city }} {{ issue.toUpperCase() }}", '{"name":"Ada"} Oslo BROKEN LAMP'),
        ("{{ missing | default('none') }} {{ nothing }}{# a comment #}", "none "),
        ("{% for name, value in who %}{{ name }}={{ value }}{% endfor %} {{ 2.0 }} {{ true }}", "name=Ada 2 true"),
    ],
)  # fmt: skip
def test_a_template_has_what_jinja_and_nunjucks_share(template: str, text: str) -> None:
    variables = {"premium": False, "issue": "broken lamp", "tags": ["a", "b"], "who": {"name": "Ada"}, "note": '{"city": "Oslo"}'}  # fmt: skip
    assert render(template, {**variables, "nothing": None}) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% if listed %}1{% else %}0{% endif %}{% if empty %}1{% else %}0{% endif %}", "11"),
        ("{{ listed and 'x' }}{{ 'a' if empty else 'b' }}{{ not listed }}", "xafalse"),
        ("{% if five == 5 %}1{% endif %}{% if five === 5 %}2{% endif %}{% if five > 4 %}3{% endif %}{% if five != 5 %}4{% endif %}", "13"),
        ("{{ 2.5 | round }} {{ 2.345 | round(2) }} {{ 42.55 | round(1, 'floor') }} {{ -5 % 3 }}", "3 2.35 42.5 -2"),
        ("{{ long | truncate(10) }}|{{ long | truncate(10, true, '!') }}|{{ long | truncate(43) }}", "The quick...|The quick !|The quick brown fox"),
        ("{{ items | sort(false, false, 'n') | join(',', 'n') }} {{ items | sort(attribute='n', reverse=true) | join(',', 'n') }}", "1,2 2,1"),
        ("{{ items | sum('n') }} {{ items | selectattr('ok') | dump }} {{ [0, 1, '', 2] | select | dump }}", '3 [{"n":2,"ok":true}] [1,2]'),
        ("{{ '5.9abc' | int }} {{ '5.9abc' | float }} {{ 'x' | int }} {{ 'x' | int(7) }}", "5 5.9  7"),
        ("{{ 'a/b c' | urlencode }} {{ who | urlencode }} {{ who | list | dump }}", 'a%2Fb%20c a=1 [{"key":"a","value":1}]'),
        ("{{ nothing | upper }}{{ 'l' | replace(nothing, 'x') }}{{ '' if nothing }}{{ (2 > 1) | string }}", "ltrue"),
        ("{% for x in nothing %}x{% else %}none{% endfor %} {{ nothing is null }} {{ listed is truthy }}", "none true true"),
        ("{{ '' | wordcount }}{{ 'hELLO wORLD' | title }} {{ '' | default('d', true) }}{{ listed | default('d', true) }}", "Hello World d[]"),
    ],
)  # fmt: skip
def test_where_jinja_and_nunjucks_disagree_a_template_means_what_nunjucks_says(template: str, text: str) -> None:
    variables = {
        "listed": [], "empty": {}, "five": "5", "long": "The quick brown fox", "items": [{"n": 2, "ok": True}, {"n": 1, "ok": False}],
        "who": {"a": 1}, "nothing": None,
    }  # fmt: skip
    assert render(template, variables) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% set n = 0 %}{% for x in l %}{% set n = n + x %}{% endfor %}{{ n }}", "sets 'n' in a loop"),
        ("{% for x in l if x %}{{ x }}{% endfor %}", "a loop with a condition"),
        ("{% for x in o %}{{ x }}{% endfor %}", "loops over an object"),
        ("{{ l | sum(attribute='n') }}", "names the option 'attribute'"),
        ("{{ l + l }}", "on a list"),
        ("{% if 1 < n < 3 %}{% endif %}", "compares several values"),
        ("{{ l[-1] }}", "does not have"),
        ("{% for turn in _conversation %}{{ turn.input }}{% endfor %}", "uses _conversation"),
    ],
)
def test_a_template_whose_meaning_would_differ_is_refused(template: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        render(template, {"l": [1, 2], "o": {"a": 1}, "n": 2})


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ x.__init__ }}", "{{ self.__init__.__globals__ }}", "{% include '/etc/passwd' %}",
        "{% macro m() %}{% endmacro %}", "{{ x | random }}", "{{ cycler('a') }}", "{{ x.format() }}", "{{ '%99999999999d' % 1 }}",
        "{{ 'x' * 99999999999 }}", "{{ 9 ** 999999999 }}", "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% set l = ['x'] %}" + "{% set l = [l, l] %}" * 40 + "{{ l }}", "{% set t = 'xx' %}" + "{% set t = t ~ t %}" * 40,
        "{{ x" + " | dump" * 60 + " }}", "{{ x.repeat(99999999999) }}",
    ],
)  # fmt: skip
def test_a_template_reaches_nothing_of_the_machine_and_comes_to_an_end(template: str) -> None:
    with pytest.raises(DataError):
        render(template, {"x": "x"})


def test_dates_and_short_numbers_of_a_dataframe_are_read_as_they_are_shown() -> None:
    frame = pd.DataFrame(
        {
            "input": pd.Categorical(["a", "b"]),
            "expected": pd.to_datetime(["2026-01-02", None]),
            "share": np.array([0.1, np.nan], dtype="float32"),
            "left": pd.array([3.0, None], dtype="Float64"),
        }
    )
    first, second = load_dataset(frame)
    assert (first.expected, dict(first.vars)) == ("2026-01-02", {"share": 0.1, "left": 3})
    assert (second.expected, dict(second.vars)) == (None, {"share": None, "left": None})
    with_hours = pd.DataFrame(
        {"input": ["a", "b"], "expected": pd.to_datetime(["2026-01-02 00:00", "2026-01-02 03:04"])}
    )
    assert [case.expected for case in load_dataset(with_hours)] == ["2026-01-02T00:00:00", "2026-01-02T03:04:00"]


def test_a_short_number_in_a_parquet_file_is_the_one_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    columns = '\'a\' as question, 3.8::float as expected, 0.1::double as "a ""b"'
    duckdb.sql(f"copy (select {columns}) to '{path}'")
    [case] = load_dataset(path)
    assert (case.expected, case.vars['a "b']) == (3.8, 0.1)


def test_a_number_too_long_to_read_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "long.jsonl", '{"input": "a", "expected": 1' + "0" * 5000 + "}")
    with pytest.raises(DataError, match=r"long.jsonl line 1 holds a number of more than 4,300 digits"):
        load_dataset(path)


def test_what_was_made_the_index_of_a_dataframe_is_still_a_column() -> None:
    frame = pd.DataFrame({"id": ["q1", "q2"], "topic": ["x", "y"], "input": ["a", "b"], "n": [1, 2]})
    assert [case.id for case in load_dataset(frame.set_index("id"))] == ["q1", "q2"]
    assert [case.vars["topic"] for case in load_dataset(frame.set_index(["topic", "n"]))] == ["x", "y"]
    assert load_dataset(frame.set_index("id", drop=False)).cases == load_dataset(frame).cases


def test_columns_of_a_dataframe_that_cannot_be_told_apart_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="several columns 'expected'"):
        load_dataset(pd.DataFrame([["a", "x", "y"]], columns=["input", "expected", "expected"]))
    with pytest.raises(DataError, match="columns of 2 levels"):
        load_dataset(pd.DataFrame([["a"]], columns=pd.MultiIndex.from_tuples([("asked", "input")])))


def test_texts_of_numpy_are_texts() -> None:
    cases = [*load_dataset(np.array(["a"])), *load_dataset([{"input": np.str_("a"), "topic": np.str_("t")}])]
    assert {type(case.input) for case in cases} == {str}
    assert type(cases[1].vars["topic"]) is str


def test_a_folder_is_told_from_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        load_dataset(tmp_path)


def test_a_column_of_binary_data_is_refused_by_its_name() -> None:
    with pytest.raises(DataError, match="case 1: the column 'image' holds binary data"):
        load_dataset([{"question": "?", "image": {"bytes": b"PNG", "path": None}}])


def test_a_number_without_end_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match="row 2: the column 'expected' holds inf"):
        load_dataset(pd.DataFrame({"input": ["a", "b"], "expected": [1.5, np.inf]}))


def test_a_dataset_with_splits_says_which_there_are() -> None:
    class Split(list[dict[str, str]]):
        column_names = ("question",)

    splits = {"train": Split([{"question": "a"}]), "test": Split([{"question": "b"}])}
    with pytest.raises(DataError, match=r"splits train, test.*data\['train'\]"):
        load_dataset(splits)
    assert [case.input for case in load_dataset(splits["test"])] == ["b"]


def test_a_frame_of_polars_and_a_table_of_arrow_are_read_by_rows() -> None:
    short = float(np.float32(3.8))

    class Polars:
        columns = ("input", "expected")
        schema = {"input": "String", "expected": "Float32"}

        def to_dicts(self) -> list[dict[str, object]]:
            return [{"input": "a", "expected": short}]

    class Arrow:
        columns = (object(),)
        schema = (SimpleNamespace(name="input", type="string"), SimpleNamespace(name="expected", type="float"))

        def to_pylist(self) -> list[dict[str, object]]:
            return [{"input": "b", "expected": short}]

    assert [asked(load_dataset(table)) for table in (Polars(), Arrow())] == [[("a", 3.8)], [("b", 3.8)]]


def test_a_data_set_of_hugging_face_is_read_whatever_its_format() -> None:
    class HuggingFace:
        column_names = ("input", "expected", "choices")
        features = {"input": SimpleNamespace(dtype="string"), "expected": SimpleNamespace(dtype="float32")}

        def __init__(self, format: str | None = "pandas") -> None:
            self.format = format

        def with_format(self, format: str | None) -> HuggingFace:
            return HuggingFace(format)

        def __iter__(self) -> Iterator[object]:
            row = {"input": "a", "expected": float(np.float32(3.8))}
            return iter([row if self.format is None else pd.DataFrame([row])])

    assert asked(load_dataset(HuggingFace())) == [("a", 3.8)]


@pytest.mark.parametrize("name", ["samples.jsonl", "train.csv", "test.parquet", "cases.xlsx", "promptfoo.yaml"])
def test_a_pointer_of_git_lfs_in_place_of_a_file_is_told_as_such(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(DataError, match=rf"{name} is a pointer of Git LFS.*git lfs pull"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("name", "cases"), [("capitals.csv", 60), ("sums.jsonl", 80), ("chat.jsonl", 6), ("support.yaml", 4)]
)
def test_the_datasets_that_come_with_the_package_can_be_read(name: str, cases: int) -> None:
    dataset = load_dataset(data_path(f"evals/{name}"))
    assert len(dataset) == cases
    assert len({case.id for case in dataset}) == cases
    assert all(not assertion_problems(case) for case in dataset)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("excel.csv", "sep=;\r\ninput;expected\r\n2 + 2?;4\r\n"),
        ("unicode.csv", "input\texpected\r\n2 + 2?\t4\r\n".encode("utf-16")),
        ("bars.csv", "input|expected\n2 + 2?|4\n"),
        ("semicolons.csv", "input;expected\n2 + 2?;4\n"),
        ("spaces.csv", "input, expected\n2 + 2?, 4\n"),
        ("blank_lines.csv", "input,expected\n,\n2 + 2?,4\n,\n"),
        ("trailing.csv", "input,expected,,\n2 + 2?,4,,\n"),
        ("trailing_header.csv", "input,expected,,\n2 + 2?,4\n"),
        ("pandas_index.csv", ",input,expected\n0,2 + 2?,4\n"),
        ("capitals.csv", "Question,Expected Answer,Answer\n2 + 2?,four,4\n"),
        ("blank_above.csv", "\n\ninput,expected\n2 + 2?,4\n"),
        ("columns.json", '{"question": ["2 + 2?"], "answer": ["4"]}'),
        ("pandas_columns.json", '{"question": {"0": "2 + 2?"}, "answer": {"0": "4"}}'),
        ("pandas_split.json", '{"columns": ["question", "answer"], "index": [0], "data": [["2 + 2?", "4"]]}'),
        ("viewer.json", '{"features": [], "rows": [{"row_idx": 0, "row": {"question": "2 + 2?", "answer": "4"}}]}'),
        (
            "phoenix.json",
            '{"data": {"examples": [{"id": "1", "input": {"question": "2 + 2?"}, "output": {"answer": "4"}}]}}',
        ),
        (
            "inspect.json",
            '{"eval": {}, "samples": [{"id": 1, "epoch": 1, "input": "2 + 2?", "target": "4"}, {"id": 1, "epoch": 2, "input": "2 + 2?", "target": "4"}]}',
        ),
        (
            "harness.json",
            '{"results": {}, "samples": {"sums": [{"doc_id": 0, "doc": {}, "filter": "a", "target": "4", "arguments": [["2 + 2?", {}]]}, {"doc_id": 0, "doc": {}, "filter": "b", "target": "4", "arguments": [["2 + 2?", {}]]}]}}',
        ),
        (
            "langfuse.json",
            '[{"datasetName": "d", "status": "ACTIVE", "input": "2 + 2?", "expectedOutput": "4"}, {"datasetName": "d", "status": "ARCHIVED", "input": "old"}]',
        ),
        ("goldens.json", '{"goldens": [{"input": "2 + 2?", "expected_output": "4"}]}'),
        ("langsmith.csv", "id,inputs.question,outputs.answer\n1,2 + 2?,4\n"),
        ("phoenix.csv", 'input,output,metadata\n"{""question"": ""2 + 2?""}","{""answer"": ""4""}",{}\n'),
        ("humps.jsonl", '{"userInput": "2 + 2?", "expectedOutput": "4"}'),
    ],
)
def test_tables_as_spreadsheets_and_programs_write_them_are_read(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert asked(load_dataset(str(path))) == [("2 + 2?", "4")]


def test_json_lines_are_read_under_the_name_of_json(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in QUESTIONS)
    assert asked(load_dataset(write(tmp_path / "lines.json", lines))) == EXPECTED


def test_the_articles_of_squad_are_its_questions(tmp_path: Path) -> None:
    article = {
        "title": "T",
        "paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "2 + 2?", "answers": [{"text": "4"}]}]}],
    }
    [case] = load_dataset(write(tmp_path / "squad.json", json.dumps({"version": "v2.0", "data": [article]})))
    assert (case.id, case.input, case.expected, case.vars["context"]) == ("1", "2 + 2?", ["4"], "c")


def test_a_log_of_inspect_is_read_and_one_that_cannot_be_says_how_to_write_it(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "{}")
        for epoch in (1, 2):
            sample = {
                "id": "s",
                "epoch": epoch,
                "input": "2 + 2?",
                "target": "4",
                "messages": [{"role": "assistant", "content": "5"}],
            }
            archive.writestr(f"samples/s_epoch_{epoch}.json", json.dumps(sample))
    assert asked(load_dataset(str(path))) == asked(uploaded(path.read_bytes(), "log.eval")) == [("2 + 2?", "4")]
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match="Convert it to JSON: inspect log convert"):
        load_dataset(str(path))


def test_one_object_with_lists_that_are_no_columns_of_questions_is_not_taken_for_a_table(tmp_path: Path) -> None:
    for value in (
        {"input": [{"role": "user", "content": "2 + 2?"}], "ideal": ["4"]},
        {"question": ["a", "b"], "answer": ["c"]},
    ):
        with pytest.raises(DataError, match="contains an object without cases"):
            load_dataset(write(tmp_path / "one.json", json.dumps(value)))


def test_assertions_that_are_no_list_are_refused() -> None:
    with pytest.raises(DataError, match="case 1: assertions is a str"):
        load_dataset([{"input": "q", "assertions": "contains:x"}])


def test_samples_of_several_tasks_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="samples from 2 tasks: a, b"):
        load_dataset(write(tmp_path / "r.json", '{"samples": {"a": [], "b": []}}'))


def test_a_line_end_inside_a_value_is_part_of_it(tmp_path: Path) -> None:
    """U+2028 and U+0085 end a line in Python's `splitlines`, and none in JSON Lines or CSV."""
    assert asked(load_dataset(write(tmp_path / "a.jsonl", '{"input": "a\u2028b"}\n'))) == [("a\u2028b", None)]
    assert asked(load_dataset(write(tmp_path / "b.csv", "input,expected\nfoo\x85bar,x\n"))) == [("foo\x85bar", "x")]


def test_a_value_in_a_column_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2 has 'c' in a column without a name"):
        load_dataset(write(tmp_path / "a.csv", "input,expected,\na,b,c\n"))


_AB = "Q?\n\nA. a\nB. b\n\nAnswer with the letter of one choice."


@pytest.mark.parametrize(
    ("row", "question", "expected"),
    [
        ({"instruction": "Translate", "input": "Hello", "output": "Hallo"}, "Translate\n\nHello", "Hallo"),
        ({"ctx": "Q?", "endings": ["a", "b"], "label": "1"}, _AB, "B"),
        ({"question": "Q?", "choices": "['a', 'b']", "answer": "1"}, _AB, "B"),
        ({"question": "Q?", "A": "a", "B": "b", "answer": "B"}, _AB, "B"),
        ({"question": "Q?", "opa": "a", "opb": "b", "cop": 1}, _AB, "B"),
        ({"Body": "Three lamps.", "Question": "Q?", "Answer": 3}, "Three lamps. Q?", 3),
        ({"question": "Q?", "answer": "said", "contexts": ["c"], "ground_truths": ["A"]}, "Q?", ["A"]),
        ({"prompt": "Q?", "completion": "A"}, "Q?", "A"),
        ({"goal": "Q?", "sol1": "a", "sol2": "b", "label": 0}, _AB, "A"),
        ({"sentence": "Q?", "option1": "a", "option2": "b", "answer": "2"}, _AB, "B"),
        ({"question": "Q?", "options": ["a", "b"], "answer": "B", "answer_index": 1}, _AB, "B"),
        ({"question_stem": "Q?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}, _AB, "B"),
        ({"context": "c", "question": "Q?", "answers": {"text": ["x", "x", "y"]}}, "Q?", ["x", "y"]),
        ({"question": "Q?", "answer": {"value": "V", "aliases": ["V", "W"]}}, "Q?", ["V", "W"]),
        ({"problem": "Q?", "solution": r"so \boxed{\frac{1}{2}}."}, "Q?", r"\frac{1}{2}"),
        ({"question": "Q?", "answer": "48 + 24 = <<48+24=72>>72\n#### 72"}, "Q?", "72"),
        ({"inputs": {"question": "Q?"}, "outputs": {"answer": "A"}}, "Q?", "A"),
        ({"inputs": {"question": "Q?"}, "expectations": {"expected_response": "A"}}, "Q?", "A"),
        ({"input": {"text": "Q?"}, "expectedOutput": "A"}, "Q?", "A"),
        ({"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]}, "Q?", "A"),
        ({"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A"}]}, "Q?", "A"),
        ({"contents": [{"role": "user", "parts": [{"text": "Q?"}]}, {"role": "model", "parts": [{"text": "A"}]}]}, "Q?", "A"),
        ({"user_input": [{"content": "Q?", "type": "human"}], "reference": "A"}, "Q?", "A"),
        (
            {
                "inputs": {"messages": [{"type": "human", "data": {"content": "Q?"}}]},
                "outputs": {"generations": [[{"text": "A", "message": {"type": "ai"}}]]},
            },
            "Q?", "A",
        ),
        ({"inputs": {"messages": [{"role": "user", "content": "Q?"}]}, "outputs": {"message": {"role": "assistant", "content": "A"}}}, "Q?", "A"),
        ({"inputs": {"question": "Q?"}, "expectations": {"expected_facts": ["all", "of these"]}}, "Q?", None),
        ({"prompt": "Q?", "referenceResponse": "A"}, "Q?", "A"),
        (
            {"conversationTurns": [{"prompt": {"content": [{"text": "Q?"}]}, "referenceResponses": [{"content": [{"text": "A"}]}]}]},
            "Q?", "A",
        ),
        ({"input": "Q?", "target_scores": {"a": 0, "b": 1}}, _AB, "B"),
        (
            {"doc_id": 3, "doc": {"q": "Q?"}, "target": "B", "arguments": {"gen_args_0": {"arg_0": "Q?", "arg_1": {"until": []}}}},
            "Q?", "B",
        ),
        ({"doc_id": 3, "doc": {}, "target": "1", "arguments": [["Q?", " a"], ["Q?", " b"]]}, _AB, "B"),
        ({"id": 1, "epoch": 1, "input": "Q?", "target": "A", "messages": [{"role": "assistant", "content": "wrong"}], "scores": {}}, "Q?", "A"),
        ({"attributes.input.value": "Q?", "attributes.output.value": "seen, not right"}, "Q?", None),
        ({"id": "1", "input": '{"question": "Q?"}', "expectedOutput": '"A"', "metadata": ""}, "Q?", "A"),
        ({"inputs": '{"question": "Q?"}', "outputs": '{"answer": "A"}', "metadata": "{}"}, "Q?", "A"),
        ({"input": '{"question": "Q?"}', "expected": '"A"', "metadata": '{"m": 1}', "tags": '["t"]'}, "Q?", "A"),
        ({"input": '{"a": 1}', "expected": "one", "n": 1, "metadata": {"m": 1}}, '{"a": 1}', "one"),
        ({"question": "Q?", "Expected answer": "A"}, "Q?", "A"),
        ({"question": "Q?", "options": {"A": "a", "B": "b"}, "answer": "b", "answer_idx": "B"}, _AB, "B"),
        ({"question": "Q?", "options": [{"key": "A", "value": "a"}, {"key": "B", "value": "b"}], "answer": "b", "answer_idx": "B"}, _AB, "B"),
        ({"question": {"stem": "Q?", "choices": [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]}, "answerKey": "2"}, _AB, "B"),
        ({"question": "Q?", "answer": "Step by step: the answer is 12.", "answer_number": 12}, "Q?", 12),
        ({"question": "Q?", "golden_answers": ["A", "B"]}, "Q?", ["A", "B"]),
        ({"question": {"text": "Q?", "sure": True}, "answer": "A"}, '{"text": "Q?", "sure": true}', "A"),
        ({"instruction": "Q?", "context": "c", "response": "A", "category": "closed_qa"}, "Q?\n\nc", "A"),
        ({"premise": "It fell.", "choice1": "a", "choice2": "b", "question": "cause", "idx": 0, "label": 1}, _AB.replace("Q?", "It fell. What was the cause?"), "B"),
        ({"context": "c", "query": "Q?", "options": ["a", "b"], "correct_option": 1}, _AB.replace("Q?", "c\n\nQ?"), "B"),
        ({"url": "u", "question": "Q?", "answers": ["A", "B"]}, "Q?", ["A", "B"]),
        ({"question": "Q?", "obj": "A", "possible_answers": '["A", "B"]'}, "Q?", ["A", "B"]),
        ({"passage": "c", "question": "Q?", "answers_spans": {"spans": ["A", "A"], "types": ["span", "span"]}}, "Q?", ["A"]),
    ],
    ids=[
        "Alpaca", "HellaSwag", "MMLU, table", "MMLU, columns", "MedMCQA", "SVAMP", "Ragas, early", "completion", "PIQA", "WinoGrande", "MMLU-Pro", "OpenBookQA", "SQuAD", "TriviaQA", "MATH", "GSM8K", "LangSmith", "MLflow",
        "Langfuse", "fine-tuning", "ShareGPT", "Gemini", "Ragas, several turns", "LangSmith, LangChain messages", "LangSmith, messages",
        "MLflow, facts", "Bedrock", "Bedrock, turns", "BIG-bench", "lm-evaluation-harness", "lm-evaluation-harness, choices", "Inspect",
        "Arize", "Langfuse, table", "LangSmith, table", "Braintrust, table", "JSON that is asked about", "a usual header",
        "MedQA", "MedQA of BigBIO", "ARC as published", "MGSM", "FlashRAG", "an object as the question",
        "Dolly", "COPA", "LogiQA", "WebQuestions", "PopQA", "DROP",
    ],
)  # fmt: skip
def test_rows_of_well_known_data_sets_and_programs_mean_what_they_mean_there(
    row: dict[str, object], question: str, expected: object
) -> None:
    [case] = load_dataset([row])
    assert (case.input, case.expected) == (question, expected)
    assert "assistant" not in [message["role"] for message in case.messages]


def test_answers_beside_a_reference_are_not_taken_for_right_ones() -> None:
    [case] = load_dataset([{"question": "Q?", "answers": ["said", "by models"], "reference": "A"}])
    assert case.expected == "A"


def test_a_workbook_is_read_with_numbers_as_numbers_and_only_one_sheet_of_rows(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (
        ["Question", "Answer", None, "topic"],
        ["2 + 2?", 4, None, "sums"],
        [None] * 4,
        ["Capital of France?", "Paris"],
    ):
        book.active.append(row)
    book.create_sheet("Notes")
    book.save(path := tmp_path / "cases.xlsx")
    dataset = load_dataset(path)
    assert asked(dataset) == [("2 + 2?", 4), ("Capital of France?", "Paris")]
    assert dataset.cases[0].own_vars()["topic"] == "sums"
    book["Notes"].append(["x"])
    book.save(path)
    with pytest.raises(DataError, match="has rows in 2 sheets: Sheet, Notes"):
        load_dataset(path)
    book.remove(book["Notes"])
    book.active["B2"], book.active["B4"] = date(2026, 1, 2), time(12, 30)
    book.save(path)
    assert [case.expected for case in load_dataset(path)] == ["2026-01-02", "12:30:00"]
    book.active["B4"] = "#N/A"
    book.save(path)
    with pytest.raises(DataError, match="row 4 has the error #N/A"):
        load_dataset(path)
    book.active["B4"] = "Paris"
    book.active["B2"] = "=2+2"
    book.save(path)
    with pytest.raises(DataError, match="a formula without a saved value"):
        load_dataset(path)
    book.active["B2"] = "4"
    book.active.merge_cells("B2:B4")
    book.save(path)
    with pytest.raises(DataError, match="has merged cells in the sheet Sheet: B2:B4"):
        load_dataset(path)
    path.write_bytes(b"PK\x03\x04 no workbook")
    with pytest.raises(DataError, match=r"cases\.xlsx cannot be read as a workbook"):
        load_dataset(path)


def test_what_is_pasted_is_a_table_json_or_a_question_a_line() -> None:
    assert asked(pasted("input,expected\n2 + 2?,4\n")) == [("2 + 2?", "4")]
    assert asked(pasted("Question\tAnswer\r\n2 + 2?\t4\r\n")) == [("2 + 2?", "4")]
    assert asked(pasted("question\nWhat's up, doc?\nWhy?")) == [("What's up, doc?", None), ("Why?", None)]
    assert asked(pasted('Why, oh why?\n\n{"input": "2 + 2?", "expected": "4"}')) == [
        ("Why, oh why?", None),
        ("2 + 2?", "4"),
    ]
    assert asked(pasted("\ufeffinput,expected\n2 + 2?,4\n")) == [("2 + 2?", "4")]
    with pytest.raises(DataError, match="nested too deeply"):
        pasted("[" * 100_000)
    assert asked(pasted('[{"input": "2 + 2?", "expected": "4"}]')) == [("2 + 2?", "4")]
    with pytest.raises(DataError, match="Line 2 is not valid JSON"):
        pasted('fine\n{"input": ')


def test_an_uploaded_file_is_read_apart_and_reads_no_other_file(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.txt", "the key")
    assert asked(uploaded(b"input,expected\n2 + 2?,4\n", "../../q.CSV")) == [("2 + 2?", "4")]
    for name, content in (
        ("a.csv", f"input,__expected\nfile://{secret},equals: file://{secret}\n"),
        ("a.json", json.dumps([{"input": f"file://{secret}"}])),
    ):
        [case] = uploaded(content.encode(), name)
        assert case.input == f"file://{secret}"
    for name in ("a.yaml", "a.exe", ""):
        with pytest.raises(DataError, match="not a supported file type"):
            uploaded(b"tests: []", name)
    with pytest.raises(DataError, match=r"a\.csv line 2"):
        uploaded(b"input,expected\na,b,c\n", "a.csv")


ASKED = {"question": "Capital of France?"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"inputs": ASKED, "outputs": "Lyon", "expectations": {"expected_response": "Paris"}}, "Paris"),
        ({"inputs": ASKED, "outputs": {"answer": "Lyon"}, "reference_outputs": {"answer": "Paris"}}, "Paris"),
        ({"inputs.question": "?", "outputs.answer": "Lyon", "reference_outputs.answer": "Paris"}, "Paris"),
        ({"inputs.question": "?", "outputs.output": "Lyon", "reference.answer": "Paris", "feedback.correct": 0}, "Paris"),
        ({"input": ASKED, "reference_output": {"answer": "Paris"}, "output": "Lyon", "error": None}, "Paris"),
        ({"input": ASKED, "output": "Lyon", "expected": None}, None),
        ({"input": ASKED, "output": {"answer": "Lyon"}, "expectedOutput": None}, None),
        ({"input": ASKED, "output": {"answer": "Paris"}}, "Paris"),
    ],
)  # fmt: skip
def test_what_a_model_answered_is_not_taken_for_the_right_answer_that_stands_beside_it(
    row: dict[str, Any], expected: str | None
) -> None:
    [case] = load_dataset([row]).cases
    assert case.expected == expected


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ({"choices": {"text": ["4", "3", "2", "1"], "label": ["1", "2", "3", "4"]}, "answerKey": "1"}, "A"),
        ({"choices": {"text": ["O", "A", "B", "AB"], "label": ["A", "B", "C", "D"]}, "answerKey": "B"}, "B"),
        ({"A": "O", "B": "A", "C": "B", "D": "AB", "answer": "B"}, "B"),
        ({"options": ["O", "A", "B", "AB"], "answer": "B", "answer_index": 1}, "B"),
        ({"choices": ["1", "2", "3", "4"], "answer": "2"}, "B"),
        ({"choices": [3, 4, 5, 6], "answer": 1}, "B"),
        ({"options": ["(A)x", "(B)y"], "label": "B", "answer": None}, "B"),
        ({"options": ["A)21", "B)22"], "correct": "B"}, "B"),
        ({"options": ["A) 21", "B) 22"], "answer": "B) 22"}, "B"),
        ({"choices": ["x", "y"], "answer": 1.0}, "B"),
    ],
)
def test_the_label_of_a_choice_is_told_from_the_text_of_another(row: dict[str, Any], letter: str) -> None:
    [case] = load_dataset([{"question": "Which?", **row}]).cases
    assert case.expected == letter
    assert case.input.startswith("Which?\n\nA. ")


def test_the_target_of_inspect_is_a_letter_although_it_is_the_text_of_another_choice() -> None:
    [case] = load_dataset([{"id": "x", "epoch": 1, "input": "?", "choices": ["O", "A", "B"], "target": "B"}]).cases
    assert case.expected == "B"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"choices": ["O", "A", "B", "AB"], "answer": "B"}, "both the place of one choice and the text of another"),
        ({"choices": [1, 2, 3, 4], "answer": 2}, "both the place of one choice and the text of another"),
        ({"options": ["x", "y"], "answer": "A", "answer_index": 1}, "as its answer_index says"),
        ({"choices": ["x"] * 27, "answer": 3}, "27 choices"),
    ],
)
def test_choices_that_can_be_read_in_two_ways_are_refused(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        load_dataset([{"question": "Which?", **row}])


@pytest.mark.parametrize("history", [5, "earlier", ["earlier"]])
def test_a_history_that_is_no_list_of_pairs_is_refused(history: object) -> None:
    with pytest.raises(DataError, match="history is not a list of pairs"):
        load_dataset([{"instruction": "Q", "output": "A", "history": history}])


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"system": "S", "messages": [("user", "Q"), ("assistant", "A")]}, [("system", "S"), ("user", "Q")]),
        ({"systemInstruction": {"parts": [{"text": "S"}]}, "contents": [("user", "Q"), ("model", "A")]}, [("system", "S"), ("user", "Q")]),
        ({"system": "S", "conversations": [("human", "Q"), ("gpt", "A")]}, [("system", "S"), ("user", "Q")]),
        ({"instruction": "Q", "output": "A", "system": "S", "history": [["a", "b"]]}, [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "Q")]),
        ({"messages": [("User", "Q"), ("Chatbot", "A")]}, [("user", "Q")]),
        ({"messages": [("user", "Q"), ("assistant", [{"type": "text", "text": "A"}])]}, [("user", "Q")]),
        ({"messages": [("user", "Q"), ("assistant", "A")], "expected": None}, [("user", "Q")]),
        ({"prompt": [("user", "Q")], "completion": [("assistant", "A")]}, [("user", "Q")]),
    ],
)  # fmt: skip
def test_a_conversation_is_asked_with_its_system_prompt_and_without_its_answer(
    row: dict[str, Any], messages: list[tuple[str, str]]
) -> None:
    written = {
        name: [{"role": one[0], "content": one[1]} for one in value]
        if isinstance(value, list) and isinstance(value[0], tuple)
        else value
        for name, value in row.items()
    }
    [case] = load_dataset([written]).cases
    assert [(one["role"], one["content"]) for one in case.messages] == messages
    assert case.expected == "A"


@pytest.mark.parametrize("limit", [-1, 0, 2.5, "2", True])
def test_a_limit_that_is_no_number_of_cases_is_refused(limit: Any) -> None:
    with pytest.raises(UsageError, match="Give a whole number from 1 up"):
        load_dataset(["a", "b", "c"], limit=limit)


def test_the_column_completion_is_the_answer_to_the_column_prompt_whatever_stands_beside_them() -> None:
    [case] = load_dataset([{"id": 1, "Prompt": "Capital?", "Completion": "Paris"}]).cases
    assert (case.input, case.expected) == ("Capital?", "Paris")


def test_a_column_that_has_the_letter_of_the_answer_by_chance_keeps_it() -> None:
    [case] = load_dataset([{"question": "?", "A": "x", "B": "y", "answer": "B", "group": "B"}]).cases
    assert (case.expected, case.vars["group"]) == ("B", "B")
