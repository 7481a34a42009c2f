"""Where nodes start to look, and which rows of a feature map a position reads."""

import math
from typing import Literal

import torch
from torch import Tensor

Init = Literal["spread", "grid3", "zero"]
INITS: tuple[Init, ...] = ("spread", "grid3", "zero")

# Of nine nodes, in 32nds of the map, (dy, dx): from half a cell's way out to nearly its half, in all directions.
_NINE = ((-2, -2), (-4, 0), (-8, 8), (0, -12), (0, 0), (0, 16), (6, -6), (10, 0), (14, 14))
_GOLDEN = math.pi * (3 - math.sqrt(5))


def start_nodes(num_nodes: int, init: Init) -> tuple[Tensor, bool]:
    """Give the place of each node relative to its query, before anything is learned.

    Bilinear sampling has local gradients: a node that starts near its query never finds what lies far away. ``spread``
    therefore lays the nodes over the map: rings at geometric radii from 1/16 to 1/2 of it, in golden-angle directions,
    and one node on the query itself. ``grid3`` is the 3 × 3 neighbourhood of a deformable convolution, ``zero`` puts
    every node on the query.

    Args:
        num_nodes: S.
        init: the pattern.

    Returns:
        (S, 2) offsets (dy, dx), float32, and whether they are shares of the map's (height, width), not pixels.

    Raises:
        ValueError: an unknown pattern; ``grid3`` for other than nine nodes.

    Example:
        >>> start_nodes(9, "grid3")[0][:4].tolist()
        [[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]]
    """
    if num_nodes < 1:
        raise ValueError(f"got num_nodes={num_nodes}; want at least 1")
    if init == "zero":
        return torch.zeros(num_nodes, 2), False
    if init == "grid3":
        if num_nodes != 9:
            raise ValueError(f"got init='grid3' with num_nodes={num_nodes}; a 3 × 3 grid has 9")
        return torch.tensor([[dy, dx] for dy in (-1.0, 0.0, 1.0) for dx in (-1.0, 0.0, 1.0)]), False
    if init != "spread":
        raise ValueError(f"got init={init!r}; choose from {', '.join(INITS)}")
    if num_nodes == 9:
        return torch.tensor(_NINE) / 32, True
    ring = torch.arange(num_nodes - 1, dtype=torch.float64)
    radius = 2.0 ** (-4 + 3 * ring / max(1, num_nodes - 2))
    angle = ring * _GOLDEN
    around = torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1).float()
    return torch.cat([torch.zeros(1, 2), around]), True


def place_nodes(offsets: Tensor, base: Tensor, size: tuple[int, int], *, relative: bool) -> Tensor:
    """Add learned offsets to the queries' own pixels and the starting pattern.

    Args:
        offsets: (B, N, G, S, 2) learned (dy, dx) in pixels, N = H · W in rows.
        base: (S, 2) starting pattern.
        size: (H, W).
        relative: the pattern is in shares of the map.

    Returns:
        (B, N, G, S, 2) positions (y, x) in pixels, float32 or float64; they may lie outside the map.

    Example:
        >>> half_down = torch.tensor([[0.5, 0.0]])
        >>> place_nodes(torch.zeros(1, 6, 1, 1, 2), half_down, (2, 3), relative=True)[0, :, 0, 0].tolist()
        [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [2.0, 0.0], [2.0, 1.0], [2.0, 2.0]]
    """
    height, width = size
    # bfloat16 has no integers above 256.
    kind = torch.float64 if offsets.dtype == torch.float64 else torch.float32
    rows = torch.arange(height, device=offsets.device, dtype=kind)
    columns = torch.arange(width, device=offsets.device, dtype=kind)
    own = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).view(-1, 1, 1, 2)
    base = base.to(kind)
    if relative:
        # By column: a tensor of the sizes would fix them in an exported graph.
        base = torch.stack([base[:, 0] * height, base[:, 1] * width], dim=-1)
    return offsets.to(kind) + (own + base)


def clamp_to_map(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Put positions (…, 2) outside of [0, H − 1] × [0, W − 1] on the map's border; there they get no gradient.

    Example:
        >>> clamp_to_map(torch.tensor([[-1.0, 1.5], [9.0, 9.0]]), (2, 3)).tolist()
        [[0.0, 1.5], [1.0, 2.0]]
    """
    y, x = positions.unbind(-1)
    return torch.stack([y.clamp(0, size[0] - 1), x.clamp(0, size[1] - 1)], dim=-1)


def corners(positions: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Give the four pixels around each position, and their bilinear weights.

    Args:
        positions: (…, 2) positions (y, x) within the map.
        size: (H, W).

    Returns:
        (…, 4) rows y · W + x, int64, and (…, 4) weights that sum to 1, through which gradients reach the positions.

    Example:
        >>> rows, weights = corners(torch.tensor([0.25, 1.5]), (2, 3))
        >>> rows.tolist(), weights.tolist()
        ([1, 2, 4, 5], [0.375, 0.375, 0.125, 0.125])
    """
    height, width = size
    y, x = positions.unbind(-1)
    # A NaN passes clamp, and as an integer it would be a wild row; in the weights it stays what it is.
    low_y, low_x = (p.detach().nan_to_num(0).floor() for p in (y, x))
    wy, wx = y - low_y, x - low_x
    y0, x0 = low_y.long(), low_x.long()
    y1, x1 = (y0 + 1).clamp(max=height - 1), (x0 + 1).clamp(max=width - 1)
    rows = torch.stack([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1], dim=-1)
    weights = torch.stack([(1 - wy) * (1 - wx), (1 - wy) * wx, wy * (1 - wx), wy * wx], dim=-1)
    return rows, weights
