"""One answer for any endpoint: render the messages, hand the request in, split reasoning from content as it comes."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from vlm_models import ModalityError
from vlm_runtime import (
    GenerateOptions,
    GenerationResult,
    MediaPolicy,
    ReasoningSplitter,
    ToolCall,
    ToolCallSplitter,
    with_frames,
)

from .detail import with_detail
from .errors import ApiError
from .fields import Body
from .residents import Residents, Use
from .settings import Settings
from .structure import Structure

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """What to answer. messages: in any client's part names. options: generate's."""

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    structure: Structure = field(default_factory=Structure)


@dataclass(frozen=True)
class Piece:
    """What one token brought to one answer. is_reasoning: whether the token stands in a thinking block, markers included."""

    reasoning: str
    content: str
    result: GenerationResult
    calls: tuple[ToolCall, ...] = ()
    is_reasoning: bool = False

    @property
    def index(self) -> int:
        return self.result.index


@dataclass(frozen=True)
class Whole:
    """One finished answer. last: its last result, with the counts. reasoning_tokens: those inside thinking blocks."""

    reasoning: str
    content: str
    last: GenerationResult
    calls: tuple[ToolCall, ...] = ()
    reasoning_tokens: int = 0


class Turn:
    """A request that was checked and is ready to run; nothing is queued before `pieces`."""

    def __init__(self, use: Use, asking: Any, markers: tuple[str, str], is_open: bool, structure: Structure) -> None:
        self.resident, self._asking, self._structure = use.resident, asking, structure
        self._markers, self._is_open = markers, is_open
        self._over = weakref.finalize(self, use.leave)  # whatever becomes of it: answered, refused, never read

    @classmethod
    async def prepare(cls, residents: Residents, body: Body, asked: Callable[[Any], Ask]) -> Turn:
        """Render, fetch, decode, tokenize, on worker threads; the model stays until the turn ends or `leave`s.

        Args:
            residents: where the model is, or is loaded.
            body: names the model.
            asked: what to answer, given the model's processor.

        Raises what is wrong with the request, and ApiError 429 or 503 where there is no room for it."""
        use = await residents.acquire(body.model, body.adapter_path)
        try:
            return await cls._prepare(use, asked(use.resident.processor), residents.settings)
        except ModalityError as error:
            kinds = [ref for ref in ("audio", "video", "image") if f"no {ref}" in str(error)]
            param = f"input_{kinds[0]}" if kinds else "messages"
            use.leave()
            raise ApiError(400, f"{param}: {error}", param=param, code="ModalityError") from error
        except BaseException:
            use.leave()
            raise

    @classmethod
    async def _prepare(cls, use: Use, ask: Ask, settings: Settings) -> Turn:
        resident = use.resident
        options = dict(ask.options)
        thinking = options.pop("enable_thinking", None)
        markers = (options.get("thinking_start_token") or "<think>", options.get("thinking_end_token") or "</think>")
        structure = ask.structure
        if structure.grammar is not None:
            options["grammar"] = structure.grammar
        most = resident.processor.max_context
        if most is not None and len(ask.messages) > most:
            raise ApiError(400, f"messages: expected at most {most}, the model's context", param="messages")
        options["media_policy"] = MediaPolicy.for_server(
            is_loopback=settings.is_loopback, roots=settings.media_roots, allow_urls=settings.allow_urls
        )
        taken = {name: options[name] for name in ("fps", "media_policy") if name in options}
        messages = await asyncio.to_thread(
            with_frames,
            resident.processor,
            with_detail(_prefaced(ask.messages, structure.preface)),
            GenerateOptions(**taken),
        )
        rendered = await asyncio.to_thread(
            resident.processor.apply_chat_template,
            messages,
            enable_thinking=thinking,
            **structure.template,
        )
        if most is not None and len(rendered) > most * resident.longest_token:
            raise ApiError(
                400,
                f"messages: {len(rendered)} characters do not fit into a context of {most} tokens",
                param="messages",
            )
        asking = await resident.engine.prepare(rendered, **options)
        text = str(rendered)
        return cls(use, asking, markers, text.rfind(markers[0]) > text.rfind(markers[1]), structure)

    @property
    def prompt_tokens(self) -> int:
        return len(self._asking.request.prompt)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Pieces as tokens come; closing the generator cancels the rest."""
        splitters: dict[int, _Splitter] = {}
        try:
            async with aclosing(self.resident.engine.run(self._asking)) as results:
                async for result in results:
                    splitter = splitters.get(result.index)
                    if splitter is None:
                        splitter = splitters[result.index] = self._splitter()
                    yield splitter.add(result)
        finally:
            self.leave()

    def leave(self) -> None:
        """Let the model go; for turns whose `pieces` nobody reads."""
        self._over()

    def _splitter(self) -> _Splitter:
        form = self._structure.format
        calls = None if form is None else ToolCallSplitter(form, self._structure.tools)
        return _Splitter(ReasoningSplitter(*self._markers, is_open=self._is_open), calls, self._markers, self._is_open)

    async def whole(self, request: Request) -> list[Whole]:
        """All answers, finished; a client that leaves cancels them. Raises ApiError then."""
        return await unless_gone(request, self._collect())

    async def _collect(self) -> list[Whole]:
        reasoning: dict[int, list[str]] = {}
        content: dict[int, list[str]] = {}
        calls: dict[int, tuple[ToolCall, ...]] = {}
        thoughts: dict[int, int] = {}
        last: dict[int, GenerationResult] = {}
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                reasoning.setdefault(piece.index, []).append(piece.reasoning)
                content.setdefault(piece.index, []).append(piece.content)
                calls[piece.index] = calls.get(piece.index, ()) + piece.calls
                thoughts[piece.index] = thoughts.get(piece.index, 0) + piece.is_reasoning
                last[piece.index] = piece.result
        return [Whole("".join(reasoning[i]), "".join(content[i]), last[i], calls[i], thoughts[i]) for i in sorted(last)]


@dataclass
class _Splitter:
    """Reasoning first, then calls in what is content. tail: text that may end in a part of a marker."""

    reasoning: ReasoningSplitter
    calls: ToolCallSplitter | None
    markers: tuple[str, str]
    is_open: bool
    tail: str = ""

    def _counts(self, text: str) -> bool:
        """Whether the token that brought `text` stands in a thinking block or closes one."""
        was_open = self.is_open
        self.tail += text
        place = max((self.tail.rfind(marker), marker) for marker in self.markers)
        if place[0] >= 0:
            self.is_open = place[1] == self.markers[0]
            self.tail = self.tail[place[0] + len(place[1]) :]
        self.tail = self.tail[-max(map(len, self.markers)) :]
        return was_open or self.is_open

    def add(self, result: GenerationResult) -> Piece:
        counts = self._counts(result.text) and result.generation_tokens > 0
        split = self.reasoning.add(result.text)
        if result.finish_reason is not None:
            split += self.reasoning.finish()
        if self.calls is None:
            return Piece(split.reasoning, split.content, result, is_reasoning=counts)
        called = self.calls.add(split.content)
        if result.finish_reason is not None:
            called += self.calls.finish()
        return Piece(split.reasoning, called.content, result, called.calls, counts)


def _prefaced(messages: Sequence[Mapping[str, Any]], preface: str | None) -> list[Mapping[str, Any]]:
    """Messages with a text at the head of the system message."""
    if preface is None:
        return list(messages)
    if messages and messages[0].get("role") == "system" and isinstance(messages[0].get("content"), str):
        return [{**messages[0], "content": f"{preface}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": preface}, *messages]


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


def usage(answers: Sequence[GenerationResult], reasoning_tokens: int) -> dict[str, Any]:
    """OpenAI's usage of one request with one or more answers."""
    prompt = answers[0].prompt_tokens
    completion = sum(answer.generation_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": answers[0].cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def timings(last: GenerationResult) -> dict[str, float]:
    """Rates beside the usage."""
    return {
        "prompt_tps": last.prompt_tps,
        "generation_tps": last.generation_tps,
        "time_to_first_token": last.time_to_first_token,
        "peak_memory": last.peak_memory,
    }
