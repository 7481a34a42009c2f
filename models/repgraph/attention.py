"""Attention of every pixel over a few sampled nodes: the one function behind all of the layer's backends."""

from typing import Literal

import torch
from torch import Tensor

from fulgurite.models.repgraph.bag import attend_by_bag
from fulgurite.models.repgraph.grid_sample import attend_by_grid_sample
from fulgurite.models.repgraph.positions import clamp_to_map

Backend = Literal["auto", "bag", "triton", "grid_sample"]
BACKENDS: tuple[Backend, ...] = ("auto", "bag", "triton", "grid_sample")


def attend_to_nodes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    *,
    global_key: Tensor | None = None,
    global_value: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Let every query attend to S features sampled at real-valued positions.

    .. math:: y_i = \sum_s a_{is} v(p_{is}), \qquad a_i = \mathrm{softmax}_s(\langle q_i, k(p_{is})\rangle/\sqrt{D}),

    where :math:`k(p)` is bilinear interpolation, as ``grid_sample(align_corners=False, padding_mode="border")`` does
    it. Global nodes join each query's softmax.

    Args:
        query: (B, N, G, D), a row for each of N queries and G groups.
        key: (B, H · W, G, D).
        value: likewise; the same tensor as ``key`` where they are tied, which is then sampled once.
        positions: (B, N, G, S, 2) positions (y, x) in pixels, float32 or float64. Outside the map they read its
            border, and get no gradient. A NaN gives its query NaN.
        size: (H, W).
        global_key: (B, R, G, D) nodes that every query sees.
        global_value: likewise.
        backend: ``bag``, ``triton`` or ``grid_sample``; ``auto`` chooses: see :func:`choose_backend`.

    Returns:
        (B, N, G, D), of the query's type. ``bag`` can be differentiated any number of times, the others once.

    Raises:
        ValueError: shapes that do not go together; a backend that cannot do what is asked.

    Example:
        >>> import torch
        >>> rows = torch.rand(1, 6, 1, 4)
        >>> here = torch.tensor([[y, x] for y in (0.0, 1.0) for x in (0.0, 1.0, 2.0)]).view(1, 6, 1, 1, 2)
        >>> torch.allclose(attend_to_nodes(rows, rows, rows, here, (2, 3)), rows)
        True
    """
    _check(query, key, value, positions, size, global_key, global_value)
    positions = clamp_to_map(positions, size)
    chosen = choose_backend(backend, query, key, value, positions, size, global_key, global_value)
    if chosen == "triton":
        from fulgurite.models.repgraph.gpu import attend_by_triton

        return attend_by_triton(query, key, value, positions, size, global_key, global_value)
    attend = attend_by_grid_sample if chosen == "grid_sample" else attend_by_bag
    return attend(query, key, value, positions, size, global_key, global_value)


def choose_backend(
    backend: Backend,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    positions: Tensor | None = None,
    size: tuple[int, int] | None = None,
    global_key: Tensor | None = None,
    global_value: Tensor | None = None,
) -> Backend:
    """Say which path takes these tensors: the one asked for, or for ``auto`` the fastest that can.

    ``auto`` is the fused kernel on CUDA where Triton is installed and takes the type and width, ``embedding_bag``
    elsewhere on CUDA and on the CPU, and ``grid_sample`` on other devices and wherever a graph is exported.

    Args:
        backend: what was asked for.
        query: as in :func:`attend_to_nodes`, and so all others; what is not given is not looked at.
        key: rows to compare with.
        value: rows to sum.
        positions: where to sample.
        size: of the map.
        global_key: global nodes.
        global_value: global nodes.

    Raises:
        ValueError: ``grid_sample`` on CUDA where deterministic algorithms are asked for: its backward pass has none.

    Example:
        >>> import torch
        >>> choose_backend("auto", torch.zeros(1, 4, 1, 8))
        'bag'
    """
    if backend == "grid_sample" and query.is_cuda and torch.are_deterministic_algorithms_enabled():
        raise ValueError(
            "got backend='grid_sample' on CUDA with deterministic algorithms, which its backward pass has none of; "
            "use backend='auto' or 'bag', or Trainer(deterministic=False)"
        )
    if backend != "auto":
        return backend
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return "grid_sample"
    if query.is_cuda:
        from fulgurite.models.repgraph.gpu import supported

        fused = supported(query, key, value, positions, size, global_key, global_value) is None
        return "triton" if fused else "bag"
    return "bag" if query.device.type in ("cpu", "meta") else "grid_sample"


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    global_key: Tensor | None,
    global_value: Tensor | None,
) -> None:
    if query.ndim != 4 or key.ndim != 4 or positions.ndim != 5:
        raise ValueError(
            f"got query {tuple(query.shape)}, key {tuple(key.shape)}, positions {tuple(positions.shape)}; "
            "want (B, N, G, D), (B, H · W, G, D), (B, N, G, S, 2)"
        )
    batch, pixels, groups, depth = key.shape
    if size[0] < 1 or size[1] < 1 or pixels != size[0] * size[1]:
        raise ValueError(f"got {pixels} rows of keys for a map of {size[0]} × {size[1]}; want a row for each pixel")
    if value.shape != key.shape:
        raise ValueError(f"got value {tuple(value.shape)} and key {tuple(key.shape)}; want the same shape")
    if (query.shape[0], *query.shape[2:]) != (batch, groups, depth):
        raise ValueError(
            f"got query {tuple(query.shape)} and key {tuple(key.shape)}; want the same batch, groups, depth"
        )
    if positions.shape[:3] != query.shape[:3] or positions.shape[3] < 1 or positions.shape[4] != 2:
        raise ValueError(
            f"got positions {tuple(positions.shape)}; want {(*query.shape[:3], 'S', 2)} for query {tuple(query.shape)}"
        )
    if positions.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"got positions of {positions.dtype}; want float32 or float64: halves have no far integers")
    if (global_key is None) != (global_value is None):
        raise ValueError("got one of global_key and global_value; want both or neither")
    if global_key is None or global_value is None:
        return
    fits = global_key.ndim == 4 and (global_key.shape[0], *global_key.shape[2:]) == (batch, groups, depth)
    if not fits or global_key.shape != global_value.shape:
        raise ValueError(
            f"got global_key {tuple(global_key.shape)} and global_value {tuple(global_value.shape)}; "
            f"want {(batch, 'R', groups, depth)}"
        )
