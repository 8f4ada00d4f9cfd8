"""Gemma 3n: the published sizes, MLX's names and axis orders, sounds beside longer ones, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from vlm_models import ConfigError, Full, ProcessingError, Shared, UnsupportedModel, Window, load
from vlm_models.loading import shapes_of
from vlm_models.registry import family
from vlm_models.testing import golden
from vlm_models.testing.logits import compute, prompts_of

BASE = golden.Golden(Path(__file__).parents[1] / "goldens/gemma3n/base")

# google/gemma-3n-E4B-it, what says more than a class's defaults
E4B: dict[str, Any] = {
    "model_type": "gemma3n",
    "text_config": {
        "model_type": "gemma3n_text",
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 25,
        "altup_num_inputs": 4,
        "final_logit_softcapping": 30.0,
        "hidden_size": 2048,
        "intermediate_size": [16384] * 35,
        "laurel_rank": 64,
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
        "num_hidden_layers": 35,
        "num_kv_shared_layers": 15,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": 512,
        "vocab_size": 262400,
        "vocab_size_per_layer_input": 262144,
    },
    "vision_config": {"model_type": "gemma3n_vision", "architecture": "mobilenetv5_300m_enc", "model_args": None},
    "audio_config": {"model_type": "gemma3n_audio"},
}


def test_the_published_model_has_its_sizes() -> None:
    kind = family("gemma3n")
    config = kind.config(E4B)
    model = kind.model(config)
    specs = model.cache_spec()
    assert specs[:5] == (Window(512, 2, 256, 256),) * 4 + (Full(2, 256, 256),)
    assert specs[20:] == ((Shared(18),) * 4 + (Shared(19),)) * 3
    assert config.text.sparsity.count(0.95) == 10 and config.tokens["audio"].count == 188
    assert (config.silence, config.seen.first, config.heard.first) == (262399, 262144, 262272)
    shapes = shapes_of(model)
    assert shapes["language_model.embed_tokens_per_layer.weight"] == (262144, 35 * 256)
    assert shapes["audio_tower.subsample_conv_projection.input_proj_linear.weight"] == (1536, 1024)
    assert "language_model.layers.20.self_attn.k_proj.weight" not in shapes
    tower = sum(np.prod(shape) for name, shape in shapes.items() if name.startswith("vision_tower."))
    assert tower == 294_126_912  # timm's count


def test_five_layers_of_the_published_model_run() -> None:
    text = E4B["text_config"]
    few = {key: value[-5:] if isinstance(value, list) else value for key, value in text.items()}
    small = {"num_hidden_layers": 5, "num_kv_shared_layers": 0, "vocab_size": 160, "vocab_size_per_layer_input": 128}
    small |= {"hidden_size": 64, "intermediate_size": 128, "hidden_size_per_layer_input": 8}
    tables = {"vocab_size": 16, "vocab_offset": 128}, {"vocab_size": 16, "vocab_offset": 144, "hidden_size": 32}
    parts = {"vision_config": E4B["vision_config"] | tables[0], "audio_config": E4B["audio_config"] | tables[1]}
    kind = family("gemma3n")
    model = kind.model(kind.config(E4B | parts | {"text_config": few | small}))
    pixels = mx.zeros((1, 3, 64, 64))
    assert model.vision_tower(pixels).shape == (1, 256, 2048)
    inputs = model.embed(mx.array([[5, 130, 150]]), (), ())
    assert inputs.embeds.shape == (1, 3, 64) and inputs.per_token["per_layer"].shape == (1, 3, 5, 8)


def of_mlx(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """A published tensor as MLX conversions keep it."""
    name = name.removeprefix("model.").replace("language_model.", "language_model.model.")
    axes = {4: (0, 2, 3, 1), 3: (0, 2, 1)}.get(value.ndim)
    return name, value if axes is None else np.ascontiguousarray(value.transpose(axes))


def test_mlx_conversions_load(tmp_path: Path) -> None:
    golden.materialise(BASE, tmp_path, "hub")
    renamed = dict(of_mlx(name, value) for name, value in BASE.tensors("hub").items())
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "mlx"})
    case = BASE.cases["audio_and_image"]
    ours = compute(load(tmp_path), case.inputs)["logits"]
    assert golden.logit_errors(ours, case.outputs["logits"], case.valid).overall < 1e-4


def test_keys_of_layers_that_read_others_fall_away(tmp_path: Path) -> None:
    golden.materialise(BASE, tmp_path, "hub")
    tensors = dict(BASE.tensors("hub"))
    for part in ("k_proj", "v_proj", "k_norm"):
        own = tensors[f"model.language_model.layers.2.self_attn.{part}.weight"]
        tensors[f"model.language_model.layers.4.self_attn.{part}.weight"] = own
    save_file(tensors, tmp_path / "model.safetensors")
    case = BASE.cases["text"]
    assert golden.logit_errors(compute(load(tmp_path), case.inputs)["logits"], case.outputs["logits"]).overall < 1e-4


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("text_config", {"hidden_activation": "mish"}),
        ("text_config", {"layer_types": ["chunked_attention"] * 5}),
        ("text_config", {"num_kv_shared_layers": 5}),
        ("text_config", {"activation_sparsity_pattern": [1.0] * 5}),
        ("text_config", {"attention_bias": True}),
        ("text_config", {"intermediate_size": [72] * 4}),
        ("vision_config", {"architecture": "resnet50"}),
        ("vision_config", {"model_args": {"depth": 3}}),
        ("vision_config", {"model_args": {"msfa_output_resolution": 5}}),
        ("audio_config", {"sscp_conv_stride_size": [[2, 2], [1, 2]]}),
        ("audio_config", {"conf_attention_context_right": 2}),
        ("audio_config", {"vocab_offset": 200}),
    ],
)
def test_unknown_settings_are_refused(part: str, changes: dict[str, Any]) -> None:
    hf = BASE.config("hub")
    with pytest.raises((ConfigError, UnsupportedModel)):
        family("gemma3n").config(hf | {part: hf[part] | changes})


def test_heads_that_are_not_tied_are_refused() -> None:
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        family("gemma3n").config(BASE.config("hub") | {"tie_word_embeddings": False})


def test_inputs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    golden.materialise(BASE, tmp_path, "hub")
    processing, inputs = load(tmp_path).processing(), dict(BASE.cases["audio"].inputs)
    with pytest.raises(ProcessingError, match="token_type_ids"):
        prompts_of(processing, inputs | {"token_type_ids": np.zeros_like(inputs["token_type_ids"])})
    del inputs["input_features_mask"]
    with pytest.raises(ProcessingError, match="belong together"):
        prompts_of(processing, inputs)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_processors_of_other_sizes_are_refused(file: str, tmp_path: Path) -> None:
    golden.materialise(BASE, tmp_path, "hub")
    own = {"preprocessor_config.json": '{"feature_size": 31}', "processor_config.json": '{"audio_seq_length": 7}'}
    (tmp_path / file).write_text(own[file])
    with pytest.raises((ConfigError, ProcessingError), match="must be the model's"):
        load(tmp_path).processing()
