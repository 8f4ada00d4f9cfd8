"""Options that several commands share, in groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .parsing import pixels, shape

Decorated = Callable[..., Any]
LOAD = ("revision", "adapter_path", "trust_remote_code", "offline", "quantize", "quantize_activations")


def _group(*options: Decorated) -> Callable[[Decorated], Decorated]:
    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _quantization(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    return int(value) if value is not None and value.isdigit() else value


model_options = _group(
    click.option("--model", default="demo", show_default=True, help="Repo id, local folder, or demo."),
    click.option("--revision", help="Branch, tag or commit of a repo.  [default: main]"),
    click.option("--adapter-path", help="LoRA adapter to apply."),
    click.option("--trust-remote-code", is_flag=True, default=None, help="Let a checkpoint's tokenizer run code."),
    click.option("--offline", is_flag=True, default=None, help="Never ask the hub."),
    click.option(
        "--quantize", callback=_quantization, help="Quantize while loading: bits (2-8), mxfp4, mxfp8 or nvfp4."
    ),
    click.option(
        "-qa", "--quantize-activations", is_flag=True, default=None, help="Quantize activations of mxfp8, nvfp4 layers."
    ),
)

sampling_options = _group(
    click.option("--max-tokens", type=int, help="Most tokens to generate, thinking included.  [default: 2048]"),
    click.option("--temperature", type=float, help="0 is greedy.  [default: the checkpoint's, else 0]"),
    click.option("--top-p", type=float),
    click.option("--top-k", type=int),
    click.option("--min-p", type=float),
    click.option("--repetition-penalty", type=float),
    click.option("--repetition-context-size", type=int, help="[default: 20]"),
    click.option("--presence-penalty", type=float),
    click.option("--frequency-penalty", type=float),
    click.option("--seed", type=int, help="[default: random]"),
    click.option("--eos-tokens", multiple=True, help="Further tokens, by text or id, that end the answer."),
    click.option(
        "--skip-special-tokens/--keep-special-tokens", default=None, help="Leave special tokens out.  [default: skip]"
    ),
    click.option("--enable-thinking", is_flag=True, default=None, help="Ask the template for a thinking block."),
    click.option("--thinking-budget", type=int, help="Most tokens inside a thinking block."),
    click.option("--thinking-start-token", help="[default: <think>]"),
    click.option("--thinking-end-token", help="[default: </think>]"),
)

size_options = _group(
    click.option("--resize-shape", multiple=True, type=int, callback=shape, help="Side, or height and width."),
    click.option("--max-pixels", multiple=True, type=int, callback=pixels, help="Area, or height and width."),
    click.option("--min-pixels", multiple=True, type=int, callback=pixels, help="Area, or height and width."),
    click.option("--fps", type=float, help="Frames per second taken from a video."),
)

media_options = _group(
    click.option("--image", multiple=True, help="Path, URL or data URI; several may follow."),
    click.option("--audio", multiple=True, help="Path, URL or data URI; several may follow."),
    click.option("--video", multiple=True, help="Path or URL; several may follow."),
    size_options,
)

cache_options = _group(
    click.option(
        "--kv-bits", type=float, help="Quantize the KV cache; a fraction selects turboquant (3.5 recommended)."
    ),
    click.option("--kv-quant-scheme", type=click.Choice(["uniform", "turboquant"])),
    click.option("--kv-group-size", type=int, help="[default: 64]"),
    click.option("--kv-key-bits", type=float),
    click.option("--kv-value-bits", type=float),
    click.option("--kv-full-layers", type=int, help="First and last layers kept in full precision.  [default: 0]"),
    click.option(
        "--quantized-kv-start", type=int, help="Tokens kept in full precision before quantizing.  [default: 0]"
    ),
    click.option("--max-kv-size", type=int, help="Most tokens kept per layer."),
    click.option("--prefill-step-size", type=int, help="Prompt tokens per step.  [default: 2048]"),
)
