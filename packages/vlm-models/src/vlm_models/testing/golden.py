"""Goldens: what the reference computed for a tiny checkpoint, and the checkpoint itself without its weights.

A golden is a folder:

    transformers/*.json    what transformers' save_pretrained writes: config.json, processor_config.json...
    hub/*.json             the same as published checkpoints spell it: config.json, preprocessor_config.json...
    shared/*               what is the same in both: tokenizer.json, chat_template.jinja...
    manifest.json          reference versions, tensors (shape, mean, std), layouts, cases
    golden.npz             case/inputs/NAME   under transformers' argument names
                           case/outputs/NAME  logits, tokens, position_ids, image_features...
                           case/raw/NAME      pictures as uint8 [height, width, 3], sounds as float32

Float outputs are rounded to 16 significant bits (4e-6 relative), to keep the files small.
Weights are hashed from the tensor's name in transformers' own state_dict (layout `memory`). The layouts `hub` (as
published) and `transformers` (as save_pretrained writes) describe each stored tensor as pieces of those: null is the
tensor of the same name whole, and a layout may name another that it equals.

Knows numpy and safetensors. Does not know MLX or transformers, so that the oracle can load it by path next to `hashed`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from . import hashed

LAYOUTS = ("hub", "transformers", "memory")


@dataclass(frozen=True)
class Case:
    """One forward pass of the reference.

    `inputs` are the arrays that the reference's forward received, by its argument names; `outputs` hold `logits`
    [batch, positions, vocabulary] (meaningful where attention_mask is one), mostly `tokens` (greedy continuation, the
    manifest's `end_of_sequence` ids suppressed) with `margins` (gap between its two best logits over the norm of the
    logits), and what the family adds. `text` holds each row's prompt before placeholders were expanded, empty where
    `input_ids` were written by hand.
    """

    name: str
    notes: str
    text: tuple[str, ...]
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray]

    @property
    def valid(self) -> np.ndarray:
        """Positions that count, bool [batch, positions]."""
        is_decoder = "decoder_input_ids" in self.inputs
        mask = self.inputs.get("decoder_attention_mask" if is_decoder else "attention_mask")
        return np.ones(self.outputs["logits"].shape[:2], bool) if mask is None else mask.astype(bool)


@dataclass(frozen=True)
class Golden:
    """A golden folder, read lazily."""

    folder: Path

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    @cached_property
    def cases(self) -> dict[str, Case]:
        groups: dict[str, dict[str, dict[str, np.ndarray]]] = {
            name: {"inputs": {}, "outputs": {}, "raw": {}} for name in self.manifest["cases"]
        }
        with np.load(self.folder / "golden.npz") as arrays:
            for key in arrays.files:
                case, group, name = key.split("/")
                groups[case][group][name] = arrays[key]
        about = self.manifest["cases"]
        return {
            name: Case(name, about[name]["notes"], tuple(about[name]["text"]), **parts)
            for name, parts in groups.items()
        }

    @property
    def layouts(self) -> tuple[str, ...]:
        """Published and saved layouts that a checkpoint can be materialised in."""
        return tuple(self.manifest["layouts"])

    def config(self, layout: str = "transformers") -> dict[str, Any]:
        """The config.json that goes with `layout`."""
        return json.loads((self.folder / _files_of(layout) / "config.json").read_text())

    @cached_property
    def memory(self) -> dict[str, np.ndarray]:
        """Every tensor under its name in transformers' state_dict."""
        return {
            name: np.asarray(entry["values"], entry["dtype"]).reshape(entry["shape"])
            if "values" in entry
            else hashed.normal(name, entry["shape"], hashed.Spread(entry["mean"], entry["std"]))
            for name, entry in self.manifest["tensors"].items()
        }

    def tensors(self, layout: str) -> dict[str, np.ndarray]:
        """Every tensor of a checkpoint in `layout`: one of LAYOUTS, or a further one that the manifest names."""
        if layout == "memory":
            return dict(self.memory)
        recipes = self.manifest["layouts"][layout]
        if isinstance(recipes, str):
            return self.tensors(recipes)
        return {name: assemble(recipe or name, self.memory) for name, recipe in recipes.items()}


def _files_of(layout: str) -> str:
    return "transformers" if layout == "memory" else layout


def assemble(recipe: str | Mapping[str, Any], memory: Mapping[str, np.ndarray]) -> np.ndarray:
    """A stored tensor from memory tensors.

    A recipe is a name (that tensor as it is), `{of, offset, strides, shape}` (a strided view of it, counted in elements)
    or `{axis, pieces}` (recipes joined along an axis).
    """
    if isinstance(recipe, str):
        return memory[recipe]
    if "pieces" in recipe:
        return np.concatenate([assemble(piece, memory) for piece in recipe["pieces"]], axis=recipe["axis"])
    flat = memory[recipe["of"]].reshape(-1)[recipe["offset"] :]
    strides = [stride * flat.itemsize for stride in recipe["strides"]]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, recipe["shape"], strides, writeable=False))


def materialise(golden: Golden, folder: Path, layout: str, *, num_shards: int = 1) -> Path:
    """Write `golden` as an ordinary checkpoint folder in `layout`: config, tokenizer and processor files, safetensors.

    Returns:
        `folder`, made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("shared", _files_of(layout)):
        for path in sorted((golden.folder / part).glob("*")):
            shutil.copyfile(path, folder / path.name)
    tensors = golden.tensors(layout)
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        chosen = {name: tensors[name] for name in sorted(tensors)[shard::num_shards]}
        save_file(chosen, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, file_name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def find(root: Path, family: str = "*") -> Iterator[Golden]:
    """Goldens of `family` under `root`, in order of their names."""
    for path in sorted(root.glob(f"{family}/*/manifest.json")):
        if json.loads(path.read_text())["kind"] == "model":
            yield Golden(path.parent)


@dataclass(frozen=True)
class Errors:
    """Relative error of logits: over all valid positions together, and at the worst one."""

    overall: float
    worst: float


def logit_errors(ours: np.ndarray, reference: np.ndarray, valid: np.ndarray | None = None) -> Errors:
    """Compare logits [batch, positions, vocabulary] where `valid` [batch, positions] is true, in float64."""
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    if valid is not None:
        ours, reference = ours[valid], reference[valid]
    difference = ours - reference
    per_row = np.linalg.norm(difference, axis=-1) / np.linalg.norm(reference, axis=-1)
    return Errors(float(np.linalg.norm(difference) / np.linalg.norm(reference)), float(per_row.max()))


def disagreements(
    ours: np.ndarray, reference: np.ndarray, margins: np.ndarray, tie: float = 1e-4
) -> tuple[list[int], int]:
    """Greedy tokens that differ, [steps] each: rows up to and with the first real difference, and the ties among them.

    A difference where the reference's margin is below `tie` is a tie: later steps follow another text and are not compared.

    Returns:
        Steps that differ and are no tie (at most one), and the number of ties met (at most one).
    """
    for step, (mine, theirs, margin) in enumerate(zip(ours.tolist(), reference.tolist(), margins.tolist())):
        if mine != theirs:
            return ([], 1) if margin < tie else ([step], 0)
    return [], 0


@dataclass(frozen=True)
class Processing:
    """What a reference image processor, configured as published, made of many picture sizes.

    `sizes` is int [n, 2] (height, width). `columns` hold one row per size: `refused` (the reference raises), `tokens`
    (placeholders of one picture), `length` (of the whole expanded prompt), `pixels` (shape of the pixel values), and grids,
    sizes and counts under the processor's own names. The manifest has `prompt`, `image_token` and, for each of `pictures`, its
    size, the `shape` of its pixel values and a `stride`; `pictures` hold `raw` (uint8 [height, width, 3]) and `sample`, every
    stride-th pixel value in the flattened order.
    """

    folder: Path
    manifest: Mapping[str, Any]
    sizes: np.ndarray
    columns: Mapping[str, np.ndarray]
    pictures: tuple[Mapping[str, np.ndarray], ...]

    @property
    def config(self) -> dict[str, Any]:
        """preprocessor_config.json as published checkpoints have it."""
        return json.loads((self.folder / "hub/preprocessor_config.json").read_text())


def find_processing(root: Path, family: str = "*") -> Iterator[Processing]:
    """Processing goldens of `family` under `root`."""
    for path in sorted(root.glob(f"{family}/processing*/manifest.json")):
        manifest = json.loads(path.read_text())
        with np.load(path.parent / "golden.npz") as arrays:
            columns = {key[8:]: arrays[key] for key in arrays.files if key.startswith("columns/")}
            pictures = tuple(
                {
                    "raw": hashed.image(about["name"], about["height"], about["width"]),
                    "sample": arrays[f"pictures/{index}/sample"],
                }
                for index, about in enumerate(manifest["pictures"])
            )
            yield Processing(path.parent, manifest, arrays["sizes"], columns, pictures)


@dataclass(frozen=True)
class Sounds:
    """What a reference audio extractor, configured as published, made of sounds of several lengths, 16 kHz each.

    The manifest's `sounds` tell `name` and `samples` (of `hashed.sound`), `text` (the prompt), `tokens` (audio placeholders in
    the expanded prompt), and for each feature array its `shape` and `stride`. `clips` hold `raw` (float32 [samples]) and, under
    each feature array's own name, every stride-th value in the flattened order.
    """

    folder: Path
    manifest: Mapping[str, Any]
    clips: tuple[Mapping[str, np.ndarray], ...]


def find_sounds(root: Path, family: str = "*") -> Iterator[Sounds]:
    """Audio goldens of `family` under `root`."""
    for path in sorted(root.glob(f"{family}/audio/manifest.json")):
        manifest = json.loads(path.read_text())
        with np.load(path.parent / "golden.npz") as arrays:
            clips = tuple(
                {"raw": hashed.sound(about["name"], about["samples"])}
                | {key: arrays[f"{index}/{key}"] for key in about["arrays"]}
                for index, about in enumerate(manifest["sounds"])
            )
        yield Sounds(path.parent, manifest, clips)
