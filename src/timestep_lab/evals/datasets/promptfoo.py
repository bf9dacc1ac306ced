"""promptfoo's YAML: `tests` (and the `prompts` beside them) as a dataset.

Format: <https://www.promptfoo.dev/docs/configuration/test-cases/>. Read are `vars` (lists multiply into cases; also `file://`), `assert`,
`defaultTest`, `description`, `metadata`, `scenarios`, and `prompts` in place or in text files, parted by lines of `---`; tests and their
parts in files of their own by `file://`. Everything else in a file changes what promptfoo would ask or count, so it is refused by its
name: nothing is left out in silence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.datasets.files import ending, read_text, reader_of
from timestep_lab.evals.datasets.rows import EXPECTED_NAMES, INPUT_NAMES, plain
from timestep_lab.evals.datasets.template import render_all
from timestep_lab.types.errors import DataError

_SHORT = re.compile(r"(?P<kind>[a-z][a-z-]*)(?:\((?P<number>[\d.]+)\))?(?::(?P<value>.*)|\Z)", re.DOTALL)
_PROMPT_FILE = re.compile(r"\S+\.(?:txt|md|json|jsonl|yaml|yml|csv|js|mjs|cjs|ts|py|j2)")

_ASSERTIONS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "equals": lambda a: {"type": "exact", "value": a["value"], "case_sensitive": True},
    "contains": lambda a: {"type": "contains", "value": a["value"], "case_sensitive": True},
    "icontains": lambda a: {"type": "contains", "value": a["value"]},
    "contains-any": lambda a: {"type": "contains", "value": a["value"], "case_sensitive": True},
    "icontains-any": lambda a: {"type": "contains", "value": a["value"]},
    "contains-all": lambda a: {"type": "contains", "value": a["value"], "all": True, "case_sensitive": True},
    "icontains-all": lambda a: {"type": "contains", "value": a["value"], "all": True},
    "starts-with": lambda a: {"type": "starts_with", "value": a["value"]},
    "regex": lambda a: {"type": "regex", "pattern": a["value"]},
    "is-json": lambda a: {"type": "json_schema", "schema": a.get("value") or {}},
    "levenshtein": lambda a: {"type": "edit_distance", "value": a["value"], "at_most": a.get("threshold", 5)},
    "similar": lambda a: {"type": "similarity", "value": a["value"], "at_least": a.get("threshold", 0.75)},
    "llm-rubric": lambda a: {"type": "judge", "rubric": a["value"]},
    "latency": lambda a: {"type": "latency", "at_most_ms": a["threshold"]},
    "cost": lambda a: {"type": "cost", "at_most_usd": a["threshold"]},
    "is-refusal": lambda a: {"type": "refusal"},
    "trajectory:tool-used": lambda a: {"type": "tool_used", "name": a["value"]},
    "trajectory:step-count": lambda a: {"type": "steps", **_bounds(a["value"])},
}

_TOP = (
    "description",
    "prompts",
    "providers",
    "targets",
    "tests",
    "scenarios",
    "defaultTest",
    "tags",
    "outputPath",
    "sharing",
    "commandLineOptions",
    "evaluateOptions",
    "metadata",
)
"""`providers` are promptfoo's candidates; here they are said as `models`."""
_EVALUATE = ("maxConcurrency", "delay", "cache", "showProgressBar", "timeoutMs")
"""Of `evaluateOptions`: how fast, not what."""
_TEST = ("description", "vars", "assert", "metadata")
_ASSERTION = ("type", "value", "threshold", "weight", "metric")
_THRESHOLDS = ("levenshtein", "similar", "latency", "cost")
_LISTS = ("contains-any", "contains-all", "icontains-any", "icontains-all")


def read(path: Path) -> tuple[list[Case], list[str]]:
    """Cases and prompt templates. Raises `DataError`, naming the test, for what is not understood: nothing is left out in silence."""
    config = _yaml(path)
    if isinstance(config, list):
        config = {"tests": config}
    if not isinstance(config, Mapping) or not ("tests" in config or "scenarios" in config):
        raise DataError(f"{path.name} has no tests.", "A promptfoo file has a list under `tests:`.")
    _only(config, _TOP, path.name)
    _only(
        _mapping(config.get("evaluateOptions") or {}, f"{path.name} evaluateOptions"),
        _EVALUATE,
        f"{path.name} evaluateOptions",
    )
    default = _test(config.get("defaultTest") or {}, path, f"{path.name} defaultTest")
    cases: list[Case] = []
    for number, test in enumerate(_all_tests(config, path), 1):
        where = f"{path.name} test {number}"
        cases += _cases(_test(test, path, where), default, path, where)
    return cases, _prompts(config.get("prompts") or [], path)


def _only(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Raises `DataError` for a key that would mean something to promptfoo and nothing here."""
    strange = [str(name) for name in given if name not in known]
    if strange:
        raise DataError(
            f"{where} uses {', '.join(map(repr, strange))}, which is not supported here.",
            f"Take it out if it does not matter. Read are: {', '.join(known)}.",
        )


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is not an object.", "Give names and their values.")
    return value


def _file(value: str, path: Path) -> Path:
    return path.parent / value.removeprefix("file://")


def _loaded(value: Any, path: Path, where: str) -> Any:
    """What a `file://` stands for: the value of a YAML or JSON file, the text of a text file; anything else is itself."""
    if not (isinstance(value, str) and value.startswith("file://")):
        return value
    file = _file(value, path)
    kind = ending(file)
    if kind in (".yaml", ".yml", ".json"):
        return _yaml(file)
    if kind in (".txt", ".md", ".html", ".xml"):
        return read_text(file).strip()
    raise DataError(
        f"{where} takes a value from {value}, which is not supported here.", "Use YAML, JSON or a text file."
    )


def _test(test: Any, path: Path, where: str) -> Mapping[str, Any]:
    given = _mapping(_loaded(test, path, where), where)
    _only(given, _TEST, where)
    return given


def _all_tests(config: Mapping[str, Any], path: Path) -> Iterator[Any]:
    if "tests" in config:
        yield from _tests(config["tests"], path)
    for number, given in enumerate(config.get("scenarios") or [], 1):
        where = f"{path.name} scenario {number}"
        scenario = _mapping(_loaded(given, path, where), where)
        _only(scenario, ("description", "config", "tests"), where)
        for first, second in itertools.product(
            scenario.get("config") or [], list(_tests(scenario.get("tests") or [], path))
        ):
            base, test = _test(first, path, where), _test(second, path, where)
            yield {
                **base, **test, "vars": {**_vars(base, path, where), **_vars(test, path, where)},
                "assert": [*(base.get("assert") or []), *(test.get("assert") or [])],
                "metadata": {**(base.get("metadata") or {}), **(test.get("metadata") or {})},
            }  # fmt: skip


def _vars(test: Mapping[str, Any], path: Path, where: str) -> dict[str, Any]:
    given = _mapping(_loaded(test.get("vars") or {}, path, f"{where} vars"), f"{where} vars")
    return {str(name): _loaded(value, path, f"{where} vars") for name, value in given.items()}


def _yaml(path: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise DataError(f"{path.name} is not YAML{line}: {getattr(error, 'problem', error)}.", "Correct it.") from error


def _tests(tests: Any, path: Path) -> Iterator[Any]:
    if isinstance(tests, str):
        file = _file(tests, path)
        if ending(file) in (".yaml", ".yml"):
            yield from _tests(_yaml(file), file)
        else:
            yield from (_row(row, where) for row, where in reader_of(file)(file))
    elif isinstance(tests, list):
        for test in tests:
            if isinstance(test, str):
                yield from _tests(test, path)
            else:
                yield test
    else:
        raise DataError(f"{path.name}: tests is not a list.", "List the tests, or name a file with file://.")


def _row(row: Any, where: str) -> Any:
    """A row of a table of tests: its columns are variables, but for `__expected`, which promptfoo reads as an assertion."""
    if not isinstance(row, Mapping) or "vars" in row:
        return row
    special = [name for name in row if str(name).startswith("__") and not str(name).startswith("__expected")]
    if special:
        raise DataError(f"{where} uses the column {special[0]!r}, which is not supported here.", "Take it out.")
    asserts = [_short(str(row[name]), where) for name in row if str(name).startswith("__expected") and row[name]]
    return {"vars": {k: v for k, v in row.items() if not str(k).startswith("__expected")}, "assert": asserts}


def _short(text: str, where: str) -> dict[str, Any]:
    """`contains: Paris`, `levenshtein(3): Paris`, `grade: is polite`; text without a known kind is what the answer must equal."""
    if match := _SHORT.match(text):
        kind = {"grade": "llm-rubric"}.get(match["kind"], match["kind"])
        if kind.removeprefix("not-") in _ASSERTIONS:
            spec: dict[str, Any] = {"type": kind}
            if match["number"] is not None:
                spec["threshold"] = float(match["number"])
            if match["value"].strip():
                spec["value"] = match["value"].strip()
            return spec
        if match["kind"] in ("javascript", "fn", "eval", "python", "file", "similar", "webhook"):
            raise DataError(f"{where} expects {text!r}, which is not supported here.", "Write another assertion.")
    return {"type": "equals", "value": text}


def _cases(test: Mapping[str, Any], default: Mapping[str, Any], path: Path, where: str) -> Iterator[Case]:
    variables = plain({**_vars(default, path, where), **_vars(test, path, where)}, where)
    lists = {name: value if isinstance(value, list) else [value] for name, value in variables.items()}
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        assertions = [*(default.get("assert") or []), *(test.get("assert") or [])]
        specs = tuple(render_all(_assertion(a, path, where), chosen) for a in assertions)
        asked = next((chosen[name] for name in INPUT_NAMES if isinstance(chosen.get(name), str)), "")
        expected = next((chosen[name] for name in EXPECTED_NAMES if name in chosen), None)
        about = {"description": test["description"]} if test.get("description") else {}
        yield Case(
            input=asked, expected=expected, vars=chosen, assertions=specs,
            metadata={**about, **plain({**(default.get("metadata") or {}), **(test.get("metadata") or {})}, where)},
        )  # fmt: skip


def _assertion(assertion: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(assertion, Mapping) or not isinstance(assertion.get("type"), str):
        raise DataError(f"{where} has an assertion without a type.", "Write `- type: contains` and `value: …`.")
    kind = assertion["type"]
    negated, name = kind.startswith("not-"), kind.removeprefix("not-")
    if name not in _ASSERTIONS:
        raise DataError(
            f"{where} uses the assertion {kind!r}, which is not one of those read here.",
            f"Known: {', '.join(sorted(_ASSERTIONS))}, each also with not-.",
        )
    known = tuple(key for key in _ASSERTION if key != "threshold" or name in _THRESHOLDS)
    _only(assertion, known, f"{where}: the assertion {kind!r}")
    if "value" in assertion:
        value = _loaded(assertion["value"], path, f"{where}: the assertion {kind!r}")
        if name in _LISTS and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        assertion = {**assertion, "value": value}
    try:
        spec = _ASSERTIONS[name](assertion)
    except KeyError as error:
        raise DataError(f"{where}: the assertion {kind!r} needs {error.args[0]!r}.", "Add it.") from error
    if "weight" in assertion:
        spec["weight"] = assertion["weight"]
    if "metric" in assertion:
        spec["name"] = str(assertion["metric"])
    return {**spec, "negate": True} if negated else spec


def _bounds(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {ours: value[theirs] for theirs, ours in (("min", "at_least"), ("max", "at_most")) if theirs in value}
    return {"at_most": value}


def _prompts(prompts: Any, path: Path) -> list[str]:
    """Templates. A text that names a `.txt` or `.md` file is that file, whose lines of `---` part prompts from one another."""
    texts: list[str] = []
    for number, prompt in enumerate(prompts if isinstance(prompts, list) else [prompts], 1):
        where = f"{path.name} prompt {number}"
        if isinstance(prompt, Mapping):
            _only(prompt, ("raw", "label", "id"), where)
        text = (prompt.get("raw") or prompt.get("id")) if isinstance(prompt, Mapping) else prompt
        if not isinstance(text, str):
            raise DataError(f"{where} is not text.", "Write the prompt in place, or name a .txt file.")
        if text.startswith("file://") or _PROMPT_FILE.fullmatch(text):
            file = _file(text, path)
            if "*" in text or ending(file) not in (".txt", ".md"):
                raise DataError(f"{where} is in {text}, which is not supported here.", "Name a .txt or .md file.")
            parts = [part.strip() for part in re.split(r"(?m)^---[ \t]*$", read_text(file))]
        else:
            parts = [text]
        for part in filter(None, parts):
            if re.match(r"\[\s*\{", part) and '"role"' in part:
                raise DataError(
                    f"{where} is a JSON conversation, which is not supported here.",
                    "Write it as text, or as cases with messages.",
                )
            if "{%" in part or "{#" in part:
                raise DataError(
                    f"{where} uses {{% … %}}, which is not supported here.",
                    "Use {{name}} only, or one prompt for each case.",
                )
            texts.append(part)
    return texts
