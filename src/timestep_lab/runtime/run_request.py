"""What a caller asks of a run, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from timestep_lab.model.errors import UsageError
from timestep_lab.model.given import messages_of
from timestep_lab.model.records import Json
from timestep_lab.runtime.model_settings import validate_settings

Approve = Literal["ask", "all", "none"]
DEFAULT_MAX_TURNS = 10
TITLE_LENGTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What a run may take, over all its agents, pauses and parts. None: as much as it wants."""

    budget_usd: float | None = None
    max_tokens_total: int | None = None
    """Input and output, of all answers."""
    timeout_s: float | None = None
    """Seconds that it works; waiting for approval does not count."""
    max_tool_calls: int | None = None

    @classmethod
    def read(cls, **given: Any) -> RunLimits:
        """Raises `UsageError`."""
        for name, value in given.items():
            whole = name.startswith("max_")
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if value is not None and not (
                right and (value >= 0 if name == "max_tool_calls" else 0 < value < float("inf"))
            ):
                least = "0" if name == "max_tool_calls" else "1" if whole else "above 0"
                raise UsageError(
                    f"{name}={value!r} is no limit.", f"Give a {'whole ' * whole}number{' from' * whole} {least}{' up' * whole}.",
                    param=name,
                )  # fmt: skip
        return cls(**given)

    def given(self) -> dict[str, Json]:
        """Those that are set."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What holds for one run alone. It is kept with a paused run, so that the run goes on as it began."""

    model: str | None = None
    model_settings: Mapping[str, Json] = field(default_factory=dict)
    max_turns: int = DEFAULT_MAX_TURNS
    approve: Approve = "ask"
    limits: RunLimits = RunLimits()
    tape: Mapping[str, Json] | None = None
    """`Tape.spec` of what its tools answer from; None: they are real."""

    def to_json(self) -> dict[str, Json]:
        return {
            "model": self.model, "model_settings": dict(self.model_settings), "max_turns": self.max_turns,
            "approve": self.approve, "limits": self.limits.given(),
            **({} if self.tape is None else {"tape": dict(self.tape)}),
        }  # fmt: skip

    @classmethod
    def from_json(cls, plain: Mapping[str, Json]) -> RunOptions:
        return cls(**{**plain, "limits": RunLimits(**plain.get("limits") or {})})


def read_options(
    *,
    model: str | None,
    model_settings: Mapping[str, Json] | None,
    max_turns: int,
    approve: str,
    limits: RunLimits,
    tape: Mapping[str, Json] | None = None,
) -> RunOptions:
    """Raises `UsageError` or `SettingsError`."""
    if approve not in ("ask", "all", "none"):
        raise UsageError(f"approve={approve!r} is not known.", "Use 'ask', 'all' or 'none'.", param="approve")
    if type(max_turns) is not int or max_turns < 1:
        raise UsageError(
            f"max_turns={max_turns!r} allows no turn.", "Give a whole number from 1 up.", param="max_turns"
        )
    return RunOptions(
        model=model,
        model_settings=validate_settings(dict(model_settings or {})),
        max_turns=max_turns,
        approve=cast(Approve, approve),
        limits=limits,
        tape=tape,
    )


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What the user says, in the three forms it is kept in."""

    text: str
    """For the run's row and the title."""
    session_items: tuple[Mapping[str, Any], ...]
    """For the model: Responses input items."""
    thread_items: tuple[tuple[str, dict[str, Json]], ...]
    """For the reader: (type, data)."""

    @property
    def title(self) -> str | None:
        line = next((line.strip() for line in self.text.splitlines() if line.strip()), "")
        return line if len(line) <= TITLE_LENGTH else f"{line[: TITLE_LENGTH - 1].rstrip()}…"


def read_turn(said: str | Sequence[Mapping[str, Any]], attachments: Sequence[Mapping[str, Json]] = ()) -> UserTurn:
    """`said` is a text, or Responses input items. An attachment is a mapping that readers see; its key `input`, if any, is the content
    part that the model gets (`input_image`, `input_file`, `input_text`). Raises `UsageError` when nothing was said.
    """
    if isinstance(said, str):
        return _text_turn(said, attachments)
    items = messages_of(said)
    if not items:
        raise UsageError("There is nothing to say: the input is empty.", "Give a prompt.", param="input")
    shown = [
        ("user_message", _message(content_text(item.get("content")), []))
        for item in items
        if item.get("type", "message") == "message" and item.get("role") == "user"
    ]
    if attachments and shown:
        shown[-1][1]["attachments"] = [_shown(a) for a in attachments]
        items[-1] = {**items[-1], "content": [*_parts(items[-1].get("content")), *_inputs(attachments)]}
    return UserTurn("\n".join(data["text"] for _, data in shown), tuple(items), tuple(shown))


def content_text(content: Any) -> str:
    """The text of a Responses message's content."""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content or ())


def _text_turn(text: str, attachments: Sequence[Mapping[str, Json]]) -> UserTurn:
    if not text.strip() and not attachments:
        raise UsageError("There is nothing to say: the prompt is empty.", "Give a prompt.", param="input")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The prompt holds {text[error.start]!r}, which is half a character.", "Write it as UTF-8.", param="input"
        ) from None
    inputs = _inputs(attachments)
    content: Any = [*_parts(text), *inputs] if inputs else text
    return UserTurn(
        text,
        ({"role": "user", "content": content},),
        (("user_message", _message(text, [_shown(a) for a in attachments])),),
    )


def _message(text: str, attachments: list[Json]) -> dict[str, Json]:
    return {"text": text, "attachments": attachments, "status": "completed", "annotations": []}


def _parts(content: Any) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}] if content else []
    return list(content or ())


def _inputs(attachments: Sequence[Mapping[str, Json]]) -> list[Json]:
    return [attachment["input"] for attachment in attachments if attachment.get("input")]


def _shown(attachment: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in attachment.items() if name != "input"}
