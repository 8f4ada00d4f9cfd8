"""The table of video readers: PyAV, decord and Pillow. Each imports its package when it is used."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from vlm_runtime.errors import ExtraMissing, MediaError
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.reader import Reader
from vlm_runtime.media.reader_av import AvReader
from vlm_runtime.media.reader_decord import DecordReader
from vlm_runtime.media.reader_pillow import PillowReader
from vlm_runtime.media.source import Content

_MAGIC = (
    *((4, kind) for kind in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    *((0, b"\x1aE\xdf\xa3"), (8, b"AVI "), (0, b"FLV"), (0, b"OggS"), (0, b"\x00\x00\x01\xba"), (0, b"0&\xb2u")),
)
READERS: dict[str, Callable[[Content, MediaPolicy], Reader]] = {
    "av": AvReader,
    "decord": DecordReader,
    "pillow": PillowReader,
}


def open_reader(content: Content, policy: MediaPolicy, *, reader: str | None = None) -> Reader:
    """Open an encoded video.

    Args:
        content: The encoded file.
        policy: Limits on declared size, frames and length.
        reader: `av`, `decord` or `pillow`; None takes Pillow for GIF, WebP and PNG and else the first that is installed.

    Raises:
        ExtraMissing: No reader for this kind of file is installed.
        MediaError: It is not a video.
        MediaLimitError: It declares more than the policy allows.
    """
    if reader is None:
        reader = "pillow" if _is_animation(content.head) else next(filter(is_installed, ("av", "decord")), "")
    if not reader:
        raise ExtraMissing("video: expected a reader, found none; install vlm-runtime[video]")
    if reader not in READERS:
        raise MediaError(f"reader: expected one of {', '.join(READERS)}, got {reader!r}")
    if not is_installed(reader):
        raise ExtraMissing(f"video: the reader {reader} is not installed; install vlm-runtime[video]")
    if reader != "pillow" and not _is_container(content.head):
        raise MediaError(
            f"{content.name}: expected a video (mp4, mov, mkv, webm, avi...), got {content.size} bytes of something else"
        )
    return READERS[reader](content, policy)


def is_installed(reader: str) -> bool:
    """Whether a reader's package is there."""
    return reader == "pillow" or importlib.util.find_spec(reader) is not None


def _is_animation(head: bytes) -> bool:
    return head[:4] in (b"GIF8", b"\x89PNG") or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_container(head: bytes) -> bool:
    is_transport = len(head) > 188 and head[0] == head[188] == 0x47
    return is_transport or any(head[place : place + len(magic)] == magic for place, magic in _MAGIC)
