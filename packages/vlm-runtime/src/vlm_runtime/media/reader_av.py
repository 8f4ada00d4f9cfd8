"""Read videos with PyAV."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from vlm_runtime.errors import MediaError, MediaLimitError
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.reader import check_frame, check_time, check_video, damaged, line
from vlm_runtime.media.source import Content

# Containers of pictures and sound alone. Playlists (HLS, concat) would let a file name other files and hosts.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,ogg,mpegts,mpeg,asf"


class AvReader:
    """PyAV: FFmpeg as a library, maintained, with wheels for every platform."""

    def __init__(self, content: Content, policy: MediaPolicy) -> None:
        import av  # loads FFmpeg

        name = content.name
        self._av, self._content, self._name, self._policy = av, content, name, policy
        with self._open() as container:
            stream = container.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            check_frame(width, height, name, policy)
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
        check_video(self.total, self.rate, name, policy)

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
                check_time(deadline, self._name, self._policy)
        except MediaError:
            raise
        except (self._av.error.FFmpegError, ValueError, OSError) as error:
            raise damaged(self._name, error) from error
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
            raise damaged(self._name, error) from error
        return stamps

    @contextmanager
    def _open(self) -> Iterator[Any]:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
        with self._content.open() as file:
            try:
                container = self._av.open(file, options=options, metadata_errors="ignore")
            except (self._av.error.FFmpegError, ValueError, OSError) as error:
                raise MediaError(f"{self._name}: expected a video, got: {line(error)}") from error
            with container:
                if not container.streams.video:
                    raise MediaError(f"{self._name}: expected a video, got a file without a video track")
                yield container

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
            raise damaged(self._name, error) from error
        return 0 if frame is None else round(frame.rotation / 90) % 4
