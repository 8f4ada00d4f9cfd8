"""`vlm convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--hf-path", "--model", "hf_path", required=True, help="Repo id, local folder, or demo.")
@click.option("--revision", help="Branch, tag or commit.")
@click.option("--mlx-path", type=click.Path(path_type=Path), default=Path("mlx_model"), show_default=True)
@click.option("-q", "--quantize", is_flag=True, help="Pack the weights.")
@click.option("--q-bits", type=int, help="2, 3, 4, 5, 6 or 8.  [default: 4]")
@click.option("--q-group-size", type=int, help="[default: affine 64, mxfp4 and mxfp8 32, nvfp4 16]")
@click.option("--q-mode", type=click.Choice(["affine", "mxfp4", "mxfp8", "nvfp4"]), default="affine", show_default=True)
@click.option("--recipe", "recipe_name", help="Mixed bits: a name (mixed_4_6...) or a JSON file of pattern -> bits.")
@click.option("--quantize-vision", is_flag=True, help="Pack vision, audio and projectors too.")
@click.option(
    "--q-method", type=click.Choice(["plain", "gptq"]), default="plain", show_default=True, help="How to round."
)
@click.option("--calibration", help="gptq: a folder or .jsonl to calibrate on.  [default: generated pictures and text]")
@click.option("--calibration-samples", type=int, default=64, show_default=True, help="gptq: most prompts.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Of what is not packed.")
@click.option("-d", "--dequantize", is_flag=True, help="Bring a packed checkpoint back to full precision.")
@click.option("--upload-repo", help="Publish the result there, with a model card.")
@click.option("--overwrite", is_flag=True, help="Replace the folder if it is there.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the size; write nothing.")
def convert(**options: Any) -> None:
    """Convert, quantize or dequantize a checkpoint.

    \b
    vlm convert --hf-path demo --mlx-path demo-4bit -q --q-bits 4
    vlm convert --hf-path demo-4bit --mlx-path demo-full --dequantize
    """
    from .convert import convert as run  # after the usage checks: it brings MLX

    done = run(**options)
    for line in done.plan.lines():
        click.echo(line)
    if done.refinement is not None:
        for line in done.refinement.lines():
            click.echo(line)
    if done.path is not None:
        click.echo(f"written to {done.path}")


@click.command()
@click.argument("original")
@click.argument("converted")
@click.option("--data", help="A folder or .jsonl to compare on, as for --calibration.  [default: random prompts]")
@click.option("--num-prompts", type=click.IntRange(1), default=4, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def verify(original: str, converted: str, data: str | None, num_prompts: int, seed: int) -> None:
    """Compare what two checkpoints predict: KL divergence, best-token agreement, worst layers."""
    from .verify import verify as run

    for line in run(original, converted, data=data, num_prompts=num_prompts, seed=seed).lines():
        click.echo(line)
