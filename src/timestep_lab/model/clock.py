"""Time. Records hold aware UTC datetimes; stores hold naive UTC; nobody asks the machine's zone."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


def to_naive_utc(moment: datetime) -> datetime:
    """For a TIMESTAMP column. A naive datetime is taken to be UTC already."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def to_aware_utc(moment: datetime) -> datetime:
    """From a TIMESTAMP column, or from a parser that may have kept another zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def iso(moment: datetime) -> str:
    """`2026-11-22T16:00:00.123456Z`: the one text form used in JSON."""
    return to_aware_utc(moment).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_iso(text: str) -> datetime:
    """The inverse of `iso`; any ISO 8601 form is read. Raises `ValueError`."""
    return to_aware_utc(datetime.fromisoformat(text))


def ms_between(start: datetime, end: datetime) -> float:
    """Milliseconds from the first moment to the second."""
    return (to_aware_utc(end) - to_aware_utc(start)).total_seconds() * 1000.0
