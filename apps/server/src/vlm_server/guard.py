"""What stands before every route: the key, and the size of a body. Plain ASGI, so that streams pass untouched."""

from __future__ import annotations

import json
import secrets
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

OPEN_PATHS = frozenset({"/health", "/v1/health"})


class KeyGuard:
    """401 for every route but /health without the key, in Authorization: Bearer or x-api-key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self.app, self._key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._holds(scope):
            await self.app(scope, receive, send)
            return
        await refuse(scope, send, ApiError(401, "expected the server's API key", code="invalid_api_key"))

    def _holds(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                value = value[7:].strip()
            elif name != b"x-api-key":
                continue
            if secrets.compare_digest(value, self._key):
                return True
        return False


# objects and lists of a body; parsing more of them would hold the event loop, and every stream with it
MOST_ITEMS = 400_000


class BodyGuard:
    """413 for a body over the limit, declared or not, before it is read to its end, and for one of too many items."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self._max = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = ApiError(413, f"body: expected at most {self._max} bytes", param="body", code="too_large")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._max:
            await refuse(scope, send, error)
            return
        seen = items = 0
        is_refused = False

        async def counted() -> Message:
            nonlocal seen, items, error, is_refused
            message = await receive()
            body = message.get("body", b"")
            seen += len(body)
            items += body.count(b"{") + body.count(b"[")
            if items > MOST_ITEMS:
                error = ApiError(413, f"body: expected at most {MOST_ITEMS} objects and lists", param="body")
            if seen > self._max or items > MOST_ITEMS:
                is_refused = True
                raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            # the framework turns what goes wrong while it reads into an answer of its own
            if not is_refused:
                await send(message)
            elif message["type"] == "http.response.start":
                await refuse(scope, send, error)

        await self.app(scope, counted, watched)


class _TooLarge(Exception):
    """The body grew over its limit while it was read."""


async def refuse(scope: Scope, send: Send, error: ApiError) -> None:
    """Answer with an error, and end the connection: what the client still sends is not read."""
    body = json.dumps(error.body(is_anthropic=is_anthropic(scope["path"]))).encode()
    headers: list[Any] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def is_anthropic(path: str) -> bool:
    """Whether a path belongs to Anthropic's interface."""
    return path.removeprefix("/v1").startswith("/messages")
