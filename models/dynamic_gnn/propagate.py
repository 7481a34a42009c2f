r"""Neighbourhood sums :math:`\tilde A_t X_t` of all snapshots of a shard by one block-diagonal product."""

import functools
import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fulgurite.models.dynamic_gnn import cpu_product
from fulgurite.plugins.snapshot_parallel.graphs import SnapshotGraphs

Backend = Literal["auto", "csr", "edges"]
_CSR_TYPES = (torch.float32, torch.float64)


def propagate(graphs: SnapshotGraphs, x: Tensor, *, backend: Backend = "auto") -> Tensor:
    r"""Sum every vertex's neighbours within each snapshot.

    With :math:`d = D^{-1/2}` as a vector, the normalised adjacency with self-loops, after V. T. Chakaravarthy et al.,
    "Efficient Scaling of Dynamic Graph Neural Networks", `arXiv:2109.07893 <https://arxiv.org/abs/2109.07893>`__, is
    applied without ever being stored:

    .. math:: \tilde A X = D^{-1/2} (A + I) D^{-1/2} X = d \circ (A (d \circ X) + d \circ X).

    Differentiable in x any number of times; the backward pass multiplies by the transposed graphs.

    Args:
        graphs: t snapshots over N vertices.
        x: (t, N, F), on the graphs' device.
        backend: ``"csr"``: a kernel of our own on the CPU (bit-equal for any number of threads), torch's sparse matmul
            elsewhere; float32 and float64. ``"edges"``: gather and ``index_add``, which torch compiles and which takes
            bfloat16 and float16 (summed in float32); on CUDA its sums come in any order unless
            ``torch.use_deterministic_algorithms`` is on. ``"auto"``: csr for float32 and float64 on CPU and CUDA, edges
            otherwise.

    Returns:
        (t, N, F) as x.

    Raises:
        ValueError: an x that does not fit the graphs, or an unknown backend, or one that does not take x's type.

    Example:
        >>> graphs = SnapshotGraphs(
        ...     num_snapshots=1, num_nodes=2, crow=torch.tensor([0, 1, 2]), col=torch.tensor([1, 0]),
        ...     value=torch.tensor([1, 1]), symmetric=True,
        ...     inv_sqrt_degree=torch.full((2,), 2**-0.5, dtype=torch.float64))
        >>> propagate(graphs, torch.tensor([[[1.0], [3.0]]])).flatten().round(decimals=4).tolist()
        [2.0, 2.0]
    """
    if x.dim() != 3 or tuple(x.shape[:2]) != (graphs.num_snapshots, graphs.num_nodes):
        raise ValueError(
            f"got x of shape {tuple(x.shape)}; expected ({graphs.num_snapshots}, {graphs.num_nodes}, features) for "
            f"{graphs.num_snapshots} snapshots over {graphs.num_nodes} vertices"
        )
    if x.device != graphs.col.device:
        raise ValueError(f"got x on {x.device} and graphs on {graphs.col.device}; move one to the other")
    if resolve(backend, x) == "edges":
        return edge_product(edges_of(graphs), x)
    return csr_product(matrix_of(graphs, transpose=torch.is_grad_enabled() and x.requires_grad), x)


def resolve(backend: Backend, x: Tensor) -> Literal["csr", "edges"]:
    """The backend that x will get.

    Raises:
        ValueError: an unknown backend, one that does not take x's type, or an x that is not of floats.

    Example:
        >>> resolve("auto", torch.zeros(1)), resolve("auto", torch.zeros(1, dtype=torch.bfloat16))
        ('csr', 'edges')
    """
    if backend not in get_args(Backend):
        raise ValueError(f"got backend={backend!r}; choose from {', '.join(get_args(Backend))}")
    if not x.dtype.is_floating_point:
        raise ValueError(f"got x of {x.dtype}; expected floats; convert it with .float()")
    if backend == "auto":
        return "csr" if x.dtype in _CSR_TYPES and x.device.type in ("cpu", "cuda") else "edges"
    if backend == "csr" and x.dtype not in _CSR_TYPES:
        raise ValueError(f'got x of {x.dtype} for backend="csr"; it takes float32 and float64; use "edges" or "auto"')
    return backend


@dataclass(frozen=True, eq=False)
class Edges:
    """Graphs as a list of entries over all snapshots, the self-loops left out.

    Attributes:
        row: (nnz,) t·N + vertex, ascending.
        col: (nnz,) likewise, of the neighbour.
        value: (nnz,) as the graphs have it.
        scale: what values are multiplied by.
        inv_sqrt_degree: (t·N,) float64 or None.
    """

    row: Tensor
    col: Tensor
    value: Tensor
    scale: float
    inv_sqrt_degree: Tensor | None

    def snapshots(self, count: int, num_nodes: int) -> "list[Edges]":
        """The entries of each snapshot, see :meth:`Matrix.snapshots`."""
        starts = torch.arange(count + 1, device=self.row.device, dtype=self.row.dtype) * num_nodes
        ends = torch.searchsorted(self.row, starts).tolist()
        made = []
        for step, (first, last) in enumerate(itertools.pairwise(ends)):
            part, rows = slice(first, last), slice(step * num_nodes, (step + 1) * num_nodes)
            row, col = self.row[part] - step * num_nodes, self.col[part] - step * num_nodes
            degree = None if self.inv_sqrt_degree is None else self.inv_sqrt_degree[rows]
            made.append(Edges(row, col, self.value[part], self.scale, degree))
        return made


def edges_of(graphs: SnapshotGraphs) -> Edges:
    """The list of entries, kept as long as the graphs are; to be made before a compiled function that takes it."""

    def make() -> Edges:
        row, col, value = graphs.edge_list()
        if graphs.num_snapshots * graphs.num_nodes < 2**31:
            row, col = row.int(), col.int()
        return Edges(row, col, value, graphs.scale, graphs.inv_sqrt_degree)

    return graphs.kept("edges", make)


def edges_of_each(graphs: SnapshotGraphs) -> list[Edges]:
    """The list of entries of each snapshot, kept likewise: for recurrences that need the graph at every step."""
    make = functools.partial(Edges.snapshots, edges_of(graphs), graphs.num_snapshots, graphs.num_nodes)
    return graphs.kept("edges of each", make)


def edge_product(edges: Edges, x: Tensor) -> Tensor:
    """The same by gather and ``index_add`` in plain torch: compiles with ``fullgraph=True`` given edges as an argument.

    Args:
        edges: see :func:`edges_of`.
        x: (t, N, F), or (N, F) for the entries of one snapshot; half-precision types are summed in float32.

    Returns:
        (t, N, F) as x.

    Example:
        >>> edges = Edges(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]), 0.5, None)
        >>> edge_product(edges, torch.tensor([[[1.0], [3.0]]])).tolist()
        [[[3.0], [0.0]]]
    """
    real = x.dtype if x.dtype in _CSR_TYPES else torch.float32
    flat = x.flatten(0, -2)
    weight = edges.value.to(real) * edges.scale
    if edges.inv_sqrt_degree is None:
        messages = flat.index_select(0, edges.col).to(real) * weight[:, None]
        total = torch.zeros(flat.shape, dtype=real, device=x.device).index_add(0, edges.row, messages)
    else:
        d = edges.inv_sqrt_degree.to(real)[:, None]
        scaled = flat * d
        messages = scaled.index_select(0, edges.col) * weight[:, None]
        total = scaled.index_add(0, edges.row, messages) * d
    return total.to(x.dtype).view(x.shape)


@dataclass(frozen=True, eq=False)
class Matrix:
    """Graphs as the CSR operator takes them, with the transpose that its backward pass needs.

    Attributes:
        forward: row ends, columns, values.
        backward: those of the transpose; the same where symmetric, or where nobody will ask.
        inv_sqrt_degree: (t·N,) float64, or (0,) where values are normalised.
        scale: what values are multiplied by.
        num_nodes: N, or 0 where columns are counted over all snapshots.
    """

    forward: tuple[Tensor, Tensor, Tensor]
    backward: tuple[Tensor, Tensor, Tensor]
    inv_sqrt_degree: Tensor
    scale: float
    num_nodes: int

    def snapshots(self, count: int, num_nodes: int) -> "list[Matrix]":
        """One matrix a snapshot, for recurrences that need the graph at every step.

        Args:
            count: t.
            num_nodes: N.
        """
        forward = _per_snapshot(self.forward, count, num_nodes, self.num_nodes == 0)
        backward = forward
        if self.backward is not self.forward:
            backward = _per_snapshot(self.backward, count, num_nodes, self.num_nodes == 0)
        degrees = self.inv_sqrt_degree.split(num_nodes) if len(self.inv_sqrt_degree) else [self.inv_sqrt_degree] * count
        return [
            replace(self, forward=f, backward=b, inv_sqrt_degree=d)
            for f, b, d in zip(forward, backward, degrees, strict=True)
        ]


def matrix_of(graphs: SnapshotGraphs, *, transpose: bool) -> Matrix:
    """What :func:`csr_product` multiplies by; with ``transpose`` its backward pass may be asked for."""

    def make() -> Matrix:
        degree = graphs.inv_sqrt_degree
        if degree is None:
            degree = torch.empty(0, dtype=torch.float64, device=graphs.col.device)
        forward = _arrays(graphs)
        backward = _arrays(graphs.transposed()) if transpose and not graphs.symmetric else forward
        on_cpu = graphs.col.device.type == "cpu"
        return Matrix(forward, backward, degree, graphs.scale, graphs.num_nodes if on_cpu else 0)

    return graphs.kept(("matrix", transpose), make)


def matrix_of_each(graphs: SnapshotGraphs, *, transpose: bool) -> list[Matrix]:
    """One matrix a snapshot, kept likewise: for recurrences that need the graph at every step."""
    make = functools.partial(
        Matrix.snapshots, matrix_of(graphs, transpose=transpose), graphs.num_snapshots, graphs.num_nodes
    )
    return graphs.kept(("matrix of each", transpose), make)


def csr_product(matrix: Matrix, x: Tensor) -> Tensor:
    """(t, N, F) → (t, N, F) by the CSR operator; (N, F) → (N, F) for the matrix of one snapshot."""
    flat = x.flatten(0, -2)
    y = _product(flat, *matrix.forward, *matrix.backward, matrix.inv_sqrt_degree, matrix.scale, matrix.num_nodes)
    return y.view(x.shape)


def _arrays(graphs: SnapshotGraphs) -> tuple[Tensor, Tensor, Tensor]:
    if graphs.col.device.type == "cpu":
        return graphs.crow, graphs.col, graphs.value

    def make() -> Tensor:
        columns = graphs.edge_list()[1]
        small = graphs.num_snapshots * graphs.num_nodes < 2**31 and graphs.col.numel() < 2**31
        return columns.int() if small else columns

    # torch's sparse matrices know nothing of blocks, and want row ends and columns of one type.
    columns = graphs.kept("flat columns", make)
    return graphs.crow.to(columns.dtype), columns, graphs.value


def _per_snapshot(
    arrays: tuple[Tensor, Tensor, Tensor], count: int, num_nodes: int, flat: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    crow, col, value = arrays
    ends = crow[:: max(num_nodes, 1)].tolist()[: count + 1]
    made = []
    for step, (first, last) in enumerate(itertools.pairwise(ends)):
        rows = crow[step * num_nodes : (step + 1) * num_nodes + 1] - first
        columns = col[first:last] - step * num_nodes if flat else col[first:last]
        made.append((rows, columns, value[first:last]))
    return made


@torch.library.custom_op("fulgurite::snapshot_product", mutates_args=())
def _product(
    x: Tensor,
    crow: Tensor,
    col: Tensor,
    value: Tensor,
    back_crow: Tensor,
    back_col: Tensor,
    back_value: Tensor,
    inv_sqrt_degree: Tensor,
    scale: float,
    num_nodes: int,
) -> Tensor:
    """(R, F) → (R, F); ``back_…`` is the transpose, which only differentiation reads."""
    if x.device.type == "cpu":
        return cpu_product.product(x.contiguous(), crow, col, value, inv_sqrt_degree, scale, num_nodes)
    return _torch_product(x, crow, col, value, inv_sqrt_degree, scale)


def _torch_product(
    x: Tensor, crow: Tensor, col: Tensor, value: Tensor, inv_sqrt_degree: Tensor, scale: float
) -> Tensor:
    size = (len(x), len(x))
    matrix = torch.sparse_csr_tensor(crow, col, value.to(x.dtype) * scale, size=size, check_invariants=False)
    if not len(inv_sqrt_degree):
        return torch.mm(matrix, x)
    d = inv_sqrt_degree.to(x.dtype)[:, None]
    scaled = x * d
    return torch.addmm(scaled, matrix, scaled).mul_(d)


@_product.register_fake
def _(x: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *arrays, scale, num_nodes = inputs
    ctx.save_for_backward(*arrays)
    ctx.scale, ctx.num_nodes = scale, num_nodes


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *arrays, inv_sqrt_degree = ctx.saved_tensors
    turned = (*arrays[3:], *arrays[:3])
    return _product(grad, *turned, inv_sqrt_degree, ctx.scale, ctx.num_nodes), *(None,) * 9


_product.register_autograd(_differentiate, setup_context=_setup_context)
