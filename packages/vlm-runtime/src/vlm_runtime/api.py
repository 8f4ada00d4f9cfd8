"""The Python API: load a checkpoint, generate with it. Thin: media, prompts, options and the engine do the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OptionError
from .options import GenerateOptions
from .results import GenerationResult

if TYPE_CHECKING:
    from vlm_models import Model, ModelConfig

    from .engine.front import Engine
    from .loading.rendered import Rendered
    from .processor import Processor

Progress = Callable[[int, int], None]
Messages = Sequence[str | Mapping[str, Any]]


def load(
    path_or_hf_repo: str | Path = "demo",
    adapter_path: str | Path | None = None,
    lazy: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize_activations: bool = False,
    quantize: int | str | None = None,
    *,
    dtype: str | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> tuple[Model, Processor]:
    """Load a model and its processor.

    Args:
        path_or_hf_repo: `demo`, a checkpoint folder, or a repository id on the Hugging Face hub.
        adapter_path: a LoRA adapter to apply.
        lazy: leave weights on disk until the first generation; the same thread must ask for it.
        revision: of the repository.
        trust_remote_code: let a tokenizer that only its own code can load run that code.
        quantize_activations: let mxfp8 and nvfp4 layers quantize their inputs too.
        quantize: quantize while loading: bits of the affine mode (2 to 8), or mxfp4, mxfp8, nvfp4.
        dtype: float32, float16 or bfloat16; None keeps the checkpoint's.
        offline: never ask the hub; None: as HF_HUB_OFFLINE says.
        progress: called with (tensors read, tensors in all).

    Raises:
        LoadError, UnsupportedModel, ConfigError, WeightError: all derive from VlmError.
    """
    from .loading.model import load_model  # mlx and tokenizers, paid only when a model is loaded

    return load_model(
        path_or_hf_repo,
        adapter_path=adapter_path,
        lazy=lazy,
        revision=revision,
        trust_remote_code=trust_remote_code,
        quantize_activations=quantize_activations,
        quantize=quantize,
        dtype=dtype,
        offline=offline,
        progress=progress,
    )


def load_config(
    path_or_hf_repo: str | Path, *, revision: str | None = None, offline: bool | None = None
) -> ModelConfig:
    """A checkpoint's configuration, read-only: config["model_type"] and config.model_type both work."""
    from .loading.config import read_configuration  # as in load
    from .loading.hub import resolve

    return read_configuration(resolve(path_or_hf_repo, revision=revision, offline=offline, config_only=True))


def apply_chat_template(
    processor: Processor,
    config: Any,
    prompt: str | Mapping[str, Any] | Messages,
    num_images: int = 0,
    num_audios: int = 0,
    num_videos: int = 0,
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    chat_template: str | None = None,
    **variables: Any,
) -> Rendered:
    """The prompt for a text or messages, by the checkpoint's chat template; a string that carries the media its messages name.

    Args:
        processor: from `load`.
        config: the model's configuration; the processor knows it too.
        prompt: the user's text, one message, or messages with `role` and `content`.
        num_images: images in all, those in the messages included; further ones go to the first user message. So do
            `num_audios` and `num_videos`.
        add_generation_prompt: open the assistant's turn.
        tools: OpenAI function tools.
        enable_thinking: for templates that know it.
        chat_template: template source instead of the checkpoint's.
        variables: further template variables.

    Raises:
        PromptError, TemplateError, PlaceholderError.
    """
    return processor.apply_chat_template(
        prompt,
        num_images=num_images,
        num_audios=num_audios,
        num_videos=num_videos,
        add_generation_prompt=add_generation_prompt,
        tools=tools,
        enable_thinking=enable_thinking,
        chat_template=chat_template,
        **variables,
    )


def generate(
    model: Model,
    processor: Processor,
    prompt: str = "",
    image: Any = None,
    audio: Any = None,
    video: Any = None,
    *,
    verbose: bool = False,
    **options: Any,
) -> GenerationResult:
    """Answer one prompt; the result prints as its text. Arguments as for `stream_generate`.

    verbose: write the text to standard output while it comes, then counts and rates.
    """
    if options.get("n") not in (None, 1):
        raise OptionError(f"n: generate gives one answer, got {options['n']}; use batch_generate")
    pieces: list[str] = []
    last: GenerationResult | None = None
    show = _Show() if verbose else None
    for last in stream_generate(model, processor, prompt, image, audio, video, **options):
        pieces.append(last.text)
        if show is not None:
            show.piece(last.text)
    if last is None:
        raise OptionError("max_tokens: expected at least 1")
    result = GenerationResult(**{**vars(last), "text": "".join(pieces)})
    if show is not None:
        show.summary(result)
    return result


def stream_generate(
    model: Model,
    processor: Processor,
    prompt: str = "",
    image: Any = None,
    audio: Any = None,
    video: Any = None,
    **options: Any,
) -> Iterator[GenerationResult]:
    """Answer one prompt token by token: N tokens give N results. Leaving the iteration cancels the rest.

    Args:
        model: from `load`.
        processor: from `load`.
        prompt: text as the model reads it (what `apply_chat_template` returns). Without placeholders but with media it
            is wrapped as one user turn.
        image: a path, URL, data URI, bytes, PIL image or array, or several in a list. So do `audio` and `video`.
        options: see `GenerateOptions`; unknown ones raise.

    Raises:
        VlmError: at the call for what is wrong with options, prompt or media; in the iteration for what fails later.
    """
    from .engine.asking import ask  # mlx, paid only when something is generated

    started = time.monotonic()
    parsed = GenerateOptions.parse(options)
    asking = ask(model, processor, prompt, image, audio, video, parsed, started)
    return asking.results()


def batch_generate(
    model: Model,
    processor: Processor,
    prompts: Sequence[str],
    images: Sequence[Any] | None = None,
    audios: Sequence[Any] | None = None,
    videos: Sequence[Any] | None = None,
    **options: Any,
) -> list[GenerationResult]:
    """Answer several prompts together; results in their order, `n` for each where n is given.

    images, audios, videos: one entry per prompt: None, a medium, or a list of media. Prompts and media are checked before
    anything runs; an error of one answer is raised when the others are done.
    """
    from .engine.asking import ask  # as in stream_generate

    parsed = GenerateOptions.parse(options)
    columns = []
    for name, media in (("images", images), ("audios", audios), ("videos", videos)):
        if media is not None and (isinstance(media, (str, bytes)) or len(media) != len(prompts)):
            count = 1 if isinstance(media, (str, bytes)) else len(media)
            raise OptionError(f"{name}: expected one entry per prompt, {len(prompts)} in all, got {count}")
        columns.append([None] * len(prompts) if media is None else list(media))
    askings = [
        ask(model, processor, prompt, image, audio, video, parsed, time.monotonic())
        for prompt, image, audio, video in zip(prompts, *columns, strict=True)
    ]
    streams = [asking.start() for asking in askings]
    results: list[GenerationResult] = []
    failed: Exception | None = None
    for asking, stream in zip(askings, streams, strict=True):
        try:
            results += asking.collect(stream)
        except Exception as error:  # noqa: BLE001 - raised below, once the others are done
            failed = failed or error
    if failed is not None:
        raise failed
    return results


def engine_of(model: Model, processor: Processor, **options: Any) -> Engine:
    """The engine that serves a loaded model; `options` choose the form of its caches (kv_bits, max_kv_size...)."""
    from .engine.asking import engine_for  # as in stream_generate

    return engine_for(model, processor, GenerateOptions.parse(options))


def unload(processor: Processor) -> None:
    """End what a loaded model still serves and forget its caches; its memory is free once nobody holds it."""
    from .engine.asking import close_engines  # as in stream_generate

    close_engines(processor)


class _Show:
    """Writes an answer to standard output while it comes: `verbose=True` is the caller's wish to see it."""

    def piece(self, text: str) -> None:
        import sys

        sys.stdout.write(text)
        sys.stdout.flush()

    def summary(self, result: GenerationResult) -> None:
        import sys

        sys.stdout.write(
            f"\n{'=' * 10}\n"
            f"Prompt: {result.prompt_tokens} tokens, {result.prompt_tps:.3f} tokens-per-sec\n"
            f"Generation: {result.generation_tokens} tokens, {result.generation_tps:.3f} tokens-per-sec\n"
            f"Peak memory: {result.peak_memory:.3f} GB\n"
        )
