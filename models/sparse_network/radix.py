"""RadiX-Net, the sparse topology of the GraphChallenge, and synthetic inputs that stay alive in it."""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fulgurite.models.sparse_network.network import SparseNetwork

FAN_OUT = 32
# Width → q, the layers that share one permutation (16·2^q is the width), and the bias of the challenge.
WIDTHS: dict[int, tuple[int, float]] = {
    1024: (6, -0.30),
    4096: (8, -0.35),
    16384: (10, -0.40),
    65536: (12, -0.45),
}


def radix_targets(neurons: int, layers: int, *, seed: int = 0) -> np.ndarray:
    r"""Targets of every neuron of every layer.

    For width n = 16·m, m = 2^q, layer l = q·b + k (0 ≤ k < q) and a permutation :math:`P_b` of the rows,

    .. math:: r = P_b(i) \bmod m, \quad
              \mathrm{targets}(i) = \{r, (r - 2^k) \bmod m\} + m \cdot \{0, …, 15\}.

    The first q layers are not permuted; every further block of q layers draws one permutation, which each of them
    applies. Every neuron has 32 targets and 32 sources. From each input of a block, paths lead to each of its outputs:
    in the first block equally many.

    Args:
        neurons: n, one of 1024, 4096, 16384, 65536.
        layers: number of layers.
        seed: of the permutations.

    Returns:
        (layers, neurons, 32) int64: rows of layer l + 1 that row i of layer l feeds.

    Raises:
        ValueError: a width that the challenge does not have, or no layer.

    Example:
        >>> targets = radix_targets(1024, 2)
        >>> sorted(targets[1, 0].tolist())[:6]
        [0, 62, 64, 126, 128, 190]
    """
    if neurons not in WIDTHS:
        raise ValueError(f"got {neurons} neurons; RadiX-Net has {', '.join(map(str, WIDTHS))} a layer")
    if layers < 1:
        raise ValueError(f"got {layers} layers; want at least 1")
    q, _ = WIDTHS[neurons]
    m = neurons // 16
    generator = np.random.default_rng(seed)
    copies = m * np.arange(16)
    targets = np.empty((layers, neurons, FAN_OUT), dtype=np.int64)
    rows = np.arange(neurons)
    for layer in range(layers):
        block, k = divmod(layer, q)
        if k == 0 and block > 0:
            rows = generator.permutation(neurons)
        r = rows[:, None] % m
        targets[layer] = np.concatenate([r + copies, (r - 2**k) % m + copies], axis=1)
    return targets


def radix_net(neurons: int, layers: int, *, seed: int = 0, **options: Any) -> SparseNetwork:
    r"""A network of the GraphChallenge's topology: R. A. Robinett and J. Kepner, *RadiX-Net*.

    `arXiv:1905.00416 <https://arxiv.org/abs/1905.00416>`__. Every weight is 1/16, every neuron of a width has the same
    bias (−0.30, −0.35, −0.40, −0.45 from narrow to wide), and

    .. math:: y ← \min(\max(y W + b, 0), 32).

    The challenge's depths are 120, 480 and 1920; its permutations, which it does not seed, are drawn here. Layer l of
    the network is nodes ``l * neurons`` to ``(l + 1) * neurons - 1``, the inputs being layer 0.

    Args:
        neurons: width of every layer: 1024, 4096, 16384 or 65536.
        layers: number of layers of edges; there are 32·neurons edges in each.
        seed: of the row permutations, see :func:`radix_targets`.
        options: passed on to :class:`~fulgurite.models.sparse_network.SparseNetwork` (``backend``, ``dtype``, …).

    Returns:
        a network of (…, neurons) → (…, neurons); its outputs are the last layer.

    Raises:
        ValueError: another width, no layer, or 2³¹ edges or more.

    Example:
        >>> net = radix_net(1024, 2)
        >>> net.num_edges, net.depth
        (65536, 2)
        >>> net(radix_inputs("squares", 1024, 3)).shape
        torch.Size([3, 1024])
    """
    edges = FAN_OUT * neurons * layers
    if edges >= 2**31:
        raise ValueError(f"{neurons} × {layers} has {edges:,} edges; the index takes fewer than 2,147,483,648 of them")
    targets = torch.from_numpy(radix_targets(neurons, layers, seed=seed))
    targets += neurons * torch.arange(1, layers + 1)[:, None, None]
    sources = torch.arange(neurons * layers).repeat_interleave(FAN_OUT)
    dtype = options.pop("dtype", None) or torch.get_default_dtype()
    return SparseNetwork(
        torch.stack([sources, targets.reshape(-1)], dim=1),
        num_inputs=neurons,
        outputs=range(neurons * layers, neurons * (layers + 1)),
        num_nodes=neurons * (layers + 1),
        activation="relu32",
        weight=torch.full((edges,), 1 / 16, dtype=dtype),
        bias=torch.full((neurons * layers,), WIDTHS[neurons][1], dtype=dtype),
        dtype=dtype,
        **options,
    )


def radix_inputs(kind: Literal["iid", "squares", "mixed"], neurons: int, count: int, seed: int = 0) -> Tensor:
    """Synthetic inputs whose activations do not all die within a few layers of RadiX-Net.

    Of sparse random inputs nothing is left after three to six layers, which makes every comparison of deep outputs
    vacuous. At width 1024 these live on: about three in four of the ``iid`` ones, and all ``squares``. The
    survivors saturate at 32 in every neuron sooner or later (``iid`` first), so compare the first twelve layers
    too, or give the same topology random weights.

    Args:
        kind: ``iid``: each input is 1 with probability 0.3; ``squares``: one filled square, of 13/32 to 20/32 of
            the side, somewhere on the √neurons × √neurons grid; ``mixed``: the two in turn, squares first.
        neurons: width of the network, a square number.
        count: number of inputs.
        seed: of positions, sides and random ones.

    Returns:
        (count, neurons) float32 of zeros and ones.

    Raises:
        ValueError: an unknown kind, or a width that is no square.

    Example:
        >>> inputs = radix_inputs("mixed", 1024, 4)
        >>> inputs.shape, inputs.unique().tolist()
        (torch.Size([4, 1024]), [0.0, 1.0])
    """
    side = math.isqrt(max(neurons, 0))
    if side < 32 or side * side != neurons:
        raise ValueError(f"got {neurons} neurons; want the square of 32 or more, as all of RadiX-Net's widths are")
    if kind not in ("iid", "squares", "mixed"):
        raise ValueError(f"got kind {kind!r}; want 'iid', 'squares' or 'mixed'")
    generator = np.random.default_rng(seed)
    squares = {"iid": np.zeros(count, bool), "squares": np.ones(count, bool), "mixed": np.arange(count) % 2 == 0}
    images = np.zeros((count, side, side), dtype=np.float32)
    for image, square in zip(images, squares[kind], strict=True):
        if square:
            length = generator.integers(13, 21) * side // 32
            top, left = generator.integers(0, side - length + 1, size=2)
            image[top : top + length, left : left + length] = 1
        else:
            image[:] = generator.random((side, side)) < 0.3
    return torch.from_numpy(images.reshape(count, neurons))
