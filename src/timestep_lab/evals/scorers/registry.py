"""Creates scorers from user notation: `"exact"`, `"not:contains"`, `"regex:^yes"`, `"fuzzy?at_least=0.9&weight=2"`,
`{"type": "number", "tolerance": 0.5}`, a function, or a scorer object."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from typing import Any, cast
from urllib.parse import parse_qsl

from timestep_lab.evals import scorers as package
from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.javascript import read_script
from timestep_lab.evals.javascript_values import ScriptError, Undefined, as_text
from timestep_lab.evals.scorers.base import (
    SCORERS,
    Answer,
    Score,
    Scorer,
    Scorers,
    Tools,
    in_scorer_thread,
    unknown,
)
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json, list_of, object_of
from timestep_lab.model.comparison import CaseRecord, ScoreValue
from timestep_lab.model.errors import LabError, UsageError

# --- A Python function as a scorer


_OFFERED = ("output", "expected", "input", "case", "answer", "vars", "steps")


@dataclass(frozen=True, kw_only=True)
class Function(Scorer):
    """Calls a Python function with those of output, expected, input, case, answer, vars and steps that it has as
    parameters.

    It returns a number, a bool, a `Score`, or None (unknown). Sync functions are called in threads, several at a time;
    async ones on the event loop. If it raises, there is no score, and the exception is the note.
    """

    function: Callable[..., object]

    def __post_init__(self) -> None:
        wanted = inspect.signature(self.function).parameters.values()
        strange = [
            p.name for p in wanted
            if p.name not in _OFFERED and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]  # fmt: skip
        if strange:
            raise UsageError(
                f"The scorer {self.name or self.function.__name__} has unknown parameters: {', '.join(strange)}.",
                f"Supported parameters: {', '.join(_OFFERED)}.",
            )

    def check(self, answer: Answer, case: Case) -> Score:
        result = self._call(answer, case)
        if inspect.isawaitable(result):
            raise UsageError(f"The scorer {self.name} is async.", "Use it in a comparison, which awaits it.")
        return _as_score(result)

    async def score(self, answer: Answer, case: Case, tools: Tools) -> Score:
        if inspect.iscoroutinefunction(self.function):
            return _as_score(await self._call(answer, case))
        result = await in_scorer_thread(self._call, answer, case)
        return _as_score(await result if inspect.isawaitable(result) else result)

    def _call(self, answer: Answer, case: Case) -> Any:
        offered = {
            "output": answer.output, "expected": case.expected, "input": case.input, "case": case, "answer": answer,
            "vars": case.own_vars(), "steps": list(answer.steps),
        }  # fmt: skip
        parameters = inspect.signature(self.function).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return self.function(**offered)
        return self.function(**{name: offered[name] for name in parameters if name in offered})


def _as_score(result: object) -> Score:
    if isinstance(result, Score):
        return result
    if result is None:
        return unknown("the function gave no score")
    if isinstance(result, bool | int | float) or hasattr(result, "__float__"):
        value = float(result)
        return Score(value) if math.isfinite(value) else unknown(f"the function gave {value}, which is not a score")
    return unknown(f"the function gave a {type(result).__name__}, not a number")


_SPEC = re.compile(r"(?P<type>[A-Za-z_][\w-]*)(?P<rest>.*)", re.DOTALL)
_ENTRY_POINTS = "timestep_lab.scorers"


def make_scorers(specs: Scorers) -> list[Scorer]:
    """Scorers with unique names. Raises `UsageError` for unknown names or options, or a duplicate name."""
    many = specs if isinstance(specs, Iterable) and not isinstance(specs, str | Mapping | Scorer) else [specs]
    made = [make_scorer(spec) for spec in many]
    names = [scorer.name for scorer in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        step = 'Give one another name: {"type": …, "name": …}.'
        if twice == "<lambda>":
            step = "Give each a name, which is its column: def short(output): return len(output) < 40"
        raise UsageError(f"Two scorers are called {twice!r}.", step)
    return made


def split_specs(text: str) -> list[str]:
    """A comma-separated list as a command line has it. A comma inside what follows a colon or a question mark belongs to that scorer
    (`tool_order:search,fetch`, `regex:\\d{1,3}`), unless the name of a scorer comes after it."""
    specs: list[str] = []
    for part in text.split(","):
        match = _SPEC.match(_negation(part.strip())[1])
        begins = (
            match is not None
            and match["type"].replace("-", "_") in _catalogue()
            and match["rest"][:1] in ("", ":", "?")
        )
        if specs and not begins and any(mark in _negation(specs[-1])[1] for mark in ":?"):
            specs[-1] += f",{part}"
        elif part.strip():
            specs.append(part.strip())
    return specs


def make_scorer(spec: object) -> Scorer:
    """One scorer from what a user wrote. Raises `UsageError`."""
    if isinstance(spec, Scorer):
        return spec if spec.name else dataclasses.replace(spec, name=spec.type)
    if isinstance(spec, str):
        return _of_text(spec)
    if isinstance(spec, Mapping):
        options = dict(spec)
        kind = options.pop("type", None)
        if not isinstance(kind, str):
            raise UsageError(
                "A scorer given as an object needs a type.", 'For example {"type": "contains", "value": "Paris"}.'
            )
        negated, kind = _negation(kind)
        return _build(kind, {**options, **({"negate": True} if negated else {})}, {})
    if callable(spec):
        name = getattr(spec, "__name__", type(spec).__name__)
        return Function(name=name, function=spec)
    raise UsageError(
        f"A {type(spec).__name__} is not a scorer.", f"Known: {', '.join(known())}; or pass a Python function."
    )


def to_spec(scorer: Scorer) -> dict[str, Json]:
    """A scorer as an object from which it can be recreated; a function only by its name."""
    if isinstance(scorer, Function):
        return {"type": "function", "name": scorer.name, "weight": scorer.weight, "negate": scorer.negate}
    given = {
        f.name: getattr(scorer, f.name)
        for f in dataclasses.fields(scorer)
        if f.name == "name" or getattr(scorer, f.name) != _default(f)
    }
    return {"type": scorer.type, **json.loads(json.dumps(given, default=list))}


def known() -> list[str]:
    """Names of all scorers, built in and from entry points."""
    return sorted(_catalogue())


@cache
def _catalogue() -> Mapping[str, type[Scorer]]:
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group=_ENTRY_POINTS):
        entry.load()
    return SCORERS


def _of_text(text: str) -> Scorer:
    negated, rest = _negation(text.strip())
    match = _SPEC.fullmatch(rest)
    kind, tail = (match["type"], match["rest"]) if match else (rest, "")
    options: dict[str, object] = {"negate": True} if negated else {}
    as_text: dict[str, str] = {}
    if tail.startswith(":"):
        main = _class(kind).main
        if main is None:
            raise UsageError(f"The scorer {kind} takes nothing after a colon.", f"Write {kind}.")
        as_text[main] = tail[1:]
    elif tail.startswith("?"):
        as_text.update(parse_qsl(tail[1:], keep_blank_values=True))
    elif tail:
        raise UsageError(f"The scorer {text!r} is invalid.", "Use name, name:value or name?option=value&option=value.")
    shown = re.sub(r"[?&]weight=[^&]*", "", text.strip())
    return _build(kind, {"name": shown, **options}, as_text)


def _negation(text: str) -> tuple[bool, str]:
    for mark in ("not:", "not-"):
        if text.startswith(mark):
            return True, text[len(mark) :]
    return False, text


def _class(kind: str) -> type[Scorer]:
    catalogue = _catalogue()
    scorer_class = catalogue.get(kind) or catalogue.get(kind.replace("-", "_"))
    if scorer_class is None:
        raise UsageError(
            f"There is no scorer {kind!r}.{did_you_mean(kind, catalogue)}",
            f"Known: {', '.join(known())}, each also as not:name; or pass a Python function.",
        )
    return scorer_class


def _build(kind: str, options: Mapping[str, object], as_text: Mapping[str, str]) -> Scorer:
    cls = _class(kind)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {
        **options,
        **{name: _typed(text, fields[name]) if name in fields else text for name, text in as_text.items()},
    }
    strange = next((name for name in values if name not in fields), None)
    if strange is not None:
        common = ("name", "weight", "negate", "pass_at", "transform")
        own = [name for name in fields if name not in common]
        raise UsageError(
            f"The scorer {kind} has no option {strange!r}.{did_you_mean(strange, fields)}",
            f"Its options: {', '.join([*own, *common])}.",
        )
    values.setdefault("name", f"not:{kind}" if values.get("negate") else kind)
    if "transform" in values:
        scripts = values["transform"]
        values["transform"] = tuple(
            read_script(script).text for script in ([scripts] if isinstance(scripts, str) else scripts)
        )
    return cls(**values)


def _typed(text: str, option: dataclasses.Field[object]) -> object:
    """Convert a text in a spec to the type of the option."""
    hint = str(option.type)
    try:
        if hint.startswith("bool"):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if hint.startswith("int"):
            return int(text)
        if hint.startswith("float"):
            return float(text)
        if hint.startswith("Mapping"):
            return json.loads(text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"The option {option.name}={text!r} is not of type {hint}.", "Fix the value.") from error
    return text


def _default(option: dataclasses.Field[object]) -> object:
    return option.default_factory() if option.default_factory is not dataclasses.MISSING else option.default


# --- Running scorers: negation, weights, and isolation of failures


OVERALL = "overall"
ASSERTIONS = "assertions"
PASSED = "passed"


async def score_answer(scorers: Sequence[Scorer], answer: Answer, case: Case, tools: Tools) -> tuple[ScoreValue, ...]:
    """Each scorer's score, in order; then `assertions` (the case's own, weighted) with named scores, and `overall`, if
    there are any."""
    scores = [(await score_one(scorer, answer, case, tools))[0] for scorer in scorers if not scorer.pairwise]
    if case.assertions:
        scores += await _own_assertions(answer, case, tools)
    return with_overall(scores, scorers)


async def _own_assertions(answer: Answer, case: Case, tools: Tools) -> list[ScoreValue]:
    """`assertions`: the weighted mean, labelled pass or fail; then a score per assertion name, the mean of those with
    that name; and if the case has a threshold, `passed`. Only the first counts in `overall`."""
    specs = cast("tuple[Mapping[str, Json], ...]", case.assertions)
    scored = [await score_with_parts(make_scorer(spec), answer, case, tools) for spec in specs]
    own = [(score, passes) for score, passes, _ in scored]
    named = [
        (part.scorer, part) for spec, (score, _, parts) in zip(specs, scored, strict=True)
        for part in ((score,) if object_of(spec).get("name") else ()) + parts
    ]  # fmt: skip
    mean, passes, note = together(own, case.vars.get("__threshold"))
    scores = [
        ScoreValue(
            scorer=ASSERTIONS, value=mean, label=None if passes is None else "pass" if passes else "fail", note=note,
            cached=_all_cached(score for score, _ in own),
        )
    ]  # fmt: skip
    for name in assertion_names([case]):
        alike = [score for called, score in named if called == name]
        source = alike[0].source if all(s.source == alike[0].source for s in alike) else "scorer"
        notes = "; ".join(dict.fromkeys(s.note for s in alike if s.note)) or None
        value = weighted_mean([replace(s, weight=1.0) for s in alike] if all(s.weight == 0 for s in alike) else alike)
        scores.append(
            ScoreValue(scorer=name, value=value, weight=0.0, note=notes, source=source, cached=_all_cached(alike))
        )
    if "__threshold" in case.vars:
        scores.append(ScoreValue(scorer=PASSED, value=None if passes is None else float(passes), weight=0.0, note=note))
    return scores


def together(results: Sequence[tuple[ScoreValue, bool | None]], threshold: Any) -> tuple[float | None, bool | None, str | None]:  # fmt: skip
    """The weighted mean of assertions, whether they pass together (all of them, or with a threshold, the mean), and why
    not.
    """
    mean = weighted_mean([score for score, _ in results])
    failed = [score.scorer for score, passes in results if passes is False]
    unscored = [s for s, _ in results if s.value is None]
    notes = [f"failed: {', '.join(failed)}"] if failed else []
    notes += [f"{s.scorer} could not score: {s.note or 'it gave no reason'}" for s in unscored]
    if mean is None and results and not unscored:
        mean = 0.0  # None of them counts: they pass, with the score that promptfoo gives.
    if unscored or mean is None:
        return mean, None, "; ".join(notes) or None
    passes = mean >= float(threshold) if threshold is not None else not failed
    return mean, passes, "; ".join(notes) or None


def assertion_names(cases: Iterable[Case | CaseRecord]) -> list[str]:
    """Names given to the cases' own assertions, and within their sets."""

    def names(specs: Iterable[Any]) -> Iterator[str]:
        for spec in map(object_of, specs):  # One that is only a text has no name.
            if spec.get("name"):
                yield str(spec["name"])
            yield from names(list_of(spec.get("assertions")))

    return list(dict.fromkeys(name for case in cases for name in names(case.assertions)))


def _all_cached(scores: Iterable[ScoreValue]) -> bool:
    judged = [score.cached for score in scores if score.source == "judge"]
    return bool(judged) and all(judged)


def with_overall(scores: Sequence[ScoreValue], scorers: Sequence[Scorer]) -> tuple[ScoreValue, ...]:
    """Adds `overall`, the weighted mean, if the user has set weights."""
    rest = [score for score in scores if score.scorer != OVERALL]
    if all(scorer.weight == 1.0 for scorer in scorers) or len(rest) < 2:
        return tuple(rest)
    return (*rest, ScoreValue(scorer=OVERALL, value=weighted_mean(rest)))


def weighted_mean(scores: Sequence[ScoreValue]) -> float | None:
    """The weighted mean of the known scores; None if there are none."""
    known = [(s.value, s.weight) for s in scores if s.value is not None and s.weight > 0]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def score_value(scorer: Scorer, score: Score) -> ScoreValue:
    """Apply negation. Scores outside 0 to 1 cannot be negated and become unknown, as do scores that are not finite."""
    if score.value is not None and not math.isfinite(score.value):
        score = unknown(f"it gave {score.value}, which is not a score")
    if scorer.negate and score.value is not None and not score.broken:
        if 0.0 <= score.value <= 1.0:
            score = replace(score, value=1.0 - score.value)
        else:
            score = unknown(f"{score.value:g} is not between 0 and 1, so not: has no meaning")
    return ScoreValue(
        scorer=scorer.name, value=score.value, weight=scorer.weight, label=score.label, note=score.note,
        source="judge" if scorer.source == "judge" else "scorer", cached=score.cached,
    )  # fmt: skip


async def score_one(scorer: Scorer, answer: Answer, case: Case, tools: Tools) -> tuple[ScoreValue, bool | None]:
    """The score, and whether it passes as an assertion."""
    score, passes, _ = await score_with_parts(scorer, answer, case, tools)
    return score, passes


async def score_with_parts(
    scorer: Scorer, answer: Answer, case: Case, tools: Tools
) -> tuple[ScoreValue, bool | None, tuple[ScoreValue, ...]]:
    """The same, and the scores of a set's own assertions."""
    try:
        if scorer.transform:
            answer = await in_scorer_thread(transformed, scorer.transform, answer, case)
        score = await scorer.score(answer, case, tools)
    except ScriptError as error:
        score = Score(0.0, f"the answer cannot be transformed: {error}", broken=True)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a scorer raises, the answer is paid for and other scorers still run
        score = unknown(why_not(error))
    return score_value(scorer, score), _passes(scorer, score), score.parts


def transformed(scripts: Sequence[str], answer: Answer, case: Case) -> Answer:
    """The answer after applying transform scripts. Raises `ScriptError`."""
    value: object = answer.output
    for script in scripts:
        value = read_script(script).run(value, case.template_vars())
        if isinstance(value, Undefined) or value is None:
            raise ScriptError(f"{script} gives {as_text(value)}")
    return replace(answer, output=as_text(value), value=None if isinstance(value, str) else cast("Json", value))


def _passes(scorer: Scorer, score: Score) -> bool | None:
    if scorer.weight == 0:
        return True
    if score.value is None:
        return None
    if score.broken:
        return False
    least = 1.0 if scorer.pass_at is None else scorer.pass_at
    passes = score.value >= least if score.passes is None else score.passes
    return passes != scorer.negate


def why_not(error: BaseException) -> str:
    """The reason in the note when a scorer raised."""
    return str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"


def assertion_problems(case: Case) -> Mapping[int, str]:
    """Invalid assertions of a case, by position, checked before anything is spent."""
    problems = {}
    for position, spec in enumerate(case.assertions):
        try:
            make_scorer(spec)
        except LabError as error:
            problems[position] = str(error)
    return problems
