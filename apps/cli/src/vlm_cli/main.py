"""Entry point of `vlm`. Knows the table of commands; imports a command only when it runs."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import click

from . import __version__
from .table import COMMANDS


class LazyGroup(click.Group):
    """A group whose members are rows of the table. `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        if importlib.util.find_spec(row.module.split(".")[0]) is None:
            raise click.UsageError(f"'{cmd_name}' needs {row.distribution}; install it: pip install {row.distribution}")
        command: click.Command = getattr(importlib.import_module(row.module), row.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"no command {args[0]!r}; see vlm --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="vlm")
def cli() -> None:
    """Vision-language models on MLX: Apple Silicon, NVIDIA Linux and plain Linux CPUs.

    The model name `demo` means a small model that comes with this installation.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a named error is one line on standard error and exit status 2."""
    try:
        code = cli.main(args=arguments, prog_name="vlm", standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 141
    except Exception as error:
        if not _is_named(error):
            raise
        click.echo(f"error: {error}", err=True)
        code = 2
    sys.exit(code or 0)


def _is_named(error: Exception) -> bool:
    from vlm_kernels.errors import VlmError  # imported by now, or the command failed before it needed MLX

    return isinstance(error, VlmError)


if __name__ == "__main__":
    main()
