"""`vlm serve` and `vlm-server`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--model", help="Load it at the start; requests that name none get it.")
@click.option("--adapter-path", help="LoRA adapter of --model.")
@click.option("--allow-request-adapters", is_flag=True, help="Let requests name adapters.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8080, show_default=True)
@click.option("--api-key", envvar="VLM_API_KEY", help="Asked of every route but /health.")
@click.option("--no-auth", is_flag=True, help="Serve other machines without a key.")
@click.option(
    "--trust-remote-code", is_flag=True, envvar="MLX_TRUST_REMOTE_CODE", help="Let tokenizers run their code."
)
@click.option(
    "--allow-downloads/--no-downloads", default=None, help="Let requests fetch models.  [default: on loopback]"
)
@click.option(
    "--allowed-local-media-path", "media_roots", multiple=True, type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--no-urls", is_flag=True, help="Fetch no media from URLs.")
@click.option("--cors-origin", "cors_origins", multiple=True, help="Origin that browsers may call from.")
@click.option("--max-body-mb", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--max-resident-memory", type=click.FloatRange(0, min_open=True), help="GB of weights of all models together."
)
@click.option("--pin", "pinned", multiple=True, metavar="MODEL", help="Keep this model in memory once it is loaded.")
@click.option(
    "--model-ttl", type=click.FloatRange(0, min_open=True), help="Seconds after which an unused model is unloaded."
)
@click.option("--kv-bits", type=float, help="Quantize the KV cache; a fraction selects turboquant.")
@click.option("--kv-quant-scheme", type=click.Choice(["uniform", "turboquant"]))
@click.option("--kv-group-size", type=int)
@click.option("--kv-key-bits", type=float)
@click.option("--kv-value-bits", type=float)
@click.option("--kv-full-layers", type=int)
@click.option("--quantized-kv-start", type=int)
@click.option("--max-kv-size", type=int)
@click.option("--prefill-step-size", type=int)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def serve(
    host: str,
    port: int,
    no_urls: bool,
    max_body_mb: int,
    max_resident_memory: float | None,
    log_level: str,
    **given: Any,
) -> None:
    """Serve models over HTTP: OpenAI chat completions and responses, Anthropic messages."""
    import uvicorn  # after the usage checks: with the application it brings everything else

    from .app import create_app
    from .settings import MEBI, Settings

    names = ("kv_bits", "kv_quant_scheme", "kv_group_size", "kv_key_bits", "kv_value_bits", "kv_full_layers",
             "quantized_kv_start", "max_kv_size", "prefill_step_size")  # fmt: skip
    options = {name: value for name in names if (value := given.pop(name)) is not None}
    settings = Settings(
        host=host,
        port=port,
        allow_urls=not no_urls,
        max_body_bytes=max_body_mb * MEBI,
        max_resident_bytes=None if max_resident_memory is None else int(max_resident_memory * 1e9),
        options=options,
        **given,
    )
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    app = create_app(settings)
    app.state.residents.preload()  # what is wrong with the model is told in one line, before a port is opened
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level=log_level,
        access_log=False,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )


def main() -> None:
    """`vlm-server`: a named error is one line and exit status 2."""
    from vlm_kernels.errors import VlmError

    try:
        serve()
    except VlmError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
