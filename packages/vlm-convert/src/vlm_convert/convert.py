"""Convert a checkpoint: type, quantization, names. Lazy until it is written, so that memory holds about one shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from vlm_models import (
    Loaded,
    Quantization,
    apply_rules,
    load,
    named_parameters,
    pack_layers,
    packed_layers,
    quantizable,
    read_config,
    written_paths,
)
from vlm_runtime import resolve_checkpoint

from .card import model_card
from .errors import ConvertError
from .plan import Plan, plan_copy, plan_dequantize, plan_quantization
from .recipes import depth, quantization, recipe
from .refine import CALIBRATION_SAMPLES, Refinement, Refiner, check_method
from .upload import upload
from .verify import verify
from .write import SHARD_BYTES, target, write_files, write_tensors

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Conversion:
    """What was done. path: None for a dry run. refinement: of a calibrated method, against plain rounding."""

    path: Path | None
    plan: Plan
    refinement: Refinement | None = None


def convert(
    hf_path: str,
    mlx_path: str | Path = "mlx_model",
    quantize: bool = False,
    q_bits: int | None = None,
    q_group_size: int | None = None,
    q_mode: str = "affine",
    *,
    dtype: str | None = None,
    dequantize: bool = False,
    recipe_name: str | Path | None = None,
    quantize_vision: bool = False,
    q_method: str = "plain",
    calibration: str | Path | None = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
    revision: str | None = None,
    upload_repo: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write a checkpoint in MLX form.

    Args:
        hf_path: repo id, local folder, or demo.
        mlx_path: folder to write.
        quantize: pack weights; q_bits, q_group_size, q_mode say how (4 bits; affine 64, mxfp4 and mxfp8 32, nvfp4 16).
        dtype: type of what is not packed: float32, float16, bfloat16; None keeps the file's.
        dequantize: bring a packed checkpoint back to full precision.
        recipe_name: a mixed-bit recipe by name, or a JSON file of pattern -> quantization.
        quantize_vision: pack vision, audio and projectors too.
        q_method: plain, or gptq: rounding that keeps the layers' outputs on calibration prompts; the model is held in memory.
        calibration: folder of pictures and .txt files, or .jsonl of prompt, image, answer; None: generated pictures and text.
        calibration_samples: most prompts; a quarter more are held out to judge by.
        upload_repo: repo to publish the result to, with a model card that tells the measured loss against the source.
        shard_bytes: most bytes of one file.
        dry_run: plan only.

    Raises:
        ConvertError, RecipeError, and what loading raises.
    """
    if quantize and dequantize:
        raise ConvertError("quantize and dequantize exclude each other; choose one")
    if not quantize and (
        q_bits is not None or q_group_size is not None or q_mode != "affine" or recipe_name is not None
    ):
        raise ConvertError("q_bits, q_group_size, q_mode and recipes need quantize (-q)")
    if dtype is not None and dtype not in DTYPES:
        raise ConvertError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    check_method(q_method, quantize, calibration, calibration_samples)
    default = quantization(q_bits, q_group_size, q_mode) if quantize else None
    source = resolve_checkpoint(hf_path, revision=revision)
    if source.resolve() == Path(mlx_path).resolve():
        raise ConvertError(f"{mlx_path} is the source itself; choose another folder")
    loaded = load(source, dtype=getattr(mx, dtype) if dtype else None, lazy=True)
    refiner = None
    if default is not None:
        paths = [*packed_layers(loaded.model), *(path for path, _ in quantizable(loaded.model))]
        chosen = recipe(recipe_name, default, depth(paths))
        if q_method == "gptq" and not dry_run:
            refiner = Refiner(loaded, source, calibration, calibration_samples)
        plan = plan_quantization(loaded, chosen, everything=quantize_vision, pack=refiner or pack_layers)
    elif dequantize:
        plan = plan_dequantize(loaded, getattr(mx, dtype or "bfloat16"))
    else:
        plan = plan_copy(loaded)
    if dry_run:
        return Conversion(None, plan)
    done = Conversion(Path(mlx_path), plan, None if refiner is None else refiner.result)
    with target(Path(mlx_path), overwrite=overwrite) as folder:
        _write(loaded, done, source, folder, hf_path, default, shard_bytes, progress)
    if upload_repo is not None:
        measured = verify(source, mlx_path).lines() if plan.layers else []
        _write_card(Path(mlx_path), hf_path, loaded, done, measured)
        upload(Path(mlx_path), upload_repo)
    return done


def _write_card(folder: Path, name: str, loaded: Loaded, done: Conversion, measured: Sequence[str] = ()) -> None:
    lines = [*([] if done.refinement is None else done.refinement.lines()), *measured]
    card = model_card(name, loaded.family.name, done.plan, "\n".join(lines) or None)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write(
    loaded: Loaded,
    done: Conversion,
    source: Path,
    folder: Path,
    name: str,
    default: Quantization | None,
    shard_bytes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    rules = loaded.family.export_rules(loaded.config)
    config = described(read_config(source).to_dict(), done.plan, default, lambda path: written_paths(rules, path))
    tensors = dict(named_parameters(loaded.model))
    tensors = apply_rules(rules, tensors, {}, is_mlx=True)
    # the model must not hold on to what is written and done with
    loaded.model.update(tree_map(lambda _: mx.zeros((0,)), loaded.model.parameters()))
    write_tensors(tensors, folder, shard_bytes=shard_bytes, progress=progress)
    _write_card(folder, name, loaded, done)
    write_files(source, folder, config)


def described(
    config: dict[str, Any], plan: Plan, default: Quantization | None, names_of: Callable[[str], Sequence[str]]
) -> dict[str, Any]:
    """config.json with the quantization written down: the most common form as default, the rest as exceptions by path."""
    for part in (config, config.get("text_config") or {}):
        part.pop("quantization", None)
        part.pop("quantization_config", None)
    if not plan.layers:
        return config
    common = default or Counter(plan.layers.values()).most_common(1)[0][0]
    entry: dict[str, Any] = _entry(common)
    for path, how in sorted(plan.layers.items()):
        if how != common:
            entry |= dict.fromkeys(names_of(path), _entry(how))
    return {**config, "quantization": entry, "quantization_config": entry}


def _entry(how: Quantization) -> dict[str, Any]:
    return {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}
