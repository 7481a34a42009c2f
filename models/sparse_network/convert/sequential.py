"""From a pruned ``nn.Sequential``, or any traceable module of linear layers, to a sparse network."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from typing_extensions import override

from fulgurite.models.sparse_network.convert.traced_module import SUPPORTED, TracedModule
from fulgurite.models.sparse_network.network import SparseNetwork


def from_sequential(module: nn.Module, *, num_inputs: int | None = None, **options: Any) -> SparseNetwork:
    """Turn a pruned module into a sparse network that computes the same function.

    The module is traced by ``torch.fx``, so a plain or nested ``nn.Sequential`` works, and so does a module with a
    ``forward`` of its own: residual connections (``x + f(x)``), concatenations and products of features become edges.

    - An edge is made for every weight that is not 0; where a mask of ``torch.nn.utils.prune`` is there, for every
      weight that it keeps, its present value being ``weight_orig * weight_mask``.
    - A unit without edges left stays, with the value φ(bias); one that nothing reads stays too, so that edges can grow
      back to it.
    - ``Linear`` layers without an activation between them are units of activation ``identity``. ``Identity``,
      ``Dropout``, scaling by a number and ``BatchNorm1d`` make no units: they are folded into edges.
    - A skip connection is an ordinary edge of weight 1, trained like the others. One in parallel to an edge of a
      linear layer is added to it.
    - What the module computes in evaluation mode is converted: dropout does nothing, batch normalisation takes its
      running statistics. In training mode a warning says so.
    - A layer that is called twice becomes two sets of edges, which train apart.

    Args:
        module: the module; it is left as it is, and shares no tensor with the network.
        num_inputs: features of the input, where no linear layer at the beginning tells them.
        options: passed on to :class:`~fulgurite.models.sparse_network.SparseNetwork` (``backend``, ``dtype``, …); the
            dtype and the device are the module's by default (float32 for half precision).

    Returns:
        a network of (…, num_inputs) → (…, outputs). Where a ``Flatten`` comes first, flatten the input yourself.

    Raises:
        ValueError: something else than a module; an operation that has no place in a network of nodes and edges, which
            is named; several inputs or outputs; control flow that depends on the data; an unknown number of input
            features.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from torch.nn.utils import prune
        >>> model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)).eval()
        >>> for layer in (model[0], model[2]):
        ...     _ = prune.l1_unstructured(layer, "weight", amount=0.9)
        >>> net = from_sequential(model)
        >>> net.num_edges
        75
        >>> x = torch.randn(8, 20)
        >>> torch.allclose(net(x), model(x), atol=1e-6)
        True
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"got {module!r} to convert, a {type(module).__name__}; pass an nn.Module, of a list of layers "
            "nn.Sequential(*layers)"
        )
    tensors = [*module.parameters(), *module.buffers()]
    example = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    dtype = example.dtype if example.dtype in (torch.float32, torch.float64) else torch.float32
    with torch.no_grad():
        wired = _traced(module, dtype).read(num_inputs)
    net = SparseNetwork(
        wired.edges,
        num_inputs=wired.num_inputs,
        outputs=wired.outputs,
        num_nodes=wired.num_nodes,
        activation=wired.activations,
        aggregation=wired.aggregations,
        weight=wired.weight,
        bias=False if wired.bias is None else wired.bias,
        **{"dtype": dtype, **options},
    )
    return net.to(example.device)


class _Proxy(fx.Proxy):
    """A stand-in that records ``h += x`` as it is; fx's own records ``h = h + x``, and forgets other names of h."""


def _recorded(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _function in (operator.iadd, operator.isub, operator.imul, operator.itruediv):
    setattr(_Proxy, f"__{_function.__name__}__", _recorded(_function))


class _Tracer(fx.Tracer):
    @override
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _traced(module: nn.Module, dtype: torch.dtype) -> TracedModule:
    tracer = _Tracer()
    # A layer on its own would be traced into, past its pruning mask.
    root = nn.Sequential(module) if tracer.is_leaf_module(module, "") else module
    # Tracing calls the module, which may set attributes: pruned ones renew their weight, and would keep a stand-in.
    attributes = [(part, dict(part.__dict__)) for part in root.modules()]
    try:
        return TracedModule(tracer.trace(root), root, dtype=dtype)
    except Exception as error:  # whatever the user's forward raises when it is given a stand-in
        raise ValueError(
            f"{type(module).__name__} cannot be traced by torch.fx ({error}); its forward may use its input in the "
            f"operations that are supported only, not in conditions or loops: {SUPPORTED}"
        ) from error
    finally:
        for part, before in attributes:
            part.__dict__.clear()
            part.__dict__.update(before)
