"""Who is calling: signed tokens, issued here and checked here.

A token is a JWT (RFC 7519) signed with HS256: `sub` is the user id, `aud` is `timestep-lab`, `exp` is checked. The only algorithm
accepted is the one we sign with, so a token that names another (or `none`) is refused before anything else is looked at.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import jwt

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import AuthError, ConflictError
from timestep_lab.model.ids import new_uuid
from timestep_lab.store.table import Table

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

AUDIENCE = "timestep-lab"
ALGORITHM = "HS256"
LIFETIME = timedelta(days=30)
LEAST_SECRET_BYTES = 32
COOKIE = "timestep_lab"
"""How the cookie's name begins."""


@dataclass(frozen=True, slots=True)
class Caller:
    user_id: str
    anonymous: bool


class Tokens:
    """Issues and verifies tokens with one secret."""

    def __init__(self, secret: str) -> None:
        # A short secret is stretched, never padded with a constant: HS256 wants 32 bytes (RFC 7518, 3.2).
        self._key = secret.encode()
        if len(self._key) < LEAST_SECRET_BYTES:
            self._key = hashlib.sha256(b"timestep-lab:" + self._key).digest()
        self.cookie = f"{COOKIE}_{hashlib.sha256(b'timestep-lab cookie:' + self._key).hexdigest()[:8]}"
        """A browser sends its cookies to every port of a host: the name keeps two labs there from signing each other's users out."""

    def issue(self, user_id: str, *, anonymous: bool = True, lifetime: timedelta = LIFETIME) -> str:
        now = utc_now()
        claims = {"sub": user_id, "aud": AUDIENCE, "iat": now, "exp": now + lifetime, "is_anonymous": anonymous}
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def issue_anonymous(self) -> tuple[str, str]:
        """A new user's id and token."""
        user_id = new_uuid()
        return user_id, self.issue(user_id)

    def verify(self, token: str) -> Caller:
        """Raises `AuthError` for a token that is forged, expired, for another audience, or no token at all."""
        try:
            claims = jwt.decode(
                token, self._key, algorithms=[ALGORITHM], audience=AUDIENCE, options={"require": ["exp", "aud", "sub"]}
            )
        except jwt.ExpiredSignatureError as error:
            raise AuthError("This token has expired.", "Sign in again: POST /api/v1/auth/anonymous") from error
        except jwt.InvalidTokenError as error:
            raise AuthError("This token is not valid.", "Sign in: POST /api/v1/auth/anonymous") from error
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise AuthError("This token names no user.", "Sign in: POST /api/v1/auth/anonymous")
        return Caller(claims["sub"], bool(claims.get("is_anonymous", False)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSetting:
    """A row of `lab_settings`: something the lab itself must remember."""

    name: str
    user_id: str
    value: str


def secret_of(store: Store, configured: str | None) -> str:
    """`TIMESTEP_LAB_SECRET`, or one made once and kept with the store, so that tokens outlive a restart."""
    if configured:
        return configured
    kept = Table(store.db, store.user_id, "lab_settings", LabSetting, noun="setting", key="name", order="name")
    found = kept.try_get("token_secret")
    if found is None:
        try:
            found = kept.insert(
                LabSetting(name="token_secret", user_id=store.user_id, value=secrets.token_urlsafe(48))
            )  # fmt: skip
        except ConflictError:  # Another server made it in this moment.
            found = kept.get("token_secret")
    return found.value
