"""Decode an image of any common kind to 8-bit RGB, upright, within limits."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from vlm_runtime.errors import MediaError, MediaLimitError
from vlm_runtime.media.digest import content_digest
from vlm_runtime.media.fetch import Network
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.source import read_source, shown

# Decoders of still pictures alone: others (EPS, FITS, WMF...) call programs or are rarely tested against bad input.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TGA"),
    *("TIFF", "WEBP"),
)
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError, RuntimeError),
    *(struct.error, zlib.error, MemoryError, UserWarning),  # the last where warnings are errors
)


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded image.

    Attributes:
        rgb: uint8 [height, width, 3].
        note: What was left out or changed in decoding, for the user; empty if nothing.
    """

    rgb: np.ndarray
    note: str = ""

    @cached_property
    def digest(self) -> str:
        """Key of the decoded content."""
        return content_digest("image", self.rgb)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.rgb.shape[0]), int(self.rgb.shape[1])


def load_image(source: Any, policy: MediaPolicy | None = None, *, network: Network | None = None) -> Image:
    """Decode an image.

    EXIF orientation is applied and alpha is dropped, as transformers does. 16-bit grey is scaled to 8 bits. Of an
    animation the first frame is taken, and `note` says so.

    Args:
        source: Path, http(s) URL, data URI, bytes, open binary file, `PIL.Image.Image`, `Image`, or an array: [H, W],
            [H, W, 1|3|4] or [1|3|4, H, W], uint8, or floats from 0 to 1.
        policy: What may be opened; None trusts the local user.
        network: Replaces the operating system's, in tests.

    Raises:
        MediaError: It is not an image, or it is damaged.
        MediaLimitError: It declares more pixels or bytes than the policy allows.
        FetchError: The source is refused or cannot be reached.
    """
    policy = policy or MediaPolicy()
    if isinstance(source, Image):
        _check_size(source.rgb.shape[1], source.rgb.shape[0], "image", policy)
        return source
    if isinstance(source, np.ndarray):
        return Image(_array_to_rgb(source, policy))
    if isinstance(source, Pillow.Image):
        _check_size(*source.size, "image", policy)
        return _decode(source, "image")
    content = read_source(source, policy, network)
    try:
        image = Pillow.open(io.BytesIO(content), formats=_formats())
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise MediaLimitError(f"{shown(source)}: expected at most {policy.max_pixels} pixels: {error}") from error
    except _DAMAGE as error:
        raise MediaError(
            f"{shown(source)}: expected an image, got {_guess(content)}; is this the right file?"
        ) from error
    with image:
        _check_size(*image.size, shown(source), policy)
        return _decode(image, shown(source))


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Pillow.init()
    return tuple(name for name in _FORMATS if name in Pillow.OPEN)  # naming one that is not installed raises


def _check_size(width: int, height: int, name: str, policy: MediaPolicy) -> None:
    if width * height < 2:
        raise MediaError(f"{name}: expected a picture, got {width}x{height} pixels; there is nothing to see in it")
    if width * height > policy.max_pixels:
        raise MediaLimitError(
            f"{name}: expected at most {policy.max_pixels} pixels, got {width}x{height}; make it smaller first"
        )


def _decode(image: Pillow.Image, name: str) -> Image:
    notes = []
    try:
        if getattr(image, "is_animated", False):  # only file-backed pictures have the attribute
            image.seek(0)
            notes.append("animated: first frame taken")
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            notes.append("16-bit grey scaled to 8 bits")
            upright = _scaled_grey(upright, name)
        if upright.mode in ("P", "PA") and "transparency" in upright.info:
            upright = upright.convert("RGBA")  # straight to RGB would warn
        rgb = np.array(upright.convert("RGB"), dtype=np.uint8)
    except MediaError:
        raise
    except _DAMAGE as error:
        raise MediaError(f"{name}: expected a whole image, got a damaged or truncated one: {_line(error)}") from error
    return Image(rgb, "; ".join(notes))


def _scaled_grey(image: Pillow.Image, name: str) -> Pillow.Image:
    """Grey of 16 bits as 8: Pillow's own conversion would make all but the darkest white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise MediaError(f"{name}: expected grey values of at most 16 bits, got {values.min()} to {values.max()}")
    return Pillow.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def _array_to_rgb(array: np.ndarray, policy: MediaPolicy) -> np.ndarray:
    channels = (1, 3, 4)
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and array.shape[2] not in channels and array.shape[0] in channels:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in channels:
        raise MediaError(f"array: expected [H, W], [H, W, 1|3|4] or [1|3|4, H, W], got shape {array.shape}")
    _check_size(array.shape[1], array.shape[0], "array", policy)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise MediaError("array: expected floats from 0 to 1, got values outside; give uint8 for 0 to 255")
        array = np.rint(array * 255.0).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() > 255:
            raise MediaError(f"array: expected uint8 or floats from 0 to 1, got {array.dtype}")
        array = array.astype(np.uint8)
    color = array[:, :, :3] if array.shape[2] != 1 else np.repeat(array, 3, axis=2)
    return np.array(color)  # a copy: the caller may change the array later


def _guess(content: bytes) -> str:
    head = content[:64].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return "an HTML page"
    if head.startswith(b"<svg") or head.startswith(b"<?xml"):
        return "SVG or XML, which is not a pixel image"
    return f"{len(content)} bytes of something else"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
