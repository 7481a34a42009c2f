"""The non-local layer, by scaled-dot-product attention: the honest control of RepGraph."""

from typing import Literal

from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.models.repgraph.block import ContextBlock2d, Norm, Variant, map_of, rows_of

NonLocalBackend = Literal["sdpa", "matmul"]


class NonLocal2d(ContextBlock2d):
    r"""Every pixel gathers from all pixels, with the options of :class:`~fulgurite.models.repgraph.layer.RepGraph2d`.

    X. Wang, R. Girshick, A. Gupta, K. He, `Non-local Neural Networks <https://arxiv.org/abs/1711.07971>`_, CVPR 2018,
    with the embedded Gaussian:

    .. math:: y_i = \sum_j a_{ij} v_j, \qquad a_i = \mathrm{softmax}_j(\langle q_i, k_j\rangle/\sqrt{C'/G}).

    Args:
        in_channels: C.
        inter_channels: C'; a quarter of C for a bottleneck, else half of it.
        groups: attention heads.
        variant: ``bottleneck`` or ``simple``.
        tied: one embedding is query, key and value.
        norm: of a bottleneck: ``batch``, ``group`` or ``none``.
        backend: ``sdpa`` never holds the (H · W)² affinities; ``matmul`` does, as the layer was first published.

    Shape:
        (B, C, H, W) → (B, C, H, W).

    Raises:
        ValueError: an option out of range; a map of other channels.

    Example:
        >>> import torch
        >>> NonLocal2d(64)(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        *,
        inter_channels: int | None = None,
        groups: int = 1,
        variant: Variant = "bottleneck",
        tied: bool = True,
        norm: Norm = "batch",
        backend: NonLocalBackend = "sdpa",
    ) -> None:
        super().__init__(
            in_channels, inter_channels=inter_channels, groups=groups, variant=variant, tied=tied, norm=norm
        )
        if backend not in ("sdpa", "matmul"):
            raise ValueError(f"got backend={backend!r}; choose from sdpa, matmul")
        self.backend = backend

    @override
    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let every pixel attend to all."""
        size = (query.shape[2], query.shape[3])
        q, k, v = (rows_of(x, self.groups).transpose(1, 2) for x in (query, key, value))
        if self.backend == "sdpa":
            rows = functional.scaled_dot_product_attention(q, k, v)
        else:
            rows = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
        return map_of(rows.transpose(1, 2), size)
