"""Video readers: PyAV, decord and Pillow behind one interface. Each is imported when first used."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image as Pillow

from vlm_runtime.errors import ExtraMissing, MediaError, MediaLimitError
from vlm_runtime.media.policy import MediaPolicy

# Containers of pictures and sound alone. Playlists (HLS, concat) would let a file name other files and hosts.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,ogg,mpegts,mpeg,asf"
_MAGIC = (
    *((4, kind) for kind in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    *((0, b"\x1aE\xdf\xa3"), (8, b"AVI "), (0, b"FLV"), (0, b"OggS"), (0, b"\x00\x00\x01\xba"), (0, b"0&\xb2u")),
)


class Reader(Protocol):
    """An open video.

    Attributes:
        size: Height and width of a frame, upright.
        total: Number of frames.
        rate: Frames per second, on average.
        times: Seconds of every frame from the first on, or None where the container has none.
    """

    size: tuple[int, int]
    total: int
    rate: float
    times: np.ndarray | None

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames uint8 [H, W, 3] at ascending indices. Raises MediaError if one cannot be decoded."""

    def close(self) -> None:
        """Free the decoder."""


def open_reader(content: bytes, name: str, policy: MediaPolicy, *, reader: str | None = None) -> Reader:
    """Open an encoded video.

    Args:
        content: The file's bytes.
        name: For messages.
        policy: Limits on declared size, frames and length.
        reader: `av`, `decord` or `pillow`; None takes Pillow for GIF, WebP and PNG and else the first that is installed.

    Raises:
        ExtraMissing: No reader for this kind of file is installed.
        MediaError: It is not a video.
        MediaLimitError: It declares more than the policy allows.
    """
    if reader is None:
        reader = "pillow" if _is_animation(content) else next(filter(is_installed, ("av", "decord")), "")
    if not reader:
        raise ExtraMissing("video: expected a reader, found none; install vlm-runtime[video]")
    if reader not in READERS:
        raise MediaError(f"reader: expected one of {', '.join(READERS)}, got {reader!r}")
    if not is_installed(reader):
        raise ExtraMissing(f"video: the reader {reader} is not installed; install vlm-runtime[video]")
    if reader != "pillow" and not _is_container(content):
        raise MediaError(
            f"{name}: expected a video (mp4, mov, mkv, webm, avi...), got {len(content)} bytes of something else"
        )
    return READERS[reader](content, name, policy)


def is_installed(reader: str) -> bool:
    """Whether a reader's package is there."""
    return reader == "pillow" or importlib.util.find_spec(reader) is not None


class AvReader:
    """PyAV: FFmpeg as a library, maintained, with wheels for every platform."""

    def __init__(self, content: bytes, name: str, policy: MediaPolicy) -> None:
        import av  # loads FFmpeg

        self._av, self._content, self._name, self._policy = av, content, name, policy
        with self._open() as container:
            stream = container.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            _check_frame(width, height, name, policy)
            stamps = self._stamps(container, stream)
            self.rate, step = self._rate(stream), stream.time_base
        self.total = len(stamps)
        known = sorted({stamp for stamp in stamps if stamp is not None})
        # Some containers (AVI) have no presentation times: frames then count in the order in which they come out.
        self._index_by_stamp = {stamp: i for i, stamp in enumerate(known)} if len(known) == self.total else None
        self.times = None
        if self._index_by_stamp and step:
            self.times = (np.array(known, np.float64) - known[0]) * float(step)
        self._turns = self._quarter_turns()
        self.size = (width, height) if self._turns % 2 else (height, width)
        _check_video(self.total, self.rate, name, policy)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        wanted = iter(indices)
        want = next(wanted, None)
        deadline = time.monotonic() + self._policy.max_decode_seconds
        place = -1
        try:
            for frame in self._frames():
                place += 1
                index = place if self._index_by_stamp is None else self._index_by_stamp.get(frame.pts, -1)
                while want is not None and index == want:
                    yield np.rot90(frame.to_ndarray(format="rgb24"), self._turns)
                    want = next(wanted, None)
                if want is None:
                    return
                if time.monotonic() > deadline:
                    raise MediaLimitError(
                        f"{self._name}: expected decoding within {self._policy.max_decode_seconds:g} s, took longer"
                    )
        except MediaError:
            raise
        except (self._av.error.FFmpegError, ValueError, OSError) as error:
            raise _damaged(self._name, error) from error
        if want is not None:
            raise MediaError(f"{self._name}: frame {want} of {self.total} cannot be decoded; is the file complete?")

    def close(self) -> None:
        """Nothing is held between calls."""

    def _stamps(self, container: Any, stream: Any) -> list[int | None]:
        """Presentation times of all frames, from the packets alone."""
        stamps: list[int | None] = []
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    stamps.append(packet.pts)
                if len(stamps) > self._policy.max_video_frames:
                    raise MediaLimitError(
                        f"{self._name}: expected at most {self._policy.max_video_frames} frames, got more"
                    )
        except MediaError:
            raise
        except (self._av.error.FFmpegError, ValueError, OSError) as error:
            raise _damaged(self._name, error) from error
        return stamps

    def _open(self) -> Any:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
        try:
            container = self._av.open(io.BytesIO(self._content), options=options, metadata_errors="ignore")
        except (self._av.error.FFmpegError, ValueError, OSError) as error:
            raise MediaError(f"{self._name}: expected a video, got: {_line(error)}") from error
        if not container.streams.video:
            container.close()
            raise MediaError(f"{self._name}: expected a video, got a file without a video track")
        return container

    def _frames(self) -> Iterator[Any]:
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield from container.decode(stream)

    def _rate(self, stream: Any) -> float:
        rate = stream.average_rate or stream.base_rate or stream.guessed_rate
        if not rate:
            raise MediaError(f"{self._name}: expected a frame rate, the file has none")
        return float(rate)

    def _quarter_turns(self) -> int:
        """Quarter turns to the left that the file asks for, as phones record them."""
        try:
            with self._open() as container:
                frame = next(container.decode(container.streams.video[0]), None)
        except (self._av.error.FFmpegError, ValueError, OSError) as error:
            raise _damaged(self._name, error) from error
        return 0 if frame is None else round(frame.rotation / 90) % 4


class DecordReader:
    """decord, where it has a wheel; it cannot say how frames are turned."""

    def __init__(self, content: bytes, name: str, policy: MediaPolicy) -> None:
        import decord  # loads its own FFmpeg

        self._name, self._policy = name, policy
        try:
            self._video = decord.VideoReader(io.BytesIO(content), num_threads=1)
            height, width, _ = self._video[0].shape
            _check_frame(width, height, name, policy)
            self.total, self.rate, self.size = len(self._video), float(self._video.get_avg_fps()), (height, width)
            self.times = self._video.get_frame_timestamp(list(range(self.total)))[:, 0].astype(np.float64)
        except MediaError:
            raise
        except (decord.DECORDError, IndexError, ValueError, RuntimeError, OSError) as error:
            raise MediaError(f"{name}: expected a video, got: {_line(error)}") from error
        self.times = self.times - self.times[0]
        self._error = decord.DECORDError
        _check_video(self.total, self.rate, name, policy)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        deadline = time.monotonic() + self._policy.max_decode_seconds
        for index in indices:
            if time.monotonic() > deadline:
                raise MediaLimitError(
                    f"{self._name}: expected decoding within {self._policy.max_decode_seconds:g} s, took longer"
                )
            try:
                yield self._video[index].asnumpy()
            except (self._error, IndexError, RuntimeError) as error:
                raise _damaged(self._name, error) from error

    def close(self) -> None:
        del self._video


class PillowReader:
    """Pillow, for animated GIF, WebP and PNG."""

    def __init__(self, content: bytes, name: str, policy: MediaPolicy) -> None:
        self._name, self._policy = name, policy
        try:
            self._image = Pillow.open(io.BytesIO(content), formats=("GIF", "PNG", "WEBP"))
            _check_frame(*self._image.size, name, policy)
            self.total = getattr(self._image, "n_frames", 1)
            durations = []
            if self.total <= policy.max_video_frames:
                for index in range(self.total):
                    self._image.seek(index)
                    if self._image.format == "WEBP":  # tells a frame's time only once it is decoded
                        self._image.load()
                    durations.append(self._image.info.get("duration", 0) / 1000)
        except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
            raise MediaLimitError(f"{name}: expected at most {policy.max_pixels} pixels: {error}") from error
        except _PILLOW_DAMAGE as error:
            raise MediaError(f"{name}: expected an animation, got a damaged or other file: {_line(error)}") from error
        seconds = sum(durations)
        self.rate = self.total / seconds if seconds > 0 else 10.0  # what browsers show where no time is given
        self.times = np.cumsum([0.0, *durations[:-1]]) if seconds > 0 else None
        self.size = (self._image.height, self._image.width)
        _check_video(self.total, self.rate, name, policy)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for index in indices:
            try:
                self._image.seek(index)
                yield np.array(self._image.convert("RGBA").convert("RGB"))
            except _PILLOW_DAMAGE as error:
                raise _damaged(self._name, error) from error

    def close(self) -> None:
        self._image.close()


_PILLOW_DAMAGE = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, OverflowError, UserWarning)
READERS: dict[str, Callable[[bytes, str, MediaPolicy], Reader]] = {
    "av": AvReader,
    "decord": DecordReader,
    "pillow": PillowReader,
}


def _is_animation(content: bytes) -> bool:
    return content[:4] == b"GIF8" or content[:4] == b"\x89PNG" or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")


def _is_container(content: bytes) -> bool:
    is_transport = len(content) > 188 and content[0] == content[188] == 0x47
    return is_transport or any(content[place : place + len(magic)] == magic for place, magic in _MAGIC)


def _check_frame(width: int, height: int, name: str, policy: MediaPolicy) -> None:
    if width * height < 1:
        raise MediaError(f"{name}: expected a video, got frames of {width}x{height}")
    if width * height > policy.max_pixels:
        raise MediaLimitError(f"{name}: expected at most {policy.max_pixels} pixels a frame, got {width}x{height}")


def _check_video(total: int, rate: float, name: str, policy: MediaPolicy) -> None:
    if total < 1 or not rate > 0:
        raise MediaError(f"{name}: expected a video, got {total} frames at {rate:g} a second")
    if total > policy.max_video_frames:
        raise MediaLimitError(f"{name}: expected at most {policy.max_video_frames} frames, got {total}")
    if total / rate > policy.max_video_seconds:
        raise MediaLimitError(
            f"{name}: expected at most {policy.max_video_seconds:g} s of video, got {total / rate:.0f} s"
        )


def _damaged(name: str, error: BaseException) -> MediaError:
    return MediaError(f"{name}: expected a whole video, got a damaged one: {_line(error)}")


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
