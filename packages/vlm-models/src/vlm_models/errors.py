"""Named errors of vlm-models."""

from __future__ import annotations

from vlm_kernels.errors import VlmError


class ModelError(VlmError):
    """A model was asked for something it does not do."""


class ModalityError(ModelError):
    """A kind of media this family does not take."""


class ConfigError(VlmError, ValueError):
    """A checkpoint's configuration is missing a value, or holds one that is not supported."""


class UnsupportedModel(ConfigError):
    """The model_type is not in the registry."""


class WeightError(VlmError, ValueError):
    """A checkpoint's tensors do not fit the model: missing, left over, or of the wrong shape."""


class ProcessingError(VlmError, ValueError):
    """Media cannot be brought into the form the model reads."""


class PlaceholderError(ProcessingError):
    """The number of placeholders in a prompt differs from the number of media."""
