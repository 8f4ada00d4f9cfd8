"""Names and shapes of converted checkpoints are those that other MLX software reads (checked against it in tests/oracle/peer)."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from vlm_convert import convert
from vlm_models import family, load, named_parameters, packed_layers
from vlm_models.testing import golden

GOLDENS = Path(__file__).parents[1] / "packages/vlm-models/tests/goldens"
# family: a table, a matrix, the patch convolution
NAMES = {
    "qwen2_vl": (
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "vision_tower.patch_embed.proj.weight",
    ),
    "llava": (
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.mlp.down_proj.weight",
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
    ),
    "gemma3": (
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.mlp.down_proj.weight",
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
    ),
    "idefics3": (
        "language_model.embed_tokens.weight",
        "language_model.layers.0.mlp.down_proj.weight",
        "vision_model.embeddings.patch_embedding.weight",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_the_mlx_world(name: str, tmp_path: Path) -> None:
    source = golden.materialise(golden.Golden(GOLDENS / name / "base"), tmp_path / "source", "hub")
    convert(str(source), tmp_path / "out")
    tensors = dict(mx.load(str(tmp_path / "out/model.safetensors")))
    *matrices, convolution = NAMES[name]
    assert all(tensors[matrix].ndim == 2 for matrix in matrices)
    assert tensors[convolution].shape[-1] == 3  # channels last


def test_a_tied_head_is_written_packed_for_readers_that_keep_one(tmp_path: Path) -> None:
    config = golden.Golden(GOLDENS / "gemma3/base").config("hub")
    config["text_config"]["hidden_size"] = 64
    kind = family("gemma3")
    model = kind.model(kind.config(config))
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.json").write_text(json.dumps(config))
    weights = {name: mx.random.normal(value.shape) for name, value in named_parameters(model)}
    mx.save_safetensors(str(tmp_path / "source/model.safetensors"), weights)
    (tmp_path / "recipe.json").write_text(json.dumps({"*embed_tokens": {"bits": 8, "group_size": 32}}))
    done = convert(str(tmp_path / "source"), tmp_path / "out", quantize=True, recipe_name=tmp_path / "recipe.json")
    tensors = dict(mx.load(str(tmp_path / "out/model.safetensors")))
    for part in ("weight", "scales", "biases"):
        table, head = (tensors[f"language_model.{name}.{part}"] for name in ("model.embed_tokens", "lm_head"))
        assert mx.array_equal(table, head)
    scheme = json.loads((tmp_path / "out/config.json").read_text())["quantization"]
    assert scheme["language_model.model.embed_tokens"] == scheme["language_model.lm_head"]
    assert done.plan.after == sum(value.nbytes for value in tensors.values())
    assert "language_model.lm_head" not in packed_layers(load(tmp_path / "out").model)
