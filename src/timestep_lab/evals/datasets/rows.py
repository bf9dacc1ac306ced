"""Converts a table row, a JSON object or a string into a case."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from timestep_lab.evals.datasets.case import Case, kind_of, plain
from timestep_lab.evals.datasets.well_known import boxed, of_bedrock, of_harness, with_answers, with_choices
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json, list_of, objects_of
from timestep_lab.model.errors import DataError

INPUT_NAMES = ("input", "question", "prompt", "query", "user_input", "question_stem", "problem")
EXPECTED_NAMES = (
    "expected", "ideal", "target", "answer", "expected_output", "expected_response", "reference", "reference_answer", "ground_truth",
    "best_answer", "correct_answer",
)  # fmt: skip
"""Names of the column with the expected answer, in any spelling: `Expected output`, `expectedOutput`."""
_EXPECTED_ELSE = (
    "expected_answer",
    "reference_response",
    "reference_output",
    "gold_answer",
    "golden_answer",
    "golden_answers",
    "gold",
    "final_answer",
)
"""Fallback names if none of these exist."""
EXPORTED = {"comparison_id", "case_id", "candidate", "epoch"}
"""Columns that identify a saved comparison."""
_OF_OPENAI = {
    "item", "sample", "id", "object", "created_at", "run_id", "eval_id", "status", "datasource_item_id", "datasource_item", "results",
}  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_RESERVED = ("id", "messages", "assertions", "metadata", "vars")
_WORKED = re.compile(r"\n#### *(?P<result>[^\n]*\d[^\n]*)\s*\Z")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")
_JSON_CELLS = ("metadata", "vars", "messages", "assertions", "inputs", "outputs")
"""Columns that contain JSON, encoded as text in tables."""
_JSON_CELLS_TOO = ("input", "output", "expected", "expectedOutput", "expected_output", "tags")
"""Additional JSON columns in tables whose metadata is JSON, or that Langfuse wrote."""
_CONVERSATIONS = ("messages", "conversations", "contents")
_ROLES = {"human": "user", **dict.fromkeys(("gpt", "ai", "model", "bot", "chatbot"), "assistant")}
_OF_CHOICES = ("answerKey", "answer_index", "mc1_targets", "mc2_targets")
_WRITTEN_LIST = re.compile(r"""\s*(?:\[\s*['"]|\{\s*['"](?:text|label)['"])""")
_DOTTED = re.compile(r"(inputs|outputs|reference_outputs|reference)\.([^.]+)")
_LABELLED = re.compile(r"\s*\(?([A-Z])\s*[).:]\s*(?=\S)")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the input, expected and id columns. None: the first of the usual names that exists."""

    input: str | None = None
    expected: str | None = None
    id: str | None = None


def to_case(row: object, where: str, columns: Columns) -> Case:
    """Convert a row into a case. `where` identifies the row in messages ("questions.csv line 4"). Raises `DataError`.

    A text is a question. In an object, columns are found by name (`INPUT_NAMES`, `EXPECTED_NAMES`, or `columns`);
    `input` may be a list of chat messages. All other columns become template variables. Multiple choices (as in MMLU,
    ARC and TruthfulQA) are appended to the question, and the expected answer is a letter; for worked answers that end
    in `#### 18` (GSM8K) the expected answer is the result.
    """
    if isinstance(row, str):
        if not row.strip():
            raise DataError(f"{where} is empty.", "Remove it, or write a question.")
        return Case(input=str.__str__(row))
    if isinstance(row, Case):
        return row
    if not isinstance(row, Mapping):
        raise DataError(
            f"{where} is {kind_of(row)}.", 'A case is a text or an object such as {"input": …, "expected": …}.'
        )
    # OpenAI evals: a row of a data source, or of an exported run's results.
    held: Mapping[object, object] | None = next(
        (row[name] for name in ("item", "datasource_item") if isinstance(row.get(name), Mapping)), None
    )
    if held is not None and set(row) <= _OF_OPENAI:
        row = held
    values = _usual(
        _decoded(
            {str(key): plain(value, f"{where}: the column {key!r}") for key, value in row.items() if key is not None}
        ),
        where,
    )
    asked = _column(values, columns.input, INPUT_NAMES, where, "input")
    expected = _column(values, columns.expected, EXPECTED_NAMES, where, "expected")
    expected = expected or _column(values, None, _EXPECTED_ELSE, where, "expected")
    choices = _choices(values, expected, where)
    given_vars = values.get("vars") or {}
    if not isinstance(given_vars, Mapping):
        raise DataError(f"{where}: vars is {kind_of(given_vars)}.", "Use an object that maps variable names to values.")
    id_column = columns.id or "id"
    used = {asked, expected, id_column, *_RESERVED, *(_OF_CHOICES if choices else ())}
    text, messages = _question(values.get(asked) if asked else None, values.get("messages"), where)
    variables = {**{k: v for k, v in values.items() if k not in used}, **given_vars}
    if not text and not messages and not variables:
        raise DataError(
            f"{where} has no question.", f'Name a column one of {", ".join(INPUT_NAMES)}, or pass input="its name".'
        )
    if asked and asked != "input" and isinstance(values.get(asked), str):
        variables.setdefault(asked, values[asked])
    assertions = values.get("assertions") or ()
    if not isinstance(assertions, list | tuple):
        raise DataError(f"{where}: assertions is {kind_of(assertions)}.", "Use a list of scorers.")
    id_value = values.get(id_column)
    wanted = values.get(expected) if expected else None
    metadata = values.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        metadata = {"metadata": metadata}
    if choices and text and not messages:
        shown, wanted = choices
        variables["choices"] = shown
        text = "\n".join([text, "", *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, shown, strict=False))])
        text += "\n\nAnswer with the letter of one choice."
    elif isinstance(wanted, str) and (worked := _WORKED.search(wanted)):
        metadata = {"worked_answer": wanted, **metadata}
        wanted = worked["result"].strip()
    return Case(
        id="" if id_value is None else str(id_value), input=text, messages=messages, expected=wanted, vars=variables,
        assertions=tuple(assertions), metadata=metadata,
    )  # fmt: skip


def is_question_column(name: str) -> bool:
    """Whether a column of this name contains the input."""
    return _canonical(name) in INPUT_NAMES


def _canonical(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", _HUMP.sub("_", name.strip())).lower()


def case_of_sample(row: object) -> str | None:
    """The case id of a row that is one of several about the same case (an answer of a saved comparison, a sample of an
    epoch, a filtered view of a document); else None."""
    if not isinstance(row, Mapping):
        return None
    samples = ({"id", "epoch", "input", "target"}, "id"), ({"doc_id", "doc", "filter"}, "doc_id")
    for about, name in ((EXPORTED, "case_id"), *samples):
        if row.keys() >= about:
            return str(row[name])
    return None


def is_archived(row: object) -> bool:
    """Whether this is a Langfuse item that has been archived."""
    return (
        isinstance(row, Mapping) and row.get("status") == "ARCHIVED" and bool({"datasetId", "datasetName"} & row.keys())
    )


def _decoded(values: dict[str, Json]) -> dict[str, Json]:
    """Decode columns that contain JSON as text."""
    names = set(_JSON_CELLS)
    of_table = all(value is None or isinstance(value, str) for value in values.values())
    if of_table and ("expectedOutput" in values or isinstance(_from_json(values.get("metadata")), Mapping)):
        names |= {*_JSON_CELLS_TOO}
    return {name: _from_json(value) if name in names else value for name, value in values.items()}


def _from_json(value: Json) -> Json:
    text = value.strip() if isinstance(value, str) else ""
    if text == "null":
        return None
    if not text.startswith(("{", "[", '"')):
        return value
    try:
        decoded: Json = json.loads(text)
    except ValueError:
        return value
    return decoded


def _turns(history: Json, where: str) -> list[Sequence[Json]]:
    """Read the earlier questions and answers of a row of LLaMA-Factory: a list of pairs. Raises `DataError`."""
    if history and not (isinstance(history, list) and all(isinstance(turn, list | tuple) for turn in history)):
        raise DataError(f"{where}: history is not a list of pairs.", 'Write: [["question", "answer"], …]')
    return [list_of(turn) for turn in list_of(history)]


def _usual(values: dict[str, Json], where: str) -> dict[str, Json]:
    """Normalise a row in the format of a well-known data set or tool: Alpaca's instructions, HellaSwag, PIQA,
    WinoGrande, GPQA, MMLU-Pro and BIG-bench with their choices, the answers of SQuAD, TriviaQA and MGSM, MATH's
    boxed results, examples of LangSmith, MLflow, Langfuse, Phoenix and Bedrock, logs of lm-evaluation-harness and Inspect,
    and conversations that end with the answer (OpenAI fine-tuning, ShareGPT)."""
    values = _nested(values)
    if isinstance(stem := values.get("question"), Mapping) and stem.keys() >= {"stem", "choices"}:
        values = {**values, "question": stem["stem"], "choices": stem["choices"]}
    values = _listed_choices(values, where)
    if values.keys() == {"instruction", "context", "response", "category"}:  # Dolly.
        values = {"instruction": values["instruction"], "input": values["context"], "output": values["response"]}
    has = values.keys().__ge__
    if has({"instruction", "output"}):
        asked = "\n\n".join(str(values[name]) for name in ("instruction", "input") if values.get(name))
        row = {name: value for name, value in values.items() if name not in ("instruction", "input", "output")}
        row |= {"input": asked, "expected": values["output"]}
        if row.get("system") or row.get("history"):  # As of LLaMA-Factory.
            before = [text for turn in _turns(row.pop("history", None), where) for text in turn]
            chat = [*zip(cycle(("user", "assistant")), before, strict=False), ("user", asked)]
            row["messages"] = _with_system([{"role": role, "content": text} for role, text in chat], row)
        return row
    if (chosen := with_choices(values)) is not None:
        return chosen
    if has({"question", "opa", "opb"}):
        parts = [values[name] for name in ("opa", "opb", "opc", "opd") if values.get(name)]
        return {**values, "choices": parts, "answer": values.get("cop")}
    if has({"question", "answer", "answer_number"}):
        values = {**values, "answer": values["answer_number"], "worked_answer": values["answer"]}
    if has({"Body", "Question"}):
        values = {**values, "Question": f"{values['Body']} {values['Question']}"}
    right = values.get("ground_truth", values.get("ground_truths"))
    if (
        has({"question", "answer"})
        and right is not None
        and any(n in values for n in ("contexts", "retrieved_contexts"))
    ):
        rest = {n: v for n, v in values.items() if n not in ("answer", "ground_truth", "ground_truths")}
        values = {**rest, "response": values["answer"], "expected": right}
    written = {_canonical(name): name for name in values}
    if {"prompt", "completion"} <= written.keys() and written.keys().isdisjoint((*EXPECTED_NAMES, *_EXPECTED_ELSE)):
        values = {**values, "expected": _answer_text(values[written["completion"]])}
        del values[written["completion"]]
    if has({"question", "options", "correct"}) and "answer" not in values:
        values = {("answer" if name == "correct" else name): value for name, value in values.items()}
    if has({"options", "answer", "label"}) and values["answer"] is None:
        values = {("answer" if n == "label" else n): v for n, v in values.items() if n != "answer"}
    has = values.keys().__ge__
    if has({"options", "answer"}) and "choices" not in values and isinstance(values["options"], list):
        values = {("choices" if name == "options" else name): value for name, value in values.items()}
    values = with_answers(values, (*EXPECTED_NAMES, *_EXPECTED_ELSE))
    if has({"problem", "solution"}) and "answer" not in values and (result := boxed(str(values["solution"]))):
        values = {**values, "answer": result}
    if has({"doc_id", "doc", "arguments", "target"}):
        return of_harness(values, where)
    if has({"id", "epoch", "input", "target"}):
        named = ("id", "input", "target", "choices", "metadata")
        row = {name: values[name] for name in named if values.get(name) is not None}
        if isinstance(row.get("choices"), list) and (target := str(row.get("target"))) in [*LETTERS]:
            row["target"] = LETTERS.index(target)
        return row
    scores: object = values.get("target_scores")
    if has({"input", "target_scores"}) and isinstance(scores, Mapping) and len(scores) > 1:
        best = [number for number, score in enumerate(scores.values()) if score == max(scores.values())]
        return {"question": values["input"], "choices": [*scores], "answer": best[0] if len(best) == 1 else None}
    if isinstance(turns := values.get("conversationTurns"), list):
        values = {**values, "messages": of_bedrock(turns)}
        del values["conversationTurns"]
    if "attributes.input.value" in values and not any(_canonical(name) in INPUT_NAMES for name in values):
        values = {**values, "input": values.pop("attributes.input.value")}
    given = values.get("inputs", values.get("input"))
    return _example(values, given) if isinstance(given, Mapping) else _conversation(values)


def _nested(values: dict[str, Json]) -> dict[str, Json]:
    """Columns such as `inputs.question` as objects."""
    flat = {name: match for name in values if (match := _DOTTED.fullmatch(name)) and match[1] not in values}
    nested: dict[str, dict[str, Json]] = {}
    for name, match in flat.items():
        nested.setdefault(match[1], {})[match[2]] = values[name]
    return {**{name: value for name, value in values.items() if name not in flat}, **nested}


def _listed_choices(values: dict[str, Json], where: str) -> dict[str, Json]:
    """Choices that stand as the text of a list, in columns A, B, …, as an object by letter (MedQA) or as objects with
    label and text (ARC as published), as a list."""
    for name in ("choices", "options"):
        text = values.get(name)
        if isinstance(text, str) and _WRITTEN_LIST.match(text):
            held = _from_json(text)
            try:
                held = ast.literal_eval(text.strip()) if held is text else held
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                held = None
            if not isinstance(held, Mapping) and (not isinstance(held, list) or len(held) < 2):
                raise DataError(f"{where} has {name} that are not a list: {text[:40]!r}.", 'Write JSON: ["…", "…"].')
            values = {**values, name: held}
        held = values.get(name)
        if isinstance(held, Mapping):
            by_letter = {letter: held[letter] for letter in LETTERS if held.get(letter) is not None}
            if len(by_letter) > 1 and [*by_letter] == [*LETTERS[: len(by_letter)]] and held.keys() <= {*LETTERS}:
                values = {**values, name: [*by_letter.values()]}
        elif isinstance(held, list) and held and all(isinstance(one, Mapping) for one in held):
            pairs = [(one.get("label", one.get("key")), one.get("text", one.get("value"))) for one in objects_of(held)]
            if all(isinstance(part, str) for pair in pairs for part in pair):
                rest = {n: v for n, v in values.items() if n != name}
                values = {
                    **rest,
                    "choices": {"label": [label for label, _ in pairs], "text": [text for _, text in pairs]},
                }
    if (letter := values.get("answer_idx")) in [*LETTERS]:
        rest = {n: v for n, v in values.items() if n != "answer_idx"}
        values = {**rest, "answer_index": LETTERS.index(str(letter))}
    letters = [letter for letter in LETTERS[:10] if isinstance(values.get(letter), str)]
    answer = next((name for name in values if _canonical(name) in ("answer", "target", "expected")), "")
    right = values.get(answer)
    if len(letters) > 1 and letters == list(LETTERS[: len(letters)]) and right in letters and "choices" not in values:
        shown = [values[letter] for letter in letters]
        rest = {n: v for n, v in values.items() if n not in letters}
        return {**rest, answer: letters.index(str(right)), "choices": shown}
    return values


def _messages(chat: Json) -> Json:
    """Chat messages in the format of LangChain, ShareGPT or Gemini, converted to the usual one; other values unchanged."""
    if not isinstance(chat, list) or not chat or not all(isinstance(one, Mapping) for one in chat):
        return chat
    messages = []
    for one in chat:
        held = one["data"] if isinstance(one.get("data"), Mapping) else one
        role = one.get("role", one.get("type", one.get("from")))
        content = next((held[name] for name in ("content", "value", "parts") if name in held), None)
        if isinstance(content, list) and all(isinstance(part, Mapping) and part.keys() == {"text"} for part in content):
            content = "".join(str(part["text"]) for part in content)
        if not isinstance(role, str) or content is None or ("role" not in one and held.get("tool_calls")):
            return chat
        extra = {
            name: value for name, value in one.items() if "role" in one and name not in ("role", "content", "parts")
        }
        usual = role.lower()
        role = _ROLES.get(usual, usual if usual in ("user", "assistant", "system") else role)
        messages.append({"role": role, "content": content, **extra})
    return messages


def _example(values: Mapping[str, Json], given: Mapping[str, Json]) -> dict[str, Json]:
    """An example whose inputs and outputs are objects, each with one main part: the question and the answer."""
    keys = _REFERENCES if any(name in values for name in _REFERENCES) else _OUTPUTS
    answered = next((name for name in keys if values.get(name) is not None), None)
    row: dict[str, Json] = {n: v for n, v in values.items() if n not in ("inputs", "input", *keys)} | dict(given)
    if not any(_canonical(name) in INPUT_NAMES for name in given):
        row["input"] = next(iter(given.values())) if len(given) == 1 else json.dumps(given, ensure_ascii=False)
    if answered is None:
        return row
    right = values[answered]
    if isinstance(right, Mapping) and answered != "expected":
        names = {_canonical(str(name)): name for name in reversed([*right])}
        part = next((names[usual] for usual in (*EXPECTED_NAMES, "output") if usual in names), None)
        part = next(iter(right)) if part is None and len(right) == 1 else part
        if part in _NO_ANSWER:
            return {**row, answered: right}
        right = _answer_text(right if part is None else right[part])
    return {**row, "expected": right}


def _answer_text(right: Json) -> Json:
    """The text of an answer that is a chat message or a list of generations."""
    while isinstance(right, list) and len(right) == 1 and isinstance(right[0], list | Mapping):
        right = right[0]
    if isinstance(right, Mapping) and isinstance(right.get("text"), str):
        return right["text"]
    message = list_of(_messages([right]))[0] if isinstance(right, Mapping) else right
    return message["content"] if isinstance(message, Mapping) and message.get("role") == "assistant" else right


def _conversation(values: dict[str, Json]) -> dict[str, Json]:
    for name in _CONVERSATIONS:
        if isinstance(values.get(name), list) and "messages" not in {*values} - {name}:
            rest = {n: v for n, v in values.items() if n != name}
            values = {**rest, "messages": _with_system(_messages(values[name]), rest)}
            values = {n: v for n, v in values.items() if n in rest or n == "messages"}
    messages = values.get("messages")
    known = [name for name in values if _canonical(name) in EXPECTED_NAMES]
    if isinstance(messages, list) and len(messages) > 1 and all(values[name] is None for name in known):
        last = messages[-1]
        answer = (
            _text_of(last.get("content")) if isinstance(last, Mapping) and last.get("role") == "assistant" else None
        )
        if answer is not None and not last.get("tool_calls"):
            values = {n: v for n, v in values.items() if n not in known}
            values |= {"messages": messages[:-1], "expected": answer}
    return values


def _with_system(messages: Json, values: dict[str, Json]) -> Json:
    """The conversation with the system prompt that stands beside it (Anthropic, Bedrock, Gemini, ShareGPT) in front;
    that is removed from `values`."""
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        return messages
    if any(one.get("role") in ("system", "developer") for one in objects_of(messages)):
        return messages
    for name in ("system", "systemInstruction", "system_instruction"):
        held = values.get(name)
        text = _text_of(held.get("parts", held.get("text")) if isinstance(held, Mapping) else held)
        if text:
            del values[name]
            return [{"role": "system", "content": text}, *messages]
    return messages


def _text_of(content: object) -> str | None:
    """The text of a message's content; None if it has other parts."""
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


_REFERENCES = (
    "expected", "expectedOutput", "expected_output", "reference_outputs", "reference_output", "reference", "expectations",
)  # fmt: skip
"""Keys under which tools store the expected answer of an example."""
_OUTPUTS = ("outputs", "output")
"""The same of examples without any of these keys; beside one of them, it is what a model answered."""


_NO_ANSWER = ("expected_facts", "guidelines")
"""Expectations of MLflow's judges: all must hold, whereas a list of expected answers means any of them."""


def asked_again(row: Mapping[str, Any], where: str) -> dict[str, Json]:
    """The case of one row of a saved comparison. Raises `DataError` if it was saved without questions."""
    if "input" not in row:
        raise DataError(f"{where} is an answer without its question.", "Save the comparison again, as .jsonl or .csv.")
    names = ("input", "expected", "messages", "vars", "assertions", "metadata")
    case = {"id": row["case_id"], **{name: row[name] for name in names if name in row}}
    if isinstance(row["epoch"], str):  # In a CSV, values that a spreadsheet would take for a formula have a prefix.
        for name in ("input", "expected"):
            if _ESCAPED.match(case.get(name) or ""):
                case[name] = case[name][1:]
    return case


def _choices(values: Mapping[str, Json], expected: str | None, where: str) -> tuple[list[str], str | None] | None:
    """The choices of a row and the letter of the correct one. None if it has no choices."""
    choices: object = values.get("choices")
    first_is_right: object = values.get("mc1_targets")
    right: object = values.get(expected) if expected else values.get("answerKey")
    labels = list(LETTERS)
    if isinstance(choices, Mapping) and all(isinstance(choices.get(name), list) for name in ("text", "label")):
        labels = [str(label) for label in choices["label"]]
        choices = choices["text"]
    elif choices is None and isinstance(first_is_right, Mapping) and 1 in (first_is_right.get("labels") or []):
        # In this format the correct choice is always first; it is moved to a fixed but unpredictable position.
        true = first_is_right["choices"][first_is_right["labels"].index(1)]
        choices = sorted(first_is_right["choices"], key=lambda choice: hashlib.sha256(str(choice).encode()).digest())
        right = choices.index(true)
    if not isinstance(choices, list) or not all(_is_choice(c) for c in choices):
        return None
    if not 2 <= len(choices) <= len(LETTERS):
        raise DataError(
            f"{where} has {len(choices)} choices.",
            f"From 2 to {len(LETTERS)} can be asked; name that column otherwise.",
        )
    given, has_numbers = choices, not all(isinstance(choice, str) for choice in choices)
    marked = [_LABELLED.match(str(choice)) for choice in choices]
    if [match and match[1] for match in marked] == [*LETTERS[: len(choices)]]:
        choices = [str(choice)[match.end() :] for choice, match in zip(choices, marked, strict=True) if match]
    whole, choices = [str(choice) for choice in given], [str(choice) for choice in choices]
    if isinstance(right, list) and len(right) == 1:
        right = right[0]
    if isinstance(right, float) and right.is_integer():  # pandas has no whole numbers in a column with gaps.
        right = int(right)
    places: list[int] = []
    """What the answer may mean: first what counts if the row says how it is meant."""
    index = values.get("answer_index")
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(choices):
        places = [index]
        if right not in (None, "", index, choices[index], labels[index]):
            raise DataError(
                f"{where}: the answer {right!r} is not choice {index}, as its answer_index says.", "Correct one."
            )
    elif right is None or right == "" or right == -1:
        return choices, None
    elif isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(choices):
        places = [right, *([choices.index(str(right))] if has_numbers and str(right) in choices else [])]
    else:
        wanted = str(right)
        by_label = [labels.index(wanted)] if wanted in labels[: len(choices)] else []
        by_text = next(([texts.index(wanted)] for texts in (choices, whole) if wanted in texts), [])
        places = by_label[:1] if by_label and (labels[0] != "A" or expected is None) else by_label + by_text
        if not places and wanted.isdecimal() and int(wanted) < len(choices):
            places = [int(wanted)]
    if not places or len({*places}) > 1:
        what = f"is both the place of one choice and the text of another: {choices}" if places else "is not one of them"
        raise DataError(
            f"{where} has {len(choices)} choices, and the answer {right!r} {what}.",
            "Use the number of a choice from 0 (answer_index), its letter, or its text.",
        )
    return choices, LETTERS[places[0]]


def _is_choice(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _column(
    values: Mapping[str, Json], chosen: str | None, usual: tuple[str, ...], where: str, role: str
) -> str | None:
    if chosen is not None:
        if chosen not in values:
            raise DataError(
                f"{where} has no column {chosen!r}.{did_you_mean(chosen, values)}",
                f"Its columns: {', '.join(values) or 'none'}.",
            )
        return chosen
    written = {_canonical(name): name for name in reversed([*values])} | {name: name for name in values}
    matches = [written[name] for name in usual if name in written]
    if len(matches) > 1 and _canonical(matches[0]) != role:
        raise DataError(
            f"{where} has columns {' and '.join(matches)}; it is ambiguous which is the {role}.",
            f'Say {role}="{matches[0]}".',
        )
    return matches[0] if matches else None


def _question(asked: Any, messages: Json, where: str) -> tuple[str, tuple[Json, ...]]:
    if isinstance(asked, list):
        asked, messages = None, asked
    messages = _messages(messages)
    if messages:
        if not isinstance(messages, list) or not all(
            isinstance(m, Mapping) and "role" in m and "content" in m for m in messages
        ):
            raise DataError(f"{where}: messages is not a conversation.", 'Use a list of {"role": …, "content": …}.')
        contents = [m["content"] for m in messages if m["role"] == "user"]
        return (asked or (contents[-1] if contents and isinstance(contents[-1], str) else "")), tuple(messages)
    if asked is None:
        return "", ()
    return (asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)), ()
