"""Log-mel features of a waveform."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

_SILENCE = 1e-6  # added to the energies, far below any recording's noise, so that digital silence has a logarithm


def mel_filter_bank(num_filters: int, *, fft_size: int, sample_rate: int) -> Tensor:
    r"""Triangular filters, equally spaced on the mel scale between 0 and half the sample rate.

    The scale is :math:`m = 2595 \log_{10}(1 + f / 700)` (D. O'Shaughnessy, *Speech Communication: Human and Machine*,
    1987). Filter *i* rises, in hertz, from 0 at the centre of filter *i* − 1 to 1 at its own, and falls to 0 at that of
    filter *i* + 1.

    Args:
        num_filters: how many.
        fft_size: points of the Fourier transform.
        sample_rate: in hertz.

    Returns:
        (num_filters, fft_size // 2 + 1) weights in [0, 1] of each frequency bin.

    Example:
        >>> mel_filter_bank(40, fft_size=256, sample_rate=8000).shape
        torch.Size([40, 129])
    """
    nyquist = sample_rate / 2
    top = 2595 * math.log10(1 + nyquist / 700)
    mels = torch.linspace(0, top, num_filters + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.linspace(0, nyquist, fft_size // 2 + 1, dtype=torch.float64)
    steps = corners.diff()
    rising = (bins - corners[:-2, None]) / steps[:-1, None]
    falling = (corners[2:, None] - bins) / steps[1:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


@dataclass(frozen=True)
class LogMel:
    """Makes log-mel features: windows of 25 ms every 10 ms, each utterance scaled to mean 0 and deviation 1.

    Args:
        sample_rate: in hertz.
        num_features: mel filters. Where they are narrow the Fourier transform is lengthened, so that none is empty.
        window: of a frame, in seconds.
        hop: from frame to frame, in seconds.

    Shape:
        input (N,) samples, output (T, num_features); T = ``frames(N)``.

    Raises:
        ValueError: values that are not positive, or more filters than any transform of sensible length can feed.

    Example:
        >>> features = LogMel(sample_rate=8000, num_features=40)
        >>> features(torch.zeros(800)).shape, features.frames(800)
        (torch.Size([8, 40]), 8)
    """

    sample_rate: int
    num_features: int = 40
    window: float = 0.025
    hop: float = 0.01
    fft_size: int = field(init=False)
    _filters: Tensor = field(init=False, repr=False, compare=False)
    _taper: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.sample_rate < 1 or self.num_features < 1 or self.hop_samples < 1 or self.window_samples < 1:
            raise ValueError(
                f"got sample_rate={self.sample_rate}, num_features={self.num_features}, window={self.window}, "
                f"hop={self.hop}; want positive values and frames of at least one sample"
            )
        fft_size = 2 ** math.ceil(math.log2(self.window_samples))
        for size in (fft_size, 2 * fft_size, 4 * fft_size):
            filters = mel_filter_bank(self.num_features, fft_size=size, sample_rate=self.sample_rate)
            if bool((filters.sum(dim=1) > 0).all()):
                break
        else:
            raise ValueError(
                f"num_features={self.num_features} at {self.sample_rate} Hz leaves some filters empty; want fewer"
            )
        # A frozen dataclass allows no plain assignment; these three follow from the fields above.
        object.__setattr__(self, "fft_size", size)
        object.__setattr__(self, "_filters", filters.T.contiguous())
        object.__setattr__(self, "_taper", torch.hann_window(self.window_samples))

    @property
    def window_samples(self) -> int:
        """Samples of a frame."""
        return round(self.window * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Samples from one frame's start to the next one's."""
        return round(self.hop * self.sample_rate)

    def frames(self, samples: int) -> int:
        """Frames of a waveform, without making them: those that fit, and at least one."""
        return 1 + max(0, samples - self.window_samples) // self.hop_samples

    def __call__(self, samples: Tensor) -> Tensor:
        """Features (T, num_features) of samples (N,)."""
        missing = (self.frames(len(samples)) - 1) * self.hop_samples + self.window_samples - len(samples)
        if missing > 0:
            samples = torch.nn.functional.pad(samples, (0, missing))
        frames = samples.unfold(0, self.window_samples, self.hop_samples) * self._taper
        # Plain frames rather than torch.stft, which has none for what is shorter than fft_size.
        spectrum = torch.fft.rfft(frames, n=self.fft_size)
        power = spectrum.real.square() + spectrum.imag.square()
        features = (power @ self._filters + _SILENCE).log()
        deviation, mean = torch.std_mean(features, correction=0)
        return (features - mean) / deviation.clamp(min=1e-3)
