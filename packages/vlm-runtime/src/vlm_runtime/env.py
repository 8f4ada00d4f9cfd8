"""The environment variables of this package, read in one place.

`HF_HUB_OFFLINE`: 1 keeps the hub library, and with it this package, off the network; read by huggingface_hub too.
`MLX_TRUST_REMOTE_CODE`: `true` lets tokenizers run code of their repository, as `trust_remote_code` does.
"""

from __future__ import annotations

import os

_TRUE = frozenset({"1", "true", "yes", "on"})


def is_offline() -> bool:
    """Whether the hub must not be asked."""
    return _is_true("HF_HUB_OFFLINE") or _is_true("TRANSFORMERS_OFFLINE")


def trusts_remote_code() -> bool:
    """Whether code of a repository may run."""
    return _is_true("MLX_TRUST_REMOTE_CODE")


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in _TRUE
