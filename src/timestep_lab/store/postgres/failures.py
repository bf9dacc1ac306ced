"""What went wrong in Postgres, as an error of the lab with the next step."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from timestep_lab.model.errors import (
    BusyError,
    ConflictError,
    DataError,
    ForbiddenError,
    LabError,
    QueryError,
    StoreError,
    StoreUnavailableError,
)
from timestep_lab.store.liveness import was_interrupted

WRONG_PASSWORD = (pg.InvalidPassword, pg.InvalidAuthorizationSpecification)


def explain(error: Exception, where: str) -> Exception:
    """An error of our own statements. `where` names the server without a password. Errors that are not Postgres's come back as they are."""
    said = said_by(error)
    match error:
        case LabError():
            return error
        case pg.UniqueViolation() | pg.ExclusionViolation():
            return ConflictError(f"A row like this exists already: {said}", "Choose another name or id.")
        case pg.ForeignKeyViolation():
            return ConflictError(f"A row this one refers to is gone: {said}", "Read it again, then try again.")
        case pg.SerializationFailure() | pg.DeadlockDetected():
            return ConflictError("Others changed the same rows at the same time.", "Try again.")
        case pg.DiskFull():
            return StoreUnavailableError(
                f"The disk of Postgres at {where} is full; nothing was written.", "Free space there, then try again."
            )
        case pg.QueryCanceled() if was_interrupted():
            return QueryError("The query was stopped before its end.", "Ask it again.")
        case pg.QueryCanceled():
            return StoreUnavailableError(f"Postgres at {where} took too long and was stopped.", "Try again.")
        case pg.LockNotAvailable():
            return BusyError(f"Postgres at {where} holds these rows for somebody else.", "Try again.", retry_after=1.0)
        case pg.TooManyConnections():
            return BusyError(
                f"Postgres at {where} takes no more connections.",
                "Try again, or raise max_connections.",
                retry_after=1.0,
            )
        case pg.InsufficientPrivilege():
            return ForbiddenError(
                f"Postgres refused it: {said}", "Rows can be read and written by their own user only."
            )
        case pg.DataError() | UnicodeEncodeError() | ValueError():
            return DataError(
                f"Postgres cannot hold this value: {said}", "Text may contain no NUL character or half surrogate."
            )
        case psycopg.OperationalError():
            return unreachable(error, where)
        case psycopg.Error():
            return StoreError(f"Postgres at {where} failed: {said}", "See `timestep-lab doctor`.")
    return error


def unreachable(error: psycopg.Error, where: str) -> StoreError:
    """Why a connection could not be made, or was lost."""
    said = said_by(error)
    # libpq gives no error code for what the server says while connecting; psycopg has the message alone.
    if isinstance(error, WRONG_PASSWORD) or "password authentication failed" in said or "no password supplied" in said:
        return StoreError(
            f"Postgres at {where} refused the user name or password.",
            "Correct the URL (postgresql://user:password@host/database), or the password file ~/.pgpass.",
        )
    if "does not exist" in said:
        return StoreError(f"Postgres at {where}: {said}", "Create it (createdb NAME), or correct the URL.")
    if "no pg_hba.conf entry" in said or "permission denied for database" in said:
        return StoreError(f"Postgres at {where} does not let this user in: {said}", "Ask its administrator for access.")
    if "No space left on device" in said:
        return StoreUnavailableError(f"The disk of Postgres at {where} is full.", "Free space there, then try again.")
    return StoreUnavailableError(f"The connection to Postgres at {where} failed: {said}", "Try again in a moment.")


def explain_typed(error: Exception, where: str, timeout_s: float | None) -> Exception:
    """An error of SQL that a person typed: theirs to correct, unless the server itself failed."""
    match error:
        case pg.QueryCanceled() if was_interrupted():
            return QueryError("The query was stopped before its end.", "Ask it again.")
        case pg.QueryCanceled():
            return QueryError(
                f"The query took longer than {timeout_s:g} s and was stopped.", "Narrow it, or add a limit."
            )
        case pg.InsufficientPrivilege():
            return QueryError(
                f"The query was refused: {said_by(error)}.", "Read the documented views only, such as traces."
            )
        case pg.ReadOnlySqlTransaction():
            return QueryError(f"The query would change something: {said_by(error)}.", "Only SELECT is allowed.")
        case pg.OperationalError() | pg.AdminShutdown():
            return explain(error, where)
        case psycopg.Error():
            hint = (
                error.diag.message_hint
                or "The views are traces, spans, generations, tool_calls, handoffs, messages, usage, scores."
            )
            return QueryError(f"The query cannot be run: {said_by(error)}.", hint)
    return explain(error, where)


def said_by(error: BaseException) -> str:
    """The first line of what Postgres said, without libpq's prefix that repeats host and port."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removeprefix("connection failed: ") if lines else type(error).__name__
