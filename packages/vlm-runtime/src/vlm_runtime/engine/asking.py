"""From a user's call to a request in an engine, and back to results. Where the Python API and the engine meet."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from vlm_models import Model, named_parameters

from ..cache import bytes_per_token
from ..errors import OptionError
from ..options import GenerateOptions
from ..prepare import as_list, prepare
from ..processor import Processor
from ..request import Grammar, Request, SamplingParams
from ..results import GenerationResult
from ..scheduler import Limits
from .answers import Answer
from .front import Engine, Stream
from .settings import EngineOptions

# Engines of one model differ in the form of their caches; few forms are in use at a time.
MOST_ENGINES = 2
# below this many tokens a budget serves nobody; the machine's own limits decide then
SMALLEST_BUDGET = 4096


@dataclass(frozen=True)
class Asking:
    """One prepared request to one engine."""

    engine: Engine
    processor: Processor
    request: Request
    options: GenerateOptions
    prepared: float

    def start(self) -> Stream:
        """Hand the request in."""
        return self.engine.submit(self.request)

    def answer(self) -> Answer:
        """What turns the events of one answer into text."""
        return Answer(
            self.processor.tokenizer,
            self.request.params,
            skip_special_tokens=self.options.skip_special_tokens is not False,
            keep=self._markers(),
            prepared=self.prepared,
            peak_memory=peak_memory,
        )

    def _markers(self) -> frozenset[int]:
        """Thinking markers stay in the text, so that whoever shows it can split it."""
        ids = (self.processor.tokenizer.token_to_id(text) for text in self.options.thinking_markers)
        return frozenset(token for token in ids if token is not None)

    def results(self) -> Iterator[GenerationResult]:
        """Results as the tokens come. The request is handed in now, not at the first `next`."""
        return self._results(self.start())

    def _results(self, stream: Stream) -> Iterator[GenerationResult]:
        answers: dict[int, Answer] = {}
        ended: set[int] = set()
        with stream:
            for event in stream:
                if event.index in ended:
                    continue
                if event.error is not None:
                    raise event.error
                result = answers.setdefault(event.index, self.answer()).add(event)
                if result.finish_reason is not None:
                    ended.add(event.index)
                yield result
                if len(ended) == self.request.params.n:
                    return

    def collect(self, stream: Stream) -> list[GenerationResult]:
        """All answers, whole, in order."""
        texts: dict[int, list[str]] = {}
        last: dict[int, GenerationResult] = {}
        for result in self._results(stream):
            texts.setdefault(result.index, []).append(result.text)
            last[result.index] = result
        return [GenerationResult(**{**vars(last[i]), "text": "".join(texts[i])}) for i in sorted(last)]


def ask(
    model: Model,
    processor: Processor,
    prompt: str,
    image: Any,
    audio: Any,
    video: Any,
    options: GenerateOptions,
    started: float,
) -> Asking:
    """Check and prepare a call. Raises what is wrong with options, prompt or media."""
    params = options.sampling(processor)
    options.media()  # wrong values are named even where there is no medium
    engine = engine_for(model, processor, options)
    media = {"image": as_list(image), "audio": as_list(audio), "video": as_list(video)}
    ready = prepare(processor, prompt, media, options)  # type: ignore[arg-type]
    request = Request(
        ready,
        params,
        priority=options.priority or 0,
        timeout=options.timeout,
        grammar=_grammar(processor, options, params),
        vision_cache=options.vision_cache,
        use_prefix=options.use_prefix_cache is not False,
    )
    engine.check(request)
    return Asking(engine, processor, request, options, time.monotonic() - started)


def _grammar(processor: Processor, options: GenerateOptions, params: SamplingParams) -> Grammar | None:
    """The compiled grammar of a call, if it has one. Raises GrammarError, ExtraMissing."""
    from ..text import structured  # llguidance, paid only for structured output

    if not isinstance(options.grammar, structured.GrammarSpec):
        return options.grammar
    ends = sorted(params.stop_tokens)
    return structured.Grammar.compile(
        processor.tokenizer, options.grammar, vocab_size=processor.vocabulary_size, eos_token_ids=ends
    )


def engine_for(model: Model, processor: Processor, options: GenerateOptions) -> Engine:
    """The engine of a model for these cache options; started at the first call."""
    if not isinstance(processor, Processor):
        raise OptionError(f"processor: expected what load() returns, got {type(processor).__name__}")
    guesses = (options.prompt_lookup, id(options.draft_model), options.num_draft_tokens)
    form = (id(model), options.cache(), options.chunk_tokens, guesses)
    drafter = options.drafter()
    engines: OrderedDict[Any, Engine] = processor.engines
    with processor.lock:
        engine = engines.get(form)
        if engine is None:
            # lazily loaded weights belong to the thread that loaded them; the engine's could not read them
            mx.eval(model.parameters())
            if options.draft_model is not None:
                _check_draft(options.draft_model, processor)
                mx.eval(options.draft_model.parameters())
            settings = EngineOptions(
                Limits(
                    chunk_tokens=options.chunk_tokens,
                    step_tokens=options.chunk_tokens,
                    cache_tokens=cache_tokens(model, options),
                ),
                options.cache(),
                max_context=processor.max_context,
                drafter=drafter,
            )
            engine = engines[form] = Engine(
                model, settings, model_key=processor.model_key, vision_cache=processor.vision_cache
            )
        engines.move_to_end(form)
        for key, idle in list(engines.items()):
            if len(engines) > MOST_ENGINES and key != form and idle.num_open == 0:
                engines.pop(key).close()
    return engine


def cache_tokens(model: Model, options: GenerateOptions) -> int | None:
    """Tokens that fit beside the weights into half of the device's memory; None where layers keep no tokens."""
    each = bytes_per_token(model.cache_spec(), options.cache(), dtype=model.dtype)
    if each == 0:
        return None
    weights = sum(value.nbytes for _, value in named_parameters(model))
    memory = device_memory()
    if memory is None:
        return None
    return max(int(max(memory - weights, 0) / 2 / each), SMALLEST_BUDGET)


def device_memory() -> int | None:
    """Bytes of memory of the device that models run on; None where MLX does not tell."""
    if mx.default_device().type == mx.DeviceType.gpu:
        info = mx.device_info()
        size = info.get("memory_size", info.get("total_memory"))  # as Metal and as CUDA name it
        return None if size is None else int(size)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_draft(draft: Model, processor: Processor) -> None:
    config: Any = draft.config
    size = (config.get("text_config") or {}).get("vocab_size") or config.get("vocab_size")
    if size != processor.vocabulary_size:
        raise OptionError(f"draft_model: expected a vocabulary of {processor.vocabulary_size} tokens, got {size}")


def close_engines(processor: Processor) -> None:
    """End what a model still serves, and forget its caches."""
    with processor.lock:
        for engine in processor.engines.values():
            engine.close()
        processor.engines.clear()
    processor.vision_cache.clear(processor.model_key)


def peak_memory() -> float:
    """GB of device memory this process has used at most."""
    return float(mx.get_peak_memory()) / 1e9
