"""Turn a tiny configuration of a family into a golden folder: fill weights, run the reference, verify both layouts."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from layouts import Rename, derive, float_tensors
from shared import GOLDENS, golden, hashed
from transformers import PreTrainedModel

Outputs = Mapping[str, Any]


@dataclass
class CaseSpec:
    """Inputs of one forward pass, and what to keep of it.

    Args:
        inputs: tensors under the forward's argument names.
        raw: pictures and sounds that the inputs were made of.
        text: prompts of the rows before expansion.
        greedy: number of greedy tokens to record; 0 where rows are padded on the right.
        extras: more outputs, computed from the model.
        before, after: change the weights for this case alone (a branch), and back.
    """

    name: str
    inputs: dict[str, Any]
    notes: str = ""
    raw: dict[str, np.ndarray] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    greedy: int = 6
    extras: Callable[[PreTrainedModel, dict[str, Any]], Outputs] | None = None
    not_for_forward: tuple[str, ...] = ()
    not_for_greedy: tuple[str, ...] = ("position_ids",)
    before: Callable[[PreTrainedModel], None] | None = None
    after: Callable[[PreTrainedModel], None] | None = None


@dataclass
class Spec:
    """One tiny checkpoint and its cases.

    Args:
        build: makes the model; weights are overwritten.
        hub_config: config.json as published checkpoints spell it, from the one that transformers writes.
        to_hub: names (and shapes) of the published layout, from what save_pretrained writes; None where they agree.
        spread: overrides the spread of a tensor by returning (mean, std).
        files: file name -> text or JSON, by folder `shared`, `hub`, `transformers`.
        extra_tensors: tensors of the published layout that the reference has no place for (branches), by name.
        only_hub: the reference can load no layout whole; only `hub` is described, and it is not loaded back.
        more: further layouts by name, that the reference cannot load: (names and shapes, configuration).
    """

    family: str
    name: str
    build: Callable[[], PreTrainedModel]
    hub_config: Callable[[dict[str, Any]], dict[str, Any]]
    cases: Callable[[], list[CaseSpec]]
    to_hub: Rename | None = None
    spread: Callable[[str, tuple[int, ...]], tuple[float, float] | None] | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    tolerance: float = 1e-5
    extra_tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    only_hub: bool = False
    more: Mapping[str, tuple[Rename, Callable[[dict[str, Any]], dict[str, Any]]]] = field(default_factory=dict)


def make(spec: Spec, root: Path = GOLDENS) -> Path:
    """Write the golden of `spec`, then load it back through both layouts and compare."""
    model = spec.build().eval().float()
    saved, hub, further = derive(
        model, spec.to_hub, {name: rename for name, (rename, _) in spec.more.items()}, spec.extra_tensors
    )
    tensors = fill(model, spec)
    for name, shape in spec.extra_tensors.items():
        spread = hashed.spread_of(name, shape)
        tensors[name] = {"shape": list(shape), "mean": spread.mean, "std": spread.std}
    folder = root / spec.family / spec.name
    if folder.exists():
        shutil.rmtree(folder)
    for part in ("shared", "hub", "transformers", *spec.more):
        (folder / part).mkdir(parents=True)
    config = saved_config(model)
    write(folder / "transformers/config.json", config)
    write(folder / "hub/config.json", spec.hub_config(json.loads(json.dumps(config))))
    for name, (_, to_config) in spec.more.items():
        write(folder / name / "config.json", to_config(json.loads(json.dumps(config))))
    for part, files in spec.files.items():
        for name, content in files.items():
            write(folder / part / name, content)
    arrays, about = {}, {}
    cases = spec.cases()
    for case in cases:
        about[case.name] = {"notes": case.notes, "text": case.text}
        if case.before:
            case.before(model)
        for group, values in run(model, case).items():
            arrays |= {f"{case.name}/{group}/{name}": value for name, value in values.items()}
        if case.after:
            case.after(model)
    np.savez_compressed(folder / "golden.npz", **arrays)
    layouts = {"hub": "transformers" if hub == saved else same(hub), "transformers": same(saved)}
    layouts = {"hub": same(hub)} if spec.only_hub else layouts
    layouts |= {name: same(recipes) for name, recipes in further.items()}
    manifest = {
        "kind": "model",
        "family": spec.family,
        "reference": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
        "class": type(model).__name__,
        "dtype": "float32",
        "end_of_sequence": end_of_sequence(model),
        "cases": about,
        "tensors": tensors,
        "layouts": layouts,
    }
    write_manifest(folder / "manifest.json", manifest)
    if not spec.only_hub:
        verify(spec, type(model), folder, cases[0])
    return folder


def same(recipes: dict[str, Any]) -> dict[str, Any]:
    """None for tensors stored whole under their own name."""
    return {name: None if recipe == name else recipe for name, recipe in recipes.items()}


def fill(model: PreTrainedModel, spec: Spec) -> dict[str, Any]:
    """Hash every weight; returns the manifest's entries."""
    entries: dict[str, Any] = {}
    floats = float_tensors(model)
    for name, tensor in model.state_dict().items():
        shape = list(tensor.shape)
        if name in floats:
            chosen = spec.spread(name, tuple(shape)) if spec.spread else None
            default = hashed.spread_of(name, shape)
            spread = hashed.Spread(*chosen) if chosen else default
            tensor.copy_(torch.from_numpy(hashed.normal(name, shape, spread)))
            entries[name] = {"shape": shape, "mean": spread.mean, "std": spread.std}
        elif not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            entries[name] = {"shape": shape, "dtype": dtype, "values": tensor.reshape(-1).tolist()}
    return entries


def run(model: PreTrainedModel, case: CaseSpec) -> dict[str, dict[str, np.ndarray]]:
    """Logits at every position, greedy tokens with margins, and the case's extras."""
    inputs = {name: torch.as_tensor(value) for name, value in case.inputs.items()}
    forward = {name: value for name, value in inputs.items() if name not in case.not_for_forward}
    logits = model(**forward, use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise ValueError(f"{case.name}: the reference's logits are not finite")
    outputs: dict[str, Any] = {"logits": logits}
    if case.greedy:
        outputs |= greedy(model, {k: v for k, v in inputs.items() if k not in case.not_for_greedy}, case.greedy)
    if case.extras:
        outputs |= case.extras(model, inputs)
    return {
        "inputs": {name: small(value) for name, value in inputs.items()},
        "outputs": {name: rounded(small(value)) for name, value in outputs.items()},
        "raw": dict(case.raw),
    }


def end_of_sequence(model: PreTrainedModel) -> list[int]:
    """Ids that end a sequence, by the configuration."""
    ends = model.generation_config.eos_token_id
    ends = getattr(model.config.get_text_config(), "eos_token_id", None) if ends is None else ends
    return [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]


def greedy(model: PreTrainedModel, inputs: dict[str, Any], steps: int) -> dict[str, Any]:
    """Greedy continuation with the reference's own cache, end-of-sequence suppressed."""
    ends = end_of_sequence(model)
    result = model.generate(
        **inputs,
        max_new_tokens=steps,
        min_new_tokens=steps if ends else None,
        eos_token_id=ends or None,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    best = torch.stack(result.scores, dim=1).topk(2, dim=-1).values
    norms = torch.stack(result.logits, dim=1).norm(dim=-1)
    return {"tokens": result.sequences[:, -steps:], "margins": (best[..., 0] - best[..., 1]) / norms}


def small(value: Any) -> np.ndarray:
    """A numpy array, integers as int32 to keep files small."""
    array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return array.astype(np.int32) if array.dtype == np.int64 else array


def rounded(array: np.ndarray) -> np.ndarray:
    """float32 rounded to 16 significant bits (4e-6 of the value, rms), which a compressed file stores in 3 bytes."""
    if array.dtype != np.float32:
        return array
    return ((array.view(np.uint32) + np.uint32(0x80)) & np.uint32(0xFFFFFF00)).view(np.float32)


def saved_config(model: PreTrainedModel) -> dict[str, Any]:
    """config.json as save_pretrained writes it."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
    config["architectures"] = [type(model).__name__]
    return config


def verify(spec: Spec, kind: type[PreTrainedModel], folder: Path, case: CaseSpec) -> None:
    """The reference must load both layouts whole and give the same logits again."""
    made = golden.Golden(folder)
    expected = made.cases[case.name]
    for layout in ("hub", "transformers"):
        with tempfile.TemporaryDirectory() as checkpoint:
            golden.materialise(made, Path(checkpoint), layout)
            model, info = kind.from_pretrained(
                checkpoint, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
            )
            left = {key: value for key, value in info.items() if value}
            if left:
                raise ValueError(f"{spec.family}/{spec.name}: layout {layout} does not load whole: {left}")
            again = run(model.eval(), CaseSpec(case.name, case.inputs, greedy=0, not_for_forward=case.not_for_forward))
        error = golden.logit_errors(again["outputs"]["logits"], expected.outputs["logits"])
        if error.overall > spec.tolerance:
            raise ValueError(f"{spec.family}/{spec.name}: layout {layout} gives other logits: {error}")


def write(path: Path, content: Any) -> None:
    """Text as it is, anything else as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text)


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """JSON with one line per tensor, so that changes can be read."""
    lines = []
    for key, value in manifest.items():
        if key == "tensors":
            body = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            lines.append(f' "tensors": {{\n{body}\n }}')
        elif key == "layouts":
            parts = []
            for layout, recipes in value.items():
                if isinstance(recipes, str):
                    parts.append(f'  "{layout}": {json.dumps(recipes)}')
                    continue
                body = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in recipes.items())
                parts.append(f'  "{layout}": {{\n{body}\n  }}')
            lines.append(' "layouts": {\n' + ",\n".join(parts) + "\n }")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def processor_files(processor: Any, vocabulary: int | None = None) -> dict[str, dict[str, Any]]:
    """What `processor.save_pretrained` writes, split into tokenizer files (shared) and the rest (transformers).

    Args:
        vocabulary: tokens with this id or a larger one are left out.
    """
    files: dict[str, dict[str, Any]] = {"shared": {}, "transformers": {}, "hub": {}}
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            is_tokenizer = path.name.startswith(("tokenizer", "special", "added", "chat_template"))
            text = path.read_text()
            if path.name == "tokenizer.json":
                tokens = json.loads(text)
                kept = [token for token in tokens["added_tokens"] if vocabulary is None or token["id"] < vocabulary]
                text = json.dumps(tokens | {"added_tokens": kept}, ensure_ascii=False, separators=(",", ":"))
            files["shared" if is_tokenizer else "transformers"][path.name] = text
    return files
