"""The Jinja environment that Hugging Face chat templates expect, sandboxed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.meta
import jinja2.nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

from vlm_runtime.errors import TemplateError

BORDER = "__border"  # template variable that holds the border character of this rendering


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; when rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that jinja2 reads

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """`namespace()` without underscore names, through which a template could reach Python's internals."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in dict(*args, **kwargs):
            _refuse_private(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"namespace: expected a name without a leading underscore, got {name!r}")


@jinja2.pass_context
def _tojson(
    context: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    border = context.get(BORDER)
    return text.replace(f"\\u{ord(border):04x}", border) if ensure_ascii and border else text


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["namespace"] = _Namespace
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=32)
def compile_template(source: str) -> tuple[Callable[..., str], frozenset[str]]:
    """A function that renders the template from variables, and the names of the variables that it reads.

    Raises:
        TemplateError: From here if the source is not a template; from the function if the template refuses its input.
    """
    try:
        tree = _environment().parse(source)
        template = _environment().from_string(source)
    except jinja2.TemplateError as error:
        raise TemplateError(f"chat template: expected Jinja, got: {error}") from error

    def render(**variables: Any) -> str:
        try:
            return template.render(**variables)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template refuses these messages: {error}") from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise TemplateError(
                f"the chat template cannot render these messages: {type(error).__name__}: {error}"
            ) from error

    return render, frozenset(jinja2.meta.find_undeclared_variables(tree))
