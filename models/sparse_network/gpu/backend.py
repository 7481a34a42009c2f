"""A sparse network evaluated, and differentiated, on a GPU by Triton kernels.

Three kernels share out samples and nodes; :func:`choose_kernel` says when which. Training keeps V and, while a backward
pass runs, δ: 2·N·B numbers. What else a derivative needs is made again from V. Triton itself is imported on first use.
"""

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fulgurite.models.sparse_network.gpu.facts import Facts, facts_of

if TYPE_CHECKING:
    from fulgurite.models.sparse_network.gpu.launch import Kernel

# From this many samples on, a thread a sample fills a device by itself.
THREADS_FROM = 16_384
# Up to a warp's samples, a tile leaves all but one multiprocessor idle.
LEVELS_UP_TO = 32
# Nodes of a level under which one multiprocessor, which takes 16 at a time, is done sooner than another launch begins.
WIDE = 64


def choose_kernel(batch: int, num_nodes: int, num_levels: int, num_groups: int) -> "Kernel":
    """Which kernel evaluates a network.

    - ``"threads"``: a thread a sample, a program for each group and block of samples; no barrier between programs.
      For many samples, for several groups, and where levels are unknown.
    - ``"levels"``: a launch a level, replayed as a CUDA graph; every program takes a few nodes. For up to 32 samples of
      a network of wide levels: 64 nodes on the mean, where one multiprocessor's time for a level is about a launch's.
    - ``"tiles"``: a program for each 32 samples, with a barrier after each level. For all others. With few samples it
      keeps few multiprocessors busy: a deep and narrow network of one sample is faster on a CPU.

    The sizes are estimates from the kernels' shapes, not measurements.

    Args:
        batch: B.
        num_nodes: nodes that are computed, inputs not included.
        num_levels: L; 0 where levels are unknown.
        num_groups: G.

    Example:
        >>> choose_kernel(60_000, 122_880, 120, 1), choose_kernel(256, 122_880, 120, 1)
        ('threads', 'tiles')
        >>> choose_kernel(1, 122_880, 120, 1), choose_kernel(1, 1000, 300, 1), choose_kernel(64, 20_000, 0, 1000)
        ('levels', 'tiles', 'threads')
    """
    if num_groups > 1 or num_levels == 0 or batch >= THREADS_FROM:
        return "threads"
    if batch <= LEVELS_UP_TO and num_nodes >= WIDE * num_levels:
        return "levels"
    return "tiles"


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    response: Tensor,
    structure: Tensor,
    keep: bool,
    *,
    kernel: "Kernel | None" = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate a network.

    Args:
        x: (B, F) on a CUDA device; on a CPU in Triton's interpreter. float32 or float64, as all others.
        weight: (E,) in edge order.
        bias: (n,) in the topology's order.
        response: (n,), or (0,) for all 1.
        structure: ``Topology.packed`` on the same device.
        keep: whether a backward pass follows. If not, rows of nodes are used again after their last reader.
        kernel: which one; None: :func:`choose_kernel`'s.

    Returns:
        The outputs (B, O); and the nodes' values (N, B), or (0,) unless ``keep``.

    Raises:
        ImportError: Triton is not installed.
        RuntimeError: ``x`` is on a CPU, and Triton's interpreter is off.
        ValueError: ``kernel`` needs levels, and there are several groups.
    """
    launch = _launch(x)
    facts = facts_of(structure)
    batch = x.shape[0]
    if batch == 0:
        return x.new_empty((0, len(facts.out_idx))), x.new_empty((facts.num_nodes, 0) if keep else 0)
    recycled = None if keep else facts.recycled
    values = x.new_empty((recycled[2] if recycled else facts.num_nodes, batch))
    values[: facts.num_inputs].copy_(x.t())
    if len(bias):
        rows = recycled[:2] if recycled else None
        scale = facts.scale(response, x.dtype)
        launch.forward(
            _kernel(facts, batch, kernel), facts, values, weight.contiguous(), bias.contiguous(), scale, recycled=rows
        )
    outputs = recycled[0].index_select(0, facts.out_idx) if recycled else facts.out_idx
    return _transposed(values.index_select(0, outputs)), values if keep else x.new_empty(0)


def backward(
    grad_y: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    response: Tensor,
    structure: Tensor,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    need_response: bool,
    *,
    kernel: "Kernel | None" = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a network evaluated with ``keep``; the same bit by bit whenever it is asked for again.

    Args:
        grad_y: (B, O).
        values: (N, B), as :func:`forward` returned it.
        weight: as given to :func:`forward`, and so ``bias``, ``response`` and ``structure``.
        bias: (n,).
        response: (n,) or (0,).
        structure: ``Topology.packed``.
        need_x: which gradients are wanted.
        need_weight: of the weights.
        need_bias: of the biases.
        need_response: of the responses.
        kernel: which one; None: :func:`choose_kernel`'s.

    Returns:
        ∂L/∂x (B, F), ∂L/∂w (E,), ∂L/∂b (n,), ∂L/∂r (n,); (0,) for each one that is not wanted.

    Raises:
        ImportError: Triton is not installed.
        RuntimeError: tensors are on a CPU, and Triton's interpreter is off.
    """
    launch = _launch(grad_y)
    facts = facts_of(structure)
    batch, inputs = grad_y.shape[0], facts.num_inputs
    shapes = ((batch, inputs), weight.shape, bias.shape, bias.shape)
    needs = (need_x, need_weight, need_bias, need_response)
    if batch == 0 or not any(needs):
        made = [grad_y.new_zeros(shape if need else 0) for shape, need in zip(shapes, needs, strict=True)]
        return made[0], made[1], made[2], made[3]
    weight, bias, scale = weight.contiguous(), bias.contiguous(), facts.scale(response, grad_y.dtype)
    grads = torch.zeros_like(values)
    if facts.outputs_repeat:
        # Of the ways to add at repeated places, the one that keeps an order on CUDA.
        grads.index_put_((facts.out_idx,), grad_y.t(), accumulate=True)
    else:
        grads.index_copy_(0, facts.out_idx, grad_y.t())
    if len(bias):
        chosen = _kernel(facts, batch, kernel)
        launch.backward(chosen, facts, grads, values, weight, bias, scale, inputs=need_x)
    given = (facts, grads, values, weight, bias, scale)
    with _device(grad_y):
        dx = _transposed(grads[:inputs]) if need_x else grad_y.new_empty(0)
        dweight = launch.weights(*given) if need_weight else grad_y.new_empty(0)
        dbias = grads[inputs:].sum(1) if need_bias else grad_y.new_empty(0)
        dresponse = launch.responses(*given) if need_response and len(bias) else grad_y.new_empty(0)
    return dx, dweight, dbias, dresponse


def _kernel(facts: Facts, batch: int, wanted: "Kernel | None") -> "Kernel":
    if wanted in ("tiles", "levels") and not facts.num_levels:
        raise ValueError(f"kernel {wanted!r} needs levels, and {facts.num_groups} groups have none; use 'threads'")
    return wanted or choose_kernel(batch, facts.num_nodes - facts.num_inputs, facts.num_levels, facts.num_groups)


def _transposed(rows: Tensor) -> Tensor:
    # Not contiguous(), which for a single sample hands back a view of other strides than the operator promises.
    columns = rows.new_empty((rows.shape[1], rows.shape[0]))
    return columns.copy_(rows.t())


def _device(tensor: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _launch(tensor: Tensor) -> ModuleType:
    """The kernels, if they can work on this tensor."""
    try:
        from fulgurite.models.sparse_network.gpu import launch as triton_launch
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "triton":
            raise
        raise ImportError(
            "backend='triton' needs the package triton, which is not installed (pip install triton; it comes with the "
            "CUDA builds of torch); use backend='cpu' or backend='dense'"
        ) from error
    if not tensor.is_cuda and not triton_launch.INTERPRETED:
        raise RuntimeError(
            f"backend='triton' got tensors on {tensor.device.type}, expected a CUDA device; move the network and its "
            "input there, use backend='cpu', or set TRITON_INTERPRET=1 before Triton is imported to test kernels"
        )
    return triton_launch
