"""`vlm generate`: one prompt, any mix of media, one answer. `vlm video`: the same about videos."""

from __future__ import annotations

import sys
from typing import Any

import click

from .options import cache_options, media_options, model_options, sampling_options, size_options
from .parsing import SeveralValues, given
from .session import KINDS, Session, default_prompt, statistics, user_message


@click.command(cls=SeveralValues)
@model_options
@click.option("--prompt", multiple=True, help="What to ask; '-' reads standard input.")
@click.option("--system", help="System message.")
@media_options
@sampling_options
@cache_options
@click.option("--chat", "is_chat", is_flag=True, help="Go on with a chat.")
@click.option("--verbose", is_flag=True, help="Then show tokens, TPS and peak memory.")
def generate(
    model: str, prompt: tuple[str, ...], system: str | None, is_chat: bool, verbose: bool, **options: Any
) -> None:
    """Answer one prompt about text, pictures, sound and video.

    \b
    vlm generate --image docs/images/shapes.png --prompt "How many circles are there?"
    vlm generate --prompt "Say hello."
    """
    text = sys.stdin.read() if prompt == ("-",) else " ".join(prompt)
    settings = given(options)
    media = {kind: settings.pop(kind) for kind in KINDS if kind in settings}
    if is_chat:
        from .chat import talk  # brings rich

        session = Session.load(model, settings)
        talk(session, system=system, media=media, first=text.strip() or None, is_verbose=verbose)
        return
    run(model, text, system, media, settings, verbose)


@click.command(cls=SeveralValues)
@model_options
@click.option("--prompt", multiple=True, help="What to ask.  [default: Describe this video.]")
@click.option("--system", help="System message.")
@click.option("--video", multiple=True, required=True, help="Path or URL; several may follow.")
@size_options
@sampling_options
@cache_options
@click.option("--verbose", is_flag=True, help="Then show tokens, TPS and peak memory.")
def video(
    model: str, prompt: tuple[str, ...], system: str | None, video: tuple[str, ...], verbose: bool, **options: Any
) -> None:
    """Answer about videos.

    \b
    vlm video --video a.mp4 --fps 1.0 --max-pixels 224 224 --prompt "What happens?"
    """
    run(model, " ".join(prompt), system, {"video": video}, given(options), verbose)


def run(
    model: str,
    text: str,
    system: str | None,
    media: dict[str, tuple[str, ...]],
    settings: dict[str, Any],
    verbose: bool,
) -> None:
    """Load, answer, print as it comes."""
    if not text.strip() and not media:
        raise click.UsageError("nothing to answer: give --prompt, media, or both")
    session = Session.load(model, settings)
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages.append(user_message(text if text.strip() else default_prompt(media), media))
    result = None
    for result in session.answer(messages):
        click.echo(result.text, nl=False)
        sys.stdout.flush()
    click.echo()
    if verbose and result is not None:
        click.echo(statistics(result), err=True)
