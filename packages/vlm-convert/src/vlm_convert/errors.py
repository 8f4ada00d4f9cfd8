"""Named errors of vlm-convert."""

from __future__ import annotations

from vlm_kernels import VlmError


class ConvertError(VlmError, ValueError):
    """A conversion was asked for something it cannot do, or could not write its result."""


class RecipeError(ConvertError):
    """A recipe names nothing, or holds what is no quantization."""
