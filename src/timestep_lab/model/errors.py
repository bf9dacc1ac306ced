"""The error tree: every error that the lab raises.

    LabError
    ├── UsageError              the caller's input is wrong; nothing was changed
    │   ├── UnknownPrefixError      no provider has the prefix of the model name
    │   ├── SettingsError           an environment variable or a line of `.env` is invalid
    │   ├── FilterError             a filter expression is invalid
    │   ├── NotServedError          not available on a served lab; also an AttributeError
    │   ├── QueryError              SQL that is not a single read-only query, or that the store rejected
    │   └── DataError               a data set or an imported file cannot be read
    ├── NotFoundError           the resource does not exist for this user
    ├── ConflictError           another client changed or claimed it first
    ├── AuthError               no valid token was sent
    │   └── ForbiddenError          the token is valid but does not permit this
    ├── TooLargeError           a size limit was exceeded
    ├── BusyError               a rate limit or quota was exceeded, or a queue is full; try again
    ├── TooSlowError            the rest of a request did not arrive in time
    ├── ProviderError           a model provider failed
    │   ├── MissingKeyError         the provider's key is not set
    │   ├── ProviderAuthError       the provider rejected the key (401, 403)
    │   ├── ModelNotFoundError      the provider does not know the model (404)
    │   ├── ProviderRequestError    the provider rejected the request (other 4xx)
    │   │   └── ContextLengthError      the conversation exceeds the model's context window
    │   ├── RateLimitError          429; `retry_after` in seconds when the provider sent it
    │   ├── ProviderUnavailableError    5xx, or no connection
    │   ├── ProviderTimeoutError    no answer in time
    │   └── StreamCutError          the stream ended before the answer was complete
    ├── ToolError               a tool or an MCP server failed
    ├── RunError                a run could not continue (turn limit, guardrail, damaged run state)
    │   ├── BudgetError             a run reached one of its limits
    │   └── TapeMissError           a run on tape made a call that was never recorded
    ├── StoreError              the store failed
    │   ├── StoreUnavailableError   it cannot be reached; a retry may succeed
    │   ├── StoreCorruptError       the file is damaged or is not a lab's file
    │   ├── StoreTooNewError        written by a newer version of this package
    │   └── StoreReadOnlyError      the folder or file cannot be written
    └── MissingExtraError       an optional package is not installed

Each message has two parts: what happened to what, and the next step. `str(error)` is one line with both.
"""

from __future__ import annotations

from typing import ClassVar


class LabError(Exception):
    """Base of all errors of this package.

    `message` says what happened and to what. `next_step` says what to do about it, in Python where that matters; `command` is the same for
    the command line (None when identical).
    `exit_code` is the exit status of the command line, `http_status` the status of the server's response, and
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
        # The default would call the class with the joined text; this keeps both parts when pickled.
        return (_rebuild, (type(self), self.message, self.next_step, self.__dict__.copy()))


def _rebuild(cls: type[LabError], message: str, next_step: str, state: dict[str, object]) -> LabError:
    error = cls.__new__(cls)
    LabError.__init__(error, message, next_step)
    error.__dict__.update(state)
    return error


class UsageError(LabError):
    """A name, an option or a value is invalid. Nothing was changed."""

    exit_code = 2
    http_status = 400
    type = "invalid_request_error"


class UnknownPrefixError(UsageError):
    """The prefix of a model name belongs to no provider."""


UNSUPPORTED_PARAMETER = "unsupported_parameter"
"""The code of a setting or parameter that the model's provider has no word for."""


class SettingsError(UsageError):
    """An environment variable, or a line of `.env`, is invalid."""


class FilterError(UsageError):
    """A filter expression is invalid. `position` is the 0-based offset of the error in the filter, or None when it has no single
    position."""

    def __init__(self, message: str, next_step: str = "", *, position: int | None = None) -> None:
        super().__init__(message, next_step, param="filter")
        self.position = position


class NotServedError(UsageError, AttributeError):
    """A part of a lab that is not available to clients of a served lab. `hasattr` is False, as for any missing attribute."""


class QueryError(UsageError):
    """An SQL query is invalid, or would change data."""


class DataError(UsageError):
    """The contents of a data set or an imported file cannot be read."""


class NotFoundError(LabError):
    """The resource does not exist or belongs to another user; the two cases are indistinguishable."""

    http_status = 404
    type = "invalid_request_error"


class ConflictError(LabError):
    """The resource is not in the required state, for example because another process changed it first."""

    http_status = 409
    type = "conflict_error"


class AuthError(LabError):
    """The request is not authenticated: the token is missing, wrong or expired."""

    http_status = 401
    type = "authentication_error"


class ForbiddenError(AuthError):
    """The request is authenticated but not permitted."""

    http_status = 403
    type = "permission_error"


class TooLargeError(LabError):
    """A body, file or answer exceeds a stated limit."""

    http_status = 413
    type = "invalid_request_error"


class BusyError(LabError):
    """A rate limit or quota was exceeded, or a queue is full. `retry_after`: seconds until a retry makes sense, if known."""

    http_status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, next_step: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message, next_step)
        self.retry_after = retry_after


class TooSlowError(LabError):
    """A client started to send a request and stalled."""

    http_status = 408
    type = "invalid_request_error"


class ProviderError(LabError):
    """A model provider failed. `provider` is the router's prefix, `status` the HTTP status of its response (None without one)."""

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
    """The key, or the server address, that a model needs is not set."""

    exit_code = 2
    http_status = 400


class ProviderAuthError(ProviderError):
    """The provider rejected the key, or denied it the request."""


class ModelNotFoundError(ProviderError):
    """The provider has no model with that name."""

    http_status = 404


class ProviderRequestError(ProviderError):
    """The provider rejected the request; retrying it unchanged would fail again. `code` is `content_filter` if for its content policy."""

    http_status = 400


class ContextLengthError(ProviderRequestError):
    """The conversation exceeds the model's context window; `code` is `context_length_exceeded`, as in OpenAI's API."""

    type = "invalid_request_error"


class RateLimitError(ProviderError):
    """The provider's rate limit was exceeded. `retry_after`: seconds, from `Retry-After` (delta or date) or `retry-after-ms`; None if not
    sent."""

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
    """The provider could not be reached, or reported that it is unavailable. `retry_after`: as in `RateLimitError`."""

    http_status = 503
    retryable = True
    retry_after: float | None = None


class ProviderTimeoutError(ProviderError):
    """The provider sent nothing for longer than `TIMESTEP_LAB_REQUEST_TIMEOUT_S`."""

    http_status = 504
    retryable = True


class StreamCutError(ProviderError):
    """The stream of an answer ended before the answer was complete."""

    retryable = True


class ToolError(LabError):
    """A tool or an MCP server failed. `server` and `tool` name them; empty when the error belongs to no single server or tool."""

    http_status = 502
    type = "tool_error"

    def __init__(self, message: str, next_step: str = "", *, server: str = "", tool: str = "") -> None:
        super().__init__(message, next_step)
        self.server = server
        self.tool = tool


class RunError(LabError):
    """A run could not continue. `code` is one of max_turns, refusal, guardrail, model_behavior, damaged_state; length or incomplete: an answer was cut
    off before it began."""

    type = "run_error"


class BudgetError(RunError):
    """A run reached one of its limits. `code` names it: budget_usd, max_tokens_total, timeout_s or max_tool_calls."""


class TapeMissError(RunError):
    """A run on tape made a call that the tape does not have. `tool` and `arguments` identify the call."""

    tool: str = ""
    arguments: str = ""

    @classmethod
    def of(cls, tool: str, arguments: str, nth: int) -> TapeMissError:
        """Returns the error for the nth identical call of a run."""
        again = (
            ""
            if nth < 2
            else f" for the {nth}th time"
            if nth > 3
            else f" for the {'second' if nth == 2 else 'third'} time"
        )
        error = cls(
            f"The tape has no recorded result of {tool} for {arguments}{again}.",
            "Add more traces to the tape, list irrelevant arguments in ignore=, or choose another on_miss=.",
            code="tape_miss",
        )
        error.tool, error.arguments = tool, arguments
        return error


class StoreError(LabError):
    """The store failed."""

    type = "store_error"


class StoreUnavailableError(StoreError):
    """The store cannot be reached, or another program holds it."""

    http_status = 503


class StoreCorruptError(StoreError):
    """The store's file is damaged."""


class StoreTooNewError(StoreError):
    """The store was written by a newer version of this package."""


class StoreReadOnlyError(StoreError):
    """The location of the store, or of a copy, is not writable."""


class MissingExtraError(LabError):
    """An optional package is not installed. `extra` is the name to use in `pip install timestep-lab[extra]`."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a package that is not installed.", f"Run: pip install 'timestep-lab[{extra}]'")
        self.extra = extra


def drop_tracebacks(error: BaseException) -> None:
    """Removes the tracebacks of an error that was logged, and of its causes. Their frames keep all that the code had in hand, often in a
    reference cycle that only a full garbage collection would free."""
    chain: BaseException | None = error
    while chain is not None:
        chain.__traceback__ = None
        chain = chain.__cause__ or chain.__context__
