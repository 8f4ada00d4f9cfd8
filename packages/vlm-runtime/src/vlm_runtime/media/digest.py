"""Content keys: equal decoded content gives equal keys, wherever it came from."""

from __future__ import annotations

import hashlib

import numpy as np


def content_digest(kind: str, array: np.ndarray, *facts: object) -> str:
    """SHA-256, in hexadecimal, of an array's values, shape and dtype and of further facts (a rate, times)."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{kind}:{array.dtype.str}:{array.shape}:{facts!r}:".encode())
    digest.update(array.data if array.size else b"")
    return digest.hexdigest()
