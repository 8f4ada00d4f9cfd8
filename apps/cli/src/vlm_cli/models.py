"""`vlm models`: supported model types, and checkpoints in the local cache."""

from __future__ import annotations

import click


@click.command()
@click.option("--supported", "only", flag_value="supported", help="Only the model types this installation can load.")
@click.option("--cached", "only", flag_value="cached", help="Only checkpoints that are on this machine.")
def models(only: str | None) -> None:
    """List supported model types and locally cached checkpoints."""
    if only != "cached":
        from vlm_models import TABLE, family

        click.echo("supported model types")
        for model_type in sorted(TABLE):
            click.echo(f"  {model_type:24s}{', '.join(('text', *family(model_type).modalities))}")
    if only != "supported":
        from vlm_runtime import cached_models

        click.echo("on this machine")
        for name, size in cached_models():
            click.echo(f"  {name:48s}{size / 1e6:10.1f} MB")
