"""`vlm bench`: measure, compare, plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .geometry import GEOMETRIES


class BenchGroup(click.Group):
    """`vlm bench --geometry ...` measures; `vlm bench compare` and `vlm bench plot` are commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=BenchGroup)
def bench() -> None:
    """Measure prompt TPS, generation TPS, time to first token and peak memory, on random weights.

    \b
    vlm bench --geometry qwen2-vl-2b --bits 4 --prompt-tokens 512 --image 448x448 --generate 64 --out now.json
    vlm bench compare before.json now.json
    """


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        height, width = (int(part) for part in value.lower().split("x"))
    except ValueError:
        raise click.BadParameter(f"expected HEIGHTxWIDTH, got {value!r}", ctx, param) from None
    return height, width


@bench.command()
@click.option("--geometry", required=True, type=click.Choice(sorted(GEOMETRIES)))
@click.option(
    "--bits", type=click.Choice(["2", "3", "4", "5", "6", "8"]), help="Quantize the text side.  [default: no]"
)
@click.option("--mode", type=click.Choice(["affine", "mxfp4", "mxfp8", "nvfp4"]), help="[default: affine]")
@click.option("-qa", "--quantize-activations", is_flag=True, help="mxfp8 and nvfp4: quantize the layers' inputs too.")
@click.option("--layers", type=click.IntRange(1), help="Of the text side.  [default: all]")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--image", callback=_size, help="HEIGHTxWIDTH of a picture in front of the text.")
@click.option("--generate", type=click.IntRange(2), default=64, show_default=True)
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Append the result to this JSON file.")
def run(bits: str | None, mode: str | None, out: Path | None, **options: Any) -> None:
    """Measure one workload; JSON on standard output."""
    from .latency import Workload, measure

    own = {"mxfp4": 4, "mxfp8": 8, "nvfp4": 4}.get(mode or "affine")
    if own is not None and bits not in (None, str(own)):
        raise click.UsageError(f"{mode} has {own} bits, got --bits {bits}")
    if mode == "affine" and bits is None:
        raise click.UsageError("--mode affine needs --bits")
    result = measure(Workload(bits=int(bits) if bits else own, mode=mode or "affine", **options))
    _add(out, result)
    click.echo(json.dumps(result, indent=1))


@bench.command()
@click.option("--geometry", required=True, type=click.Choice(sorted(GEOMETRIES)))
@click.option("--rows", type=click.IntRange(1), multiple=True, default=(1, 8), show_default=True)
@click.option("--layers", type=click.IntRange(1), help="Keep so many of the text's layers.  [default: all]")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--generate", type=click.IntRange(2), default=128, show_default=True)
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True)
@click.option("--long-prompt", type=click.IntRange(0), default=8192, show_default=True, help="0: leave this out.")
@click.option("--chunk-tokens", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--traced/--stepwise", default=None, help="Decode by traced graphs.  [default: on a GPU]")
@click.option("--out", type=click.Path(path_type=Path), help="Append the result to this JSON file.")
def throughput(rows: tuple[int, ...], out: Path | None, **options: Any) -> None:
    """Measure many requests at once, and a short request behind a long prompt; JSON on standard output."""
    from .throughput import Crowd, measure

    result = measure(Crowd(rows=tuple(sorted(set(rows))), **options))
    _add(out, result)
    click.echo(json.dumps(result, indent=1))


@bench.command()
@click.option("--geometry", required=True, type=click.Choice(sorted(GEOMETRIES)))
@click.option("--image", callback=_size, default="672x672", show_default=True, help="HEIGHTxWIDTH of the picture.")
@click.option("--turns", type=click.IntRange(2), default=10, show_default=True)
@click.option("--layers", type=click.IntRange(1), help="Of the text side.  [default: all]")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--question", type=click.IntRange(1), default=24, show_default=True, help="Tokens of each question.")
@click.option("--generate", type=click.IntRange(2), default=32, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Append the result to this JSON file.")
def turns(out: Path | None, **options: Any) -> None:
    """Measure turns about one picture with and without caches; JSON on standard output."""
    from .turns import Talk, measure

    result = measure(Talk(**options))
    _add(out, result)
    click.echo(json.dumps(result, indent=1))


@bench.command()
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--tolerance", type=click.FloatRange(0), default=0.05, show_default=True, help="Loss that is still noise."
)
def compare(before: Path, after: Path, tolerance: float) -> None:
    """Compare two result files; exit status 1 on a regression."""
    from .compare import compare as rows_of

    try:
        rows = rows_of(_read(before), _read(after), tolerance)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    for row in rows:
        mark = "REGRESSION" if row.is_regression else ""
        click.echo(f"{row.workload:44s} {row.measure:20s} {row.before:14.4g} {row.after:14.4g} {row.ratio:7.3f} {mark}")
    if any(row.is_regression for row in rows):
        raise click.exceptions.Exit(1)


@bench.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Picture to write: .png, .svg, .pdf.")
def plot(results: tuple[Path, ...], out: Path) -> None:
    """Draw result files side by side."""
    from .plot import plot as draw

    draw({path.stem: _read(path) for path in results}, out)


def _add(out: Path | None, result: dict[str, Any]) -> None:
    if out is not None:
        earlier = json.loads(out.read_text()) if out.exists() else []
        out.write_text(json.dumps([*earlier, result], indent=1) + "\n")


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise click.UsageError(f"{path}: not a result file ({error})") from None
    return value if isinstance(value, list) else [value]
