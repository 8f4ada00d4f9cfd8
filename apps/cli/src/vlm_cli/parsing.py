"""Options that take several values: `--image a b` and `--image a --image b` alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class SeveralValues(click.Command):
    """A command whose `multiple=True` options also take their values in a row.

    A value that starts with a dash is an option, unless it is a number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {name for p in self.params if isinstance(p, click.Option) and p.multiple for name in p.opts}
        return super().parse_args(ctx, spread(args, names))


def spread(args: Sequence[str], names: set[str]) -> list[str]:
    """Put the option's name before each further value: --image a b -> --image a --image b."""
    result: list[str] = []
    current: str | None = None
    fresh = False
    for position, arg in enumerate(args):
        if arg == "--":
            return [*result, *args[position:]]
        if arg.startswith("-") and not _is_number(arg):
            name = arg.split("=", 1)[0]
            current = name if name in names else None
            fresh = "=" not in arg
            result.append(arg)
        elif current is None or fresh:
            result.append(arg)
            fresh = False
        else:
            result += [current, arg]
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def pixels(ctx: click.Context, param: click.Parameter, value: tuple[int, ...]) -> int | None:
    """One number is an area; two are height and width whose product is the area."""
    if not value:
        return None
    if len(value) > 2 or min(value) < 1:
        raise click.BadParameter("expected one positive number (an area) or two (height and width)", ctx, param)
    return value[0] if len(value) == 1 else value[0] * value[1]


def shape(ctx: click.Context, param: click.Parameter, value: tuple[int, ...]) -> tuple[int, int] | None:
    """One number is both sides; two are height and width."""
    if not value:
        return None
    if len(value) > 2 or min(value) < 1:
        raise click.BadParameter("expected one positive number (a square) or two (height and width)", ctx, param)
    return value[0], value[-1]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were set; the rest keep the checkpoint's or the library's defaults."""
    return {name: value for name, value in options.items() if value is not None and value != ()}
