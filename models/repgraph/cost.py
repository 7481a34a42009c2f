"""Multiply-adds of the context layers: in closed form, and counted while they run."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula
from typing_extensions import override

import fulgurite.models.repgraph.taps as _taps  # noqa: F401  (its formulas are registered on import)
from fulgurite.models.repgraph.global_context import GlobalContext2d
from fulgurite.models.repgraph.layer import RepGraph2d
from fulgurite.models.repgraph.non_local import NonLocal2d


def layer_macs(layer: nn.Module, size: tuple[int, int]) -> int:
    """Give the multiply-adds of a context layer on one map, in closed form.

    With N = H · W: each 1 × 1 projection N C C'; a non-local layer 2 N² C'; RepGraph's offsets k² · 2 S G N C', and a
    node's four taps, score and sum 6 S N C', of which untied ones take the taps twice, 10 S N C'; each global node
    2 N C'. Normalisations, softmax, pooling and positions are not counted. The ``bag`` backend takes inner products
    with all four taps instead of with their sum: 8 S N C', tied or not.

    Args:
        layer: RepGraph2d, NonLocal2d or GlobalContext2d.
        size: (H, W).

    Raises:
        ValueError: another kind of layer.

    Example:
        >>> with torch.device("meta"):
        ...     layer = RepGraph2d(2048, inter_channels=256, backend="grid_sample")
        >>> round(layer_macs(layer, (128, 256)) / 1e9, 1)
        36.2
    """
    if not isinstance(layer, RepGraph2d | NonLocal2d | GlobalContext2d):
        raise ValueError(f"got a {type(layer).__name__}; want RepGraph2d, NonLocal2d or GlobalContext2d")
    pixels, width = size[0] * size[1], layer.inter_channels
    projections = (2 if layer.tied else 4) * pixels * layer.in_channels * width
    if isinstance(layer, NonLocal2d):
        return projections + 2 * pixels**2 * width
    if isinstance(layer, GlobalContext2d):
        # Its scores are a 1 × 1 convolution; a query it has none of.
        projections = (2 if layer.tied else 3) * pixels * layer.in_channels * width
        return projections + pixels * width * layer.groups + pixels * width
    kernel = layer.offset.kernel_size[0]
    offsets = kernel**2 * 2 * layer.num_nodes * layer.groups * pixels * width
    each = 8 if layer.backend in ("auto", "bag") else 6 if layer.tied else 10
    return projections + offsets + each * layer.num_nodes * pixels * width + 2 * layer.global_nodes**2 * pixels * width


def count_macs(model: nn.Module, *inputs: Tensor, **kwargs: Any) -> int:
    """Run a model once without gradients, on any device, and count its multiply-adds.

    torch's ``FlopCounterMode`` counts convolutions and matrix products, and nothing for ``embedding_bag`` and
    ``grid_sample``; these, and attention by ``scaled_dot_product_attention`` wherever it runs, are counted here.

    Args:
        model: on ``meta`` no memory or time is spent.
        inputs: what it is called with.
        kwargs: likewise.

    Example:
        >>> count_macs(nn.Conv2d(4, 8, 1), torch.rand(1, 4, 5, 5))
        800
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _Attention() as attention:
        model(*inputs, **kwargs)
    return (counter.get_total_flops() + attention.flops) // 2


class _Attention(TorchFunctionMode):
    """Count attention where it is called: below, it is another operator on each device."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = (*args, *(kwargs or {}).values())[:3]
        *many, queries, depth = query.shape
        pairs = queries * key.shape[-2]
        for count in many:
            pairs *= count
        self.flops += 2 * pairs * (depth + value.shape[-1])
        return query.new_empty(*many, queries, value.shape[-1])


def _taps_of_grid_sample(shape: tuple[int, ...], grid: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    batch, height, width, _ = grid
    return 2 * 4 * batch * height * width * shape[1]


for _name in ("grid_sampler_2d", "_grid_sampler_2d_cpu_fallback"):
    register_flop_formula(getattr(torch.ops.aten, _name))(_taps_of_grid_sample)
