"""The engine for programs that run on an event loop: nothing here blocks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vlm_models import Model

from ..options import GenerateOptions
from ..processor import Processor
from ..request import Event
from ..results import GenerationResult
from .answers import Answer
from .asking import Asking, ask


class AsyncEngine:
    """Answers prompts to one loaded model from coroutines. Many may run at once; they share one batch.

    Args:
        model: from `load`.
        processor: from `load`.
        defaults: options for every request that does not set them, by `generate`'s names.
    """

    def __init__(self, model: Model, processor: Processor, **defaults: Any) -> None:
        GenerateOptions.parse(defaults)
        self.model, self.processor, self.defaults = model, processor, defaults

    async def prepare(
        self, prompt: str = "", image: Any = None, audio: Any = None, video: Any = None, **options: Any
    ) -> Asking:
        """Fetch, decode and tokenize on a worker thread. Raises VlmError; nothing has been queued then."""
        started = time.monotonic()
        parsed = GenerateOptions.parse({**self.defaults, **options})
        return await asyncio.to_thread(ask, self.model, self.processor, prompt, image, audio, video, parsed, started)

    def run(self, asking: Asking) -> AsyncGenerator[GenerationResult, None]:
        """Hand a prepared request in; results as the tokens come. Closing the iterator cancels the rest."""
        return run(asking)

    async def stream(
        self, prompt: str = "", image: Any = None, audio: Any = None, video: Any = None, **options: Any
    ) -> AsyncGenerator[GenerationResult, None]:
        """Results as the tokens come; `index` tells which of n answers. Closing the iterator cancels the rest."""
        asking = await self.prepare(prompt, image, audio, video, **options)
        async with aclosing(run(asking)) as results:
            async for result in results:
                yield result

    async def generate(
        self, prompt: str = "", image: Any = None, audio: Any = None, video: Any = None, **options: Any
    ) -> list[GenerationResult]:
        """All n answers, whole."""
        texts: dict[int, list[str]] = {}
        last: dict[int, GenerationResult] = {}
        async with aclosing(self.stream(prompt, image, audio, video, **options)) as results:
            async for result in results:
                texts.setdefault(result.index, []).append(result.text)
                last[result.index] = result
        return [GenerationResult(**{**vars(last[i]), "text": "".join(texts[i])}) for i in sorted(last)]


async def run(asking: Asking) -> AsyncGenerator[GenerationResult, None]:
    """Hand a prepared request in and give its results as they come. Closing the iterator cancels the rest."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def tell(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    stream = asking.engine.submit(asking.request, tell)
    answers: dict[int, Answer] = {}
    ended: set[int] = set()
    try:
        while len(ended) < asking.request.params.n:
            event = await events.get()
            if event.index in ended:
                continue
            if event.error is not None:
                raise event.error
            result = answers.setdefault(event.index, asking.answer()).add(event)
            if result.finish_reason is not None:
                ended.add(event.index)
            yield result
    finally:
        stream.close()
