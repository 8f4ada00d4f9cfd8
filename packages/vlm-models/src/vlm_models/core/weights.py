"""From a checkpoint's tensors to a model's parameters: rules as data, applied to names; strict in both directions.

A rule turns the tensors of one layout into those of the model. Rules are safe to apply twice: a tensor that already has its
model name and shape is left alone. Patterns match whole names; `*` stands for any text (dots too), `#` for a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import mlx.core as mx

from ..errors import WeightError

Tensors = dict[str, mx.array]
Shapes = Mapping[str, tuple[int, ...]]


@lru_cache(maxsize=4096)
def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"([*#])", pattern)
    return re.compile("".join({"*": "(.*)", "#": r"(\d+)"}.get(part, re.escape(part)) for part in parts))


def _fill(pattern: str, values: Sequence[str]) -> str:
    """`pattern` with its wildcards replaced by `values` in order."""
    remaining = iter(values)
    return re.sub(r"[*#]", lambda _: next(remaining), pattern)


class Rule(Protocol):
    """Turns tensors into tensors. `wanted` holds the model's shapes by name; `is_mlx` says that convolutions and the like
    already have MLX's axis order (the file says format: mlx)."""

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors: ...


@dataclass(frozen=True)
class Rename:
    """Rename(pattern, new): wildcards of `pattern` fill those of `new` in order."""

    pattern: str
    new: str

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        return {self.name(name): value for name, value in tensors.items()}

    def name(self, name: str) -> str:
        match = _regex(self.pattern).fullmatch(name)
        return _fill(self.new, match.groups()) if match else name


@dataclass(frozen=True)
class Drop:
    """Drop(pattern): the model does not use these (buffers, tied copies)."""

    pattern: str

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        return {name: value for name, value in tensors.items() if not _regex(self.pattern).fullmatch(name)}


@dataclass(frozen=True)
class DropCopy:
    """DropCopy(path, of): a second copy of what the module `of` holds (a tied head). Raises WeightError where the two differ:
    then the configuration says tied of a checkpoint that is not."""

    path: str
    of: str

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        result: Tensors = {}
        for name, value in tensors.items():
            module, _, part = name.rpartition(".")
            if module != self.path:
                result[name] = value
                continue
            twin = tensors.get(f"{self.of}.{part}")
            if twin is not None and not mx.array_equal(value, twin).item():
                raise WeightError(
                    f"{name} differs from {self.of}.{part}, which the configuration ties it to; "
                    "is tie_word_embeddings to be false?"
                )
        return result


@dataclass(frozen=True)
class Split:
    """Split(pattern, into, axis, sizes): one tensor becomes several along an axis; equal parts unless sizes are given."""

    pattern: str
    into: tuple[str, ...]
    axis: int = 0
    sizes: tuple[int, ...] | None = None

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        result: Tensors = {}
        for name, value in tensors.items():
            match = _regex(self.pattern).fullmatch(name)
            if match is None:
                result[name] = value
                continue
            if self.sizes is None:
                parts = mx.split(value, len(self.into), axis=self.axis)
            else:
                ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
                if value.shape[self.axis] != ends[-1]:
                    raise WeightError(
                        f"{name}: expected {ends[-1]} along axis {self.axis}, checkpoint has {value.shape}"
                    )
                parts = mx.split(value, ends[:-1], axis=self.axis)
            for new, part in zip(self.into, parts, strict=True):
                result[_fill(new, match.groups())] = part
        return result


@dataclass(frozen=True)
class Join:
    """Join(parts, new, axis): tensors of these names, in this order, become one along an axis."""

    parts: tuple[str, ...]
    new: str
    axis: int = 0

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        if not all(part in tensors for part in self.parts):
            return tensors
        rest = {name: value for name, value in tensors.items() if name not in self.parts}
        return {**rest, self.new: mx.concatenate([tensors[part] for part in self.parts], axis=self.axis)}


@dataclass(frozen=True)
class Stack:
    """Stack(pattern, new): tensors that differ in the last number `#` of their names become one, with a new first axis."""

    pattern: str
    new: str

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        groups: dict[str, dict[int, mx.array]] = {}
        result: Tensors = {}
        position = len(re.findall(r"[*#]", self.pattern[: self.pattern.rindex("#")]))
        for name, value in tensors.items():
            match = _regex(self.pattern).fullmatch(name)
            if match is None:
                result[name] = value
                continue
            values = list(match.groups())
            index = int(values.pop(position))
            groups.setdefault(_fill(self.new, values), {})[index] = value
        for name, members in groups.items():
            if sorted(members) != list(range(len(members))):
                raise WeightError(f"{name}: expected members 0..{len(members) - 1}, checkpoint has {sorted(members)}")
            result[name] = mx.stack([members[i] for i in range(len(members))])
        return result


@dataclass(frozen=True)
class Transpose:
    """Transpose(pattern, axes): a tensor whose axes the model wants in another order (convolutions, expert matrices).

    Left alone in files of format mlx, and where the shape already is the model's and the transposed one would not be."""

    pattern: str
    axes: tuple[int, ...]

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        return {name: self._turn(name, value, wanted, is_mlx) for name, value in tensors.items()}

    def _turn(self, name: str, value: mx.array, wanted: Shapes, is_mlx: bool) -> mx.array:
        if is_mlx or not _regex(self.pattern).fullmatch(name) or value.ndim != len(self.axes):
            return value
        turned = tuple(value.shape[axis] for axis in self.axes)
        if wanted.get(name) == tuple(value.shape) != turned:
            return value
        return value.transpose(self.axes)


@dataclass(frozen=True)
class Flatten:
    """Flatten(pattern): a patch convolution [out, in, *kernel] as the matrix [out, in * kernel] that acts on flat patches.

    Files of format mlx hold [out, *kernel, in]; `channels_last` keeps that order for models whose patches are channel-last."""

    pattern: str
    channels_last: bool = False

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        return {name: self._flat(name, value, is_mlx) for name, value in tensors.items()}

    def _flat(self, name: str, value: mx.array, is_mlx: bool) -> mx.array:
        if value.ndim <= 2 or not _regex(self.pattern).fullmatch(name):
            return value
        if is_mlx and not self.channels_last:
            value = mx.moveaxis(value, -1, 1)
        if not is_mlx and self.channels_last:
            value = mx.moveaxis(value, 1, -1)
        return value.reshape(value.shape[0], -1)


@dataclass(frozen=True)
class Unflatten:
    """Unflatten(pattern, shape): Flatten the other way, for writing: [out, in * kernel] as [out, *kernel, in].

    shape: (in, *kernel)."""

    pattern: str
    shape: tuple[int, ...]

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        return {name: self._folded(name, value) for name, value in tensors.items()}

    def _folded(self, name: str, value: mx.array) -> mx.array:
        if value.ndim != 2 or not _regex(self.pattern).fullmatch(name):
            return value
        return mx.moveaxis(value.reshape(value.shape[0], *self.shape), 1, -1)


@dataclass(frozen=True)
class Copy:
    """Copy(path, new): what the module `path` holds, where it is packed, under another module's path too, for writing: readers
    that keep a tied head as a matrix of its own need it packed alike."""

    path: str
    new: str

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        if f"{self.path}.scales" not in tensors:
            return tensors
        parts = {name: value for name, value in tensors.items() if name.rpartition(".")[0] == self.path}
        return tensors | {f"{self.new}.{name.rpartition('.')[2]}": value for name, value in parts.items()}


@dataclass(frozen=True)
class Apply:
    """Apply(pattern, function): a change of values that no other rule expresses. Must leave its own result alone; give a
    test `unless` on the name -> shape table where it would not."""

    pattern: str
    function: Callable[[mx.array], mx.array]

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        return {n: self.function(v) if _regex(self.pattern).fullmatch(n) else v for n, v in tensors.items()}


def apply_rules(rules: Sequence[Rule], tensors: Tensors, wanted: Shapes, *, is_mlx: bool = False) -> Tensors:
    """All rules in order. Raises WeightError."""
    for rule in rules:
        before = len(tensors)
        renamed = rule.apply(tensors, wanted, is_mlx)
        if isinstance(rule, Rename) and len(renamed) != before:
            raise WeightError(f"two tensors of the checkpoint would both be named by {rule.pattern!r} -> {rule.new!r}")
        tensors = renamed
    return tensors


def renamed_path(rules: Sequence[Rule], path: str) -> str:
    """The model's name of a module path that a configuration names in the checkpoint's words."""
    name = f"{path}.weight"
    for rule in rules:
        if isinstance(rule, Rename):
            name = rule.name(name)
    return name.removesuffix(".weight")


def written_paths(rules: Sequence[Rule], path: str) -> tuple[str, ...]:
    """The module paths under which the export rules write a packed layer."""
    own = renamed_path(rules, path)
    return (own, *(rule.new for rule in rules if isinstance(rule, Copy) and rule.path == own))


def written_as_convolution(rules: Sequence[Rule], path: str) -> bool:
    """Whether the export rules write a layer's matrix as a convolution, which cannot be packed."""
    name = f"{renamed_path(rules, path)}.weight"
    return any(isinstance(rule, Unflatten) and _regex(rule.pattern).fullmatch(name) for rule in rules)


def check_fit(tensors: Tensors, wanted: Shapes) -> None:
    """Raises WeightError unless names and shapes are exactly the model's."""
    missing = sorted(set(wanted) - set(tensors))
    extra = sorted(set(tensors) - set(wanted))
    if missing:
        raise WeightError(f"missing from the checkpoint: {_some(missing)}")
    if extra:
        raise WeightError(f"the model has no place for: {_some(extra)}")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != tuple(shape):
            raise WeightError(
                f"{name}: the model expects {tuple(shape)}, the checkpoint has {tuple(tensors[name].shape)}"
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
