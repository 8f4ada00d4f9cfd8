"""One configuration that the goldens do not have: a family's own maker with changes put over it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

REMOVE: Any = object()


class Whole(dict[str, Any]):
    """A nested configuration that replaces the one it meets instead of being merged into it."""


@dataclass(frozen=True)
class Variant:
    """`changes` are merged into the configuration of the golden maker `family/base`.

    Args:
        cases: names of the maker's cases; None for all.
        own: makes cases instead of the maker's.
        parts: replaces functions or values of the family's module while building: name -> new.
        tables: entries put into dictionaries of the module: name -> entries.
        initial: keep the weights that the reference initialises, instead of hashed ones.
        refuses: what our error must say: a configuration that is out of scope.
        hub: also judge the published layout.
    """

    family: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    base: str = ""
    cases: Sequence[str] | None = None
    own: Callable[[Any], list[Any]] | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    initial: bool = False
    refuses: str = ""
    hub: bool = True

    @contextlib.contextmanager
    def applied(self, module: Any) -> Iterator[None]:
        """The module with `parts` and `tables` in place."""
        with contextlib.ExitStack() as stack:
            for name, new in self.parts.items():
                stack.enter_context(mock.patch.object(module, name, new))
            for name, entries in self.tables.items():
                stack.enter_context(mock.patch.dict(getattr(module, name), entries))
            yield


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes` put over them, nested objects merged."""
    result = dict(values)
    for key, new in changes.items():
        if new is REMOVE:
            result.pop(key, None)
        elif isinstance(new, dict) and not isinstance(new, Whole) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], new)
        else:
            result[key] = dict(new) if isinstance(new, Whole) else new
    return result
