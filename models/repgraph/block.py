"""What the context layers share: embeddings, a residual that starts at zero, options and their checks."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

Variant = Literal["bottleneck", "simple"]
Norm = Literal["batch", "group", "none"]


class ContextBlock2d(nn.Module):
    """Embed a map, mix its pixels, project back and add: a base class that is the identity when it is new.

    ``bottleneck`` embeds by 1 × 1 convolution, normalisation and ReLU, and projects back by 1 × 1 convolution and
    normalisation, as a ResNet's bottleneck does; ``simple`` embeds and projects by 1 × 1 convolutions alone.

    Args:
        in_channels: C.
        inter_channels: C', the width at which pixels are mixed; a quarter of C for a bottleneck, else half of it.
        groups: independent groups that C' is cut into.
        variant: see above.
        tied: one embedding is query, key and value.
        norm: of a bottleneck: ``batch``, ``group`` (32 channels or fewer a group), or ``none``.

    Raises:
        ValueError: an option out of range; a width that the groups do not divide.
    """

    # What untied embeddings there are; of a layer without queries, the key stands for the query.
    _UNTIED: ClassVar[tuple[str, ...]] = ("query", "key", "value")

    embed: nn.Sequential
    query: nn.Sequential
    key: nn.Sequential
    value: nn.Sequential

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
        super().__init__()
        if variant not in ("bottleneck", "simple"):
            raise ValueError(f"got variant={variant!r}; choose from bottleneck, simple")
        if norm not in ("batch", "group", "none"):
            raise ValueError(f"got norm={norm!r}; choose from batch, group, none")
        if in_channels < 1:
            raise ValueError(f"got in_channels={in_channels}; want at least 1")
        if inter_channels is None:
            inter_channels = max(groups, in_channels // (4 if variant == "bottleneck" else 2) // groups * groups)
        if groups < 1 or inter_channels < 1 or inter_channels % groups:
            raise ValueError(
                f"got inter_channels={inter_channels} and groups={groups}; want channels that the groups divide"
            )
        self.in_channels = in_channels
        self.inter_channels = inter_channels
        self.groups = groups
        self.variant = variant
        self.tied = tied
        self._norm = norm if variant == "bottleneck" else "none"
        for name in ("embed",) if tied else self._UNTIED:
            setattr(self, name, self._embedding())
        self.project = nn.Sequential(nn.Conv2d(inter_channels, in_channels, 1, bias=self._norm == "none"))
        if self._norm != "none":
            self.project.append(_normalisation(self._norm, in_channels))
        self._start_at_identity()

    def init_weights(self) -> None:
        """Become the identity again; mmengine calls this after it has filled a network's convolutions at random."""
        self._start_at_identity()

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix the pixels of embeddings (B, C', H, W); tied ones are the same tensor. A subclass says how."""
        raise NotImplementedError(f"{type(self).__name__} has to say how pixels are mixed: mix(query, key, value)")

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Give a map (B, C, H, W) of the same shape with context in it."""
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != self.in_channels:
            got = f"a map of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"got {got}; want (B, {self.in_channels}, H, W)")
        return x + self.project(self.mix(*self._embed(x)))

    def embeddings(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give query, key and value (B, C', H, W) as in evaluation: running averages are used, and left alone."""
        training = {m: m.training for m in self.modules()}
        try:
            self.eval()
            return self._embed(x)
        finally:
            for m, was in training.items():
                m.training = was

    @override
    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, inter_channels={self.inter_channels}, groups={self.groups}, "
            f"variant={self.variant!r}, tied={self.tied}"
        )

    def _embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.tied:
            query = self.embed(x)
            return query, query, query
        key, value = self.key(x), self.value(x)
        return self.query(x) if "query" in self._UNTIED else key, key, value

    def _start_at_identity(self) -> None:
        for weight in self.project[-1].parameters():
            nn.init.zeros_(weight)

    def _embedding(self) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(self.in_channels, self.inter_channels, 1, bias=self._norm == "none")]
        if self._norm != "none":
            layers.append(_normalisation(self._norm, self.inter_channels))
        if self.variant == "bottleneck":
            layers.append(nn.ReLU(inplace=True))
        return nn.Sequential(*layers)


def _normalisation(norm: Norm, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    count = next(count for count in range(min(32, channels), 0, -1) if channels % count == 0)
    return nn.GroupNorm(count, channels)


def rows_of(x: Tensor, groups: int) -> Tensor:
    """Give a map (B, C', H, W) as rows (B, H · W, G, C' / G); a view where it is channels-last."""
    batch, channels, height, width = x.shape
    # A strided table costs embedding_bag tenfold, and torch's attention its fused kernel.
    return x.permute(0, 2, 3, 1).contiguous().view(batch, height * width, groups, channels // groups)


def map_of(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Give rows (B, H · W, G, D) as a map (B, G · D, H, W)."""
    batch, _, groups, depth = rows.shape
    return rows.reshape(batch, *size, groups * depth).permute(0, 3, 1, 2)
