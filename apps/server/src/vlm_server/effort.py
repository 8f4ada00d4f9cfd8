"""What `reasoning_effort` means here: whether the model thinks, and how many tokens at most inside a thinking block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import ApiError

# None: as many as the answer may have
BUDGETS: Mapping[str, int | None] = {"minimal": 128, "low": 512, "medium": 2048, "high": 8192, "xhigh": None}
EFFORTS = ("none", *BUDGETS)


def with_effort(options: Mapping[str, Any], effort: Any, field: str) -> dict[str, Any]:
    """Generation options with an effort in terms of them; an explicit budget goes before the effort's.

    Args:
        options: those that the request sets itself.
        effort: one of EFFORTS; None changes nothing.
        field: the request's name for it.

    Raises:
        ApiError: an unknown effort, or one that enable_thinking contradicts.
    """
    if effort is None:
        return dict(options)
    if effort not in EFFORTS:
        raise ApiError(400, f"{field}: expected one of {', '.join(EFFORTS)}, got {effort!r}", param=field)
    thinks = effort != "none"
    if options.get("enable_thinking", thinks) != thinks:
        message = f"{field}: {effort} contradicts enable_thinking={options['enable_thinking']}; leave one out"
        raise ApiError(400, message, param=field)
    own = options.get("thinking_budget") is not None or options.get("thinking_token_budget") is not None
    budget = None if own else BUDGETS.get(effort)
    return {**options, "enable_thinking": thinks, **({} if budget is None else {"thinking_budget": budget})}
