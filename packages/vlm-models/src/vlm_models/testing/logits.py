"""Logits of a checkpoint on given inputs, for anyone who doubts us.

    python -m vlm_models.testing.logits CHECKPOINT_DIR INPUTS.npz OUT.npz [--greedy N] [--chunk N] [--dtype float32]

INPUTS holds arrays under transformers' argument names: input_ids [B, L] with placeholders expanded, attention_mask (left or right
padding), and what the family's processor gives (pixel_values, image_grid_thw...). What can be derived (position_ids,
mm_token_type_ids) may be given and is then checked. Encoder-decoder families read input_ids with the encoder and take
decoder_input_ids [B, T], one start token where absent; L is T then. OUT gets `logits` float32 [B, L, V], zero at padding, and
with --greedy `tokens` int64 [B, N], end-of-sequence suppressed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from vlm_kernels import VlmError

from ..core.inputs import MediaItem, Prompt
from ..errors import PlaceholderError, ProcessingError
from ..loading import Loaded, end_tokens, generation_config, load
from ..processing.base import Processing
from .forward import greedy, prefill

_COMMON = {
    "input_ids",
    "attention_mask",
    "position_ids",
    "cache_position",
    "decoder_input_ids",
    "decoder_attention_mask",
}
_COMMON |= {"mm_token_type_ids", "token_type_ids"}


def prompts_of(processing: Processing, arrays: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, Prompt]]:
    """Per row: the indices of its valid tokens, and the prompt they make. Raises ProcessingError, PlaceholderError."""
    if "input_ids" not in arrays:
        raise ProcessingError("inputs lack input_ids")
    unknown = sorted(set(arrays) - _COMMON - processing.unpack_names)
    if unknown:
        raise ProcessingError(f"inputs not known to this family: {', '.join(unknown)}")
    ids = arrays["input_ids"]
    mask = arrays.get("attention_mask", np.ones_like(ids)).astype(bool)
    if ids.ndim != 2 or mask.shape != ids.shape:
        raise ProcessingError(f"input_ids {ids.shape} and attention_mask {mask.shape} must both be [rows, length]")
    for name in ("position_ids", "mm_token_type_ids", "token_type_ids"):
        if name in arrays and arrays[name].shape[-2:] != ids.shape:
            raise ProcessingError(f"{name} {arrays[name].shape} and input_ids {ids.shape} must both be [rows, length]")
    if "cache_position" in arrays and not np.array_equal(arrays["cache_position"], np.arange(ids.shape[1])):
        raise ProcessingError("cache_position must count from 0: whole prompts are run")
    if not arrays.get("decoder_attention_mask", np.ones(1)).all():
        raise ProcessingError("decoder_attention_mask must be ones: decoders are run without padding")
    items = processing.unpack({name: array for name, array in arrays.items() if name in processing.unpack_names})
    queues = {kind: [item for item in items if item.kind == kind] for kind in ("image", "video", "audio")}
    rows = []
    for row, (tokens, valid) in enumerate(zip(ids, mask, strict=True)):
        where = np.flatnonzero(valid)
        if len(where) == 0 or where[-1] - where[0] >= len(where):
            raise ProcessingError(
                f"attention_mask of row {row} must be ones with zeros on the left or on the right alone"
            )
        own = _own_items(processing, tokens[where], queues)
        prompt = processing.prompt(tokens[where], own)
        _check_derived(processing, prompt, arrays, row, where)
        if "token_type_ids" in arrays:
            prompt = processing.typed(prompt, arrays["token_type_ids"][row][where])
        rows.append((where, prompt))
    left = [kind for kind, queue in queues.items() if queue]
    if left:
        raise PlaceholderError(f"inputs hold more {left[0]}s than the prompts have places for")
    return rows


def _own_items(processing: Processing, tokens: np.ndarray, queues: dict[str, list[MediaItem]]) -> list[MediaItem]:
    """Take from the queues the items whose feature tokens this row holds."""
    own: list[MediaItem] = []
    for kinds, places in processing.places(tokens):
        count = len(places)
        while count > 0:
            kind = next((kind for kind in kinds if queues[kind]), kinds[0])
            if not queues[kind] or queues[kind][0].num_tokens > count:
                raise PlaceholderError(f"a row has {count} {kind} tokens that no {kind} of the inputs fits")
            own.append(queues[kind].pop(0))
            count -= own[-1].num_tokens
    return own


def _check_derived(
    processing: Processing, prompt: Prompt, arrays: Mapping[str, np.ndarray], row: int, where: np.ndarray
) -> None:
    if "position_ids" in arrays:
        given = arrays["position_ids"]
        given = given[:, row] if given.ndim == 3 else given[row][None]
        # some references put the plain text positions in front of the three axes
        given = given[-prompt.positions.shape[0] :][:, where]
        if not np.array_equal(np.broadcast_to(given, prompt.positions.shape), prompt.positions):
            raise ProcessingError(f"position_ids of row {row} differ from those this family derives")
    types = arrays.get("mm_token_type_ids")
    if types is not None and not np.array_equal(types[row][where], processing.type_ids(prompt.tokens)):
        raise ProcessingError(f"mm_token_type_ids of row {row} differ from the places of media tokens")


def compute(
    loaded: Loaded,
    arrays: Mapping[str, np.ndarray],
    *,
    num_greedy: int = 0,
    ends: tuple[int, ...] = (),
    chunk: int | None = None,
) -> dict[str, np.ndarray]:
    """logits [B, L, V] and, with num_greedy, tokens [B, num_greedy]."""
    rows = prompts_of(loaded.processing(), arrays)
    result: dict[str, np.ndarray] = {}
    tokens = []
    for row, (where, prompt) in enumerate(rows):
        shown = _answered(prompt, arrays, row)
        run = prefill(loaded.model, shown, chunk=chunk)
        if "logits" not in result:
            length = arrays["input_ids"].shape[1] if prompt.context is None else len(shown)
            result["logits"] = np.zeros((len(rows), length, run.logits.shape[1]), np.float32)
        result["logits"][row, where if prompt.context is None else np.arange(len(shown))] = run.logits
        if num_greedy:
            own = run if shown is prompt else None
            tokens.append(greedy(loaded.model, prompt, num_greedy, suppressed=ends, run=own))
    if num_greedy:
        result["tokens"] = np.stack(tokens)
    return result


def _answered(prompt: Prompt, arrays: Mapping[str, np.ndarray], row: int) -> Prompt:
    """The prompt with the decoder's tokens as given, for encoder-decoder families. Raises ProcessingError elsewhere."""
    if "decoder_input_ids" not in arrays:
        return prompt
    if prompt.context is None:
        raise ProcessingError("decoder_input_ids were given to a family without a decoder of its own")
    tokens = arrays["decoder_input_ids"][row].astype(np.int32)
    return replace(prompt, tokens=tokens, positions=np.arange(len(tokens), dtype=np.int32)[None])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vlm_models.testing.logits", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--greedy", type=int, default=0, metavar="N", help="also continue each row by N tokens")
    parser.add_argument("--chunk", type=int, default=None, metavar="N", help="run prompts in chunks of about N tokens")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: the checkpoint's")
    given = parser.parse_args(arguments)
    if given.greedy < 0 or (given.chunk is not None and given.chunk < 1):
        parser.error("--greedy must not be negative and --chunk must be positive")
    try:
        with np.load(given.inputs) as file:
            arrays = {name: file[name] for name in file.files}
        loaded = load(given.checkpoint, dtype=getattr(mx, given.dtype) if given.dtype else None)
        ends = end_tokens(loaded.hf, generation_config(given.checkpoint))
        result = compute(loaded, arrays, num_greedy=given.greedy, ends=ends, chunk=given.chunk)
        np.savez(given.out, allow_pickle=False, **result)
    except (VlmError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
