"""Links that show one trace to people without an account: signed, expiring and revocable.

A link is `/share/<id>.<signature>`. The signature uses the lab's secret and covers the trace and the expiry, so a row
inserted into the table by someone else opens nothing. The row holds the owner of the trace, so the link contains
neither the user nor the trace id.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from timestep_lab.model.clock import iso, to_aware_utc, utc_now
from timestep_lab.model.codec import Moment
from timestep_lab.model.errors import NotFoundError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import ShareRecord
from timestep_lab.store.base import SYSTEM_USER, Database
from timestep_lab.store.store import secret_of

if TYPE_CHECKING:
    from timestep_lab.service.operation import Scope

PATH = "/share/"
PATHS = (PATH, "/shared/")
"""Links of earlier versions are opened too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTrace:
    """A shared link to one trace. `path` is relative to the address of the served lab; anyone who has it can read the
    trace.
    """

    id: str
    trace_id: str
    title: str
    """The trace's input."""
    path: str
    created_at: Moment
    expires_at: Moment


def share(scope: Scope, trace_id: str, days: int) -> SharedTrace:
    """Create a link. Raises `NotFoundError`."""
    store = scope.store
    store.traces.get(trace_id)
    now = utc_now()
    record = ShareRecord(
        id=new_id("share"), user_id=store.user_id, trace_id=trace_id, created_at=now, expires_at=now + timedelta(days=days)
    )  # fmt: skip
    return shown(scope, store.shares.insert(record))


def shares(scope: Scope, trace_id: str | None) -> list[SharedTrace]:
    """The links that have not expired, newest first."""
    table = scope.store.shares
    records = table.find(newest_first=True) if trace_id is None else table.find(newest_first=True, trace_id=trace_id)
    return [shown(scope, record) for record in records if record.expires_at > utc_now()]


def shown(scope: Scope, record: ShareRecord) -> SharedTrace:
    try:
        trace = scope.store.traces.get(record.trace_id)
        title = str(trace["input"] or trace["workflow"] or "")[:200]
    except NotFoundError:  # Deleted concurrently, together with its links.
        title = ""
    token = f"{record.id}.{_signature(secret_of(scope.store.db, scope.settings.secret), record)}"
    return SharedTrace(
        id=record.id, trace_id=record.trace_id, title=title, path=PATH + token, created_at=record.created_at,
        expires_at=record.expires_at,
    )  # fmt: skip


def opened(db: Database, secret: str, token: str) -> ShareRecord | None:
    """The share that a link refers to, for any caller; None if it is not signed by this lab, has expired or was
    revoked.
    """
    share_id, _, signature = token.partition(".")
    rows = db.query(
        SYSTEM_USER,
        "select id, user_id, trace_id, created_at, expires_at from core.trace_shares where id = $1",
        [share_id],
    ).rows
    for id, user_id, trace_id, created_at, expires_at in rows:
        record = ShareRecord(
            id=id, user_id=user_id, trace_id=trace_id, created_at=to_aware_utc(created_at), expires_at=to_aware_utc(expires_at)
        )  # fmt: skip
        if (
            hmac.compare_digest(signature.encode(), _signature(secret, record).encode())
            and record.expires_at > utc_now()
        ):
            return record
    return None


def _signature(secret: str, record: ShareRecord) -> str:
    signed = "\n".join(("share", record.id, record.user_id, record.trace_id, iso(record.expires_at)))
    key = hashlib.sha256(b"timestep-lab shared link:" + secret.encode()).digest()
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
