"""ChatKit's datetimes are naive and local; the store's are aware and UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def to_utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


def to_local(value: datetime) -> datetime:
    return value.astimezone().replace(tzinfo=None)
