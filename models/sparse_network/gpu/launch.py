"""Starting the Triton kernels: block shapes and grids."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from fulgurite.models.sparse_network.gpu.aggregations import Given, Graph
from fulgurite.models.sparse_network.gpu.backward import backward_level, backward_threads, backward_tiles
from fulgurite.models.sparse_network.gpu.facts import Facts
from fulgurite.models.sparse_network.gpu.forward import forward_level, forward_threads, forward_tiles
from fulgurite.models.sparse_network.gpu.graphs import launch
from fulgurite.models.sparse_network.gpu.reductions import response_gradient, weight_gradient

Kernel = Literal["threads", "tiles", "levels"]
INTERPRETED = not isinstance(forward_level, triton.runtime.JITFunction)
_WARP = 32
_UNROLL = 4
# One stage: loads must stay where they are between stores and barriers. Products and sums are fused, which Triton 3.9
# warns of unless it is asked for.
COMPILE = {"num_stages": 1, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Block:
    """What one program takes at a time.

    Args:
        rows: nodes.
        edges: edges of each node side by side; they fill a warp where the samples do not.
        samples: samples.
        unroll: how often edges are taken in one pass, which puts so many loads under way.
        warps: warps of a program.
    """

    rows: int
    edges: int
    samples: int
    unroll: int
    warps: int

    def sizes(self) -> dict[str, int]:
        """The kernels' compile-time arguments."""
        return {"ROWS": self.rows, "EDGES": self.edges, "SAMPLES": self.samples, "UNROLL": self.unroll}

    def launch_options(self) -> dict[str, int]:
        """The compiler's options."""
        return {"num_warps": self.warps, **COMPILE}


def block_of(kernel: Kernel, batch: int) -> Block:
    """The block of a kernel, by the batch alone, so that results do not depend on the structure's size.

    Lanes of a warp take neighbouring samples, so that rows are read whole; where samples are too few, edges fill it.

    Example:
        >>> block_of("threads", 60_000).samples, block_of("tiles", 60_000).samples, block_of("levels", 3).edges
        (128, 32, 8)
    """
    samples = min(triton.next_power_of_2(max(batch, 1)), 128 if kernel == "threads" else _WARP)
    edges = max(_WARP // samples, 1)
    if kernel == "threads":
        return Block(rows=1, edges=edges, samples=samples, unroll=_UNROLL, warps=max(samples // _WARP, 1))
    if kernel == "tiles":
        return Block(rows=16, edges=edges, samples=samples, unroll=_UNROLL, warps=8)
    return Block(rows=4, edges=edges, samples=samples, unroll=_UNROLL, warps=4)


def forward(
    kernel: Kernel,
    facts: Facts,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    *,
    recycled: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Fill the rows of all nodes that are not inputs.

    Args:
        kernel: how samples and nodes are shared out.
        facts: of the structure.
        values: (R, B), the inputs in its first rows.
        weight: (E,).
        bias: (n,).
        scale: (n,) or None.
        recycled: the row of each node (N,) and the row that each edge reads (E,); None: node v is row v and R is N.
    """
    block = block_of(kernel, values.shape[1])
    rows, sources = recycled or (facts.src, facts.src)
    graph = _graph(facts)._replace(src=sources, row=rows)
    options = {**_options(facts, scale, block), "ACTS": facts.acts, "RECYCLED": recycled is not None}
    kernels = {"threads": forward_threads, "tiles": forward_tiles, "levels": forward_level}

    def run(tensors: dict[str, Tensor]) -> None:
        arguments = (tensors["values"], _given(tensors), graph)
        if kernel == "levels":
            _level_by_level(kernels[kernel], facts, arguments, options, block, reverse=False)
        else:
            _at_once(kernels[kernel], kernel, facts, arguments, options, block)

    tensors = _named(values=values, weight=weight, bias=bias, scale=scale)
    _start(kernel, facts, run, tensors, "values", ("forward", recycled is not None))


def backward(
    kernel: Kernel,
    facts: Facts,
    grads: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    *,
    inputs: bool,
) -> None:
    """Turn the rows of ``grads`` into δ, and with ``inputs`` those of the inputs into ∂L/∂x.

    Args:
        kernel: how samples and nodes are shared out.
        facts: of the structure.
        grads: (N, B), ∂L/∂y of the outputs' nodes and 0 elsewhere.
        values: (N, B) of the forward pass.
        weight: (E,).
        bias: (n,).
        scale: (n,) or None.
        inputs: whether ∂L/∂x is asked for.
    """
    block = block_of(kernel, values.shape[1])
    graph = _graph(facts)
    options = {**_options(facts, scale, block), "ACTS": facts.acts}
    kernels = {"threads": backward_threads, "tiles": backward_tiles, "levels": backward_level}

    def run(tensors: dict[str, Tensor]) -> None:
        arguments = (tensors["grads"], tensors["values"], _given(tensors), graph)
        if kernel == "levels":
            inner = {**options, "INPUTS": False}
            _level_by_level(kernels[kernel], facts, arguments, inner, block, reverse=True)
        else:
            _at_once(kernels[kernel], kernel, facts, arguments, options, block)
        if inputs and facts.num_inputs:
            # All groups may read an input, so it comes when all of them are done.
            outer = {**options, "INPUTS": True}
            _nodes(backward_level, 0, facts.num_inputs, facts, arguments, outer, block)

    tensors = _named(grads=grads, values=values, weight=weight, bias=bias, scale=scale)
    _start(kernel, facts, run, tensors, "grads", ("backward", inputs))


def weights(facts: Facts, grads: Tensor, values: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None) -> Tensor:
    """∂L/∂w (E,) from δ and V, both (N, B); see :func:`backward`."""
    edges, batch = facts.num_edges, values.shape[1]
    samples = min(triton.next_power_of_2(batch), _WARP)
    width = max(_WARP, 128 // samples)
    blocks = triton.cdiv(edges, width)
    # Few edges leave the device idle unless the batch is shared out too; by sizes alone, so that sums keep their order.
    parts = max(1, min(triton.cdiv(2048, max(blocks, 1)), batch // (8 * samples)))
    span = triton.cdiv(triton.cdiv(batch, parts), samples) * samples
    result = grads.new_empty((triton.cdiv(batch, span), edges))
    if edges:
        given = _given(_named(weight=weight, bias=bias, scale=scale))
        weight_gradient[(blocks, len(result))](
            result, grads, values, given, _graph(facts), facts.num_inputs, edges, batch, span,
            AGGS=facts.aggs, SCALED=scale is not None, EDGES=width, SAMPLES=samples, num_warps=4, **COMPILE,
        )  # fmt: skip
    return result.sum(0) if len(result) > 1 else result[0]


def responses(
    facts: Facts, grads: Tensor, values: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None
) -> Tensor:
    """∂L/∂r (n,) from δ and V, both (N, B); see :func:`backward`."""
    batch = values.shape[1]
    block = block_of("levels", batch)
    result = grads.new_empty(facts.num_nodes - facts.num_inputs)
    given = _given(_named(weight=weight, bias=bias, scale=scale))
    response_gradient[(triton.cdiv(len(result), block.rows),)](
        result, grads, values, given, _graph(facts), facts.num_inputs, facts.num_nodes, batch,
        AGGS=facts.aggs, **block.sizes(), **block.launch_options(),
    )  # fmt: skip
    return result if facts.inverse_fan_in is None else result * facts.inverse_fan_in.to(result.dtype)


def _named(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _given(tensors: dict[str, Tensor]) -> Given:
    # A kernel without scale reads none, but a pointer has to be something.
    return Given(tensors["weight"], tensors["bias"], tensors.get("scale", tensors["bias"]))


def _graph(facts: Facts) -> Graph:
    return Graph(
        ptr=facts.ptr,
        src=facts.src,
        dst=facts.dst,
        row=facts.src,
        optr=facts.optr,
        odst=facts.odst,
        oeid=facts.oeid,
        act_id=facts.act_id,
        agg_id=facts.agg_id,
    )


def _options(facts: Facts, scale: Tensor | None, block: Block) -> dict[str, Any]:
    return {"AGGS": facts.aggs, "SCALED": scale is not None, **block.sizes(), **block.launch_options()}


def _start(
    kernel: Kernel,
    facts: Facts,
    run: Callable[[dict[str, Tensor]], None],
    tensors: dict[str, Tensor],
    result: str,
    key: tuple[object, ...],
) -> None:
    on_device = torch.cuda.device(tensors[result].device) if tensors[result].is_cuda else nullcontext()
    with on_device:
        if kernel == "levels":
            shape = tensors[result].shape
            launch(facts.graphs, (*key, shape, tensors[result].dtype, "scale" in tensors), run, tensors, result)
        else:
            run(tensors)


def _at_once(
    program: Any, kernel: Kernel, facts: Facts, arguments: tuple[Any, ...], options: dict[str, Any], block: Block
) -> None:
    """One launch for all nodes that are not inputs."""
    batch = arguments[0].shape[1]
    grid = triton.cdiv(batch, block.samples)
    ranges, count = (facts.group_ptr, facts.num_groups) if kernel == "threads" else (facts.level_ptr, facts.num_levels)
    if kernel == "threads":
        grid *= facts.num_groups
    program[(grid,)](*arguments, ranges, count, facts.num_inputs, batch, **options)


def _level_by_level(
    program: Any, facts: Facts, arguments: tuple[Any, ...], options: dict[str, Any], block: Block, *, reverse: bool
) -> None:
    """A launch for each level."""
    levels = list(pairwise(facts.levels))
    for start, stop in reversed(levels) if reverse else levels:
        _nodes(program, start, stop, facts, arguments, options, block)


def _nodes(
    program: Any, start: int, stop: int, facts: Facts, arguments: tuple[Any, ...], options: dict[str, Any], block: Block
) -> None:
    """One launch for nodes that do not depend on one another."""
    batch = arguments[0].shape[1]
    grid = triton.cdiv(stop - start, block.rows) * triton.cdiv(batch, block.samples)
    program[(grid,)](*arguments, start, stop, facts.num_inputs, batch, **options)
