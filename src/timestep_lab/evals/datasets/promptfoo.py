"""promptfoo configurations as data sets: `tests` and `scenarios`, with their `prompts` and `providers`.

Format: <https://www.promptfoo.dev/docs/configuration/reference/>. OpenAI exports its hosted evals as such files.
Supported features have the same meaning as in promptfoo; unsupported ones raise an error that names them before
anything is run, and nothing is ignored silently. Code in separate files (JavaScript, Python, Ruby) is never executed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypedDict, cast

from timestep_lab.evals.datasets.case import Case, Provider, plain
from timestep_lab.evals.datasets.files import ending, load_yaml, read_csv, read_sheet, read_text, reader_of
from timestep_lab.evals.datasets.promptfoo_assertions import (
    Spec,
    loaded,
    only,
    read_assertion,
    read_model,
    read_transform,
    short_assertion,
)
from timestep_lab.evals.datasets.rows import EXPECTED_NAMES, INPUT_NAMES
from timestep_lab.evals.datasets.template import check_template, render
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import DataError

_CODE = (".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".py", ".rb", ".sh", ".bash", ".pl")
_PROMPT_FILE = re.compile(r"[^\s{}]+\.(?:txt|md|json|jsonl|yaml|yml|csv|j2|js|mjs|cjs|ts|py|rb|sh|bash|pl)(?::\w+)?")
_OPEN_TAG = re.compile(r"\{%[^%]*$|\{\{[^}]*$|\{#[^#]*$", re.MULTILINE)
"""A text with a tag that is not closed on its line is not a template: promptfoo uses it verbatim."""
_NESTED = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_TOP = (
    "$schema", "description", "prompts", "providers", "targets", "tests", "scenarios", "defaultTest", "tags", "outputPath", "sharing",
    "commandLineOptions", "evaluateOptions", "metadata", "assertionTemplates", "writeLatestResults",
)  # fmt: skip
_HOW_FAST = (
    "maxConcurrency", "delay", "cache", "showProgressBar", "progressBar", "timeoutMs", "maxEvalTimeMs", "verbose", "table", "share", "write",
    "noCache",
)  # fmt: skip
Test = TypedDict(
    "Test",
    {
        "description": Json, "vars": object, "assert": list[object] | None, "metadata": Mapping[str, object] | None,
        "threshold": float | None, "options": Mapping[str, object] | None, "providers": object, "prompts": object,
    },
    total=False,
)  # fmt: skip
"""A test as a file gives it, after `_test` has checked it."""
_TEST = tuple(Test.__annotations__)
_OPTIONS = ("transform", "prefix", "suffix", "provider", "rubricPrompt", "disableDefaultAsserts", "runSerially")
_COLUMNS = {"__description": "description", "__threshold": "threshold"}


@dataclass(frozen=True, slots=True)
class Config:
    """The contents of a configuration file."""

    cases: list[Case]
    prompts: tuple[str, ...]
    providers: tuple[Provider, ...]
    repeat: int


def is_config(value: object) -> bool:
    """Whether the content of a JSON file is a promptfoo configuration."""
    return isinstance(value, Mapping) and bool({"tests", "scenarios"} & set(value)) and bool({"prompts", "providers", "targets"} & set(value))  # fmt: skip


def read(path: Path) -> Config:
    """Read a configuration. Raises `DataError`, naming the test, for anything that is invalid or unsupported."""
    config = load_yaml(path)
    if isinstance(config, list):
        config = {"tests": config}
    if not isinstance(config, Mapping) or not ("tests" in config or "scenarios" in config):
        raise DataError(f"{path.name} has no tests.", "A promptfoo file needs a list under `tests:`.")
    only(config, _TOP, path.name)
    _refuse_environment(config, path.name)
    config = _mapping(_referred(config, config, path.name), path.name)
    prompts = _prompts(config.get("prompts") or [], path)
    texts = tuple(prompt.text for prompt in prompts)
    providers = _providers(config.get("providers") or config.get("targets") or [], prompts, path)
    default = _test(config.get("defaultTest") or {}, path, f"{path.name} defaultTest")
    tests = [
        (_test(test, path, where), where)
        for number, test in enumerate(_all_tests(config, path), 1)
        for where in [f"{path.name} test {number}"]
    ]
    has_threshold = any(test.get("threshold") is not None for test in [default, *(test for test, _ in tests)])
    cases = [
        case
        for test, where in tests
        for case in _cases(test, default, _Beside(prompts, providers, has_threshold), path, where)
    ]
    return Config(cases, texts, providers, _repeat(config, path))


def is_test(row: object) -> bool:
    """Whether a row outside of a configuration is a promptfoo test: an object with `assert`, or a table row with a column
    `__expected`."""
    return isinstance(row, Mapping) and (
        isinstance(row.get("assert"), list) or any(str(name).startswith("__expected") for name in row)
    )


def cases_of_row(row: Mapping[str, object], path: Path | None, where: str) -> list[Case]:
    """The cases of one such row. Without a path, `file://` values are texts."""
    test = _test(_row(row, where), path, where)
    return list(_cases(test, {}, _Beside([], (), test.get("threshold") is not None), path, where))


@dataclass(frozen=True, slots=True)
class _Prompt:
    text: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Beside:
    """The file-level settings that a test needs."""

    prompts: Sequence[_Prompt]
    providers: Sequence[Provider]
    has_threshold: bool


def _refuse_environment(value: object, where: str) -> None:
    """Raises `DataError` for `{{env.NAME}}` anywhere in a configuration: a downloaded one could send secrets to a model."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list):
        for inner in value:
            _refuse_environment(inner, where)
    elif isinstance(value, str) and (found := re.search(r"\{\{[^{}]*\benv\s*[.\[][^{}]*\}\}", value)):
        raise DataError(f"{where} uses {found[0]}, an environment variable, which is not supported here.", "Write its value.")  # fmt: skip


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is not an object.", "Use names with values.")
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise DataError(f"{where} is not a list.", "Use a list.")
    return value


def _referred(value: object, config: Mapping[str, object], where: str, depth: int = 0) -> object:
    """Resolve references such as `{$ref: '#/assertionTemplates/x'}`."""
    if depth > 30:
        raise DataError(f"{where}: a $ref refers to itself.", "Replace the $ref with its content.")
    if isinstance(value, list):
        return [_referred(inner, config, where, depth + 1) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if "$ref" not in value:
        return {key: _referred(inner, config, where, depth + 1) for key, inner in value.items()}
    reference = str(value["$ref"])
    target: object = config
    if reference.startswith(("#/definitions/", "#/$defs/")):  # A reference within a JSON Schema.
        return {key: _referred(inner, config, where, depth + 1) for key, inner in value.items()}
    if not reference.startswith("#/"):
        raise DataError(
            f"{where} refers to {reference!r}, which is not supported here.", "Use a reference to this file: '#/…'."
        )
    for part in reference[2:].split("/"):
        if not isinstance(target, Mapping) or part not in target:
            raise DataError(f"{where} refers to {reference!r}, which does not exist.", "Fix the $ref.")
        target = target[part]
    return _referred(target, config, where, depth + 1)


def _files(value: str, path: Path, where: str) -> list[Path]:
    """The file at a path, or all files that match a pattern, sorted."""
    name = value.removeprefix("file://")
    if not re.search(r"[*?\[]", name) or (path.parent / name).is_file():
        return [path.parent / name]
    files = sorted(file for file in path.parent.glob(name) if file.is_file())
    if not files:
        raise DataError(f"{where}: no file matches {value}.", "Check the path.")
    return files


def _repeat(config: Mapping[str, object], path: Path) -> int:
    repeat: object = 1
    for name in ("commandLineOptions", "evaluateOptions"):
        where = f"{path.name} {name}"
        given = _mapping(config.get(name) or {}, where)
        only(given, ("repeat", *_HOW_FAST), where)
        repeat = given.get("repeat", repeat)
    if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
        raise DataError(f"{path.name} has repeat: {repeat!r}.", "Use a whole number of at least 1.")
    return repeat


# -- tests


def _test(test: object, path: Path | None, where: str) -> Test:
    given = _mapping(loaded(test, path, where), where)
    only(given, _TEST, where)
    options = _mapping(given.get("options") or {}, f"{where} options")
    only(options, _OPTIONS, f"{where} options")
    threshold = given.get("threshold")
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise DataError(f"{where} has the threshold {threshold!r}.", "Use a number from 0 to 1.")
    if given.get("assert") is not None:
        _list(given["assert"], f"{where} assert")
    return cast(Test, given)


def _all_tests(config: Mapping[str, object], path: Path) -> Iterator[object]:
    if config.get("tests") is not None:
        yield from _tests(config["tests"], path)
    scenarios = config.get("scenarios") or []
    for number, given in enumerate(scenarios if isinstance(scenarios, list) else [scenarios], 1):
        where = f"{path.name} scenario {number}"
        files = _files(given, path, where) if isinstance(given, str) and given.startswith("file://") else [path]
        for file in files:
            content = given if file is path else load_yaml(file)
            for scenario in content if isinstance(content, list) else [content]:
                yield from _scenario(_mapping(scenario, where), file, where)


def _scenario(scenario: Mapping[str, object], path: Path, where: str) -> Iterator[object]:
    only(scenario, ("description", "config", "tests"), where)
    configs = _list(loaded(scenario.get("config") or [], path, where), f"{where} config")
    for first, second in itertools.product(configs, list(_tests(scenario.get("tests") or [], path))):
        base, test = _test(first, path, where), _test(second, path, where)
        yield {
            **base, **test, "vars": {**_vars(base, path, where), **_vars(test, path, where)},
            "assert": [*(base.get("assert") or []), *(test.get("assert") or [])],
            "metadata": {**(base.get("metadata") or {}), **(test.get("metadata") or {})},
            "options": {**(base.get("options") or {}), **(test.get("options") or {})},
        }  # fmt: skip


def _tests(tests: object, path: Path) -> Iterator[object]:
    if isinstance(tests, str):
        if "://" in tests and not tests.startswith("file://"):
            raise DataError(
                f"{path.name} takes tests from {tests}, which is not supported here.", "Save them as a file."
            )
        tests, _, sheet = tests.partition("#") if re.search(r"\.xlsx#[^#]+\Z", tests) else (tests, "", "1")
        for file in _files(tests, path, path.name):
            if ending(file) in _CODE or re.search(r"\.(?:js|ts|py):\w+\Z", file.name):
                raise DataError(f"{path.name} takes tests from {tests}, which is code.", "Write them to a file.")
            if ending(file) in (".yaml", ".yml"):
                yield from _tests(load_yaml(file), file)
            elif ending(file) == ".json" and isinstance(test := load_yaml(file), Mapping) and {"vars", "assert"} & set(test):  # fmt: skip
                yield test
            else:
                for row, where in read_sheet(file, sheet) if ending(file) == ".xlsx" else reader_of(file)(file):
                    yield _row(row, where)
    elif isinstance(tests, list):
        for test in tests:
            if isinstance(test, str):
                yield from _tests(test, path)
            else:
                yield test
    else:
        raise DataError(f"{path.name}: tests is not a list.", "List the tests, or refer to a file with file://.")


def _row(row: object, where: str) -> object:
    """A row of a test table: columns are variables, except those that promptfoo marks with two underscores."""
    if not isinstance(row, Mapping) or "vars" in row or "assert" in row:
        return row
    variables: dict[str, object] = {}
    options: dict[str, str] = {}
    metadata: dict[str, str | list[str]] = {}
    test: dict[str, object] = {"vars": variables, "assert": [], "options": options, "metadata": metadata}
    settings: dict[str, dict[str, float]] = {}
    expected: dict[str, Spec] = {}
    metric = ""
    for name, value in row.items():
        text = "" if value is None else str(value)
        if not str(name).startswith("__"):
            variables[name] = value
        elif match := re.fullmatch(r"__config:(__expected\d*):(\w+)", name):
            if text.strip():
                settings.setdefault(match[1], {})[match[2]] = _number(text, f"{where} {name}")
        elif re.fullmatch(r"__expected\d*", name):
            if text.strip():
                expected[name] = short_assertion(text, where)
        elif name in _COLUMNS:
            if text.strip():
                test[_COLUMNS[name]] = _number(text, f"{where} {name}") if name == "__threshold" else text
        elif name in ("__prefix", "__suffix"):
            options[name[2:]] = text
        elif name == "__metric":
            metric = text.strip()
        elif match := re.fullmatch(r"__metadata:([^\[\]]+)(\[\])?", name):
            parts = [p.strip().replace("\\,", ",") for p in re.split(r"(?<!\\),", text)] if match[2] else text
            if text.strip():
                metadata[match[1]] = parts
        else:
            raise DataError(f"{where} uses the column {name!r}, which is not supported here.", "Remove it.")
    if single := next((name for name in variables if re.fullmatch(r"_(?:expected\d*|prefix|suffix|description|metric|threshold|providerOutput)", str(name))), None):  # fmt: skip
        raise DataError(f"{where} has the column {single!r}.", f"Did you mean {f'_{single}'!r}? Or rename it.")
    for name, assertion in expected.items():
        assertion |= {**settings.get("__expected", {}), **settings.get(name, {})} | (
            {"metric": metric} if metric else {}
        )
    return {**test, "assert": list(expected.values())}


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{where} is {text!r}.", "Use a number.") from error


def _vars(test: Mapping[str, object], path: Path | None, where: str) -> dict[str, object]:
    given = test.get("vars") or {}
    if isinstance(given, str | list):
        if path is None:
            raise DataError(f"{where} takes its variables from a file.", "Write them out.")
        # A bare path, without file://.
        merged: dict[str, object] = {}
        for one in [given] if isinstance(given, str) else given:
            for file in _files(str(one), path, f"{where} vars"):
                inner = _mapping(load_yaml(file), f"{where} vars")
                merged |= {name: _variable(value, file, where) for name, value in inner.items()}
        return merged
    return {str(name): _variable(value, path, where) for name, value in _mapping(given, f"{where} vars").items()}


def _variable(value: object, path: Path | None, where: str) -> object:
    if path is not None and isinstance(value, str) and value.startswith("file://") and "*" in value:
        return [loaded(f"file://{file.name}", file, f"{where} vars") for file in _files(value, path, where)]
    read = loaded(value, path, f"{where} vars")
    return read.removesuffix("\n") if isinstance(read, str) else read


def _composed(variables: Mapping[str, Json], where: str) -> dict[str, Json]:
    """Resolve variables that refer to other variables: `item: 'tweet about {{topic}}'`. Those with filters or
    conditions are rendered like prompts.
    """
    resolved = dict(variables)
    for _ in range(5):
        before = dict(resolved)
        for name, value in before.items():
            if isinstance(value, str) and "{{" in value:
                resolved[name] = _NESTED.sub(
                    lambda place: str(resolved[place[1]]) if isinstance(resolved.get(place[1]), str | int | float) else place[0],
                    value,
                )  # fmt: skip
        if resolved == before or any(isinstance(v, str) and len(v) > 1_000_000 for v in resolved.values()):
            break
    try:
        return {
            name: render(v, resolved) if isinstance(v, str) and not _OPEN_TAG.search(v) else v
            for name, v in resolved.items()
        }
    except DataError as error:
        raise DataError(f"{where} has a variable that refers to others. {error.message}", error.next_step) from error


def _cases(test: Test, default: Test, beside: _Beside, path: Path | None, where: str) -> Iterator[Case]:
    variables = plain({**_vars(default, path, where), **_vars(test, path, where)}, where)
    options = {**(default.get("options") or {}), **(test.get("options") or {})}
    inherited = [] if options.get("disableDefaultAsserts") else default.get("assert") or []
    assertions = [*inherited, *(test.get("assert") or [])]
    if options.get("transform") is not None:
        read_transform(options["transform"], f"{where} options")
    directions: dict[str, Json] = {}
    for name in ("prefix", "suffix"):
        if text := options.get(name):
            check_template(str(text))
            directions[f"__{name}"] = str(text)
    if beside.has_threshold:
        threshold = test.get("threshold")
        directions["__threshold"] = default.get("threshold") if threshold is None else threshold
    directions |= _only_for(test, beside, where)
    # A list of texts is one case each; a list that starts with anything else is one value.
    lists = {n: v if isinstance(v, list) and v and isinstance(v[0], str) else [v] for n, v in variables.items()}
    for values in itertools.product(*lists.values()):
        chosen = _composed(dict(zip(lists, values, strict=True)), where)
        specs = tuple(
            read_assertion(loaded(a, path, where), chosen, options, path, where) for a in assertions
        )  # fmt: skip
        asked = next((text for name in INPUT_NAMES if isinstance(text := chosen.get(name), str)), "")
        expected = next((chosen[name] for name in EXPECTED_NAMES if name in chosen), None)
        about = {"description": test["description"]} if test.get("description") else {}
        yield Case(
            input=asked, expected=expected, vars={**chosen, **directions}, assertions=specs,
            metadata={**about, **plain({**(default.get("metadata") or {}), **(test.get("metadata") or {})}, where)},
        )  # fmt: skip


def _only_for(test: Test, beside: _Beside, where: str) -> dict[str, Json]:
    """The directives that restrict a test to some models and prompts, if any."""
    restrictions: dict[str, Json] = {}
    if test.get("providers") is not None:
        wanted = [str(one) for one in _list(test["providers"], f"{where} providers")]
        named = [p for p in beside.providers if any(_fits(w, p.id) or _fits(w, p.label) for w in wanted)]
        if not named:
            raise DataError(
                f"{where} is for the providers {', '.join(wanted)}, none of which is defined.", "Fix the test."
            )
        restrictions["__models"] = [read_model(provider.id, where) for provider in named]
    if test.get("prompts") is not None:
        restrictions["__prompts"] = _labelled(test["prompts"], beside.prompts, where)
    return restrictions


def _fits(wanted: str, name: str | None) -> bool:
    if name is None:
        return False
    return wanted == name or name.startswith(f"{wanted}:") or (wanted.endswith("*") and fnmatchcase(name, wanted))


def _labelled(wanted: object, prompts: Sequence[_Prompt], where: str) -> list[str]:
    names = [str(one) for one in _list(wanted, f"{where} prompts")]
    texts = [p.text for p in prompts if any(_fits(name, label) for name in names for label in p.labels)]
    if not texts:
        raise DataError(
            f"{where} is for the prompts {', '.join(names)}, none of which is defined.", "Give prompts labels."
        )
    return texts


# -- prompts and providers


def _prompts(prompts: object, path: Path) -> list[_Prompt]:
    """The prompt templates. A file name is replaced by the file's content; a `.txt` file may contain several, separated
    by lines of `---`.
    """
    if isinstance(prompts, Mapping):
        prompts = [{"id": text, "label": label} for text, label in prompts.items()]
    templates: list[_Prompt] = []
    for number, prompt in enumerate(prompts if isinstance(prompts, list) else [prompts], 1):
        where = f"{path.name} prompt {number}"
        label = None
        if isinstance(prompt, Mapping):
            only(prompt, ("raw", "label", "id"), where)
            label = prompt.get("label")
        text = (prompt.get("raw") or prompt.get("id")) if isinstance(prompt, Mapping) else prompt
        if isinstance(text, list | Mapping):
            text = json.dumps(text, ensure_ascii=False)
        if not isinstance(text, str):
            raise DataError(f"{where} is not text.", "Write the prompt inline, or refer to a .txt file.")
        for part, own in _prompt_texts(text, path, where):
            check_template(part)
            labels = [own, label if own is None or label is None else f"{label}: {part}", part, text]
            templates.append(_Prompt(part, tuple(str(one) for one in labels if one)))
    return templates


def _prompt_texts(text: str, path: Path, where: str) -> Iterator[tuple[str, str | None]]:
    """(template, its own label)"""
    if text.startswith("exec:") or (re.match(r"[a-z]+://", text) and not text.startswith("file://")):
        raise DataError(f"{where} is {text}, which is not supported here.", "Write it inline, or refer to a text file.")
    is_folder = len(text) < 250 and "/" in text and "\n" not in text and (path.parent / text).is_dir()
    if is_folder:
        text = f"{text.rstrip('/')}/*"
    elif not (text.startswith("file://") or _PROMPT_FILE.fullmatch(text)):
        yield text, None
        return
    for file in _files(text, path, where):
        kind = ending(file)
        if kind in (".txt",):
            parts = re.split(r"(?m)^---[ \t]*$", read_text(file))
            yield from ((part.strip(), None) for part in parts if part.strip())
        elif kind in (".md", ".j2", ".json"):
            yield read_text(file).strip(), None
        elif kind in (".yaml", ".yml"):
            value = load_yaml(file)
            yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), None
        elif kind == ".jsonl":
            yield from ((line.strip(), None) for line in read_text(file).split("\n") if line.strip())
        elif kind == ".csv":
            for row, place in read_csv(file):
                if "prompt" not in row:
                    raise DataError(f"{place} has no column 'prompt'.", "Name the column 'prompt'.")
                yield row["prompt"], row.get("label") or None
        else:
            raise DataError(f"{where} is in {text}, which is not supported here.", "Use a text file.")


def _providers(providers: object, prompts: Sequence[_Prompt], path: Path) -> tuple[Provider, ...]:
    """The providers of the file. Whether they are supported is checked only if no other candidates are given."""
    parsed: list[Provider] = []
    for number, given in enumerate(providers if isinstance(providers, list) else [providers], 1):
        where = f"{path.name} provider {number}"
        for one in _provider_files(given, path, where):
            if isinstance(one, str):
                parsed.append(Provider(id=one))
                continue
            one = _mapping(one, where)
            if "id" not in one and len(one) == 1:
                [(name, rest)] = one.items()
                one = {"id": name, **rest} if isinstance(rest, Mapping) else one
            only(one, ("id", "label", "config", "prompts", "delay"), where)
            chosen = None if one.get("prompts") is None else tuple(_labelled(one["prompts"], prompts, where))
            settings = plain(_mapping(one.get("config") or {}, f"{where} config"), where)
            label = None if one.get("label") is None else str(one["label"])
            parsed.append(Provider(str(one.get("id")), label, settings, chosen))
    return tuple(parsed)


def _provider_files(given: object, path: Path, where: str) -> Iterator[object]:
    if isinstance(given, str) and given.startswith("file://") and given.endswith((".yaml", ".yml", ".json")):
        for file in _files(given, path, where):
            value = load_yaml(file)
            yield from value if isinstance(value, list) else [value]
    else:
        yield given
