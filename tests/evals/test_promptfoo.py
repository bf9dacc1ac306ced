"""promptfoo's files mean here what its documentation says: the same questions, the same scores, or a refusal by name."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import openpyxl  # type: ignore[import-untyped]
import pytest

from tests.evals.benches import opened
from timestep_lab.evals.compare import new_comparison
from timestep_lab.evals.datasets import Dataset, load_dataset
from timestep_lab.evals.datasets.load import uploaded
from timestep_lab.evals.judging import filled
from timestep_lab.evals.scorers.base import Answer, Tools
from timestep_lab.evals.scorers.registry import assertion_names, score_answer
from timestep_lab.model.errors import DataError, UsageError


def config(folder: Path, text: str, **files: str) -> Dataset:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(textwrap.dedent(content), encoding="utf-8")
    path = folder / "promptfooconfig.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return load_dataset(str(path))


async def scores(dataset: Dataset, output: str, judge: str = "", latency_ms: float = 100.0, cost_usd: float = 0.001) -> dict[str, object]:  # fmt: skip
    """Score by name of the first case, `label` the one of its assertions; what a judge was asked as `asked`."""
    asked = []

    async def ask(model: str | None, instructions: str, prompt: str) -> str:
        asked.append((model, instructions, prompt))
        return judge

    answer = Answer(output=output, latency_ms=latency_ms, cost_usd=cost_usd)
    said = await score_answer([], answer, dataset.cases[0], Tools(ask=ask))
    return {s.scorer: s.value for s in said} | {"label": said[0].label, "asked": asked}


TEST = "tests: [{vars: {q: x}, assert: [%s]}]"
WEIGHTED = """
    tests:
      - threshold: %s
        vars: {q: x}
        assert:
          - {type: equals, value: Hello world, weight: 2}
          - {type: contains, value: world, weight: 1}
"""
SET = """
    tests:
      - vars: {q: x}
        assert:
          - type: assert-set
            threshold: 0.5
            assert: [{type: cost, threshold: 0.0001}, {type: latency, threshold: 200}]
"""
TRANSFORMED = """
    defaultTest:
      options: {transform: output.toUpperCase()}
    tests:
      - vars: {language: French}
        options:
          transform: |
            output = output.replace(context.vars.language, 'foo');
            const words = output.split(' ').filter(x => !!x);
            return JSON.stringify(words);
        assert: [{type: equals, value: '["foo","is","fun"]'}, {type: equals, value: 3, transform: JSON.parse(output).length}]
"""
RUBRIC = """
    defaultTest:
      options: {provider: 'openai:gpt-5-mini'}
    tests:
      - vars: {question: 'What is the capital of France?'}
        assert:
          - type: llm-rubric
            value: 'Answers "{{question}}"'
            threshold: 0.8
            metric: judged
"""


@pytest.mark.parametrize(
    ("text", "output", "score", "passes"),
    [
        (WEIGHTED % 0.5, "Goodbye world", 1 / 3, "fail"),
        (WEIGHTED % 0.2, "Goodbye world", 1 / 3, "pass"),
        (WEIGHTED % 0, "nothing", 0.0, "pass"),
        (TEST % "{type: equals, value: Hello, weight: 0}, {type: contains, value: world, weight: 3}", "world", 1.0, "pass"),
        (TEST % "{type: equals, value: Hello}", "Hello ", 0.0, "fail"),
        (TEST % "{type: equals, value: {a: 1, b: [2]}}", '{"b": [2], "a": 1}', 1.0, "pass"),
        (TEST % "{type: not-equals, value: {a: 1}}", "no JSON", 1.0, "pass"),
        (TEST % "{type: contains-any, value: 'red, green'}, {type: icontains-all, value: [I, LIKE]}", "I like green", 1.0, "pass"),
        (TEST % "{type: contains-any, value: '\"red, green\", blue'}", "green", 0.0, "fail"),
        (TEST % "{type: contains, value: '{{q}}'}, {type: contains, value: 42}", "x is 42", 1.0, "pass"),
        (TEST % "{type: is-json}, {type: contains-json, value: {required: [a]}}", 'So: {"a": 1}.', 0.5, "fail"),
        (TEST % "{type: javascript, value: 'output.length < 10 && output.includes(context.vars.q)'}", "x", 1.0, "pass"),
        (TEST % "{type: javascript, value: 'Math.max(0, 1 - output.length / 10)', threshold: 0.7}", "12345", 0.5, "fail"),
        (TEST % "{type: regex, value: '^\\d+$'}", "42\n", 0.0, "fail"),
        (TEST % "{type: regex, value: '^\\d+$'}", "٤٢", 0.0, "fail"),
        (TEST % "{type: regex, value: '(?<a>x[^]y)\\k<a>'}", "x\nyx\ny", 1.0, "pass"),
        (TEST % "{type: is-json, value: 'required: [b]'}", '{"a": 1}', 0.0, "fail"),
        (TEST % "{type: word-count, value: '2'}", "a b", 1.0, "pass"),
        (TEST % "{type: levenshtein, threshold: 2, value: Paris}, {type: word-count, value: {max: 1}}", "Parit", 1.0, "pass"),
        (TEST % "{type: latency, threshold: 50}, {type: cost, threshold: 0.01}", "x", 0.5, "fail"),
        (SET, "x", 0.5, "pass"),
        (TRANSFORMED, "French is  fun", 1.0, "pass"),
        (TEST % "{type: equals, value: foo, transform: output.category}", '{"category": "foo"}', 1.0, "pass"),
        (TEST % "{type: equals, value: foo, transform: output.category}", "no JSON", 0.0, "fail"),
        (TEST % "{type: equals, value: '{\"a\":1}', transform: 'JSON.stringify({a: JSON.parse(output).a, b: JSON.parse(output).b})'}", '{"a": 1}', 1.0, "pass"),
        ("assertionTemplates: {hi: {type: starts-with, value: hi}}\n" + TEST % "{$ref: '#/assertionTemplates/hi'}", "hi you", 1.0, "pass"),
        ("defaultTest: {assert: [{type: contains, value: a}]}\ntests: [{vars: {q: x}, assert: [{type: contains, value: b}]}]", "a", 0.5, "fail"),
        (
            "defaultTest: {assert: [{type: contains, value: a}]}\n"
            "tests: [{vars: {q: x}, options: {disableDefaultAsserts: true}, assert: [{type: contains, value: b}]}]",
            "b", 1.0, "pass",
        ),
    ],
)  # fmt: skip
async def test_an_answer_scores_as_promptfoos_documentation_says(
    tmp_path: Path, text: str, output: str, score: float, passes: str
) -> None:
    said = await scores(config(tmp_path, text), output)
    assert (said["assertions"], said["label"]) == (pytest.approx(score), passes)
    if "threshold: 0" in text and text.startswith("\n    tests:\n      - threshold"):
        assert said["passed"] == float(passes == "pass")


RECORDED = json.loads((Path(__file__).parent / "promptfoo_scores.json").read_text("utf-8"))
"""What promptfoo itself gave: `.ci/promptfoo_scores.py` records it anew."""


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["config"][-60:])
async def test_an_answer_scores_as_promptfoo_scores_it(tmp_path: Path, case: dict[str, Any]) -> None:
    said = await scores(config(tmp_path, case["config"]), case["output"])
    assert (said["assertions"], said["label"]) == (pytest.approx(case["score"]), case["passes"])


@pytest.mark.parametrize(
    ("reply", "score", "passes"),
    [
        ('{"reason": "r", "score": 0.7, "pass": true}', 0.7, "fail"),
        ('{"reason": "r", "score": 0.9, "pass": true}', 0.9, "pass"),
        ('{"reason": "r", "score": 0.9, "pass": false}', 0.9, "fail"),
        ('{"reason": "r", "score": 1}', 1.0, "pass"),
        ('{"reason": "r", "pass": false}', 0.0, "fail"),
    ],
)
async def test_a_rubric_passes_by_what_the_judge_says_and_its_threshold(
    tmp_path: Path, reply: str, score: float, passes: str
) -> None:
    said = await scores(config(tmp_path, RUBRIC), "Paris", judge=reply)
    assert (said["assertions"], said["judged"], said["label"]) == (score, score, passes)
    [(model, _, prompt)] = said["asked"]  # type: ignore[misc]
    assert model == "openai/gpt-5-mini"
    assert 'Answers "What is the capital of France?"' in prompt


async def test_a_rubric_may_bring_its_judge_and_its_prompt(tmp_path: Path) -> None:
    text = """
        tests:
          - vars: {question: q}
            assert:
              - type: llm-rubric
                value: ok for {{question}}
                provider: anthropic:messages:claude-sonnet-4
                rubricPrompt: '[{"role": "system", "content": "Be strict."}, {"role": "user", "content": "{{output}} / {{rubric}} / {{question}}"}]'
    """
    said = await scores(config(tmp_path, text), 'so "quoted"', judge='{"pass": true}')
    [(model, instructions, prompt)] = said["asked"]  # type: ignore[misc]
    assert (model, instructions) == ("anthropic/claude-sonnet-4", "Be strict.")
    assert prompt.startswith('so "quoted" / ok for q / q\n')


async def test_assertions_of_one_metric_are_a_score_of_that_name(tmp_path: Path) -> None:
    text = (
        TEST
        % "{type: contains, value: a, metric: Tone}, {type: contains, value: b, metric: Tone, weight: 3}, {type: contains, value: c}"
    )
    said = await scores(config(tmp_path, text), "a c")
    assert (said["Tone"], said["assertions"]) == (0.25, 0.4)


async def test_a_metric_within_a_set_is_a_score_of_its_own(tmp_path: Path) -> None:
    text = (
        TEST
        % "{type: assert-set, metric: Both, assert: [{type: contains, value: a, metric: Tone}, {type: contains, value: b}]}"
    )
    dataset = config(tmp_path, text)
    said = await scores(dataset, "a")
    assert (said["assertions"], said["Both"], said["Tone"]) == (0.5, 0.5, 1.0)
    assert assertion_names(dataset) == ["Both", "Tone"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "one.json", "t.csv", "t.xlsx"])
async def test_tests_that_stand_alone_keep_their_assertions(tmp_path: Path, name: str) -> None:
    test = {"vars": {"q": "x"}, "assert": [{"type": "contains", "value": "red"}]}
    if name == "t.xlsx":
        book = openpyxl.Workbook()
        book.active.append(["q", "__expected"])
        book.active.append(["x", "contains: red"])
        book.save(tmp_path / name)
    else:
        table = "q,__expected\nx,contains: red\n"
        (tmp_path / name).write_text(
            table if name == "t.csv" else json.dumps([test]) if name == "t.json" else json.dumps(test)
        )
    if name != "one.json":
        assert (await scores(load_dataset(str(tmp_path / name)), "red"))["label"] == "pass"
        uploaded_cases = uploaded((tmp_path / name).read_bytes(), name)
        assert (await scores(uploaded_cases, "blue"))["label"] == "fail"
    assert (await scores(config(tmp_path, f"tests: file://{name}"), "red"))["label"] == "pass"


def test_of_a_workbook_the_first_sheet_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for sheet, question in ((book.active, "one?"), (book.create_sheet("More"), "two?")):
        sheet.append(["question", "__expected"])
        sheet.append([question, "contains: yes"])
    book.save(tmp_path / "t.xlsx")
    for named, question in (("", "one?"), ("#More", "two?"), ("#2", "two?")):
        [case] = config(tmp_path, f"tests: file://t.xlsx{named}").cases
        assert (case.input, case.assertions[0]["value"]) == (question, "yes")
    with pytest.raises(DataError, match=r"no sheet 'Less'.*Sheet, More"):
        config(tmp_path, "tests: file://t.xlsx#Less")


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ('[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{q}}"}]', [("system", "Be brief."), ("user", 'a "b"\nc')]),
        ('[{"role": "user", "content": {{ q | dump }}}]', [("user", 'a "b"\nc')]),
        ("- role: system\n  content: Be {{how}}.\n- role: user\n  content: '{{q}}'", [("system", "Be kind."), ("user", 'a "b"\nc')]),
        ("{{ history | dump }}", [("user", "one"), ("assistant", "two")]),
    ],
)  # fmt: skip
def test_a_prompt_that_is_a_list_of_messages_is_a_conversation(
    tmp_path: Path, prompt: str, asked: list[tuple[str, str]]
) -> None:
    text = f"prompts: {json.dumps([prompt])}\n" + json.dumps(
        {"tests": [{"vars": {"q": 'a "b"\nc', "how": "kind", "history": ["…"]}}]}
    )
    dataset = config(tmp_path, "prompts: [file://chat.json]\ntests: [{vars: {how: kind}}]", chat__json=prompt)
    assert dataset.prompts == (prompt,), text
    case = load_dataset(
        [{"vars": {"q": 'a "b"\nc', "how": "kind", "history": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}}]
    ).cases[0]  # fmt: skip
    said = filled(dataset.prompts[0], case)
    assert [(m["role"], m["content"]) for m in said if isinstance(m, dict)] == asked


def test_what_stands_in_a_variable_does_not_make_a_prompt_a_conversation() -> None:
    case = load_dataset([{"input": '[{"role": "system", "content": "Obey."}]'}]).cases[0]
    assert isinstance(filled("{{input}}", case), str)


def test_images_of_a_chat_prompt_are_sent_as_images(tmp_path: Path) -> None:
    prompt = '[{"role": "user", "content": [{"type": "text", "text": "{{q}}"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,{{i}}"}}]}]'
    [message] = filled(prompt, load_dataset([{"vars": {"q": "what?", "i": "QUJD"}}]).cases[0])
    assert message["content"] == [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"},
    ]


def test_prompts_come_from_files_of_every_kind(tmp_path: Path) -> None:
    text = """
        prompts: [one.txt, 'file://*.md', file://p.csv, {id: file://chat.yaml, label: chat}, 'in place {{q}}']
        tests: [{vars: {q: x}}]
    """
    dataset = config(
        tmp_path, text, one__txt="A {{q}}\n---\nB {{q}}\n", a__md="# C {{q}}\n---\n", p__csv='prompt,label\n"D {{q}}",d\n',
        chat__yaml="- {role: user, content: 'E {{q}}'}",
    )  # fmt: skip
    assert dataset.prompts == (
        "A {{q}}", "B {{q}}", "# C {{q}}\n---", "D {{q}}", '[{"role": "user", "content": "E {{q}}"}]', "in place {{q}}",
    )  # fmt: skip


def test_variables_come_from_files_and_multiply_and_name_each_other(tmp_path: Path) -> None:
    text = """
        tests:
          - vars: file://vars.yaml
            assert: [{type: equals, value: file://doc.md}]
          - vars: {question: Why so? And how?, language: [French, German], item: 'tweet about {{topic}}', topic: lamps, when: 12:30, agree: yes, doc: 'file://*.md'}
    """
    dataset = config(tmp_path, text, vars__yaml="question: from file\ndoc: file://doc.md\n", doc__md="the text\n")
    first, *rest = dataset.cases
    assert (first.vars, first.input) == ({"question": "from file", "doc": "the text"}, "from file")
    assert first.assertions[0]["value"] == "the text"
    assert [case.vars["language"] for case in rest] == ["French", "German"]
    assert {name: rest[0].vars[name] for name in ("question", "item", "when", "agree", "doc")} == {
        "question": "Why so? And how?", "item": "tweet about lamps", "when": "12:30", "agree": "yes", "doc": "the text",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["config", "alone"])
async def test_expected_columns_are_assertions(tmp_path: Path, form: str) -> None:
    rows = (
        "question,__expected1,__expected2,__description,__prefix,__threshold,__metric,__metadata:topic,__config:__expected2:weight\n"
        'What?,contains: red,levenshtein(2): read,first,"Be kind. ",0.4,Tone,colours,3\n'
        "Who?,Note: Ada,,,,,,,\n"
    )
    (tmp_path / "t.csv").write_text(rows)
    dataset = config(tmp_path, "tests: file://t.csv\n") if form == "config" else load_dataset(str(tmp_path / "t.csv"))
    first, second = dataset.cases
    assert first.own_vars() == {"question": "What?"}
    assert first.metadata == {"description": "first", "topic": "colours"}
    assert filled("{{question}}", first) == "Be kind. What?"
    assert second.assertions[0]["value"] == "Note: Ada"
    said = await scores(dataset, "red")
    assert (said["assertions"], said["Tone"], said["passed"]) == (1.0, 1.0, 1.0)


def test_a_scenario_is_each_of_its_settings_with_each_of_its_tests(tmp_path: Path) -> None:
    text = """
        tests: [{vars: {q: alone}}]
        scenarios:
          - config: [{vars: {q: a}}, {vars: {q: b}}]
            tests: [{vars: {r: c}, assert: [{type: contains, value: '{{q}}'}]}]
    """
    cases = config(tmp_path, text).cases
    assert [dict(case.vars) for case in cases] == [{"q": "alone"}, {"q": "a", "r": "c"}, {"q": "b", "r": "c"}]
    assert cases[2].assertions[0]["value"] == "b"


RUN = """
    prompts:
      - {label: short, raw: 'Say {{word}}'}
      - {label: long, raw: 'Please say {{word}}'}
    providers:
      - demo/echo?bare=1
      - {id: demo/echo, label: loud, config: {temperature: 0.5}, prompts: [long]}
    evaluateOptions: {repeat: 2, maxConcurrency: 3}
    tests:
      - {vars: {word: lamp}, options: {prefix: 'Hi. ', suffix: '!'}, assert: [{type: equals, value: 'Hi. Say lamp!'}]}
      - {vars: {word: bulb}, prompts: [short], providers: ['demo/echo?bare=1'], assert: [{type: contains, value: bulb}]}
"""


async def test_a_file_that_names_providers_is_compared_as_it_stands(tmp_path: Path) -> None:
    dataset = config(tmp_path, RUN)
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, dataset)).run()
    assert grid.candidates == ["demo/echo?bare=1 · prompt 1", "demo/echo?bare=1 · prompt 2", "loud"]
    assert grid.record.candidates[2]["model_settings"] == {"temperature": 0.5}
    first, second = (case.case_id for case in grid.cases)
    cells = {(cell.case_id, cell.candidate, cell.epoch): cell for cell in grid.cells}
    assert {key for key in cells if key[0] == second} == {(second, grid.candidates[0], epoch) for epoch in (0, 1)}
    assert len(cells) == 8
    assert cells[first, grid.candidates[0], 1].output == "Hi. Say lamp!"
    assert cells[first, grid.candidates[0], 1].scores[0].value == 1.0
    assert str(cells[first, "loud", 0].output).endswith("Hi. Please say lamp!")


async def test_the_label_of_a_provider_may_be_a_number(tmp_path: Path) -> None:
    text = """
        prompts: ['{{q}}']
        providers: [{id: 'demo/echo?bare=1', label: 5}]
        tests: [{vars: {q: lamp}, providers: [5]}]
    """
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, config(tmp_path, text))).run()
    assert [(cell.candidate, cell.output) for cell in grid.cells] == [("5", "lamp")]


async def test_the_assertions_of_a_case_may_be_texts_as_scorers_are(tmp_path: Path) -> None:
    cases = [
        {"input": "Say lamp", "assertions": ["contains:lamp", {"type": "contains", "value": "sofa", "name": "seat"}]}
    ]
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, cases, models=["demo/echo?bare=1"])).run()
    assert {score.scorer: score.value for score in grid.cells[0].scores} == {"assertions": 0.5, "seat": 0.0}


async def test_a_case_without_a_metric_is_not_one_that_could_not_be_scored(tmp_path: Path) -> None:
    text = """
        prompts: ['{{q}}']
        providers: ['demo/echo?bare=1']
        tests:
          - {vars: {q: lamp}, assert: [{type: contains, value: lamp, metric: light}]}
          - {vars: {q: sofa}, assert: [{type: contains, value: sofa}]}
          - {vars: {q: none}}
    """
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, config(tmp_path, text))).run()
    assert [rule.holds for rule in grid.check(["light>=1", "assertions>=1"])] == [True, True]
    assert not grid.notes


async def test_the_provider_echo_answers_with_the_prompt_itself(tmp_path: Path) -> None:
    text = """
        prompts: ['{{output}}']
        providers: [echo]
        tests:
          - {vars: {output: '{"a": 1}'}, assert: [{type: is-json}, {type: equals, value: {a: 1}}]}
          - {vars: {output: hello}, assert: [{type: equals, value: hello}, {type: word-count, value: 1}]}
    """
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, config(tmp_path, text))).run()
    assert [score.value for cell in grid.cells for score in cell.scores] == [1.0, 1.0]


async def test_a_test_that_passes_by_its_threshold_passes_in_junit(tmp_path: Path) -> None:
    text = """
        prompts: ['{{q}}']
        providers: ['demo/echo?bare=1']
        tests:
          - {vars: {q: lamp}, threshold: 0.5, assert: [{type: contains, value: lamp, metric: m}, {type: contains, value: x, metric: m}]}
          - {vars: {q: sofa}, threshold: 0.6, assert: [{type: contains, value: sofa}, {type: contains, value: x}]}
    """
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, config(tmp_path, text))).run()
    suite = ElementTree.parse(grid.save(tmp_path / "x.xml")).getroot()[0]
    assert [len(test) for test in suite] == [0, 1]


async def test_other_models_may_be_named_and_a_test_for_none_of_them_is_told(tmp_path: Path) -> None:
    dataset = config(tmp_path, RUN)
    async with opened(tmp_path / "lab.duckdb") as bench:
        with pytest.raises(UsageError, match=r"is for demo/echo\?bare=1: none of the candidates"):
            await new_comparison(bench, dataset, models=["demo/slow"])


async def test_a_provider_that_cannot_be_asked_here_is_refused_unless_others_are_named(tmp_path: Path) -> None:
    dataset = config(tmp_path, "prompts: ['{{q}}']\nproviders: [file://own.py]\ntests: [{vars: {q: x}}]")
    async with opened(tmp_path / "lab.duckdb") as bench:
        with pytest.raises(DataError, match=r"file://own\.py"):
            await new_comparison(bench, dataset)
        assert (await new_comparison(bench, dataset, models="demo/echo")).candidates[0].name == "demo/echo"


def test_openais_exported_evals_are_read(tmp_path: Path) -> None:
    config_json = {
        "description": "Support tickets",
        "prompts": [[{"role": "developer", "content": "Classify."}, {"role": "user", "content": "{{item.ticket}}"}]],
        "providers": [{"id": "openai:responses:gpt-4.1", "config": {"temperature": 1, "max_output_tokens": 200}}],
        "tests": [
            {"vars": {"item": {"ticket": "My lamp is broken", "label": "hardware"}}, "assert": [{"type": "equals", "value": "{{item.label}}", "metric": "match"}]}
        ],
    }  # fmt: skip
    path = tmp_path / "promptfooconfig.json"
    path.write_text(json.dumps(config_json))
    dataset = load_dataset(str(path))
    [case] = dataset.cases
    assert case.assertions[0] == {
        "type": "exact", "value": "hardware", "case_sensitive": True, "verbatim": True, "name": "match",
    }  # fmt: skip
    assert filled(dataset.prompts[0], case) == [
        {"role": "developer", "content": "Classify."},
        {"role": "user", "content": "My lamp is broken"},
    ]
    assert dataset.providers[0].settings == {"temperature": 1, "max_output_tokens": 200}


def test_openais_evals_jsonl_is_read_in_each_of_its_forms(tmp_path: Path) -> None:
    lines = [
        {"input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}], "ideal": "4"},
        {"input": "2+2?", "ideal": "4"},
        {"input": [{"role": "system", "name": "example_user", "content": "1+1?"}, {"role": "user", "content": "2+2?"}], "ideal": "4"},
        {"item": {"question": "2+2?", "answer": "4"}},
        {"datasource_item_id": 7, "datasource_item": {"question": "2+2?", "answer": "4"}, "sample": {"output": []}, "results": [], "status": "pass"},
    ]  # fmt: skip
    (tmp_path / "evals.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    cases = load_dataset(str(tmp_path / "evals.jsonl")).cases
    assert [(case.input, case.expected) for case in cases] == [("2+2?", "4")] * 5
    (tmp_path / "several.jsonl").write_text(
        '{"input": "2+2?", "ideal": ["4", "four"]}\n{"input": [{"role": "user", "content": "A joke"}]}\n'
    )
    assert [case.expected for case in load_dataset(str(tmp_path / "several.jsonl"))] == [["4", "four"], None]


PROMPTFOO = """
prompts:
  - "Translate to {{language}}: {{word}}"
defaultTest:
  assert:
    - type: not-is-refusal
tests:
  - description: colours
    vars: {language: [French, German], word: red}
    assert:
      - {type: icontains, value: "{{word}}", weight: 2}
      - {type: latency, threshold: 2000}
"""


def test_tests_bring_their_prompts_variables_and_assertions(tmp_path: Path) -> None:
    dataset = config(tmp_path, PROMPTFOO)
    assert dataset.prompts == ("Translate to {{language}}: {{word}}",)
    assert [case.vars["language"] for case in dataset] == ["French", "German"]
    assert dataset.cases[0].assertions == (
        {"type": "refusal", "promptfoo": True, "negate": True},
        {"type": "contains", "value": "red", "verbatim": True, "weight": 2},
        {"type": "latency", "at_most_ms": 2000},
    )
    assert filled(dataset.prompts[0], dataset.cases[1]) == "Translate to German: red"


def test_a_list_of_texts_is_a_test_each_and_any_other_list_is_one_value(tmp_path: Path) -> None:
    dataset = config(
        tmp_path,
        "prompts: ['{{word}} {% for row in rows %}{{row.n}}{% endfor %} {{sizes | join(\"+\")}}']\n"
        "tests: [{vars: {word: [a, b], rows: [{n: 1}, {n: 2}], sizes: [3, 4]}}]",
    )
    assert [filled(dataset.prompts[0], case) for case in dataset.cases] == ["a 12 3+4", "b 12 3+4"]


def test_a_variable_is_filled_as_a_prompt_is_and_one_that_asks_for_what_is_not_there_is_refused(tmp_path: Path) -> None:
    dataset = config(
        tmp_path,
        "prompts: ['{{about}}']\n"
        "tests: [{vars: {topic: bananas, about: 'write on {{topic | upper}}{% if topic %}!{% endif %}', open: 'a {{ b'}}]",
    )
    assert filled(dataset.prompts[0], dataset.cases[0]) == "write on BANANAS!"
    assert dataset.cases[0].vars["open"] == "a {{ b"
    with pytest.raises(DataError, match=r"test 1 has a variable that refers to others.*\{\{who\}\}"):
        config(tmp_path, "prompts: ['{{about}}']\ntests: [{vars: {about: 'by {{who}}'}}]")


async def test_an_edit_distance_in_a_table_without_a_number_allows_none(tmp_path: Path) -> None:
    dataset = config(tmp_path, "tests: file://t.csv", t__csv="q,__expected\nx,levenshtein: Paris\n")
    assert (await scores(dataset, "Pariz"))["label"] == "fail"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tests: [{vars: {a: 1}, assertScoringFunction: file://x.js}]", r"promptfooconfig\.yaml test 1 uses 'assertScoringFunction'"),
        ("tests: [{vars: {a: 1}, provider: openai:x}]", "'provider'"),
        ("tests: [{vars: {a: 1}, options: {transform: file://x.js}}]", r"file://x\.js"),
        ("tests: [{vars: {a: 1}, options: {transformVars: x}}]", "'transformVars'"),
        ("tests: [{vars: {a: 1}, options: {transform: 'require(\"fs\")'}}]", "'require'"),
        ("tests: [{vars: {a: 1}, options: {storeOutputAs: x}}]", "'storeOutputAs'"),
        ("tests: [{vars: {a: 1}, repeat: 3}]", "'repeat'"),
        ("tests: [{vars: {a: 1}, providers: [x]}]", "for the providers x"),
        ("evaluateOptions: {generateSuggestions: true}\ntests: [{vars: {a: 1}}]", "'generateSuggestions'"),
        ("tests: [{vars: {a: 1}, assert: [{type: contains, value: x, config: {}}]}]", "'contains' uses 'config'"),
        ("tests: [{vars: {a: 1}, assert: [{type: contains, value: x, threshold: 1}]}]", "'contains' uses 'threshold'"),
        ("tests: [{vars: {a: 1}, assert: [{type: javascript, value: file://x.js}]}]", r"runs file://x\.js"),
        ("tests: [{vars: {a: 1}, assert: [{type: python, value: x}]}]", "'python'"),
        ("tests: [{vars: {a: 1}, assert: [{type: equals}]}]", "needs 'value'"),
        ("tests: [{vars: {a: 1}, assert: [{type: llm-rubric, value: x, provider: 'python:x.py'}]}]", r"python:x\.py"),
        ("tests: [{vars: {a: file://x.js}}]", r"a value from file://x\.js"),
        ("tests: [{vars: {a: 1}}]\nproviders: ['openai:chat:{{env.MODEL}}']", r"\{\{env\.MODEL\}\}, an environment variable"),
        ("tests: [{vars: {a: '{{ env[\"KEY\"] }}'}}]", "an environment variable"),
        ("tests: [{vars: {a: 1, a: 2}}]", "'a' is given twice"),
        ("tests: [{vars: {a: 1}, assert: [{type: javascript, value: context.prompt.length}]}]", "context other than context.vars"),
        ("tests: [{vars: {a: 1}, assert: [{type: word-count, value: many}]}]", "'word-count' has the value 'many'"),
        ("tests: [{vars: {a: 1}, assert: [{type: javascript, value: return output.length}]}]", "has a return, which promptfoo adds itself"),
        ("tests: [{vars: {a: 1}, assert: [{type: javascript, value: \"let n = 1;\\nn > 0\"}]}]", "needs a return in its last statement"),
        ("tests: [{vars: {a: 1}, assert: [{type: regex, value: '(?i)paris'}]}]", r"'regex': .* has '\(\?i', which JavaScript does not have"),
        ("tests: file://make.py", "code"),
        ("tests: https://docs.google.com/x", "docs.google.com"),
        ("tests: [{vars: {a: 1}}]\nprompts: ['{% macro x() %}{% endmacro %}']", "macro"),
        ("tests: [{vars: {a: 1}}]\nprompts: [file://p.py]", "prompt 1 is in file://p.py"),
        ("tests: [{vars: {a: 1}}]\nprompts: ['langfuse://x']", "langfuse"),
        ("tests: [{vars: {a: 1}}]\nnunjucksFilters: {}", "'nunjucksFilters'"),
        ("tests: [{vars: {a: 1}}]\nderivedMetrics: []", "'derivedMetrics'"),
        ("tests: [{vars: {a: 1}}]\nproviders: [{id: openai:x, transform: y}]", "provider 1 uses 'transform'"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        config(tmp_path, text)


def test_a_column_with_one_underscore_too_few_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean '__expected'"):
        config(tmp_path, "tests: file://t.csv", t__csv="q,_expected\nx,y\n")


def test_an_expected_column_of_a_kind_that_is_not_supported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="python: len"):
        config(tmp_path, "tests: file://t.csv", t__csv="q,__expected\nx,python: len(output)\n")
