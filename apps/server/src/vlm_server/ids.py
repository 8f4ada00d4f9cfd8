"""Ids that clients hand back in later turns."""

from __future__ import annotations

import secrets
import string

_LETTERS = string.ascii_letters + string.digits


def call_id() -> str:
    """Of a tool call: nine letters and digits, the one form that every chat template takes (Mistral's refuse others)."""
    return "".join(secrets.choice(_LETTERS) for _ in range(9))
