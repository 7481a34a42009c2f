"""The one operator that a sparse network is to torch, whatever its depth, and the companion that is its backward."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fulgurite.models.sparse_network.cpu import backend as cpu

if TYPE_CHECKING:
    from fulgurite.models.sparse_network.structure import Topology

BACKENDS = ("cpu", "triton")


def sparse_network(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    response: Tensor | None,
    topology: "Topology",
    *,
    keep: bool | None = None,
    backend: str = "cpu",
) -> Tensor:
    r"""Evaluate an acyclic network of any structure, forward and backward by kernels that touch its edges alone.

    The nodes are activated in the order of their dependencies, after A. Gajurel, S. J. Louis, F. C. Harris, *GPU
    Acceleration of Sparse Neural Networks*, `arXiv:2005.04347 <https://arxiv.org/abs/2005.04347>`__:

    .. math:: V_v = \varphi_v(b_v + r_v A_v\{w_e V_{\mathrm{src}(e)} : e \text{ into } v\}).

    Differentiable once by x, weight, bias and response. Under autocast it computes in float32.

    Args:
        x: (B, F) of float32 or float64, as all parameters.
        weight: (E,) in the topology's edge order.
        bias: (n,) in its order of the n = N − F computed nodes.
        response: (n,), or None for all 1.
        topology: the structure, on x's device.
        keep: whether to keep V for a backward pass, (B + a little)·N numbers. None: where autograd will ask for one.
        backend: ``"cpu"`` or ``"triton"``.

    Returns:
        (B, O).

    Raises:
        ValueError: shapes, types or devices that do not fit together; an unknown backend.
        RuntimeError: on differentiating a second time, or otherwise than backward.

    Example:
        >>> import torch
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology([(0, 2), (1, 2)], num_inputs=2, outputs=[2], activations=1, aggregations=0)
        >>> weight = torch.tensor([2.0, 1.0], requires_grad=True)
        >>> y = sparse_network(torch.tensor([[3.0, 1.0]]), weight, torch.tensor([0.5]), None, topology)
        >>> y.sum().backward()
        >>> y.tolist(), weight.grad.tolist()
        ([[7.5]], [3.0, 1.0])
    """
    _check_shapes(x, weight, bias, response, topology)
    _refuse_transforms(x, weight, bias, response)
    if response is None:
        response = weight.new_empty(0)
    if keep is None:
        given = (x, weight, bias, response)
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    y, _ = _forward(x, weight, bias, response, topology.packed, topology.num_nodes, topology.num_outputs, keep, backend)
    return y


@torch.library.custom_op("fulgurite::sparse_network", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    response: Tensor,
    structure: Tensor,
    num_nodes: int,
    num_outputs: int,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """``(y, values)``; how values are laid out is up to the backend, and they are empty without ``keep``."""
    _check_types(x, weight, bias, response, structure, backend)
    if backend == "cpu":
        return cpu.forward(x, weight, bias, response, structure, keep)
    from fulgurite.models.sparse_network.gpu import backend as triton

    return triton.forward(x, weight, bias, response, structure, keep)


@torch.library.custom_op("fulgurite::sparse_network_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    response: Tensor,
    structure: Tensor,
    num_nodes: int,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    need_response: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x, weight, bias and response; (0,) for those that are not needed."""
    if values.dim() == 1:
        raise RuntimeError("sparse_network was called with keep=False, so there is nothing to differentiate by")
    needs = (need_x, need_weight, need_bias, need_response)
    if backend == "cpu":
        return cpu.backward(grad_y, values, weight, bias, response, structure, *needs)
    from fulgurite.models.sparse_network.gpu import backend as triton

    return triton.backward(grad_y, values, weight, bias, response, structure, *needs)


@_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    response: Tensor,
    structure: Tensor,
    num_nodes: int,
    num_outputs: int,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    batch = x.shape[0]
    y = x.new_empty(batch, num_outputs)
    if not keep:
        return y, x.new_empty(0)
    if backend == "cpu":
        tiles, width = cpu.tile_shape(batch)
        return y, x.new_empty(tiles, num_nodes, width)
    return y, x.new_empty(num_nodes, batch)


@_backward.register_fake
def _(
    grad_y: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    response: Tensor,
    structure: Tensor,
    num_nodes: int,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    need_response: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_inputs = num_nodes - bias.shape[0]
    return (
        grad_y.new_empty((grad_y.shape[0], num_inputs) if need_x else 0),
        weight.new_empty(weight.shape[0] if need_weight else 0),
        weight.new_empty(bias.shape[0] if need_bias else 0),
        weight.new_empty(response.shape[0] if need_response else 0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, weight, bias, response, structure, num_nodes, _, _, backend = inputs
    _, values = output
    # Else backward is handed a tensor of zeros as large as V, for a gradient that nobody gives.
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(values)
    ctx.save_for_backward(values, weight, bias, response, structure)
    ctx.num_nodes, ctx.backend = num_nodes, backend


def _differentiate(ctx: Any, grad_y: Tensor | None, grad_values: Tensor | None) -> tuple[Any, ...]:
    values, weight, bias, response, structure = ctx.saved_tensors
    rest = (None,) * 5
    needs = ctx.needs_input_grad[:4]
    if grad_y is None or not any(needs):
        return None, None, None, None, *rest
    _refuse_transforms(grad_y)
    needs = [*needs[:3], needs[3] and response.shape[0] > 0]
    gradients = _backward(grad_y, values, weight, bias, response, structure, ctx.num_nodes, *needs, ctx.backend)
    return *(gradient if need else None for gradient, need in zip(gradients, needs, strict=True)), *rest


def _refuse(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    raise RuntimeError(
        "a sparse network's kernels are differentiable once; for a second derivative, such as a gradient penalty, "
        'evaluate it with backend="reference" or "dense"'
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)
for _device in ("cpu", "cuda"):
    _forward.register_autocast(_device, torch.float32)


def _refuse_transforms(*tensors: Tensor | None) -> None:
    """Neither torch.func nor forward mode knows the operator; the latter would take its derivative to be 0."""
    if torch.compiler.is_compiling():
        return
    given = [tensor for tensor in tensors if tensor is not None]
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, given)) or (
        forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in given)
    ):
        raise RuntimeError(
            "torch.func and forward-mode derivatives need backend='dense' or 'reference'; this one's kernels are "
            "differentiable backward alone"
        )


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor, response: Tensor | None, topology: "Topology") -> None:
    if x.dim() != 2 or x.shape[1] != topology.num_inputs:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {topology.num_inputs}): one column an input")
    computed = topology.num_nodes - topology.num_inputs
    for name, tensor, size in (
        ("weight", weight, topology.num_edges),
        ("bias", bias, computed),
        ("response", response, computed),
    ):
        if tensor is not None and tensor.shape != (size,):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected ({size},) by the topology")


def _check_types(x: Tensor, weight: Tensor, bias: Tensor, response: Tensor, structure: Tensor, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"no kernels for backend {backend!r}; there are {' and '.join(map(repr, BACKENDS))}")
    given = (x, weight, bias, response)
    kind, device = x.dtype, x.device
    # Written out: at a batch of one, generators would take a noticeable part of a call.
    if kind not in _TYPES or not (weight.dtype is bias.dtype is response.dtype is kind):
        names = ", ".join(f"{name} {tensor.dtype}" for name, tensor in zip(_NAMES, given, strict=True))
        raise ValueError(f"got {names}; expected float32 everywhere or float64 everywhere")
    if not (weight.device == bias.device == response.device == structure.device == device) or (
        backend == "cpu" and device.type != "cpu"
    ):
        names = ", ".join(f"{name} on {tensor.device}" for name, tensor in zip(_NAMES, given, strict=True))
        raise ValueError(
            f"backend {backend!r} got {names}, the topology on {structure.device}; expected all on one device, "
            f"{'the CPU' if backend == 'cpu' else 'a GPU'}"
        )


_TYPES = (torch.float32, torch.float64)
_NAMES = ("x", "weight", "bias", "response")
