"""Errors of training that a user can act on."""

from __future__ import annotations

from vlm_kernels import VlmError


class TrainError(VlmError):
    """Training was asked for something it cannot do."""


class ResumeError(TrainError):
    """A saved state that does not fit the run that should continue it."""
