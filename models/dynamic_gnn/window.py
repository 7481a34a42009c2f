"""The mean over the last steps, the M-product of hidden features, by narrow bands of its matrix."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Steps that are multiplied at once: a band much longer than the window would be mostly zeros.
_STEPS = 32


def trailing_mean(frames: Tensor, window: int, steps: int) -> Tensor:
    r"""The mean of each of the last frames and those before it, as many as there are up to ``window``.

    :math:`(M X)_t = \sum_{k < \min(t + 1, w)} X_{t-k} / \min(t + 1, w)`, the M-product of TM-GCN, O. A. Malik et al.,
    "Dynamic Graph Convolutional Networks Using the Tensor M-Product",
    `arXiv:1910.07643 <https://arxiv.org/abs/1910.07643>`__.

    Frames before the first one given do not count: a timeline's hidden windows restart with it.

    Args:
        frames: (H + T, …), H = min(w − 1, steps before the first of the T).
        window: w ≥ 1.
        steps: T.

    Returns:
        (T, …).

    Example:
        >>> trailing_mean(torch.tensor([[2.0], [4.0], [9.0]]), window=2, steps=3).flatten().tolist()
        [2.0, 3.0, 6.5]
    """
    if window == 1:
        return frames[len(frames) - steps :]
    output: Tensor = _TrailingMean.apply(frames, window, steps)
    return output


class _TrailingMean(torch.autograd.Function):
    """Keeps nothing for its backward pass, where sums of shifted frames would keep or copy one a shift."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, window: int, steps: int) -> Tensor:
        ctx.window, ctx.shape = window, frames.shape
        flat = frames.flatten(1)
        output = flat.new_empty(steps, flat.shape[1])
        for first, last, start, stop, band in _bands(frames, len(frames), window, steps):
            output[first:last] = band @ flat[start:stop]
        return output.view(steps, *frames.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        flat = grad.flatten(1)
        total = flat.new_zeros(ctx.shape[0], flat.shape[1])
        for first, last, start, stop, band in _bands(grad, ctx.shape[0], ctx.window, len(grad)):
            total[start:stop] += band.t() @ flat[first:last]
        return total.view(ctx.shape), None, None


def _bands(like: Tensor, frames: int, window: int, steps: int) -> list[tuple[int, int, int, int, Tensor]]:
    """Runs of outputs, the run of frames that each needs, and the rows of M between them."""
    bands = []
    before = frames - steps
    length = max(_STEPS, window)
    for first in range(0, steps, length):
        last = min(first + length, steps)
        start, stop = max(0, before + first - window + 1), before + last
        output = torch.arange(before + first, stop, device=like.device)[:, None]
        frame = torch.arange(start, stop, device=like.device)
        inside = (frame <= output) & (frame > output - window)
        count = (output + 1).clamp(max=window).to(torch.float64)
        bands.append((first, last, start, stop, (inside / count).to(like.dtype)))
    return bands
