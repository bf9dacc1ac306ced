"""Rows of well-known data sets and programs whose question, choices or answers have a form of their own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import DataError


def with_choices(values: Mapping[str, Json]) -> dict[str, Json] | None:
    """Returns `question`, `choices` and `answer`, the place of the right choice, of a row of HellaSwag, PIQA, WinoGrande, COPA, GPQA or
    LogiQA; None for other rows."""
    has = values.keys().__ge__
    if has({"ctx", "endings", "label"}):
        label = str(values["label"]).strip()
        place = int(label) if label.isdigit() else None
        return {"question": values["ctx"], "choices": values["endings"], "answer": place}
    if has({"goal", "sol1", "sol2"}):
        return {"question": values["goal"], "choices": [values["sol1"], values["sol2"]], "answer": values.get("label")}
    if has({"sentence", "option1", "option2"}):
        place = {"1": 0, "2": 1}.get(str(values.get("answer")))
        return {"question": values["sentence"], "choices": [values["option1"], values["option2"]], "answer": place}
    if has({"Question", "Correct Answer", "Incorrect Answer 1"}):
        correct = str(values["Correct Answer"])
        wrong = [str(value) for name, value in values.items() if re.fullmatch(r"Incorrect Answer \d+", name) and value]
        mixed = sorted([correct, *wrong], key=lambda choice: hashlib.sha256(choice.encode()).digest())
        return {"question": values["Question"], "choices": mixed, "answer": mixed.index(correct)}
    if has({"premise", "choice1", "choice2", "question", "label"}):
        asked = {"cause": "What was the cause?", "effect": "What happened as a result?"}.get(str(values["question"]))
        question = f"{values['premise']} {asked or values['question']}"
        return {"question": question, "choices": [values["choice1"], values["choice2"]], "answer": values["label"]}
    if has({"query", "options", "correct_option"}):
        question = "\n\n".join(str(values[name]) for name in ("context", "query") if values.get(name))
        return {"question": question, "choices": values["options"], "answer": values["correct_option"]}
    return None


def with_answers(values: dict[str, Json], others: Iterable[str]) -> dict[str, Json]:
    """Returns the row with `answer` from the answers of SQuAD, WebQuestions, TriviaQA, PopQA or DROP, any of which is right; the same row
    if it has none of these, or its answer is in one of the `others`: then the answers may be those of models."""
    if "question" not in values:
        return values
    answer: object = values.get("answer")
    if isinstance(answer, Mapping) and "aliases" in answer:
        return {**values, "answer": list(dict.fromkeys([answer.get("value"), *answer["aliases"]]))}
    if answer is not None or any(values.get(name) is not None for name in others):
        return values
    for name, part in (("answers", "text"), ("answers_spans", "spans"), ("possible_answers", "")):
        given: object = values.get(name)
        if isinstance(given, str) and name == "possible_answers":
            with suppress(ValueError):
                given = json.loads(given)
        found = given.get(part) if isinstance(given, Mapping) else given
        if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
            rest = {column: value for column, value in values.items() if column != name}
            return {**rest, "answer": list(dict.fromkeys(found))}
    return values


def of_harness(values: Mapping[str, Json], where: str) -> dict[str, Json]:
    """A line of `samples_….jsonl` of lm-evaluation-harness. The prompt is in its arguments; for multiple choice, there
    is one per choice.
    """
    given: object = values["arguments"]
    pairs = [[one.get("arg_0"), one.get("arg_1")] for one in given.values()] if isinstance(given, Mapping) else given
    if (
        not isinstance(pairs, list)
        or not pairs
        or not all(isinstance(pair, list) and pair and isinstance(pair[0], str) for pair in pairs)
    ):
        raise DataError(f"{where} has arguments without a prompt.", "Log samples with --log_samples.")
    about = {"doc": values["doc"], "metadata": {"doc_id": values["doc_id"]}}
    row = {"input": pairs[0][0], "expected": values["target"], **about}
    if len(pairs) == 1:
        return row
    if len({pair[0] for pair in pairs}) > 1 or not all(len(pair) > 1 and isinstance(pair[1], str) for pair in pairs):
        raise DataError(
            f"{where} compares likelihoods of texts, which is not supported.",
            "Use a task that generates, or has choices.",
        )
    right = str(values["target"]).strip()
    choices = [pair[1].strip() for pair in pairs]
    return {**row, "choices": choices, "expected": int(right) if right.isdigit() else right}


def of_bedrock(turns: list[Any]) -> list[Json]:
    """The messages of an evaluation set of Bedrock: prompts, each with its reference response."""
    messages: list[Json] = []
    for turn in turns:
        for role, held in (
            ("user", turn.get("prompt")),
            ("assistant", next(iter(turn.get("referenceResponses") or []), None)),
        ):
            if isinstance(held, Mapping):
                messages.append(
                    {"role": role, "content": "".join(str(part.get("text", "")) for part in held.get("content") or [])}
                )
    return messages


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`."""
    start = text.rfind(r"\boxed{")
    depth = 0
    for at in range(start + 6, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + 7 : at]
    return None
