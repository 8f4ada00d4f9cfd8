"""The options of generation, by the names that users type. Unknown ones are errors, never ignored."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import OptionError
from .request import Grammar, SamplingParams, ThinkingParams

if TYPE_CHECKING:
    from vlm_models import MediaOptions, Model

    from .cache import CacheOptions, VisionFeatureCache
    from .engine.speculation import Drafter
    from .media.policy import MediaPolicy
    from .processor import Processor
    from .text.structured import GrammarSpec

ALIASES = {
    "thinking_token_budget": "thinking_budget",
    "temp": "temperature",
    "max_new_tokens": "max_tokens",
}
# those that a message part may set for its own medium
MEDIA_OPTIONS = frozenset({"resize_shape", "max_pixels", "min_pixels", "fps", "max_frames"})
DEFAULT_MAX_TOKENS = 2048
DEFAULT_CHUNK = 2048


@dataclass(frozen=True)
class GenerateOptions:
    """Everything `generate` takes beside prompt and media; None means the default of the checkpoint or of SPEC section 2.

    logit_bias: token id (or its decimal text) -> added value. stop: strings. eos_tokens: further ids or texts that end an
    answer. prefill_step_size: tokens of a prefill chunk. system: put before a prompt that is wrapped as a user turn.
    chat_template: source to use instead of the checkpoint's. grammar: what the answer must look like (`GrammarSpec`), or an
    object of the `Grammar` protocol. prompt_lookup: how many tokens to guess from repetitions in prompt and answer.
    draft_model: a smaller model (from `load`) that guesses num_draft_tokens (4); neither changes an answer. media_policy: what
    media may be opened; None trusts the local user. timeout: seconds for the whole request.
    """

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repetition_context_size: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[Any, float] | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    eos_tokens: int | str | Sequence[int | str] | None = None
    skip_special_tokens: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    thinking_start_token: str | None = None
    thinking_end_token: str | None = None
    kv_bits: float | None = None
    kv_quant_scheme: str | None = None
    kv_group_size: int | None = None
    quantized_kv_start: int | None = None
    kv_key_bits: float | None = None
    kv_value_bits: float | None = None
    kv_full_layers: int | None = None
    max_kv_size: int | None = None
    prefill_step_size: int | None = None
    resize_shape: int | Sequence[int] | None = None
    max_pixels: int | Sequence[int] | None = None
    min_pixels: int | Sequence[int] | None = None
    fps: float | None = None
    max_frames: int | None = None
    system: str | None = None
    chat_template: str | None = None
    grammar: Grammar | GrammarSpec | None = None
    vision_cache: VisionFeatureCache | None = None
    media_policy: MediaPolicy | None = None
    use_prefix_cache: bool | None = None
    prompt_lookup: int | None = None
    draft_model: Model | None = None
    num_draft_tokens: int | None = None
    priority: int | None = None
    timeout: float | None = None
    verbose: bool | None = None

    @classmethod
    def parse(cls, options: Mapping[str, Any], *, refuse: Collection[str] = ()) -> GenerateOptions:
        """Options by name, aliases included. Raises OptionError for a name that is unknown or in `refuse`."""
        known = {f.name for f in fields(cls)} - set(refuse)
        values: dict[str, Any] = {}
        for given, value in options.items():
            name = ALIASES.get(given, given)
            if name not in known:
                near = difflib.get_close_matches(given, sorted(known | set(ALIASES)), n=1)
                raise OptionError(
                    f"{given}: is not an option of generate{f'; did you mean {near[0]}?' if near else ''}"
                )
            if values.get(name) is not None and value is not None and values[name] != value:
                raise OptionError(f"{given}: {name} was given too, with another value; give one of them")
            if value is not None or name not in values:
                values[name] = value
        return cls(**values)

    def sampling(self, processor: Processor) -> SamplingParams:
        """What the engine needs, with the checkpoint's defaults. Raises OptionError."""
        return SamplingParams(
            **sampling_defaults(processor.generation_config),
            **self._given(
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "repetition_context_size",
                "presence_penalty",
                "frequency_penalty",
                "repetition_penalty",
                "seed",
                "min_tokens",
                "top_logprobs",
                "n",
            ),
            max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            logprobs=bool(self.logprobs),
            logit_bias=_logit_bias(self.logit_bias, processor.vocabulary_size),
            stop=_texts("stop", self.stop),
            stop_tokens=processor.stop_tokens | self._stop_tokens(processor),
            thinking=self.thinking(processor),
        )

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _stop_tokens(self, processor: Processor) -> frozenset[int]:
        given = self.eos_tokens
        if given is None:
            return frozenset()
        ids: set[int] = set()
        for token in [given] if isinstance(given, (int, str)) else given:
            found = (
                token
                if isinstance(token, int) and not isinstance(token, bool)
                else processor.tokenizer.token_to_id(str(token))
            )
            if found is None:
                raise OptionError(
                    f"eos_tokens: the checkpoint has no token {token!r}; give a token id or a token's exact text"
                )
            ids.add(found)
        return frozenset(ids)

    def thinking(self, processor: Processor) -> ThinkingParams | None:
        """The budget, if there is one; with a grammar also what tells blocks from the answer. Raises OptionError."""
        start, end = self.thinking_markers
        knows = processor.tokenizer.token_to_id(start) is not None and processor.tokenizer.token_to_id(end) is not None
        if self.thinking_budget is None and (self.grammar is None or not knows):
            return None

        def ids(text: str) -> tuple[int, ...]:
            known = processor.tokenizer.token_to_id(text)
            return (known,) if known is not None else tuple(processor.tokenizer.encode(text, add_special_tokens=False))

        return ThinkingParams(
            ids(start), ids(end), ids("\n"), self.thinking_budget, knows and bool(self.enable_thinking)
        )

    @property
    def thinking_markers(self) -> tuple[str, str]:
        """The texts that open and close a thinking block."""
        markers = (self.thinking_start_token or "<think>", self.thinking_end_token or "</think>")
        if markers[0] == markers[1]:
            raise OptionError(
                f"thinking_end_token: expected another text than thinking_start_token, got {markers[1]!r}"
            )
        return markers

    def media(self) -> MediaOptions:
        """What processing needs. Raises OptionError."""
        from vlm_models import MediaOptions  # mlx, paid only when something is generated

        return MediaOptions(
            min_pixels=_area("min_pixels", self.min_pixels),
            max_pixels=_area("max_pixels", self.max_pixels),
            resize_shape=_shape(self.resize_shape),
            fps=_positive("fps", self.fps),
            max_frames=None if self.max_frames is None else int(_positive("max_frames", self.max_frames) or 1),
        )

    def cache(self) -> CacheOptions:
        """The form of the caches. Raises OptionError."""
        from .cache import CacheOptions  # as in media

        return CacheOptions(
            kv_bits=_positive("kv_bits", self.kv_bits),
            scheme=self.kv_quant_scheme,  # type: ignore[arg-type]
            group_size=self.kv_group_size,
            quantized_start=self.quantized_kv_start or 0,
            key_bits=_positive("kv_key_bits", self.kv_key_bits),
            value_bits=_positive("kv_value_bits", self.kv_value_bits),
            max_kv_size=self.max_kv_size,
            full_layers=self.kv_full_layers or 0,
        )

    def drafter(self) -> Callable[[], Drafter] | None:
        """What makes the engine's drafter, if one is asked for. Raises OptionError."""
        if self.num_draft_tokens is not None and self.draft_model is None:
            raise OptionError(
                "num_draft_tokens: expected draft_model beside it; for prompt_lookup give its number there"
            )
        if self.prompt_lookup is None and self.draft_model is None:
            return None
        from .engine.speculation import DraftModel, PromptLookup  # as in media

        if self.draft_model is None:
            return partial(PromptLookup, self.prompt_lookup or 0)
        if self.prompt_lookup is not None:
            raise OptionError("prompt_lookup: expected either this or draft_model, got both")
        return partial(DraftModel, self.draft_model, 4 if self.num_draft_tokens is None else self.num_draft_tokens)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a prefill chunk. Raises OptionError."""
        if self.prefill_step_size is None:
            return DEFAULT_CHUNK
        if (
            isinstance(self.prefill_step_size, bool)
            or not isinstance(self.prefill_step_size, int)
            or self.prefill_step_size < 1
        ):
            raise OptionError(
                f"prefill_step_size: expected a whole number of at least 1, got {self.prefill_step_size!r}"
            )
        return self.prefill_step_size


def sampling_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling as the checkpoint's generation_config asks for it: greedy unless it says `do_sample`."""
    if not generation_config.get("do_sample"):
        return {}
    defaults: dict[str, Any] = {"temperature": 1.0}
    for name in ("temperature", "top_p", "top_k", "min_p"):
        if generation_config.get(name) is not None:
            defaults[name] = generation_config[name]
    return defaults


def _logit_bias(given: Mapping[Any, float] | None, size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for token, value in (given or {}).items():
        try:
            index = int(token)
        except (TypeError, ValueError):
            raise OptionError(f"logit_bias: expected token ids, got {token!r}") from None
        if not 0 <= index < size:
            raise OptionError(f"logit_bias: expected token ids from 0 to {size - 1}, got {index}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise OptionError(f"logit_bias[{index}]: expected a number, got {value!r}")
        bias[index] = float(value)
    return bias


def _texts(name: str, given: str | Sequence[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Sequence) or any(not isinstance(text, str) for text in given):
        raise OptionError(f"{name}: expected a text or a list of texts, got {given!r}")
    return tuple(given)


def _area(name: str, given: int | Sequence[int] | None) -> int | None:
    """One number is an area; two are height and width."""
    if given is None:
        return None
    numbers = [given] if isinstance(given, int) else list(given)
    if len(numbers) not in (1, 2) or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        raise OptionError(f"{name}: expected an area, or height and width, of at least 1; got {given!r}")
    return numbers[0] if len(numbers) == 1 else numbers[0] * numbers[1]


def _shape(given: int | Sequence[int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    numbers = [given] if isinstance(given, int) else list(given)
    if len(numbers) not in (1, 2) or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        raise OptionError(f"resize_shape: expected a size, or height and width, of at least 1; got {given!r}")
    return (numbers[0], numbers[-1])


def _positive(name: str, given: float | None) -> float | None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0):
        raise OptionError(f"{name}: expected a number above 0, got {given!r}")
    return given
