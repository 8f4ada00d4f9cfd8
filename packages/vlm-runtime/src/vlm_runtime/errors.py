"""Errors of the runtime: each is one line that says what was expected, what came, and what to do."""

from __future__ import annotations

from vlm_kernels.errors import VlmError


class RuntimeError_(VlmError):
    """Base of every named error of vlm-runtime."""


class OptionError(RuntimeError_, ValueError):
    """An option is unknown, out of range, or at odds with another."""


class ExtraMissing(RuntimeError_, ImportError):
    """A feature needs an optional dependency; the message names the extra that brings it."""


class LoadError(RuntimeError_):
    """A model, adapter or one of its files cannot be loaded."""


class CheckpointError(LoadError):
    """A checkpoint's files are missing, contradictory or damaged."""


class TokenizerError(LoadError):
    """A checkpoint's tokenizer is missing, damaged, or of a kind that cannot be read."""


class PromptError(RuntimeError_, ValueError):
    """The prompt or the messages cannot be turned into tokens."""


class TemplateError(PromptError):
    """The checkpoint has no chat template, or its template refuses these messages."""


class PlaceholderError(PromptError):
    """The number of media placeholders in the prompt differs from the number of media given."""


class ContextError(PromptError):
    """The prompt does not fit into the model's context."""


class MediaError(RuntimeError_, ValueError):
    """An image, audio or video cannot be read or is refused."""


class MediaLimitError(MediaError):
    """A medium exceeds a limit of the media policy: bytes, pixels, frames, seconds."""


class FetchError(MediaError):
    """A URL or local path is refused by the media policy, or cannot be fetched."""


class GrammarError(OptionError):
    """A structured-output specification is malformed or unsupported."""


class ToolCallError(RuntimeError_, ValueError):
    """Tools or a tool choice cannot be used with this checkpoint, or a tool definition is malformed."""


class CapacityError(RuntimeError_):
    """The engine has no room for the request: queue, memory or cache budget."""


class CacheFormatError(RuntimeError_):
    """A saved cache cannot be read, or belongs to another version, model or form."""


class RequestCancelled(RuntimeError_):
    """The request was cancelled before it was finished."""
