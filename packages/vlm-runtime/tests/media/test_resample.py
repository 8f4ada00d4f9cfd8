from __future__ import annotations

import numpy as np
import pytest

from vlm_runtime.media.resample import resample

RATES = [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (16000, 24000), (16001, 16000), (11025, 48000)]


def sine(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_a_tone_below_nyquist_keeps_time_and_amplitude(rate, new_rate):
    frequency = 0.42 * min(rate, new_rate)
    result = resample(sine(frequency, rate), rate, new_rate)
    want = sine(frequency, new_rate)
    assert len(result) == -(-int(rate * 0.5) * new_rate // rate)
    inner = slice(200, min(len(result), len(want)) - 200)
    assert np.abs(result[inner] - want[inner]).max() < 2e-4


@pytest.mark.parametrize(("rate", "new_rate"), [(44100, 16000), (48000, 16000), (48000, 8000)])
def test_a_tone_above_nyquist_vanishes(rate, new_rate):
    result = resample(sine(0.52 * new_rate, rate), rate, new_rate)
    assert np.abs(result[300:-300]).max() < 1e-4


def test_images_of_a_tone_vanish_when_going_up():
    result = resample(sine(3000, 8000), 8000, 16000)[300:-300]
    spectrum = np.abs(np.fft.rfft(result * np.hanning(len(result))))
    frequencies = np.fft.rfftfreq(len(result), 1 / 16000)
    assert spectrum[frequencies > 4200].max() < 1e-4 * spectrum.max()


def test_constant_stays_constant():
    assert np.allclose(resample(np.ones(4000, np.float32), 44100, 16000)[100:-100], 1.0, atol=1e-5)


def test_tiny_inputs_and_equal_rates():
    pcm = np.ones(3, np.float32)
    assert resample(pcm, 16000, 16000) is pcm
    for length in (1, 2, 5):
        assert len(resample(np.ones(length, np.float32), 44100, 16000)) == -(-length * 160 // 441)
        assert len(resample(np.ones(length, np.float32), 8000, 48000)) == length * 6


def test_blocks_do_not_show(monkeypatch):
    pcm = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    whole = resample(pcm, 44100, 16000)
    monkeypatch.setattr("vlm_runtime.media.resample._BLOCK", 1000)
    assert np.allclose(resample(pcm, 44100, 16000), whole, atol=1e-6)


def test_equals_the_sum_that_defines_it():
    # y(t) = sum x[k] h(t - k), evaluated term by term at a few outputs
    from vlm_runtime.media.resample import BETA, ROLLOFF, ZEROS

    pcm = np.random.default_rng(1).standard_normal(400).astype(np.float32)
    result = resample(pcm, 48000, 44100)
    cutoff = ROLLOFF * 44100 / 48000
    reach = int(np.ceil(ZEROS / cutoff))
    for n in (0, 100, 200, 367):
        distance = n * 48000 / 44100 - np.arange(-reach - 1, 401 + reach)
        window = np.i0(BETA * np.sqrt(np.clip(1 - (distance / (reach + 1)) ** 2, 0, None)))
        near = np.floor(n * 48000 / 44100) - np.arange(-reach - 1, 401 + reach)
        weights = np.where(np.abs(near) <= reach, np.sinc(cutoff * distance) * window, 0.0)
        padded = np.concatenate([np.zeros(reach + 1), pcm, np.zeros(reach + 1)])
        assert result[n] == pytest.approx((padded * weights).sum() / weights.sum(), abs=1e-5)
