"""Load a model with its processor: the folder, the weights, the tokenizer, and what is asked for on top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from vlm_models import Model, generation_config
from vlm_models import load as load_checkpoint

from .. import env
from ..errors import OptionError
from ..processor import Processor
from .config import Configuration
from .hub import resolve
from .quantize import note_full_inputs, quantize_inputs, quantize_weights
from .tokenizer import Tokenizer

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load_model(
    name: str | Path,
    *,
    adapter_path: str | Path | None = None,
    lazy: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize_activations: bool = False,
    quantize: int | str | None = None,
    dtype: str | None = None,
    offline: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Model, Processor]:
    """See `vlm_runtime.load`."""
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if adapter_path:
        raise OptionError("adapter_path: is not available in this version; leave it out")
    trusted = trust_remote_code or env.trusts_remote_code()
    folder = resolve(name, revision=revision, offline=offline, with_code=trusted)
    tokenizer = Tokenizer.load(folder, trust_remote_code=trusted)
    loaded = load_checkpoint(
        folder,
        dtype=None if dtype is None else DTYPES[dtype],
        lazy=lazy or quantize is not None,
        progress=progress,
    )
    if quantize is not None:
        quantize_weights(loaded.model, loaded.family, quantize)
    if quantize_activations:
        quantize_inputs(loaded.model)
    else:
        note_full_inputs(loaded.model)
    if quantize is not None and not lazy:
        mx.eval(loaded.model.parameters())
    processor = Processor(tokenizer, loaded, generation_config(folder), folder)
    model: Any = loaded.model
    model.config = Configuration(loaded.hf.to_dict(), loaded.config)
    return model, processor
