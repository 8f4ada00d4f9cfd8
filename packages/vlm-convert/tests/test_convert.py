"""Conversions of a tiny checkpoint: equal, idempotent, reversible within the format's bound, atomic."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest

import vlm_convert.write as writing
from vlm_convert import ConvertError, RecipeError, convert, verify
from vlm_convert.verify import generated_prompts, log_probabilities
from vlm_models import Quantization, load, packed_layers
from vlm_models.testing.forward import prefill


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    result = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, value in mx.load(str(path)).items():
            result[name] = np.array(value.view(mx.uint16) if value.dtype == mx.bfloat16 else value)
    return result


def same(a: Path, b: Path) -> bool:
    first, second = tensors_of(a), tensors_of(b)
    assert first.keys() == second.keys()
    config = [json.loads((folder / "config.json").read_text()) for folder in (a, b)]
    return config[0] == config[1] and all(np.array_equal(first[name], second[name]) for name in first)


def logits(folder: Path) -> np.ndarray:
    loaded = load(folder)
    return log_probabilities(prefill(loaded.model, generated_prompts(loaded, 1, 0)[0]).logits)


def test_plain_conversion_keeps_every_logit_bit(checkpoint: Path, tmp_path: Path) -> None:
    convert(str(checkpoint), tmp_path / "out")
    assert np.array_equal(logits(checkpoint), logits(tmp_path / "out"))
    names = tensors_of(tmp_path / "out")
    assert "language_model.model.layers.0.mlp.down_proj.weight" in names
    assert names["vision_tower.patch_embed.proj.weight"].shape == (64, 2, 14, 14, 3)
    assert not list((tmp_path / "out").glob("*.py")), "a checkpoint's code never travels"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float16"},
        {"quantize": True},
        {"quantize": True, "q_bits": 8, "q_group_size": 32},
        {"quantize": True, "q_bits": 3, "quantize_vision": True},
        {"quantize": True, "q_mode": "mxfp4"},
        {"quantize": True, "q_mode": "mxfp8"},
        {"quantize": True, "q_mode": "nvfp4"},
        {"quantize": True, "recipe_name": "mixed_4_6"},
    ],
    ids=str,
)
def test_converting_twice_changes_nothing(checkpoint: Path, tmp_path: Path, options: dict) -> None:
    convert(str(checkpoint), tmp_path / "once", **options)
    convert(str(tmp_path / "once"), tmp_path / "twice", **options)
    convert(str(tmp_path / "once"), tmp_path / "copied")
    assert same(tmp_path / "once", tmp_path / "twice")
    assert same(tmp_path / "once", tmp_path / "copied")
    assert np.isfinite(logits(tmp_path / "once")).all()


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.01), (6, 0.03), (4, 0.12)])
def test_dequantized_weights_lie_within_the_format(checkpoint: Path, tmp_path: Path, bits: int, bound: float) -> None:
    convert(str(checkpoint), tmp_path / "packed", quantize=True, q_bits=bits)
    convert(str(tmp_path / "packed"), tmp_path / "full", dequantize=True, dtype="float32")
    assert "quantization" not in json.loads((tmp_path / "full" / "config.json").read_text())
    assert not packed_layers(load(tmp_path / "full").model)
    for path, error in verify(checkpoint, tmp_path / "packed", num_prompts=1).worst:
        assert 0 < error < bound, path
    assert np.allclose(logits(tmp_path / "packed"), logits(tmp_path / "full"), atol=0.1)


def test_vision_stays_full_unless_asked(checkpoint: Path, tmp_path: Path) -> None:
    convert(str(checkpoint), tmp_path / "text", quantize=True)
    convert(str(checkpoint), tmp_path / "all", quantize=True, quantize_vision=True)
    text, everything = (packed_layers(load(tmp_path / name).model) for name in ("text", "all"))
    assert not any(path.startswith("visual") for path in text)
    assert any(path.startswith("visual") for path in everything)


def test_a_recipe_file_decides_per_layer_and_survives_reload(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(
        json.dumps({"*layers.1.mlp.down_proj": {"bits": 8, "group_size": 32}, "*lm_head": False})
    )
    convert(str(checkpoint), tmp_path / "out", quantize=True, recipe_name=tmp_path / "recipe.json")
    convert(str(tmp_path / "out"), tmp_path / "again")
    for name in ("out", "again"):
        layers = packed_layers(load(tmp_path / name).model)
        assert layers["language_model.layers.1.mlp.down_proj"] == Quantization(8, 32)
        assert layers["language_model.layers.0.mlp.down_proj"] == Quantization(4, 64)
        assert "language_model.lm_head" not in layers


def test_shards_are_small_and_load(checkpoint: Path, tmp_path: Path) -> None:
    convert(str(checkpoint), tmp_path / "out", shard_bytes=60_000)
    files = sorted(tmp_path.glob("out/*.safetensors"))
    assert len(files) > 3
    assert np.array_equal(logits(checkpoint), logits(tmp_path / "out"))


def test_a_dry_run_writes_nothing_and_tells_the_size(checkpoint: Path, tmp_path: Path) -> None:
    done = convert(str(checkpoint), tmp_path / "out", quantize=True, dry_run=True)
    assert done.path is None and not (tmp_path / "out").exists()
    real = convert(str(checkpoint), tmp_path / "out", quantize=True)
    stored = sum(value.nbytes for value in tensors_of(tmp_path / "out").values())
    assert done.plan.after == real.plan.after == stored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": True, "dequantize": True}, "exclude each other"),
        ({"q_bits": 4}, "need quantize"),
        ({"quantize": True, "q_bits": 7}, "q_bits"),
        ({"quantize": True, "q_group_size": 48}, "q_group_size"),
        ({"quantize": True, "q_mode": "mxfp4", "q_bits": 8}, "q_bits"),
        ({"dtype": "int8"}, "dtype"),
        ({"dequantize": True}, "not quantized"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_named(checkpoint: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        convert(str(checkpoint), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["[]", "{", '{"*nothing": {"bits": 4}}', '{"*": {"bits": 9}}', '{"*": {"bit": 4}}'])
def test_bad_recipes_are_named(checkpoint: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(RecipeError):
        convert(str(checkpoint), tmp_path / "out", quantize=True, recipe_name=tmp_path / "recipe.json")


def test_requantizing_otherwise_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    convert(str(checkpoint), tmp_path / "four", quantize=True)
    with pytest.raises(ConvertError, match="quantized already"):
        convert(str(tmp_path / "four"), tmp_path / "eight", quantize=True, q_bits=8)


def test_a_checkpoint_packed_by_another_tool_becomes_an_ordinary_one(checkpoint: Path, tmp_path: Path) -> None:
    tensors = dict(mx.load(str(checkpoint / "model.safetensors")))
    for name in [name for name in tensors if name.startswith("language_model.layers") and name.endswith("proj.weight")]:
        path, weight = name.removesuffix(".weight"), tensors[name].astype(mx.float32)
        scale = mx.abs(weight).max(axis=1, keepdims=True) / 127
        tensors[name], tensors[f"{path}.weight_scale"] = (
            mx.round(weight / scale).astype(mx.int8),
            scale.astype(mx.bfloat16),
        )
    mx.save_safetensors(str(checkpoint / "model.safetensors"), tensors)
    config = json.loads((checkpoint / "config.json").read_text())
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    groups = {"group_0": {"targets": ["Linear"], "weights": scheme}}
    packing = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups}
    (checkpoint / "config.json").write_text(json.dumps({**config, "quantization_config": packing}))
    (checkpoint / "quantize_config.json").write_text("{}")
    done = convert(str(checkpoint), tmp_path / "out")
    convert(str(tmp_path / "out"), tmp_path / "again")
    convert(str(tmp_path / "out"), tmp_path / "full", dequantize=True)
    assert len(done.plan.layers) == 21 and {how.bits for how in done.plan.layers.values()} == {8}
    assert same(tmp_path / "out", tmp_path / "again")
    assert np.array_equal(logits(checkpoint), logits(tmp_path / "out"))
    assert "quant" not in (tmp_path / "full" / "config.json").read_text()
    assert not list((tmp_path / "out").glob("quant*.json"))


def test_an_interruption_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mx, "save_safetensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(str(checkpoint), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original"]


def test_a_full_disk_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = writing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(ConvertError, match="are free"):
        convert(str(checkpoint), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_while_writing_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("[write] Unable to write 4096 bytes to file.\nmore")

    monkeypatch.setattr(mx, "save_safetensors", fails)
    with pytest.raises(ConvertError, match=r"cannot be written .*Unable to write 4096 bytes") as raised:
        convert(str(checkpoint), tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original"]


def test_a_read_only_file_system_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(ConvertError, match=r"cannot be written .Read-only file system"):
        convert(str(checkpoint), tmp_path / "out")


def test_a_read_only_place_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConvertError, match="cannot be written"):
        convert(str(checkpoint), tmp_path / "file" / "out")


def test_a_taken_place_is_refused_unless_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    convert(str(checkpoint), tmp_path / "out")
    with pytest.raises(ConvertError, match="not empty"):
        convert(str(checkpoint), tmp_path / "out")
    convert(str(checkpoint), tmp_path / "out", quantize=True, overwrite=True)
    assert packed_layers(load(tmp_path / "out").model)


def test_publishing_sends_the_folder_with_the_measured_loss(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, str] = {}

    def upload_folder(self: object, *, repo_id: str, folder_path: str) -> None:
        sent.update(repo=repo_id, card=(Path(folder_path) / "README.md").read_text())

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo, exist_ok: sent.update(made=repo))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    convert(str(checkpoint), tmp_path / "out", quantize=True, upload_repo="me/mine")
    assert sent["repo"] == sent["made"] == "me/mine"
    assert "KL divergence" in sent["card"] and "weight error" in sent["card"] and "4-bit affine" in sent["card"]


def test_a_failed_upload_is_named_and_leaves_the_result(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(ConvertError, match=r"upload to me/mine failed .no route to host.; the result is in"):
        convert(str(checkpoint), tmp_path / "out", upload_repo="me/mine")
    assert (tmp_path / "out" / "config.json").is_file()


def test_verify_tells_how_far_a_copy_is(checkpoint: Path, tmp_path: Path) -> None:
    convert(str(checkpoint), tmp_path / "copy")
    convert(str(checkpoint), tmp_path / "eight", quantize=True, q_bits=8)
    convert(str(checkpoint), tmp_path / "three", quantize=True, q_bits=3)
    equal, eight, three = (verify(checkpoint, tmp_path / name) for name in ("copy", "eight", "three"))
    assert equal.kl == 0 and equal.top1 == 1 and equal.worst == ()
    assert 0 < eight.kl < three.kl
    assert three.worst[0][1] >= three.worst[-1][1] > eight.worst[0][1]
