"""Decode audio of any common kind to mono float PCM at a wanted rate, within limits."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vlm_runtime.errors import MediaError, MediaLimitError
from vlm_runtime.media.digest import content_digest
from vlm_runtime.media.fetch import Network
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.resample import resample
from vlm_runtime.media.source import read_source, shown

MIN_RATE, MAX_RATE = 1000, 768_000
MAX_CHANNELS = 16


@dataclass(frozen=True, eq=False)
class Audio:
    """Decoded audio.

    Attributes:
        pcm: float32 [samples], mono, full scale 1.
        rate: Samples per second.
        note: What was changed in decoding, for the user; empty if nothing.
    """

    pcm: np.ndarray
    rate: int
    note: str = ""

    @cached_property
    def digest(self) -> str:
        """Key of the decoded content."""
        return content_digest("audio", self.pcm, self.rate)

    @property
    def seconds(self) -> float:
        return len(self.pcm) / self.rate


def load_audio(
    source: Any,
    policy: MediaPolicy | None = None,
    *,
    sample_rate: int | None = None,
    network: Network | None = None,
) -> Audio:
    """Decode audio, mix it to mono (mean of the channels) and resample it.

    Args:
        source: Path, http(s) URL, data URI, bytes or open binary file (wav, flac, ogg, mp3); `Audio`; or a pair
            (array, rate) with an array [samples], [samples, channels] or [channels, samples] of floats (full scale 1)
            or integers (full scale of their type).
        policy: What may be opened; None trusts the local user.
        sample_rate: Rate wanted; None keeps the source's.
        network: Replaces the operating system's, in tests.

    Raises:
        MediaError: It is not audio, damaged or empty.
        MediaLimitError: It is longer or larger than the policy allows.
        FetchError: The source is refused or cannot be reached.
    """
    policy = policy or MediaPolicy()
    if sample_rate is not None and not MIN_RATE <= sample_rate <= MAX_RATE:
        raise MediaError(f"sample_rate: expected {MIN_RATE} to {MAX_RATE} Hz, got {sample_rate}")
    if isinstance(source, Audio):
        samples, rate, name = source.pcm[:, None], source.rate, "audio"
    elif isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], np.ndarray | list):
        samples, rate, name = _samples(np.asarray(source[0])), source[1], "array"
    elif isinstance(source, np.ndarray):
        raise MediaError("array: expected a pair (array, sample rate), got an array alone")
    else:
        samples, rate = _decode(read_source(source, policy, network), shown(source), policy)
        name = shown(source)
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(f"{name}: expected a sample rate of {MIN_RATE} to {MAX_RATE} Hz, got {rate!r}")
    rate = int(rate)
    _check_length(len(samples), rate, name, policy)
    if not np.isfinite(samples).all():
        raise MediaError(f"{name}: expected finite samples, got NaN or infinity")
    pcm = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64)
    notes = [f"{samples.shape[1]} channels mixed to one"] if samples.shape[1] > 1 else []
    if sample_rate is not None and sample_rate != rate:
        notes.append(f"resampled from {rate} Hz")
    pcm = resample(np.array(pcm, np.float32), rate, sample_rate or rate)
    return Audio(pcm, sample_rate or rate, "; ".join(notes))


def _decode(content: bytes, name: str, policy: MediaPolicy) -> tuple[np.ndarray, int]:
    import soundfile  # loads libsndfile, needed only where audio is

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check_length(file.frames, max(file.samplerate, 1), name, policy)
            if file.channels > MAX_CHANNELS:
                raise MediaLimitError(f"{name}: expected at most {MAX_CHANNELS} channels, got {file.channels}")
            # The declared length may lie; one sample more than allowed is enough to know.
            most = int(policy.max_audio_seconds * max(file.samplerate, 1)) + 1
            return file.read(most, dtype="float32", always_2d=True), file.samplerate
    except MediaError:
        raise
    except (soundfile.SoundFileError, OSError, ValueError, RuntimeError, TypeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise MediaError(
            f"{name}: expected audio (wav, flac, ogg, mp3), got {len(content)} bytes that are not: {reason}"
        ) from error


def _check_length(samples: int, rate: int, name: str, policy: MediaPolicy) -> None:
    if samples < 1:
        raise MediaError(f"{name}: expected audio, got none (0 samples)")
    if samples > policy.max_audio_seconds * rate:
        raise MediaLimitError(
            f"{name}: expected at most {policy.max_audio_seconds:g} s of audio, got {samples / rate:.0f} s; cut it first"
        )


def _samples(array: np.ndarray) -> np.ndarray:
    """Float samples [samples, channels] of an array in any of the accepted layouts."""
    if array.ndim == 1:
        array = array[:, None]
    elif array.ndim == 2 and array.shape[0] <= MAX_CHANNELS < array.shape[1]:
        array = array.T
    if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_CHANNELS:
        raise MediaError(f"array: expected [samples] or [samples, channels], got shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128.0) / 128.0
    if array.dtype in (np.int16, np.int32):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    raise MediaError(f"array: expected float, int16, int32 or uint8 samples, got {array.dtype}")
