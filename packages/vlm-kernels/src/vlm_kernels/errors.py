"""Errors that a user can act on: one line that says what was expected, what came, and what to do."""

from __future__ import annotations


class VlmError(Exception):
    """Base of every named error of the vlm packages. The message is one line, fit to be shown to a user."""


class BackendMissing(VlmError):
    """MLX is installed without a backend for this machine."""


class KernelError(VlmError, ValueError):
    """An operation was asked for something it cannot serve: shapes, dtypes, bits or modes."""
