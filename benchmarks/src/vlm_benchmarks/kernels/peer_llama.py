"""Prefill and decode of a llama-shaped Q4_0 model in llama.cpp: run by a Python that has llama-cpp-python and gguf.

Stands alone: `python peer_llama.py FOLDER GEOMETRY_JSON THREADS PROMPTS TOKENS`. Prints seconds by prompt length, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

# Tokens timed as one, as in ours.
_STRETCH = 8


def write_model(path: Path, g: dict[str, int]) -> None:
    """A GGUF file of random Q4_0 weights."""
    import gguf  # of the other environment

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(g["dim"])
    writer.add_block_count(g["layers"])
    writer.add_feed_forward_length(g["hidden"])
    writer.add_head_count(g["heads"])
    writer.add_head_count_kv(g["key_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(g["head_size"])
    writer.add_vocab_size(g["vocabulary"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}".encode() for i in range(g["vocabulary"])])
    writer.add_token_scores([0.0] * g["vocabulary"])
    writer.add_token_types([1] * g["vocabulary"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def packed(name: str, rows: int, columns: int) -> None:
        blocks = np.zeros((rows, columns // 32, 18), np.uint8)
        blocks[..., 2:] = random.integers(0, 256, (rows, columns // 32, 16), dtype=np.uint8)
        blocks[..., :2] = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(g["dim"], np.float32))

    wide, narrow = g["heads"] * g["head_size"], g["key_heads"] * g["head_size"]
    packed("token_embd.weight", g["vocabulary"], g["dim"])
    packed("output.weight", g["vocabulary"], g["dim"])
    ones("output_norm.weight")
    for i in range(g["layers"]):
        ones(f"blk.{i}.attn_norm.weight")
        ones(f"blk.{i}.ffn_norm.weight")
        for name, rows, columns in (
            ("attn_q", wide, g["dim"]),
            ("attn_k", narrow, g["dim"]),
            ("attn_v", narrow, g["dim"]),
            ("attn_output", g["dim"], wide),
            ("ffn_gate", g["hidden"], g["dim"]),
            ("ffn_up", g["hidden"], g["dim"]),
            ("ffn_down", g["dim"], g["hidden"]),
        ):
            packed(f"blk.{i}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measure(path: Path, threads: int, prompts: list[int], tokens: int) -> dict[str, Any]:
    """Shortest prefill of two and shortest step of `tokens`, as a mean over stretches, by prompt length, in seconds."""
    from llama_cpp import Llama  # of the other environment

    model = Llama(
        str(path), n_ctx=1400, n_threads=threads, n_threads_batch=threads, n_batch=1024, n_ubatch=512, verbose=False
    )
    result = {}
    for prompt in prompts:
        prefill, decode = [], []
        for _ in range(2):
            model.reset()
            start = time.perf_counter()
            model.eval([5 + i % 1000 for i in range(prompt)])
            prefill.append(time.perf_counter() - start)
            for _ in range(tokens // _STRETCH):
                start = time.perf_counter()
                for _ in range(_STRETCH):
                    model.eval([7])
                decode.append((time.perf_counter() - start) / _STRETCH)
        result[str(prompt)] = {"prefill": min(prefill), "decode": min(decode)}
    return result


def main() -> None:
    folder, geometry, threads, prompts, tokens = sys.argv[1:]
    path = Path(folder) / "random-q4_0.gguf"
    if not path.exists():
        write_model(path, json.loads(geometry))
    sizes = [int(part) for part in prompts.split(",")]
    sys.stdout.write(json.dumps(measure(path, int(threads), sizes, int(tokens))) + "\n")


if __name__ == "__main__":
    main()
