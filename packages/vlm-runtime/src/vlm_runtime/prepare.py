"""From a prompt and media, as users give them, to what the model reads. Runs on the caller's thread; no arrays of the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import ContextError, OptionError, PlaceholderError, PromptError
from .frames import as_frames, reads_frames
from .items import read_items
from .loading.rendered import MediaKind, MediaRef, Rendered
from .options import GenerateOptions
from .processor import KINDS, Processor

if TYPE_CHECKING:
    from vlm_models import Prompt

Media = Mapping[MediaKind, Sequence[Any]]


def prepare(processor: Processor, prompt: str, media: Media, options: GenerateOptions) -> Prompt:
    """A prompt ready for the engine.

    Args:
        processor: of the checkpoint.
        prompt: raw text, or what the chat template rendered with the media its messages name.
        media: further media by kind.
        options: sizes, rates, system text, template.

    Raises:
        PromptError, ContextError, MediaError, PlaceholderError, OptionError.
    """
    if not isinstance(prompt, str):
        raise PromptError(
            f"prompt: expected text, got {type(prompt).__name__}; render messages with apply_chat_template"
        )
    text, references = arrange(processor, prompt, media, options)
    items = read_items(processor, references, options)
    segments = list(text.segments) if isinstance(text, Rendered) else [text]
    items = processor.processing.in_order(segments, items)
    pieces = processor.processing.expand(segments, items)
    if isinstance(text, Rendered):
        tokens = processor.tokenizer.encode_segments(pieces)
    else:
        tokens = processor.tokenizer.encode("".join(pieces))
    if not tokens:
        raise PromptError("the prompt is empty; give text or media")
    ready = processor.processing.prompt(tokens, items)
    most = processor.max_context
    if most is not None and len(ready) >= most:
        raise ContextError(f"the prompt has {len(ready)} tokens, the model's context holds {most}; shorten it")
    return ready


def arrange(processor: Processor, prompt: str, media: Media, options: GenerateOptions) -> tuple[str, list[MediaRef]]:
    """The text with its placeholders, and the media that belong to them: by kind, in order.

    Raises PromptError for nothing at all, PlaceholderError for counts that differ."""
    given = {kind: list(media.get(kind, ())) for kind in KINDS}
    if given["video"] and reads_frames(processor):
        frames = [frame for video in given["video"] for frame in as_frames(processor, video, options)]
        given = {**given, "image": [*given["image"], *frames], "video": []}
    named = list(prompt.media) if isinstance(prompt, Rendered) else []
    is_rendered = isinstance(prompt, Rendered)  # has its turns already: wrapping it would nest them
    if not is_rendered and any(given.values()) and not any(processor.count_placeholders(prompt).values()):
        prompt = _wrap(processor, prompt, given, options)
        named = list(prompt.media)
    elif options.system is not None or options.chat_template is not None:
        name = "chat_template" if options.system is None else "system"
        raise OptionError(
            f"{name}: this prompt is not wrapped by a template; give {name} to apply_chat_template instead"
        )
    elif not prompt.strip() and not named and not any(given.values()):
        raise PromptError("there is nothing to answer; give a prompt or media")
    if isinstance(prompt, Rendered):
        return prompt, _fill(named, given)
    return prompt, [MediaRef(kind, source) for kind in KINDS for source in given[kind]]


def _wrap(
    processor: Processor, prompt: str, given: Mapping[MediaKind, Sequence[Any]], options: GenerateOptions
) -> Rendered:
    """One user turn around a prompt that does not say where its media are."""
    return processor.apply_chat_template(
        prompt,
        num_images=len(given["image"]),
        num_audios=len(given["audio"]),
        num_videos=len(given["video"]),
        system=options.system,
        enable_thinking=options.enable_thinking,
        chat_template=options.chat_template,
    )


def _fill(named: Sequence[MediaRef], given: Mapping[MediaKind, Sequence[Any]]) -> list[MediaRef]:
    """Media of the messages; those they name without a source take what was given beside, in order."""
    filled = list(named)
    for kind in KINDS:
        sources = list(given[kind])
        places = [i for i, ref in enumerate(named) if ref.kind == kind]
        bare = [i for i in places if named[i].source is None]
        if sources and len(sources) == len(places):
            bare = places  # the same media again, or all of them given beside
        if len(bare) != len(sources):
            raise PlaceholderError(
                f"{kind}: the prompt has {len(places)} placeholder(s), {len(places) - len(bare)} of them with a source; "
                f"expected {len(bare)} {kind}(s) beside it, got {len(sources)}"
            )
        for index, source in zip(bare, sources, strict=True):
            filled[index] = MediaRef(kind, source, named[index].options)
    return filled


def as_list(media: Any) -> list[Any]:
    """None, one medium or several as a list. An array is one medium, and so is a pair (array, rate)."""
    if media is None:
        return []
    if isinstance(media, tuple) and len(media) == 2 and isinstance(media[1], (int, float)):
        return [media]
    return list(media) if isinstance(media, (list, tuple)) else [media]
