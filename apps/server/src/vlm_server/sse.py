"""Server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import StreamingResponse

from .errors import as_api_error

log = logging.getLogger("vlm_server")


def event(data: Any, name: str | None = None) -> str:
    """One event on the wire."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"


def stream(events: AsyncGenerator[str, None], fail: Callable[[dict[str, Any]], str], **error: Any) -> StreamingResponse:
    """A response of events; what goes wrong on the way is told as a last event. Leaving it closes `events`."""

    async def guarded() -> AsyncGenerator[str, None]:
        try:
            async for line in events:
                yield line
        except Exception as problem:
            told = as_api_error(problem)
            if told.status >= 500:
                log.exception("a stream failed")
            yield fail(told.body(**error))
        finally:
            await events.aclose()

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(guarded(), media_type="text/event-stream", headers=headers)
