"""`vlm doctor`: what this machine runs on, and why."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

DISTRIBUTIONS = (
    "vlm-kernels",
    "vlm-models",
    "vlm-runtime",
    "vlm-convert",
    "vlm-train",
    "vlm-demo",
    "vlm-server",
    "vlm-ui",
    "vlm-cli",
    "vlm-benchmarks",
    "mlx",
)


@click.command()
def doctor() -> None:
    """Show backend, devices, memory and which kernels are in use."""
    import mlx.core as mx

    from vlm_kernels import backends

    click.echo(f"python    {platform.python_version()} on {platform.platform()}")
    for name in DISTRIBUTIONS:
        try:
            click.echo(f"{name:16s}{version(name)}")
        except PackageNotFoundError:
            click.echo(f"{name:16s}not installed")
    device = mx.default_device()
    click.echo(f"device    {device}")
    for key, value in sorted(mx.device_info(device).items()):
        click.echo(f"  {key}: {value}")
    report = backends()
    native = report.native
    if native.loaded:
        click.echo(f"kernels   native CPU library: {native.instruction_set}, {native.threads} threads")
    else:
        click.echo(f"kernels   no native CPU library: {native.reason}")
    if report.forced is not None:
        click.echo(f"  VLM_KERNELS={report.forced}")
    for op in report.ops:
        click.echo(f"  {op.op:26s}{op.path:12s}{op.reason}")
