"""What media may be opened, from where, and how large."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlm_runtime.errors import OptionError

MEBI = 1 << 20


@dataclass(frozen=True)
class MediaPolicy:
    """Limits that every image, audio and video passes.

    The defaults trust the local user with local files and with sizes that a workstation can hold, and trust no URL.

    Args:
        local_files: `any` file that the process may read, only those under `roots`, or `none`.
        roots: Folders for `local_files="roots"`; symlinks and `..` are resolved before the comparison.
        allow_urls: Whether http and https URLs are fetched.
        allow_private_hosts: Whether URLs may lead to loopback, private, link-local and other non-public addresses.
        max_bytes: Size of one encoded medium that is read into memory.
        max_file_bytes: Size of a local video, which is read as it is decoded.
        max_redirects: HTTP redirects followed; each target is checked anew.
        max_fetch_seconds: Time for one URL in total, name resolution and redirects included.
        max_pixels: Width times height of an image or of a video frame, as declared by the file.
        max_audio_seconds: Length of an audio.
        max_video_seconds: Length of a video.
        max_video_frames: Frames that a video file may hold.
        max_decode_seconds: Time that decoding one video may take.
        max_sampled_frames: Frames taken from one video.
        max_sampled_pixels: Pixels of all frames taken from one video.
    """

    local_files: Literal["any", "roots", "none"] = "any"
    roots: tuple[Path, ...] = ()
    allow_urls: bool = True
    allow_private_hosts: bool = False
    max_bytes: int = 1024 * MEBI
    max_file_bytes: int = 1 << 40
    max_redirects: int = 5
    max_fetch_seconds: float = 60.0
    max_pixels: int = 89_478_485  # Pillow's own limit, beyond which it warns of decompression bombs
    max_audio_seconds: float = 4 * 3600.0
    max_video_seconds: float = 4 * 3600.0
    max_video_frames: int = 1_000_000
    max_decode_seconds: float = 3600.0
    max_sampled_frames: int = 2048
    max_sampled_pixels: int = 2_000_000_000

    def __post_init__(self) -> None:
        if self.local_files not in ("any", "roots", "none"):
            raise OptionError(f"local_files: expected any, roots or none, got {self.local_files!r}")
        for name in _LIMITS:
            if getattr(self, name) <= 0:
                raise OptionError(f"{name}: expected a positive limit, got {getattr(self, name)!r}")

    @classmethod
    def for_server(cls, *, is_loopback: bool, roots: tuple[Path, ...] = (), allow_urls: bool = True) -> MediaPolicy:
        """What a server lets its clients open.

        Args:
            is_loopback: Whether only this machine can connect; its users may then name any file that they may read.
            roots: Folders that clients may name files in, if any; given, they bind loopback clients too.
            allow_urls: Whether URLs are fetched for clients.
        """
        local: Literal["any", "roots", "none"] = "roots" if roots else "any" if is_loopback else "none"
        return cls(
            local_files=local,
            roots=tuple(Path(root) for root in roots),
            allow_urls=allow_urls,
            max_bytes=128 * MEBI,
            max_file_bytes=1024 * MEBI,
            max_redirects=3,
            max_fetch_seconds=20.0,
            max_pixels=50_000_000,
            max_audio_seconds=1800.0,
            max_video_seconds=1800.0,
            max_video_frames=120_000,
            max_decode_seconds=60.0,
            max_sampled_frames=768,
            max_sampled_pixels=500_000_000,
        )


_LIMITS = (
    *("max_bytes", "max_file_bytes", "max_fetch_seconds", "max_pixels", "max_audio_seconds", "max_video_seconds"),
    *("max_video_frames", "max_decode_seconds", "max_sampled_frames", "max_sampled_pixels"),
)
