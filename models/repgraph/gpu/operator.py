"""The fused attention as an operator of torch: ``fulgurite::repgraph_attention`` and its backward companion."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_TYPES = (torch.float32, torch.float16, torch.bfloat16)
# A row a warp in registers; beyond it, spilling would undo what fusing gains.
_WIDEST = 1024
_OLDEST = (7, 0)


def attend_by_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    global_key: Tensor | None = None,
    global_value: Tensor | None = None,
    *,
    deterministic: bool | None = None,
) -> Tensor:
    """Do :func:`~fulgurite.models.repgraph.attention.attend_to_nodes` in one kernel that keeps no samples.

    The forward pass gathers, compares and sums node by node with a running softmax, and keeps its inputs, its output
    and one number a query; the backward pass samples again. Sums are float32 throughout. Tables' gradients are added by
    atomics, whose order changes from run to run, or in order: with ``deterministic``, and wherever
    ``torch.use_deterministic_algorithms`` is on. Differentiable once.

    Args:
        query: (B, N, G, D) of float32, float16 or bfloat16, D up to 1024, as all rows.
        key: (B, H · W, G, D).
        value: likewise; the same tensor as ``key`` where they are tied, which is then read once.
        positions: (B, N, G, S, 2), float32. float64 is rounded to it. Outside the map they read its border.
        size: (H, W).
        global_key: (B, R, G, D), or None.
        global_value: likewise; may be the same tensor.
        deterministic: None or False: as torch's switch says.

    Returns:
        (B, N, G, D), of the query's type.

    Raises:
        ValueError: the kernel cannot take these tensors; :func:`supported` says why.
    """
    reason = supported(query, key, value, positions, size, global_key, global_value)
    if reason is not None:
        raise ValueError(f"the fused attention was asked for, but {reason}; use backend='bag' or 'auto'")
    _check_shapes(query, key, value, positions, size, global_key, global_value)
    keys = key.contiguous()
    far_keys = None if global_key is None or not global_key.shape[1] else global_key.contiguous()
    out, _ = _attention(
        keys if query is key else query.contiguous(),
        keys,
        None if value is key else value.contiguous(),
        positions.float().contiguous(),
        size[0],
        size[1],
        far_keys,
        None if far_keys is None or global_value is None or global_value is global_key else global_value.contiguous(),
        bool(deterministic),
    )
    return out


def supported(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    positions: Tensor | None = None,
    size: tuple[int, int] | None = None,
    global_key: Tensor | None = None,
    global_value: Tensor | None = None,
) -> str | None:
    """Say why the kernel cannot take these tensors, or None where it can.

    Args:
        query: as in :func:`attend_by_triton`, and so all others; what is not given is not looked at.
        key: rows to compare with.
        value: rows to sum.
        positions: where to sample.
        size: of the map.
        global_key: global nodes.
        global_value: global nodes.

    Example:
        >>> supported(torch.zeros(1, 4, 1, 8, dtype=torch.float64))
        'rows are float64, and it computes in float32'
    """
    if query.dtype == torch.float64:
        return "rows are float64, and it computes in float32"
    if query.dtype not in _TYPES:
        return f"rows are {_name(query.dtype)}, and it takes float32, float16 or bfloat16"
    if not 1 <= query.shape[-1] <= _WIDEST:
        return f"rows have {query.shape[-1]} channels, and it takes 1 to {_WIDEST}"
    for name, rows in (("key", key), ("value", value), ("global_key", global_key), ("global_value", global_value)):
        if rows is not None and rows.dtype != query.dtype:
            return f"query is {_name(query.dtype)} and {name} {_name(rows.dtype)}, and it takes rows of one type"
        if rows is not None and rows.device != query.device:
            return f"query is on {query.device} and {name} on {rows.device}"
    if positions is not None and positions.device != query.device:
        return f"query is on {query.device} and positions on {positions.device}"
    return _reason(str(query.device))


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def _reason(device: str) -> str | None:
    """Why no kernel runs on a device."""
    try:
        launch = _kernels()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "triton":
            raise
        return "the package triton is not installed (pip install triton; it comes with torch's CUDA builds)"
    if launch.INTERPRETED:
        return None
    if not device.startswith("cuda"):
        return f"tensors are on {device}, and it needs a CUDA device (or TRITON_INTERPRET=1 from the start, for tests)"
    if torch.version.hip is None and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < _OLDEST:
        return f"{torch.cuda.get_device_name(device)} is older than Triton's oldest, compute capability 7.0"
    return None


def _kernels() -> ModuleType:
    from fulgurite.models.repgraph.gpu import launch

    return launch


def _check_shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    global_key: Tensor | None,
    global_value: Tensor | None,
) -> None:
    batch, queries, groups, depth = query.shape
    height, width = size
    table = (batch, height * width, groups, depth)
    for name, rows in (("key", key), ("value", value)):
        if rows.shape != table:
            raise ValueError(f"got {name} of shape {tuple(rows.shape)}; want {table} for a map of {height} × {width}")
    if positions.shape != (batch, queries, groups, positions.shape[3], 2):
        raise ValueError(f"got positions of shape {tuple(positions.shape)}; want {(batch, queries, groups, 'S', 2)}")
    if (global_key is None) != (global_value is None):
        raise ValueError("got one of global_key and global_value; want both or neither")
    if global_key is not None and global_value is not None:
        far = (batch, global_key.shape[1], groups, depth)
        if global_key.shape != far or global_value.shape != far:
            shapes = tuple(global_key.shape), tuple(global_value.shape)
            raise ValueError(f"got global nodes of shapes {shapes[0]} and {shapes[1]}; want {far} both")
    if not positions.shape[3] + (0 if global_key is None else global_key.shape[1]):
        raise ValueError("got neither sampled nor global nodes; want at least one")


@torch.library.custom_op("fulgurite::repgraph_attention", mutates_args=())
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    positions: Tensor,
    height: int,
    width: int,
    global_key: Tensor | None,
    global_value: Tensor | None,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """``(y, lse)``: (B, N, G, D) of the query's type, and (B, N, G) float32, log Σ e^t of the softmax.

    In this order: ``query`` (B, N, G, D), ``key`` (B, H·W, G, D), ``value`` likewise or None for the keys,
    ``positions`` (B, N, G, S, 2), ``height``, ``width``, ``global_key`` (B, R, G, D) or None, ``global_value`` likewise
    or None for the global keys, ``deterministic``.
    """
    return _kernels().forward(_given(query, key, value, positions, height, width, global_key, global_value))


@torch.library.custom_op("fulgurite::repgraph_attention_backward", mutates_args=())
def _attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    positions: Tensor,
    height: int,
    width: int,
    global_key: Tensor | None,
    global_value: Tensor | None,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by query, key, value, positions, global key and global value; (0,) for inputs that are None.

    In this order: the gradients of the two results, the results, and the arguments of ``repgraph_attention``.
    """
    return _kernels().backward(
        _given(query, key, value, positions, height, width, global_key, global_value),
        out.contiguous(),
        lse.contiguous(),
        grad_out.contiguous(),
        grad_lse.contiguous(),
        deterministic=deterministic or torch.are_deterministic_algorithms_enabled(),
    )


def _given(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    positions: Tensor,
    height: int,
    width: int,
    global_key: Tensor | None,
    global_value: Tensor | None,
) -> Any:
    rows = [None if table is None else table.contiguous() for table in (query, key, value, global_key, global_value)]
    return _kernels().Given(*rows[:3], positions.contiguous(), (height, width), *rows[3:])


@_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    positions: Tensor,
    height: int,
    width: int,
    global_key: Tensor | None,
    global_value: Tensor | None,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=torch.float32)


@_attention_backward.register_fake
def _(
    grad_out: Tensor,
    grad_lse: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    positions: Tensor,
    height: int,
    width: int,
    global_key: Tensor | None,
    global_value: Tensor | None,
    deterministic: bool,
) -> tuple[Tensor, ...]:
    inputs = (query, key, value, positions, global_key, global_value)
    return tuple(query.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, positions, height, width, global_key, global_value, deterministic = inputs
    ctx.save_for_backward(*output, query, key, value, positions, global_key, global_value)
    ctx.options = (height, width, deterministic)


def _differentiate(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    out, lse, query, key, value, positions, global_key, global_value = ctx.saved_tensors
    height, width, deterministic = ctx.options
    grads = torch.ops.fulgurite.repgraph_attention_backward(
        grad_out, grad_lse, out, lse, query, key, value, positions, height, width, global_key, global_value,
        deterministic,
    )  # fmt: skip
    inputs = (query, key, value, positions, global_key, global_value)
    first, second, third, places, far_key, far_value = (
        None if x is None else grad for x, grad in zip(inputs, grads, strict=True)
    )
    return first, second, third, places, None, None, far_key, far_value, None


_attention.register_autograd(_differentiate, setup_context=_setup_context)
