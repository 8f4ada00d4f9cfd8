"""The configuration that users read: of a folder, and of a loaded model. One type for both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_models import ModelConfig, read_config


class Configuration(ModelConfig):
    """config.json, read-only: config["model_type"] and config.model_type both work.

    A loaded model's configuration also answers for what its family made of the file, under the family's own names: the
    model reads those at `self.config`, which is the attribute that users read too.
    """

    __slots__ = ("_parsed",)

    def __init__(self, values: Mapping[str, Any], parsed: Any = None) -> None:
        super().__init__(values)
        object.__setattr__(self, "_parsed", parsed)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") or key in ("_values", "_parsed"):
            raise AttributeError(key)
        try:
            return getattr(self._parsed, key)
        except AttributeError:
            return super().__getattr__(key)

    def __reduce__(self) -> tuple[Any, ...]:
        return Configuration, (self.to_dict(), self._parsed)


def read_configuration(folder: Path) -> Configuration:
    """config.json of a checkpoint folder. Raises ConfigError."""
    return Configuration(read_config(folder).to_dict())
