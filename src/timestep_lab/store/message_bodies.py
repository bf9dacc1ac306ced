"""Long histories are not stored in full at every turn: each message once, and per generation the list of hashes.

A generation's input is the whole conversation so far, so a conversation of n turns would be stored n times over. Instead an
input that is a list of messages, and long enough to be worth it, becomes `input_refs`; joining the bodies gives back the same JSON.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from timestep_lab.store.base import Database
from timestep_lab.store.json_text import from_json, to_json
from timestep_lab.store.span_rows import AT, INPUT_IS_JSON, Row

BODY_COLUMNS = ("user_id", "hash", "body")
WORTH_SHARING = 2048
"""Characters of JSON below which an input is stored whole: a lookup would cost more than it saves."""
_KIND = AT["kind"]
REMEMBERED = 50_000
"""How many hashes are known to be stored without asking the database."""


class MessageBodies:
    """Not thread-safe: belongs to the writer's thread, or to one import."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._stored: OrderedDict[tuple[str, str], None] = OrderedDict()

    def share(self, user_id: str, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """The rows with long histories replaced by hashes, and the rows to append to `message_bodies`."""
        slim: list[Row] = []
        bodies: dict[str, str] = {}
        for row in rows:
            messages = _messages(row) if row[_KIND] == "generation" else None
            if messages is None:
                slim.append(row)
                continue
            hashes = [blake2b(body.encode(), digest_size=16).hexdigest() for body in messages]
            bodies.update(zip(hashes, messages, strict=True))
            slim.append(_with_refs(row, " ".join(hashes)))
        new = self._not_stored(user_id, list(bodies)) if bodies else []
        return slim, [(user_id, digest, bodies[digest]) for digest in new]

    def written(self, rows: Sequence[Row]) -> None:
        """These body rows are durable now."""
        for user_id, digest, _ in rows:
            self._remember((user_id, digest))

    def _not_stored(self, user_id: str, hashes: list[str]) -> list[str]:
        unknown = [digest for digest in hashes if (user_id, digest) not in self._stored]
        if not unknown:
            return []
        places = ", ".join(f"${n}" for n in range(2, len(unknown) + 2))
        found = self._db.query(
            user_id,
            f"select hash from core.message_bodies where user_id = $1 and hash in ({places})",
            [user_id, *unknown],
        )
        stored = {row[0] for row in found.rows}
        for digest in stored:
            self._remember((user_id, digest))
        return [digest for digest in unknown if digest not in stored]

    def _remember(self, key: tuple[str, str]) -> None:
        self._stored[key] = None
        self._stored.move_to_end(key)
        if len(self._stored) > REMEMBERED:
            self._stored.popitem(last=False)


def _messages(row: Row) -> list[str] | None:
    """The messages of a generation's input worth sharing as JSON texts, or None."""
    text = row[AT["input"]]
    if text is None or len(text) < WORTH_SHARING:
        return None
    if not row[AT["io_json"]] & INPUT_IS_JSON or text[0] != "[":
        return None
    messages = [to_json(message) for message in from_json(text)]
    # Only if joining gives the same text again: an importer may have kept a sender's own spacing.
    return messages if len(messages) > 1 and f"[{','.join(messages)}]" == text else None


def _with_refs(row: Row, refs: str) -> Row:
    changed = list(row)
    changed[AT["input"]], changed[AT["input_refs"]] = None, refs
    return tuple(changed)
