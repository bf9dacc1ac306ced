"""Every error the lab raises, as one tree.

    LabError
    ├── UsageError              the caller's input is wrong; nothing was changed
    │   ├── UnknownPrefixError      a model name whose provider does not exist
    │   ├── SettingsError           model settings or arguments that no provider takes
    │   ├── FilterError             a filter expression that cannot be read
    │   ├── NotServedError          a part of a lab that a served lab does not have; an AttributeError, too
    │   ├── QueryError              SQL that is not one read-only query, or that the store refused
    │   └── DataError               a dataset or an imported file that cannot be read
    ├── NotFoundError           the named thing does not exist for this user
    ├── ConflictError           somebody else changed or claimed it first
    ├── AuthError               no valid token
    │   └── ForbiddenError          a valid token, but not for this
    ├── TooLargeError           over a size limit
    ├── BusyError               over a rate limit or a quota, or a queue is full; try again
    ├── TooSlowError            a request whose rest did not come in time
    ├── ProviderError           a model provider failed
    │   ├── MissingKeyError         the provider needs a key that is not set
    │   ├── ProviderAuthError       the provider refused the key (401, 403)
    │   ├── ModelNotFoundError      the provider does not know the model (404)
    │   ├── ProviderRequestError    the provider refused the request (other 4xx)
    │   │   └── ContextLengthError      the conversation is longer than the model can read
    │   ├── RateLimitError          429; `retry_after` in seconds when the provider said so
    │   ├── ProviderUnavailableError    5xx, or no connection
    │   ├── ProviderTimeoutError    no answer in time
    │   └── StreamCutError          the stream ended before the answer was complete
    ├── ToolError               a tool or an MCP server failed
    ├── RunError                a run could not go on (turn limit, guardrail, damaged run state)
    │   ├── BudgetError             a run reached a limit that was set for it
    │   └── TapeMissError           a run on tape asked a tool what was never recorded
    ├── StoreError              the store failed
    │   ├── StoreUnavailableError   it cannot be reached now; trying again may work
    │   ├── StoreCorruptError       the file is damaged or is not a lab
    │   ├── StoreTooNewError        written by a later version of this program
    │   └── StoreReadOnlyError      the folder or file cannot be written
    └── MissingExtraError       an optional package is not installed

A message has two halves: what happened to what, and the next step. `str(error)` is one line with both.
"""

from __future__ import annotations

from typing import ClassVar


class LabError(Exception):
    """Base of all errors of this package.

    `message` says what happened and to what; `next_step` says what to do about it, in Python where there is a choice, and `command` the
    same on a command line (None where it is the same there).
    `exit_code` is what the command line ends with, `http_status` what the server answers, and
    `type` and `code` fill OpenAI's error object (`{"error": {"type", "message", "param", "code"}}`).

    Example:
        from timestep_lab import LabError, UnknownPrefixError

        try:
            await lab.run("Hello", model="nowhere/model")
        except UnknownPrefixError as error:
            print(error.message, error.next_step, isinstance(error, LabError))
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    command: str | None = None

    def __init__(
        self,
        message: str,
        next_step: str = "",
        *,
        param: str | None = None,
        code: str | None = None,
        command: str | None = None,
    ) -> None:
        self.message = message.strip()
        self.next_step = next_step.strip()
        if command is not None:
            self.command = command
        self.param = param
        self.code = code
        super().__init__(f"{self.message} {self.next_step}".strip())

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the joined text; keep both halves when pickled.
        return (_rebuild, (type(self), self.message, self.next_step, self.__dict__.copy()))


def _rebuild(cls: type[LabError], message: str, next_step: str, state: dict[str, object]) -> LabError:
    error = cls.__new__(cls)
    LabError.__init__(error, message, next_step)
    error.__dict__.update(state)
    return error


class UsageError(LabError):
    """What was asked for cannot be: a name, an option or a value is wrong. Nothing was done."""

    exit_code = 2
    http_status = 400
    type = "invalid_request_error"


class UnknownPrefixError(UsageError):
    """A model's prefix that no provider answers to."""


class SettingsError(UsageError):
    """An environment variable, or a line of `.env`, that cannot be read."""


class FilterError(UsageError):
    """`position` is the character of the filter at which it stops making sense, from 0; None when it is no one place."""

    def __init__(self, message: str, next_step: str = "", *, position: int | None = None) -> None:
        super().__init__(message, next_step, param="filter")
        self.position = position


class NotServedError(UsageError, AttributeError):
    """A part of a lab that stays with its server. As for any missing attribute, `hasattr` is False."""


class QueryError(UsageError):
    """An SQL query that is wrong, or that would change something."""


class DataError(UsageError):
    """A data set or an imported file whose contents cannot be read."""


class NotFoundError(LabError):
    """It is not there, or belongs to somebody else: the two are not told apart."""

    http_status = 404
    type = "invalid_request_error"


class ConflictError(LabError):
    """It is not in the state that this needs, for example because another process was faster."""

    http_status = 409
    type = "conflict_error"


class AuthError(LabError):
    """Nobody, or somebody unknown, asks: no token, a wrong one, or one that expired."""

    http_status = 401
    type = "authentication_error"


class ForbiddenError(AuthError):
    """Somebody known asks for what they may not do."""

    http_status = 403
    type = "permission_error"


class TooLargeError(LabError):
    """A body, file or answer above a stated limit."""

    http_status = 413
    type = "invalid_request_error"


class BusyError(LabError):
    """`retry_after`: seconds after which trying again makes sense, if known."""

    http_status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, next_step: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message, next_step)
        self.retry_after = retry_after


class TooSlowError(LabError):
    """A caller began to send something and did not go on."""

    http_status = 408
    type = "invalid_request_error"


class ProviderError(LabError):
    """`provider` is the router's prefix, `status` the HTTP status the provider answered (None without an answer)."""

    http_status = 502
    type = "provider_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        next_step: str = "",
        *,
        provider: str = "",
        status: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, next_step, code=code)
        self.provider = provider
        self.status = status


class MissingKeyError(ProviderError):
    """A model that needs a key, or a named server, that is not set."""

    exit_code = 2
    http_status = 400


class ProviderAuthError(ProviderError):
    """The provider refused the key."""


class ModelNotFoundError(ProviderError):
    """The provider has no model of that name."""

    http_status = 404


class ProviderRequestError(ProviderError):
    """The provider refused the request as it stands; the same again would be refused again."""

    http_status = 400


class ContextLengthError(ProviderRequestError):
    """The conversation is longer than the model can read; `code` is `context_length_exceeded`, as OpenAI has it."""

    type = "invalid_request_error"


class RateLimitError(ProviderError):
    """`retry_after`: seconds, from `Retry-After` (delta or date) or `retry-after-ms`; None when not said."""

    http_status = 429
    retryable = True

    def __init__(
        self,
        message: str,
        next_step: str = "",
        *,
        provider: str = "",
        status: int | None = 429,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, next_step, provider=provider, status=status)
        self.retry_after = retry_after


class ProviderUnavailableError(ProviderError):
    """The provider could not be reached, or said that it cannot answer now."""

    http_status = 503
    retryable = True


class ProviderTimeoutError(ProviderError):
    """The provider was silent for longer than `TIMESTEP_LAB_REQUEST_TIMEOUT_S`."""

    http_status = 504
    retryable = True


class StreamCutError(ProviderError):
    """An answer that broke off before its end."""

    retryable = True


class ToolError(LabError):
    """`server` and `tool` name what failed; empty when the fault is not one server's or one tool's."""

    http_status = 502
    type = "tool_error"

    def __init__(self, message: str, next_step: str = "", *, server: str = "", tool: str = "") -> None:
        super().__init__(message, next_step)
        self.server = server
        self.tool = tool


class RunError(LabError):
    """`code` is one of max_turns, refusal, guardrail, model_behavior, damaged_state."""

    type = "run_error"


class BudgetError(RunError):
    """A run was stopped; `code` is the limit that it reached: budget_usd, max_tokens_total, timeout_s or max_tool_calls."""


class TapeMissError(RunError):
    """A run whose tools answer from a tape made a call that the tape does not have. `tool` and `arguments` say which."""

    tool: str = ""
    arguments: str = ""

    @classmethod
    def of(cls, tool: str, arguments: str, nth: int) -> TapeMissError:
        """The nth such call of a run."""
        again = (
            ""
            if nth < 2
            else f" for the {nth}th time"
            if nth > 3
            else f" for the {'second' if nth == 2 else 'third'} time"
        )
        error = cls(
            f"The tape has no answer of {tool} to {arguments}{again}.",
            "Take more traces into the tape, name arguments that say nothing in ignore=, or choose another on_miss=.",
            code="tape_miss",
        )
        error.tool, error.arguments = tool, arguments
        return error


class StoreError(LabError):
    """The store cannot do what was asked of it."""

    type = "store_error"


class StoreUnavailableError(StoreError):
    """The store cannot be reached, or is held by another program."""

    http_status = 503


class StoreCorruptError(StoreError):
    """The store's file is damaged."""


class StoreTooNewError(StoreError):
    """The store was written by a later version."""


class StoreReadOnlyError(StoreError):
    """The place of the store, or of a copy, cannot be written."""


class MissingExtraError(LabError):
    """`extra` is the name to put in `pip install timestep-lab[extra]`."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a package that is not installed.", f"Run: pip install 'timestep-lab[{extra}]'")
        self.extra = extra
