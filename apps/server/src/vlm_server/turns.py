"""One answer for any endpoint: render the messages, hand the request in, split reasoning from content as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from vlm_runtime import GenerationResult, MediaPolicy, ReasoningSplitter

from .errors import ApiError
from .residents import Resident
from .settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """What to answer. messages: in any client's part names. options: generate's. template: further template arguments."""

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """What one token brought to one answer."""

    reasoning: str
    content: str
    result: GenerationResult

    @property
    def index(self) -> int:
        return self.result.index


@dataclass(frozen=True)
class Whole:
    """One finished answer. last: its last result, with the counts."""

    reasoning: str
    content: str
    last: GenerationResult


class Turn:
    """A request that was checked and is ready to run; nothing is queued before `pieces`."""

    def __init__(self, resident: Resident, asking: Any, markers: tuple[str, str], is_open: bool) -> None:
        self.resident, self._asking = resident, asking
        self._markers, self._is_open = markers, is_open

    @classmethod
    async def prepare(cls, resident: Resident, ask: Ask, settings: Settings) -> Turn:
        """Render, fetch, decode, tokenize, on worker threads. Raises what is wrong with the request."""
        options = dict(ask.options)
        thinking = options.pop("enable_thinking", None)
        markers = (options.get("thinking_start_token") or "<think>", options.get("thinking_end_token") or "</think>")
        rendered = await asyncio.to_thread(
            resident.processor.apply_chat_template, list(ask.messages), enable_thinking=thinking, **ask.template
        )
        options["media_policy"] = MediaPolicy.for_server(
            is_loopback=settings.is_loopback, roots=settings.media_roots, allow_urls=settings.allow_urls
        )
        asking = await resident.engine.prepare(rendered, **options)
        text = str(rendered)
        return cls(resident, asking, markers, text.rfind(markers[0]) > text.rfind(markers[1]))

    @property
    def prompt_tokens(self) -> int:
        return len(self._asking.request.prompt)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Pieces as tokens come; closing the generator cancels the rest."""
        splitters: dict[int, ReasoningSplitter] = {}
        with self.resident:
            async with aclosing(self.resident.engine.run(self._asking)) as results:
                async for result in results:
                    splitter = splitters.get(result.index)
                    if splitter is None:
                        splitter = splitters[result.index] = ReasoningSplitter(*self._markers, is_open=self._is_open)
                    split = splitter.add(result.text)
                    if result.finish_reason is not None:
                        split += splitter.finish()
                    yield Piece(split.reasoning, split.content, result)

    async def whole(self, request: Request) -> list[Whole]:
        """All answers, finished; a client that leaves cancels them. Raises ApiError then."""
        return await unless_gone(request, self._collect())

    async def _collect(self) -> list[Whole]:
        reasoning: dict[int, list[str]] = {}
        content: dict[int, list[str]] = {}
        last: dict[int, GenerationResult] = {}
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                reasoning.setdefault(piece.index, []).append(piece.reasoning)
                content.setdefault(piece.index, []).append(piece.content)
                last[piece.index] = piece.result
        return [Whole("".join(reasoning[i]), "".join(content[i]), last[i]) for i in sorted(last)]


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await work, but cancel it when the client disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client left", code="client_left")
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.1)


def usage(answers: Sequence[GenerationResult], reasoning_tokens: int | None = None) -> dict[str, Any]:
    """OpenAI's usage of one request with one or more answers."""
    prompt = answers[0].prompt_tokens
    completion = sum(answer.generation_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": answers[0].cached_tokens},
    }


def timings(last: GenerationResult) -> dict[str, float]:
    """Rates beside the usage."""
    return {
        "prompt_tps": last.prompt_tps,
        "generation_tps": last.generation_tps,
        "time_to_first_token": last.time_to_first_token,
        "peak_memory": last.peak_memory,
    }
