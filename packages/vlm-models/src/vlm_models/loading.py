"""A checkpoint folder as a model: configuration, tensors through the family's rules, quantized layers where the file has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .core.config import ModelConfig, read_config, read_json
from .core.family import Family, ProcessorFiles, TokenTable
from .core.model import Model
from .core.weights import Rule, Tensors, apply_rules, check_fit
from .errors import WeightError
from .processing.base import Processing
from .quantization import quantize_layers
from .quantized_formats import translated
from .registry import resolve

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Loaded:
    """A model with everything its folder says about it. config: parsed by the family; hf: the file's own words."""

    model: Model
    family: Family
    config: Any
    hf: ModelConfig
    files: ProcessorFiles

    def processing(self, table: TokenTable | None = None) -> Processing:
        processing = self.family.processing(self.config, self.files, table)
        processing.family, processing.whole_beyond = self.family.name, self.model.whole_beyond
        return processing


def load(
    folder: Path | str, *, dtype: mx.Dtype | None = None, lazy: bool = False, progress: Progress | None = None
) -> Loaded:
    """Load a checkpoint in Hugging Face or MLX form, quantized or not.

    Args:
        folder: with config.json and *.safetensors.
        dtype: type to bring floating-point weights to; None keeps the file's.
        lazy: leave weights on disk until they are used.
        progress: called with (tensors read, tensors in all).

    Raises:
        UnsupportedModel, ConfigError, WeightError.
    """
    folder = Path(folder)
    hf = read_config(folder)
    family = resolve(hf)
    config = family.config(hf)
    model = family.model(config)
    tensors, is_mlx = read_tensors(folder)
    tensors, stored = translated(tensors, hf, folder)
    fill(model, family.rules(config), tensors, stored, is_mlx=is_mlx, dtype=dtype)
    model.eval()
    if not lazy:
        materialise(model, progress)
    return Loaded(model, family, config, hf, read_processor_files(folder))


def fill(
    model: nn.Module,
    rules: Sequence[Rule],
    tensors: Tensors,
    hf: Mapping[str, Any],
    *,
    is_mlx: bool,
    dtype: mx.Dtype | None = None,
) -> None:
    """Put a checkpoint's tensors into a model, strictly. Raises WeightError, ConfigError."""
    named = apply_rules(rules, tensors, shapes_of(model), is_mlx=is_mlx)
    quantize_layers(model, rules, named, hf)
    check_fit(named, shapes_of(model))
    if dtype is not None:
        named = {n: v.astype(dtype) if mx.issubdtype(v.dtype, mx.floating) else v for n, v in named.items()}
    model.load_weights(list(named.items()), strict=True)


def materialise(model: nn.Module, progress: Progress | None = None) -> None:
    """Read all weights, a few at a time so that progress can be shown."""
    arrays = [value for _, value in named_parameters(model)]
    step = max(1, len(arrays) // 50)
    for start in range(0, len(arrays), step):
        mx.eval(arrays[start : start + step])
        if progress is not None:
            progress(min(start + step, len(arrays)), len(arrays))


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The model's parameters: name -> shape."""
    return {name: tuple(value.shape) for name, value in named_parameters(model)}


def named_parameters(model: nn.Module) -> list[tuple[str, mx.array]]:
    """Every parameter with its dotted name."""
    return cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))


def read_tensors(folder: Path) -> tuple[Tensors, bool]:
    """All tensors of a folder, read lazily, and whether the files say format: mlx. Raises WeightError."""
    tensors: Tensors = {}
    is_mlx = False
    for path in _shards(folder):
        try:
            part, metadata = cast(tuple[Tensors, dict[str, str]], mx.load(str(path), return_metadata=True))
        except (RuntimeError, ValueError) as error:
            raise WeightError(f"{path.name}: cannot be read as safetensors ({_first_line(error)})") from None
        twice = tensors.keys() & part.keys()
        if twice:
            raise WeightError(f"{path.name}: {sorted(twice)[0]} is in another file too")
        tensors.update(part)
        is_mlx = is_mlx or metadata.get("format") == "mlx"
    return tensors, is_mlx


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if not names or absent:
            raise WeightError(f"{index.name} names {absent[0] if absent else 'no files'}, which is not in the folder")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    paths = [single] if single.is_file() else sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise WeightError(f"{folder} has no model*.safetensors; is this a checkpoint folder with its weights?")
    return paths


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def read_processor_files(folder: Path) -> ProcessorFiles:
    """The processing configuration of a checkpoint, from whichever of its files are there."""

    def optional(name: str) -> dict[str, Any]:
        path = folder / name
        return read_json(path) if path.is_file() else {}

    processor = optional("processor_config.json")
    image = optional("preprocessor_config.json") or processor.get("image_processor") or {}
    video = optional("video_preprocessor_config.json") or processor.get("video_processor") or {}
    audio = processor.get("feature_extractor") or processor.get("audio_processor") or {}
    tokenizer = optional("tokenizer_config.json")
    return ProcessorFiles(image, video, audio, processor, tokenizer, AddedTokens(folder / "tokenizer.json"))


class AddedTokens(Mapping[str, int]):
    """The added tokens of a tokenizer.json; the file, which may be large, is read when a token is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _ids(self) -> dict[str, int]:
        added = read_json(self.path).get("added_tokens", []) if self.path.is_file() else []
        return {token["content"]: token["id"] for token in added}

    def __getitem__(self, text: str) -> int:
        return self._ids[text]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


def generation_config(folder: Path | str) -> dict[str, Any]:
    """generation_config.json, empty where there is none."""
    path = Path(folder) / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def end_tokens(hf: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """End-of-sequence ids: of generation_config, of the configuration, of its text part."""
    ids: list[int] = []
    for source in (generation or {}, hf, hf.get("text_config") or {}):
        given = source.get("eos_token_id")
        ids += [given] if isinstance(given, int) else list(given or [])
    return tuple(dict.fromkeys(ids))
