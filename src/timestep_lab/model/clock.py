"""UTC time helpers. Records hold aware UTC datetimes, stores hold naive UTC; the local time zone is never used."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Returns the current time as an aware UTC datetime."""
    return datetime.now(UTC)


def to_naive_utc(moment: datetime) -> datetime:
    """Converts a datetime for a TIMESTAMP column. A naive datetime is assumed to be UTC."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def to_aware_utc(moment: datetime) -> datetime:
    """Converts a datetime read from a TIMESTAMP column, or from a parser that kept another zone, to aware UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def iso(moment: datetime) -> str:
    """Formats a datetime as `2026-11-22T16:00:00.123456Z`, the only text form used in JSON."""
    return to_aware_utc(moment).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_iso(text: str) -> datetime:
    """Inverse of `iso`; accepts any ISO 8601 form. Raises `ValueError`."""
    return to_aware_utc(datetime.fromisoformat(text))


def ms_between(start: datetime, end: datetime) -> float:
    """Returns the milliseconds from `start` to `end`."""
    return (to_aware_utc(end) - to_aware_utc(start)).total_seconds() * 1000.0
