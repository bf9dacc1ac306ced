"""Links that show one trace to who has no account: signed, expiring, and gone as soon as they are revoked.

A link is `/shared/<id>.<signature>`. The signature, by the lab's own secret, covers the trace and the end of the link: a row that somebody
else wrote into the table opens nothing. The row says whose trace it is, so the link names neither the user nor the trace.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from timestep_lab.model.clock import iso, to_aware_utc, utc_now
from timestep_lab.model.codec import Moment
from timestep_lab.model.errors import NotFoundError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import ShareRecord
from timestep_lab.store.base import SYSTEM_USER, Database
from timestep_lab.store.store import secret_of

if TYPE_CHECKING:
    from timestep_lab.service.operation import Scope

PATH = "/shared/"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTrace:
    """A link to one trace. `path` is what comes behind the address of the served lab; whoever has it can read the trace."""

    id: str
    trace_id: str
    title: str
    """What was asked."""
    path: str
    created_at: Moment
    expires_at: Moment


def share(scope: Scope, trace_id: str, days: int) -> SharedTrace:
    """Raises `NotFoundError`."""
    store = scope.store
    store.traces.get(trace_id)
    now = utc_now()
    record = ShareRecord(
        id=new_id("share"), user_id=store.user_id, trace_id=trace_id, created_at=now, expires_at=now + timedelta(days=days)
    )  # fmt: skip
    return shown(scope, store.shares.insert(record))


def shares(scope: Scope, trace_id: str | None) -> list[SharedTrace]:
    """Those that still open, newest first."""
    where: dict[str, Any] = {} if trace_id is None else {"trace_id": trace_id}
    records = scope.store.shares.find(newest_first=True, **where)
    return [shown(scope, record) for record in records if record.expires_at > utc_now()]


def shown(scope: Scope, record: ShareRecord) -> SharedTrace:
    try:
        trace = scope.store.traces.get(record.trace_id)
        title = str(trace["input"] or trace["workflow"] or "")[:200]
    except NotFoundError:  # Deleted in this moment, and its links with it.
        title = ""
    token = f"{record.id}.{_signature(secret_of(scope.store.db, scope.settings.secret), record)}"
    return SharedTrace(
        id=record.id, trace_id=record.trace_id, title=title, path=PATH + token, created_at=record.created_at,
        expires_at=record.expires_at,
    )  # fmt: skip


def opened(db: Database, secret: str, token: str) -> ShareRecord | None:
    """What a link opens, whoever asks; None when it is not signed by this lab, has expired or was revoked."""
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
