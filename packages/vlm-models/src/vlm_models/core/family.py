"""What a family file declares, and nothing else. Knows no family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .inputs import MediaKind
from .model import Model
from .weights import Rule

if TYPE_CHECKING:
    from ..processing.base import Processing


class TokenTable(Protocol):
    """The part of a tokenizer that processing may ask."""

    def text(self, token_id: int) -> str:
        """The token's text, as it stands in a rendered prompt."""

    def id(self, text: str) -> int | None:
        """The id of a token given by its text, or None."""


@dataclass(frozen=True)
class ProcessorFiles:
    """A checkpoint's processing configuration: the objects of its JSON files, empty where there is none.

    image: preprocessor_config.json (or processor_config's image_processor). video, audio: likewise.
    processor: processor_config.json. tokenizer: tokenizer_config.json. added_tokens: ids of the tokenizer's added tokens by
    their text.
    """

    image: Mapping[str, Any] = field(default_factory=dict)
    video: Mapping[str, Any] = field(default_factory=dict)
    audio: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    added_tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One architecture family.

    config: parses config.json (`Config.from_hf`). model: builds the model. weights: rules, or a function of the configuration.
    processing: builds the media and prompt strategy. modalities: kinds of media it takes.
    max_images / max_audios: most of one kind in a prompt; None: as many as the context holds.
    chat_template: Jinja source for families whose published checkpoints bring none; None: the checkpoint must.
    video_template: Jinja source for messages that hold video, where the checkpoint's own template names none.
    mlx_names: rules from the model's own names to those that converted checkpoints use elsewhere in the MLX world (files of
    format mlx); `weights` must read them back. Empty: own names are written.
    keep_full: patterns of module paths that quantization leaves alone unless asked (vision, audio, projector).
    """

    name: str
    config: Callable[[Mapping[str, Any]], Any]
    model: Callable[[Any], Model]
    weights: tuple[Rule, ...] | Callable[[Any], Sequence[Rule]]
    processing: Callable[[Any, ProcessorFiles, TokenTable | None], Processing]
    modalities: tuple[MediaKind, ...] = ("image",)
    max_images: int | None = None
    max_audios: int | None = None
    chat_template: str | None = None
    video_template: str | None = None
    keep_full: tuple[str, ...] = ()
    mlx_names: tuple[Rule, ...] | Callable[[Any], Sequence[Rule]] = ()

    def rules(self, config: Any) -> tuple[Rule, ...]:
        return tuple(self.weights(config)) if callable(self.weights) else self.weights

    def export_rules(self, config: Any) -> tuple[Rule, ...]:
        return tuple(self.mlx_names(config)) if callable(self.mlx_names) else self.mlx_names
