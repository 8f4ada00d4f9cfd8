from __future__ import annotations

import json
import struct

import vlm_demo


def header() -> dict[str, dict]:
    with (vlm_demo.path() / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(length))
    tensors.pop("__metadata__")
    return tensors


def read(name: str) -> dict:
    return json.loads((vlm_demo.path() / name).read_text(encoding="utf-8"))


def test_the_folder_is_a_whole_checkpoint() -> None:
    names = {path.name for path in vlm_demo.path().iterdir()}
    wanted = {"config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"}
    assert wanted | {"tokenizer_config.json", "chat_template.jinja", "model.safetensors"} <= names


def test_the_weights_are_small_and_of_16_bits() -> None:
    tensors = header()
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    sizes = [tensor["data_offsets"][1] - tensor["data_offsets"][0] for tensor in tensors.values()]
    assert sum(sizes) // 2 <= 10_000_000
    assert (vlm_demo.path() / "model.safetensors").stat().st_size <= 20_000_000


def test_the_weights_have_the_shapes_of_the_config() -> None:
    config, tensors = read("config.json"), header()
    vision, size = config["vision_config"], config["hidden_size"]
    assert tensors["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], size]
    assert tensors["visual.patch_embed.proj.weight"]["shape"] == [vision["embed_dim"], 3, 2, 14, 14]
    assert sum(name.endswith("q_proj.weight") for name in tensors) == config["num_hidden_layers"]
    assert sum(name.endswith("attn.qkv.weight") for name in tensors) == vision["depth"]
    assert "lm_head.weight" not in tensors and config["tie_word_embeddings"]


def test_the_config_and_the_tokenizer_agree() -> None:
    config = read("config.json")
    ids = {token["content"]: token["id"] for token in read("tokenizer.json")["added_tokens"]}
    assert ids["<|image_pad|>"] == config["image_token_id"]
    assert ids["<|im_end|>"] == config["eos_token_id"]
    assert ids["<|im_end|>"] in read("generation_config.json")["eos_token_id"]
    assert ids["<|vision_start|>"] == config["vision_start_token_id"]
    assert max(read("tokenizer.json")["model"]["vocab"].values()) < config["vocab_size"]
