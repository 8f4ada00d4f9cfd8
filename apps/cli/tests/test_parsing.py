"""Options that take several values."""

from __future__ import annotations

import click
import pytest

from vlm_cli.parsing import pixels, shape, spread

NAMES = {"--image", "--max-pixels"}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--image", "a", "b"], ["--image", "a", "--image", "b"]),
        (["--image", "a", "--image", "b"], ["--image", "a", "--image", "b"]),
        (["--image=a", "b", "--seed", "1"], ["--image=a", "--image", "b", "--seed", "1"]),
        (
            ["--max-pixels", "224", "224", "--seed", "-1"],
            ["--max-pixels", "224", "--max-pixels", "224", "--seed", "-1"],
        ),
        (["--seed", "1", "rest"], ["--seed", "1", "rest"]),
        (["--image", "a", "--", "b"], ["--image", "a", "--", "b"]),
    ],
)
def test_values_in_a_row_equal_repeated_options(args: list[str], expected: list[str]) -> None:
    assert spread(args, NAMES) == expected


def test_two_numbers_are_height_and_width() -> None:
    ctx, param = click.Context(click.Command("x")), click.Option(["--max-pixels"])
    assert pixels(ctx, param, (224, 100)) == 22400
    assert pixels(ctx, param, (5000,)) == 5000
    assert pixels(ctx, param, ()) is None
    assert shape(ctx, param, (64,)) == (64, 64)
    with pytest.raises(click.BadParameter):
        pixels(ctx, param, (1, 2, 3))
    with pytest.raises(click.BadParameter):
        shape(ctx, param, (0, 2))
