"""Tokens for tests, good ones and bad ones."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt

SECRET = "the-secret-that-no-log-line-may-ever-hold"


def make_token(
    sub: Any = "ann", *, key: Any = SECRET, algorithm: str = "HS256", header: dict[str, Any] | None = None, **claims: Any
) -> str:
    """A token with these claims besides ``iat`` and ``exp``; a claim whose value is ``...`` is left out."""
    now = time.time()
    every = {"sub": sub, "iat": now, "exp": now + 600} | claims
    return jwt.encode({name: value for name, value in every.items() if value is not ...}, key, algorithm=algorithm, headers=header)


def part(value: Any) -> str:
    """Encode one of the three parts of a token, to build one by hand."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
