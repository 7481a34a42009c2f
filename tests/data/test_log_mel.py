import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.log_mel import LogMel, mel_filter_bank

rates = st.sampled_from([8000, 11025, 16000])


def slow_filter(number, frequency, num_filters, sample_rate):
    """One weight, from the definition."""

    def centre(i):
        return 700 * (10 ** (i * math.log10(1 + sample_rate / 2 / 700) / (num_filters + 1)) - 1)

    low, middle, high = (centre(number + offset) for offset in range(3))
    if low < frequency <= middle:
        return (frequency - low) / (middle - low)
    if middle < frequency < high:
        return (high - frequency) / (high - middle)
    return 0.0


@pytest.mark.parametrize(("filters", "size", "rate"), [(40, 256, 8000), (80, 512, 16000), (3, 64, 8000)])
def test_filters_follow_their_definition(filters, size, rate):
    bank = mel_filter_bank(filters, fft_size=size, sample_rate=rate)
    slow = [[slow_filter(i, k * rate / size, filters, rate) for k in range(size // 2 + 1)] for i in range(filters)]
    torch.testing.assert_close(bank, torch.tensor(slow), atol=1e-6, rtol=1e-5)


@settings(deadline=None)
@given(filters=st.integers(2, 64), size=st.sampled_from([256, 512, 1024]), rate=rates)
def test_neighbours_add_up_to_one_between_the_outer_centres(filters, size, rate):
    bank = mel_filter_bank(filters, fft_size=size, sample_rate=rate).numpy()
    assert bank.min() >= 0
    assert bank.max() <= 1 + 1e-6
    frequencies = np.arange(size // 2 + 1) * rate / size
    mels = 2595 * np.log10(1 + frequencies / 700)
    step = 2595 * math.log10(1 + rate / 2 / 700) / (filters + 1)
    inside = (mels >= step) & (mels <= filters * step)
    np.testing.assert_allclose(bank.sum(axis=0)[inside], 1, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(1, 3000), rate=rates, filters=st.sampled_from([8, 40]), seed=st.integers(0, 2**31))
def test_features_equal_those_of_a_plain_fourier_transform(samples, rate, filters, seed):
    log_mel = LogMel(rate, filters)
    waveform = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    features = log_mel(torch.from_numpy(waveform))
    assert features.shape == (log_mel.frames(samples), filters)
    window, hop = log_mel.window_samples, log_mel.hop_samples
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    bank = mel_filter_bank(filters, fft_size=log_mel.fft_size, sample_rate=rate).numpy()
    rows = []
    for frame in range(1 + max(0, samples - window) // hop):
        piece = waveform[frame * hop : frame * hop + window]
        power = np.abs(np.fft.rfft(np.pad(piece, (0, window - len(piece))) * taper, log_mel.fft_size)) ** 2
        rows.append(np.log(bank @ power + 1e-6))
    slow = np.array(rows)
    slow = (slow - slow.mean()) / max(slow.std(), 1e-3)
    np.testing.assert_allclose(features.numpy(), slow, atol=2e-3)


def test_a_tone_lights_up_the_filter_of_its_frequency():
    log_mel = LogMel(8000, 40)
    centres = mel_filter_bank(40, fft_size=256, sample_rate=8000).argmax(dim=1) * 8000 / 256
    for number in (5, 17, 33):
        tone = torch.sin(2 * math.pi * centres[number] * torch.arange(4000) / 8000)
        assert (log_mel(tone).argmax(dim=1) == number).all()


def test_silence_has_features_too():
    assert torch.equal(LogMel(8000)(torch.zeros(400)), torch.zeros(3, 40))


def test_the_transform_is_lengthened_until_no_filter_is_empty():
    assert LogMel(8000, 40).fft_size == 256
    longer = LogMel(8000, 128)
    assert longer.fft_size > 256
    assert (mel_filter_bank(128, fft_size=longer.fft_size, sample_rate=8000).sum(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 0}, "want positive values"),
        ({"sample_rate": 8000, "num_features": 0}, "want positive values"),
        ({"sample_rate": 8000, "hop": 0.0}, "want positive values"),
        ({"sample_rate": 8000, "num_features": 2000}, "num_features=2000 at 8000 Hz leaves some filters empty"),
    ],
)
def test_options_without_features_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LogMel(**options)
