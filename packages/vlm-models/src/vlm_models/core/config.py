"""Reading Hugging Face configurations without guessing. Knows keys and types; no family.

`read_config(folder)` gives a checkpoint's config.json as a `ModelConfig`: a read-only mapping whose keys are attributes too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError

T = TypeVar("T")
_REQUIRED: Any = object()


class ModelConfig(Mapping[str, Any]):
    """A checkpoint's configuration, read-only: config["model_type"] and config.model_type both work."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        return ModelConfig(value) if isinstance(value, dict) else value

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"the configuration has no {key!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError("a checkpoint's configuration is read-only")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"ModelConfig({self._values!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelConfig, (self._values,)

    def to_dict(self) -> dict[str, Any]:
        """A copy that may be changed."""
        return json.loads(json.dumps(self._values))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ConfigError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); is this a checkpoint folder?") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_config(folder: Path | str) -> ModelConfig:
    """config.json of a checkpoint folder. Raises ConfigError."""
    return ModelConfig(read_json(Path(folder) / "config.json"))


def take(hf: Mapping[str, Any], key: str, kind: type[T] | tuple[type, ...], default: Any = _REQUIRED) -> T:
    """hf[key], checked to be of `kind`; null or absent gives `default`. Raises ConfigError, naming the key."""
    value = hf.get(key)
    if value is None:
        if default is _REQUIRED:
            raise ConfigError(f"config: {key!r} is missing")
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # type: ignore[return-value]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        raise ConfigError(f"config: {key!r} must be {names}, found {value!r}")
    return value  # type: ignore[return-value]


def sub(hf: Mapping[str, Any], key: str, *model_types: str) -> Mapping[str, Any]:
    """The nested object hf[key], of one of the model_types where any are given and it names one. Raises ConfigError."""
    value = hf.get(key)
    if not isinstance(value, Mapping):
        raise ConfigError(f"config: {key!r} must be an object, found {value!r}")
    if model_types:
        expect(value, "model_type", *model_types)
    return value


def expect(hf: Mapping[str, Any], key: str, *supported: Any) -> Any:
    """hf[key] if it is absent (then the first of `supported`) or one of `supported`. Raises ConfigError otherwise."""
    value = hf.get(key)
    if value is None:
        return supported[0]
    if value not in supported:
        raise ConfigError(f"config: {key}={value!r} is not supported (supported: {', '.join(map(repr, supported))})")
    return value


def check(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(f"config: {message}")
