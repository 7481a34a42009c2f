"""The global-context layer: one pooled context for all pixels; a cheap control of RepGraph."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.repgraph.block import ContextBlock2d, Norm, Variant, map_of, rows_of


class GlobalContext2d(ContextBlock2d):
    r"""Every pixel gets the same weighted average.

    It has the options of :class:`~fulgurite.models.repgraph.layer.RepGraph2d`.
    After Y. Cao, J. Xu, S. Lin, F. Wei, H. Hu, `GCNet <https://arxiv.org/abs/1904.11492>`_, 2019: attention without
    queries,

    .. math:: y = \sum_j \mathrm{softmax}_j(\langle w, k_j\rangle)\, v_j.

    It is pooled from the embedding, between the projections that the other layers have too, so that equal options mean
    equal parameters but for w, and for the query that an untied layer has no use for.

    Args:
        in_channels: C.
        inter_channels: C'; a quarter of C for a bottleneck, else half of it.
        groups: averages, each over channels of its own.
        variant: ``bottleneck`` or ``simple``.
        tied: one embedding is scored and averaged; otherwise there are two.
        norm: of a bottleneck: ``batch``, ``group`` or ``none``.

    Shape:
        (B, C, H, W) → (B, C, H, W).

    Raises:
        ValueError: an option out of range; a map of other channels.

    Example:
        >>> import torch
        >>> GlobalContext2d(64)(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    _UNTIED: ClassVar[tuple[str, ...]] = ("key", "value")

    def __init__(
        self,
        in_channels: int,
        *,
        inter_channels: int | None = None,
        groups: int = 1,
        variant: Variant = "bottleneck",
        tied: bool = True,
        norm: Norm = "batch",
    ) -> None:
        super().__init__(
            in_channels, inter_channels=inter_channels, groups=groups, variant=variant, tied=tied, norm=norm
        )
        self.score = nn.Conv2d(self.inter_channels, groups, 1)

    @override
    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Average with learned weights, and give every pixel the result."""
        size = (value.shape[2], value.shape[3])
        shares = self.score(key).flatten(2).softmax(dim=-1)  # B, G, N
        rows = rows_of(value, self.groups)  # B, N, G, D
        mean = torch.einsum("bgn,bngd->bgd", shares.to(rows.dtype), rows).unsqueeze(1)
        return map_of(mean.expand_as(rows), size)
