"""Qwen2-VL-2B in 4 bits with one picture, through the engine that serves users, against stock MLX's layers."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from vlm_models import ProcessorFiles

from ..geometry import GEOMETRIES
from ..latency import Workload, answer, prompt_for
from ..random_model import build
from .stock import qwen2_vl_seconds

_TOKENS = 64


def measure(repeats: int = 2, with_stock: bool = True) -> dict[str, Any]:
    """Best time to first token and best decode speed of `repeats`, and how many times stock's they are."""
    work = Workload("qwen2-vl-2b", bits=4, prompt_tokens=32, image=(448, 448), generate=_TOKENS)
    model, kind, config = build(work.geometry, bits=work.bits, dtype=work.dtype)
    prompt = prompt_for(work, config, kind.processing(config, ProcessorFiles(), None))
    answer(model, prompt, 2)
    runs = [answer(model, prompt, _TOKENS) for _ in range(repeats)]
    first, token = min(run[0] for run in runs), min(run[1] for run in runs) / (_TOKENS - 1)
    result: dict[str, Any] = {
        "prompt_tokens": len(prompt),
        "first_token_seconds": first,
        "decode_tokens_per_second": 1 / token,
    }
    del model
    mx.clear_cache()
    if with_stock:
        stock = qwen2_vl_seconds(GEOMETRIES[work.geometry], patches=4 * (len(prompt) - 32), prompt=len(prompt))
        result |= {
            "stock_first_token_seconds": stock["first"],
            "stock_decode_tokens_per_second": 1 / stock["token"],
            "first_token_times_stock": stock["first"] / first,
            "decode_times_stock": stock["token"] / token,
        }
    return result
