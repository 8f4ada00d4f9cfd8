"""Write a checkpoint folder: one shard in memory at a time, and nothing under its final name before all is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

from .errors import ConvertError

SHARD_BYTES = 5_000_000_000
# what travels with the weights: processing and tokenizer files, never code
COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
NOT_COPIED = (
    *("config.json", "model.safetensors.index.json", "adapter_config.json"),
    *("hf_quant_config.json", "quantize_config.json", "quant_config.json"),  # of other tools' packing, which ends here
)


@contextmanager
def target(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A scratch folder beside `path` that takes its name at the end; nothing is left where something goes wrong.

    Raises ConvertError where the place is taken, read-only or full."""
    if path.exists() and (path.is_file() or any(path.iterdir())) and not overwrite:
        raise ConvertError(f"{path} exists and is not empty; choose another folder or pass overwrite")
    scratch = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        yield scratch
        if path.exists():
            shutil.rmtree(path)
        scratch.rename(path)
    except OSError as error:
        raise ConvertError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def shards(tensors: Mapping[str, mx.array], shard_bytes: int) -> list[list[str]]:
    """Names in order, grouped so that no group is over `shard_bytes` unless a single tensor is."""
    groups: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors):
        if groups[-1] and size + tensors[name].nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensors[name].nbytes
    return groups


def write_tensors(
    tensors: dict[str, mx.array],
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compute and save shard by shard; `tensors` is emptied on the way so that each shard's memory comes free."""
    groups = shards(tensors, shard_bytes)
    total = sum(tensor.nbytes for tensor in tensors.values())
    weight_map: dict[str, str] = {}
    for index, names in enumerate(groups, start=1):
        name = "model.safetensors" if len(groups) == 1 else f"model-{index:05}-of-{len(groups):05}.safetensors"
        part = {key: tensors.pop(key) for key in names}
        _check_room(folder, sum(tensor.nbytes for tensor in part.values()))
        for tensor in part.values():  # one after another, so that what a tensor is made of is let go before the next
            mx.eval(tensor)
        try:
            mx.save_safetensors(str(folder / name), part, metadata={"format": "mlx"})
        except RuntimeError as error:
            raise ConvertError(f"{folder / name}: cannot be written ({str(error).splitlines()[0]})") from None
        weight_map |= dict.fromkeys(part, name)
        del part
        mx.clear_cache()
        if progress is not None:
            progress(index, len(groups))
    index_file = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file, indent=2) + "\n")


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ConvertError(
            f"{folder.parent}: {size / 1e6:.0f} MB are needed for the next shard, {free / 1e6:.0f} MB are free"
        )


def write_files(source: Path, folder: Path, config: Mapping[str, Any]) -> None:
    """Tokenizer, template and processing files as they are; config.json last, so that its presence means complete."""
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            if path.name not in NOT_COPIED:
                shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
