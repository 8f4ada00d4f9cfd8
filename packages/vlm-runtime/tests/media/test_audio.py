from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_runtime.errors import MediaError, MediaLimitError
from vlm_runtime.media.audio import load_audio
from vlm_runtime.media.policy import MediaPolicy

RATE = 16000


@pytest.fixture(scope="session")
def tone() -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.float32)


def encode(pcm: np.ndarray, kind: str = "WAV", subtype: str | None = "FLOAT", rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def test_every_source_gives_the_same_samples_and_digest(tone, tmp_path):
    content = encode(tone)
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    uri = "data:audio/wav;base64," + base64.b64encode(content).decode()
    audios = [load_audio(source) for source in (path, str(path), content, uri, io.BytesIO(content), (tone, RATE))]
    assert all((audio.pcm == tone).all() and audio.rate == RATE for audio in audios)
    assert len({audio.digest for audio in audios}) == 1
    assert load_audio((tone, 8000)).digest != audios[0].digest
    assert load_audio(audios[0]).digest == audios[0].digest
    assert audios[0].seconds == 0.5


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [("WAV", "PCM_16", 1e-4), ("FLAC", "PCM_16", 1e-4), ("OGG", "VORBIS", 0.05), ("MP3", "MPEG_LAYER_III", 0.1)],
)
def test_common_containers(kind, subtype, tolerance, tone):
    audio = load_audio(encode(tone, kind, subtype))
    assert audio.rate == RATE
    middle = audio.pcm[2000:6000]
    assert np.abs(np.abs(middle).max() - 0.5) < tolerance
    if kind != "MP3":  # whose encoder adds a delay
        assert np.abs(middle - tone[2000:6000]).max() < tolerance


def test_channels_are_mixed_and_rate_changed(tone):
    stereo = np.stack([tone, np.zeros_like(tone)], axis=1)
    audio = load_audio(encode(stereo), sample_rate=8000)
    assert audio.rate == 8000 and len(audio.pcm) == len(tone) // 2
    assert np.abs(audio.pcm[500:3500] - tone[1000:7000:2] / 2).max() < 1e-3
    assert "2 channels" in audio.note and "16000" in audio.note
    assert (load_audio((stereo.T, RATE)).pcm == load_audio((stereo, RATE)).pcm).all()


def test_integer_arrays_are_scaled():
    for dtype, values in ((np.int16, [-32768, 16384]), (np.uint8, [0, 192]), (np.int32, [-(2**31), 2**30])):
        assert load_audio((np.array(values, dtype), RATE)).pcm.tolist() == [-1.0, 0.5]
    with pytest.raises(MediaError, match="complex"):
        load_audio((np.array([1j]), RATE))


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (b"not audio at all", "expected audio"),
        ((np.zeros(0, np.float32), RATE), "0 samples"),
        ((np.array([0.0, np.nan], np.float32), RATE), "finite"),
        ((np.zeros(10, np.float32), 5), "sample rate"),
        ((np.zeros(10, np.float32), "16000"), "sample rate"),
        ((np.zeros((2, 3, 4), np.float32), RATE), "shape"),
        (np.zeros(10, np.float32), "pair"),
        (3, "got int"),
    ],
)
def test_what_is_not_audio_is_named(source, match):
    with pytest.raises(MediaError, match=match):
        load_audio(source)


def test_empty_and_truncated_files(tone):
    with pytest.raises(MediaError, match="0 samples"):
        load_audio(encode(tone[:0]))
    with pytest.raises(MediaError):
        load_audio(encode(tone, "FLAC", "PCM_16")[:30])


def test_limits_are_the_policys(tone):
    with pytest.raises(MediaLimitError, match=r"at most 0\.1 s"):
        load_audio(encode(tone), MediaPolicy(max_audio_seconds=0.1))
    with pytest.raises(MediaLimitError, match=r"at most 0\.1 s"):
        load_audio((tone, RATE), MediaPolicy(max_audio_seconds=0.1))
    with pytest.raises(MediaLimitError, match="channels"):
        load_audio(encode(np.zeros((100, 20), np.float32)))
    with pytest.raises(MediaError, match="sample_rate"):
        load_audio((tone, RATE), sample_rate=10)


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_give_audio_or_a_named_error(tone, data):
    kind, subtype = data.draw(st.sampled_from([("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]))
    content = bytearray(encode(tone[:2000], kind, subtype))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    try:
        audio = load_audio(bytes(content), MediaPolicy(max_audio_seconds=10))
    except MediaError as error:
        assert "\n" not in str(error)
    else:
        assert audio.pcm.dtype == np.float32 and len(audio.pcm) <= 10 * audio.rate + 1
