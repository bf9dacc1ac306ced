"""The signed token that tells Postgres for whom a transaction runs; `core.current_user_id()` in security.sql checks it."""

from __future__ import annotations

import hashlib
import hmac
import time

LIFE_S = 120
"""Longer than any statement may wait before it begins."""
BLOCK = 64
"""Bytes in a block of SHA-256."""


def pads(key: bytes) -> tuple[bytes, bytes]:
    """HMAC's inner and outer key blocks (RFC 2104), so that SQL, which has sha256() but no hmac(), need not compute them."""
    block = key.ljust(BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


class Signer:
    """`ahead_s`: how far the server's clock is ahead of ours, seconds."""

    def __init__(self, key: bytes, ahead_s: float) -> None:
        self._key, self._ahead_s = key, ahead_s

    def token(self, user_id: str) -> str:
        signed = f"{int(time.time() + self._ahead_s + LIFE_S)}.{user_id}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest() + signed
