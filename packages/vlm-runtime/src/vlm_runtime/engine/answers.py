"""From the engine's events to results with text: detokenizing, stop strings, counts and rates. Knows no arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..loading.tokenizer import Tokenizer
from ..request import Event, FinishReason, SamplingParams, TokenLogprob
from ..results import GenerationResult
from ..text.detokenizer import Detokenizer
from ..text.stop import StopStrings


class Answer:
    """The text of one answer as its events come. Each token gives one result.

    Args:
        tokenizer: of the checkpoint.
        params: the request's.
        skip_special_tokens: leave special tokens out of the text.
        keep: special tokens to write all the same.
        prepared: seconds spent on media and tokens before the request was handed in.
        peak_memory: GB, asked for each result.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        *,
        skip_special_tokens: bool = True,
        keep: Collection[int] = (),
        prepared: float = 0.0,
        peak_memory: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens, keep=frozenset(keep))
        self._stop = StopStrings(params.stop)
        self._stop_tokens = params.stop_tokens if skip_special_tokens else frozenset()
        self._prepared = prepared
        self._peak_memory = peak_memory
        self._pieces: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._first = 0.0

    @property
    def text(self) -> str:
        """All of the text so far."""
        return "".join(self._pieces)

    def add(self, event: Event) -> GenerationResult:
        """The result of an event that is not an error; `finish_reason` is set where a stop string ended the answer too."""
        piece, reason = "", event.finish_reason
        if event.token is not None:
            if not self._tokens:
                self._first = event.time
            self._tokens.append(event.token)
            if event.logprob is not None:
                self._logprobs.append(event.logprob)
            if not (reason == "stop" and event.token in self._stop_tokens):
                piece = self._stop.add(self._detokenizer.add(event.token))
        if reason is not None and self._stop.found is None:
            piece += self._stop.add(self._detokenizer.finish())
            piece += self._stop.finish()
        if self._stop.found is not None:
            reason = "stop"
        self._pieces.append(piece)
        return self._result(piece, event, reason)

    def whole(self, last: GenerationResult) -> GenerationResult:
        """The answer as one result, after its last event's."""
        return GenerationResult(**{**vars(last), "text": self.text})

    def _result(self, piece: str, event: Event, reason: FinishReason | None) -> GenerationResult:
        count = len(self._tokens)
        waited = event.prompt_seconds + self._prepared
        span = event.time - self._first
        return GenerationResult(
            text=piece,
            token=self._tokens[-1] if self._tokens else None,
            tokens=tuple(self._tokens),
            logprobs=tuple(self._logprobs),
            prompt_tokens=event.prompt_tokens,
            generation_tokens=count,
            prompt_tps=event.prompt_tokens / waited if waited > 0 else 0.0,
            generation_tps=(count - 1) / span if count > 1 and span > 0 else 0.0,
            peak_memory=self._peak_memory(),
            cached_tokens=event.cached_tokens,
            finish_reason=reason,
            index=event.index,
            time_to_first_token=waited,
            stop_string=self._stop.found,
        )
