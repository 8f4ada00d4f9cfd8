"""`vlm generate`: one prompt, any mix of media, one answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from .parsing import SeveralValues, given, pixels, shape

Decorated = Callable[..., Any]


def model_options(command: Decorated) -> Decorated:
    """Which checkpoint, and how it is loaded."""
    for option in reversed(
        [
            click.option("--model", default="demo", show_default=True, help="Repo id, local folder, or demo."),
            click.option("--revision", help="Branch, tag or commit of a repo.  [default: main]"),
            click.option(
                "--trust-remote-code", is_flag=True, default=None, help="Let a checkpoint's tokenizer run code."
            ),
            click.option("--offline", is_flag=True, default=None, help="Never ask the hub."),
        ]
    ):
        command = option(command)
    return command


def sampling_options(command: Decorated) -> Decorated:
    """How tokens are chosen. Unset options keep the checkpoint's generation_config, then the library's defaults."""
    for option in reversed(
        [
            click.option("--max-tokens", type=int, help="Most tokens to generate, thinking included.  [default: 2048]"),
            click.option("--temperature", type=float, help="0 is greedy."),
            click.option("--top-p", type=float),
            click.option("--top-k", type=int),
            click.option("--min-p", type=float),
            click.option("--repetition-penalty", type=float),
            click.option("--repetition-context-size", type=int),
            click.option("--presence-penalty", type=float),
            click.option("--frequency-penalty", type=float),
            click.option("--seed", type=int, help="Default: random."),
            click.option("--eos-tokens", multiple=True, help="Further tokens, by text or id, that end the answer."),
            click.option(
                "--skip-special-tokens", is_flag=True, default=None, help="Leave special tokens out of the text."
            ),
            click.option(
                "--enable-thinking", is_flag=True, default=None, help="Ask the template for a thinking block."
            ),
            click.option("--thinking-budget", type=int, help="Most tokens inside a thinking block."),
            click.option("--thinking-start-token", help="[default: <think>]"),
            click.option("--thinking-end-token", help="[default: </think>]"),
        ]
    ):
        command = option(command)
    return command


def media_options(command: Decorated) -> Decorated:
    """Pictures, and how they are sized."""
    for option in reversed(
        [
            click.option("--image", multiple=True, help="Path, URL or data URI; several may follow."),
            click.option("--resize-shape", multiple=True, type=int, callback=shape, help="Side, or height and width."),
            click.option("--max-pixels", multiple=True, type=int, callback=pixels, help="Area, or height and width."),
            click.option("--min-pixels", multiple=True, type=int, callback=pixels, help="Area, or height and width."),
        ]
    ):
        command = option(command)
    return command


def cache_options(command: Decorated) -> Decorated:
    """How the prompt is run and what is kept."""
    for option in reversed(
        [
            click.option("--prefill-step-size", type=int, help="Prompt tokens per step.  [default: 2048]"),
        ]
    ):
        command = option(command)
    return command


LOAD = ("revision", "trust_remote_code", "offline")


@click.command(cls=SeveralValues)
@model_options
@click.option("--prompt", multiple=True, help="What to ask; '-' reads standard input.")
@click.option("--system", help="System message.")
@media_options
@sampling_options
@cache_options
@click.option("--verbose", is_flag=True, help="Then show tokens, TPS and peak memory.")
def generate(model: str, prompt: tuple[str, ...], system: str | None, verbose: bool, **options: Any) -> None:
    """Answer one prompt about text and pictures.

    \b
    vlm generate --image docs/images/shapes.png --prompt "Describe the image."
    vlm generate --prompt "Say hello."
    """
    text = sys.stdin.read() if prompt == ("-",) else " ".join(prompt)
    settings = given(options)
    if not text.strip() and "image" not in settings:
        raise click.UsageError("nothing to answer: give --prompt, --image, or both")
    import vlm_runtime  # after the usage checks: it brings MLX

    loading = {name: settings.pop(name) for name in LOAD if name in settings}
    with _progress() as progress:
        loaded, processor = vlm_runtime.load(model, progress=progress, **loading)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text or default_prompt(settings)})
    result = None
    wanted = {name: settings.pop(name) for name in ("enable_thinking",) if name in settings}
    rendered = vlm_runtime.apply_chat_template(
        processor, loaded.config, messages, num_images=len(settings.get("image", ())), **wanted
    )
    for result in vlm_runtime.stream_generate(loaded, processor, rendered, **settings):
        click.echo(result.text, nl=False)
        sys.stdout.flush()
    click.echo()
    if verbose and result is not None:
        click.echo(statistics(result), err=True)


def default_prompt(settings: dict[str, Any]) -> str:
    """What to ask about media that come without a question."""
    return "Describe the image." if len(settings.get("image", ())) == 1 else "Describe the images."


def statistics(result: Any) -> str:
    """The last result's counts, speeds and memory."""
    return (
        f"prompt      {result.prompt_tokens} tokens, {result.prompt_tps:.1f} tokens/s\n"
        f"generation  {result.generation_tokens} tokens, {result.generation_tps:.1f} tokens/s\n"
        f"peak memory {result.peak_memory:.3f} GB"
    )


class _progress:
    """A bar on standard error while weights are read; nothing where that is no terminal."""

    def __enter__(self) -> Callable[[int, int], None] | None:
        self._bar: Any = None
        if not sys.stderr.isatty():
            return None
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._bar.start()
        task = self._bar.add_task("loading", total=None)
        return lambda done, total: self._bar.update(task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
