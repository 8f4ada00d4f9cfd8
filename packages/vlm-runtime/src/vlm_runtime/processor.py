"""What belongs to a checkpoint beside its model: tokenizer, chat template, media processing, generation defaults, end tokens."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache.features import VisionFeatureCache
from .errors import PlaceholderError, PromptError
from .items import ItemCache
from .loading.rendered import MediaKind, Rendered
from .loading.template import render
from .loading.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vlm_models import Family, Loaded, ModelConfig, Processing

    from .engine.front import Engine

KINDS: tuple[MediaKind, ...] = ("image", "audio", "video")


class TokenTexts:
    """A tokenizer as the table that media processing asks."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def text(self, token_id: int) -> str:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            raise PromptError(f"the tokenizer has no token {token_id}, which the model's configuration names")
        return token

    def id(self, text: str) -> int | None:
        return self._tokenizer.token_to_id(text)


class Processor:
    """Turns messages, text and media of one checkpoint into prompts, and tokens into text.

    Attributes:
        tokenizer: of the checkpoint.
        processing: the family's media and prompt strategy.
        family: what the architecture declares.
        config: config.json, read-only.
        generation_config: generation_config.json, empty where there is none.
        stop_tokens: ids that end an answer.
        model_key: names the loaded model in caches that several models share.
        vision_cache: features of media by content, for requests that bring no cache of their own.
        items: media as the encoder reads them, by content and processing.
        engines: those that serve the model, by the form of their caches.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        loaded: Loaded,
        generation_config: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        from vlm_models import end_tokens  # mlx, paid only when a model is loaded

        self.tokenizer = tokenizer
        self.family: Family = loaded.family
        self.config: ModelConfig = loaded.hf
        self.processing: Processing = loaded.processing(TokenTexts(tokenizer))
        self.generation_config = dict(generation_config or {})
        self.folder = folder
        ids = {*end_tokens(loaded.hf, self.generation_config)}
        if tokenizer.eos_token_id is not None:
            ids.add(tokenizer.eos_token_id)
        self.stop_tokens = frozenset(ids)
        self.model_key = uuid.uuid4().hex
        self.vision_cache = VisionFeatureCache()
        self.items = ItemCache()
        self.engines: OrderedDict[Any, Engine] = OrderedDict()
        self.lock = threading.Lock()

    @property
    def kinds(self) -> tuple[MediaKind, ...]:
        """Kinds of media that have a placeholder."""
        return tuple(kind for kind in KINDS if kind in self.processing.kinds)

    @cached_property
    def vocabulary_size(self) -> int:
        """Token ids run from 0 to one less."""
        text = self.config.get("text_config") or {}
        return int(text.get("vocab_size") or self.config.get("vocab_size") or self.tokenizer.vocab_size)

    @cached_property
    def max_context(self) -> int | None:
        """Most tokens of prompt and answer; None where the configuration does not say."""
        for source in (self.config.get("text_config") or {}, self.config):
            for name in ("max_position_embeddings", "max_sequence_length", "seq_length"):
                if isinstance(source.get(name), int):
                    return int(source[name] * _stretch(source))
        return None

    def placeholder(self, kind: MediaKind, ordinal: int = 1) -> str:
        """The text that stands for one medium in a prompt."""
        return self.processing.placeholder(kind)

    def count_placeholders(self, text: str) -> dict[MediaKind, int]:
        """How many media of each kind a prompt speaks of. What users typed into messages is text and counts for nothing."""
        parts = text.segments if isinstance(text, Rendered) else (text,)
        found = [self.processing.mentions(part) for part in parts]
        return {kind: sum(counts.get(kind, 0) for counts in found) for kind in self.kinds}

    def apply_chat_template(
        self,
        prompt: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        *,
        num_images: int = 0,
        num_audios: int = 0,
        num_videos: int = 0,
        system: str | None = None,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        chat_template: str | None = None,
        **variables: Any,
    ) -> Rendered:
        """See `vlm_runtime.apply_chat_template`."""
        messages = as_messages(prompt)
        if system is not None:
            messages = [{"role": "system", "content": system}, *messages]
        wanted: dict[MediaKind, int] = {"image": num_images, "audio": num_audios, "video": num_videos}
        messages = complete(messages, wanted)
        if chat_template is None:
            chat_template = self._built_in_template(messages)
        return render(
            self.tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            enable_thinking=enable_thinking,
            chat_template=chat_template,
            placeholder=self.placeholder,
            placeholders=list(self.processing.spellings),
            **variables,
        )

    def _built_in_template(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """The family's own template where the checkpoint has none, or none that names the video that messages hold."""
        own = self.tokenizer.chat_templates
        if not own:
            return self.family.chat_template
        names_video = any("video" in source for source in own.values())
        return self.family.video_template if _holds_video(messages) and not names_video else None


def _stretch(text: Mapping[str, Any]) -> float:
    """How many times the trained length rotary positions reach that grow with the sequence (`dynamic`)."""
    given = text.get("rope_parameters") or text.get("rope_scaling") or {}
    is_dynamic = (given.get("rope_type") or given.get("type")) == "dynamic"
    return max(float(given.get("factor") or 1), 1.0) if is_dynamic else 1.0


def _holds_video(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a part of a message is a video, by any of its names."""
    parts = [part for m in messages if isinstance(m.get("content"), (list, tuple)) for part in m["content"]]
    return any("video" in str(part.get("type")) for part in parts if isinstance(part, Mapping))


def as_messages(prompt: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages from a text, a message, or a list of either; texts are the user's. Raises PromptError."""
    given: Sequence[Any] = [prompt] if isinstance(prompt, (str, Mapping)) else prompt
    messages = []
    for message in given:
        if isinstance(message, str):
            messages.append({"role": "user", "content": message})
        elif isinstance(message, Mapping):
            messages.append(dict(message))
        else:
            raise PromptError(
                f"messages: expected texts or objects with role and content, got {type(message).__name__}"
            )
    if not messages:
        raise PromptError("messages: expected at least one, got none")
    return messages


def complete(messages: Sequence[Mapping[str, Any]], wanted: Mapping[MediaKind, int]) -> list[dict[str, Any]]:
    """Messages with as many media of each kind as wanted in all; what is missing goes to the first user message's head.

    A wanted count of 0 says nothing. Raises PlaceholderError where the messages hold more than is wanted.
    """
    done = [dict(message) for message in messages]
    missing: list[dict[str, Any]] = []
    for kind in KINDS:
        count = wanted.get(kind, 0)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise PlaceholderError(f"num_{kind}s: expected a whole number of at least 0, got {count!r}")
        held = sum(_kind(part) == kind for message in done for part in _parts(message))
        if count and held > count:
            raise PlaceholderError(f"num_{kind}s is {count} but the messages hold {held}; counts are totals")
        missing += [{"type": kind}] * max(count - held, 0)
    if not missing:
        return done
    for message in done:
        if message.get("role") == "user":
            content = message.get("content")
            text = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
            message["content"] = [*missing, *[part for part in text if part != {"type": "text", "text": ""}]]
            return done
    raise PlaceholderError("media need a user message to belong to; the messages hold none")


def _parts(message: Mapping[str, Any]) -> Sequence[Any]:
    content = message.get("content")
    return content if isinstance(content, (list, tuple)) else ()


def _kind(part: Any) -> str | None:
    """The kind of medium a message part holds, by whichever name it goes."""
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        return None
    return next((kind for kind in KINDS if kind in part["type"]), None)
