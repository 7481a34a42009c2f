"""Starting the kernels: block shapes, buffers and grids."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from fulgurite.models.repgraph.gpu.backward import differentiate, differentiate_far
from fulgurite.models.repgraph.gpu.forward import attend
from fulgurite.models.repgraph.gpu.segments import sum_rows, sum_spans, tap_rows

INTERPRETED = not isinstance(attend, triton.runtime.JITFunction)
_WARPS = 4
# One stage: a gather has nothing to run ahead of. Products and sums are fused, which Triton 3.9 warns of unless asked.
_COMPILE = {"num_warps": _WARPS, "num_stages": 1, "enable_fp_fusion": True}
# Numbers of a block. For sm_90 at 256 channels, tied, the compiler then takes 95 registers forward and 123 backward in
# bfloat16, 128 and 128 in float32, and spills none; twice as many are 168 and 252.
_FORWARD_ELEMENTS = 2048
_BACKWARD_ELEMENTS = 1024
_SUM_ELEMENTS = 2048
_MOST_ROWS = 128
# About what fills a large device once: with fewer programs than this, smaller ones are better.
_PROGRAMS = 1024
_TAPS_A_SPAN = 128
_QUERIES_A_SPAN = 256


class Given(NamedTuple):
    """The operator's inputs, contiguous.

    Args:
        query: (B, N, G, D).
        key: (B, P, G, D).
        value: likewise; None: the keys are the values.
        positions: (B, N, G, S, 2), float32.
        size: (H, W) with H · W = P.
        far_key: (B, R, G, D); None: no global nodes.
        far_value: likewise; None: the global keys are their values.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None
    positions: Tensor
    size: tuple[int, int]
    far_key: Tensor | None
    far_value: Tensor | None

    @property
    def num_rows(self) -> int:
        """B · N · G."""
        return self.query.numel() // self.depth

    @property
    def depth(self) -> int:
        """D."""
        return self.query.shape[-1]

    @property
    def nodes(self) -> int:
        """S."""
        return self.positions.shape[3]

    @property
    def scale(self) -> float:
        """1 / √D."""
        return float(self.depth**-0.5)

    def map(self) -> tuple[int, ...]:
        """What tells a kernel where a query's pixels are: B·N·G, N·G, P, G, H, W."""
        _, queries, groups, _ = self.query.shape
        return self.num_rows, queries * groups, self.key.shape[1], groups, *self.size

    def tables(self) -> tuple[Tensor, ...]:
        """Keys, values, positions, global keys and values; of what is not there, something for a pointer to be."""
        far_key = self.query if self.far_key is None else self.far_key
        return (
            self.key,
            self.key if self.value is None else self.value,
            self.positions,
            far_key,
            far_key if self.far_value is None else self.far_value,
        )

    def kind(self) -> dict[str, int | bool]:
        """Compile-time arguments of the kernels over queries."""
        return {
            "NODES": self.nodes,
            "FAR": 0 if self.far_key is None else self.far_key.shape[1],
            "TIED": self.value is None,
            "FAR_TIED": self.far_value is None,
            "DEPTH": self.depth,
            "PADDED": triton.next_power_of_2(self.depth),
        }


def rows_of_program(num_rows: int, padded: int, elements: int) -> int:
    """How many rows a program of four warps takes.

    Up to ``elements`` numbers at a time: with 2048 a thread holds 16 of each vector, which leaves registers for four
    programs a multiprocessor or more. Fewer rows where programs are few, down to a row a warp. It depends on the sizes
    alone and is not tuned by timing, so that results repeat bit by bit.

    Args:
        num_rows: in all.
        padded: D, rounded up to a power of two.
        elements: the bound.

    Example:
        >>> rows_of_program(97 * 97, 256, 2048), rows_of_program(64 * 64, 256, 2048), rows_of_program(10**6, 8, 2048)
        (8, 4, 128)
    """
    rows = min(max(elements // padded, 1), _MOST_ROWS)
    if INTERPRETED:
        return _MOST_ROWS
    while rows > _WARPS and triton.cdiv(num_rows, rows) < _PROGRAMS:
        rows //= 2
    return rows


def forward(given: Given) -> tuple[Tensor, Tensor]:
    """Give y (B, N, G, D) and the logarithm of the softmax's denominator (B, N, G), float32."""
    out = given.query.new_empty(given.query.shape)
    lse = given.query.new_empty(given.query.shape[:3], dtype=torch.float32)
    kind = given.kind()
    rows = rows_of_program(given.num_rows, int(kind["PADDED"]), _FORWARD_ELEMENTS)
    if given.num_rows:
        with _device(out):
            attend[(triton.cdiv(given.num_rows, rows),)](
                out, lse, given.query, *given.tables(), *given.map(), given.scale, **kind, ROWS=rows, **_COMPILE
            )
    return out, lse


def backward(
    given: Given, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor, *, deterministic: bool
) -> tuple[Tensor, ...]:
    """Give the gradients by query, key, value, positions, global key and value; (0,) for inputs that are None."""
    query, kind = given.query, given.kind()
    grad_query, grad_positions = query.new_empty(query.shape), torch.empty_like(given.positions)
    if not given.num_rows:
        rest = [query.new_zeros(0 if table is None else table.shape) for table in (given.value, *given[-2:])]
        return grad_query, torch.zeros_like(given.key), rest[0], grad_positions, rest[1], rest[2]
    # Operators of torch may not return a tensor twice, so nothing is always a new one.
    tables = [lse.new_zeros(0 if deterministic or table is None else table.shape) for table in (given.key, given.value)]
    shares, slopes = (lse.new_empty((given.num_rows, given.nodes) if deterministic else 0) for _ in range(2))
    delta = torch.empty_like(lse)
    rows = rows_of_program(given.num_rows, int(kind["PADDED"]), _BACKWARD_ELEMENTS)
    with _device(out):
        differentiate[(triton.cdiv(given.num_rows, rows),)](
            grad_query, *tables, grad_positions, shares, slopes, delta, grad_out, grad_lse, out, lse, query,
            *given.tables(), *given.map(), given.scale, **kind, ATOMIC=not deterministic, ROWS=rows, **_COMPILE,
        )  # fmt: skip
        if deterministic:
            tables = _sum_in_order(given, grad_out, shares, slopes)
        far = _differentiate_far(given, grad_out, delta, lse)
    grad_key, grad_value = (table.to(query.dtype) for table in tables)
    return grad_query, grad_key, grad_value, grad_positions, *far


def _sum_in_order(given: Given, grad_out: Tensor, shares: Tensor, slopes: Tensor) -> list[Tensor]:
    """Gradients of the tables, by sorted taps; see :mod:`fulgurite.models.repgraph.gpu.segments`."""
    places = given.num_rows * given.nodes
    targets = given.key.numel() // given.depth
    taps = places * 4
    kind = torch.int32 if targets < 2**31 - 1 else torch.int64
    rows = torch.empty(taps, dtype=kind, device=given.key.device)
    block = 128
    tap_rows[(triton.cdiv(places, block),)](
        rows, given.positions, *given.map(), targets, NODES=given.nodes, ROWS=block, **_COMPILE
    )
    rows, order = torch.sort(rows, stable=True)
    starts = torch.searchsorted(rows, torch.arange(targets + 1, dtype=kind, device=rows.device))
    tied, depth, padded = given.value is None, given.depth, int(given.kind()["PADDED"])
    spans = triton.cdiv(taps, _TAPS_A_SPAN)
    count = 1 if tied else 2
    sums = [given.key.new_empty((spans, depth), dtype=torch.float32) for _ in range(count)]
    grads = [torch.empty_like(given.key) for _ in range(count)]
    options = {
        "NODES": given.nodes,
        "TIED": tied,
        "DEPTH": depth,
        "PADDED": padded,
        "TAPS": min(max(_SUM_ELEMENTS // padded, 1), 32),
        "SPAN": _TAPS_A_SPAN,
        **_COMPILE,
    }
    what = (order, shares, slopes, grad_out, given.query, given.positions)
    sum_spans[(spans,)](sums[0], sums[-1], rows, *what, taps, targets, *given.size, **options)
    sum_rows[(targets,)](grads[0], grads[-1], sums[0], sums[-1], starts, *what, *given.size, **options)
    return grads if not tied else [grads[0], grads[0].new_empty(0)]


def _differentiate_far(given: Given, grad_out: Tensor, delta: Tensor, lse: Tensor) -> list[Tensor]:
    """Gradients of the global nodes, each a sum over all queries."""
    if given.far_key is None:
        return [lse.new_empty(0), lse.new_empty(0)]
    _, queries, groups, depth = given.query.shape
    kind = given.kind()
    spans = triton.cdiv(queries, _QUERIES_A_SPAN)
    nodes = given.far_key.numel() // depth
    count = 1 if given.far_value is None else 2
    parts = [lse.new_empty((spans, *given.far_key.shape)) for _ in range(count)]
    *_, far_key, far_value = given.tables()
    if nodes:
        rows = min(max(_SUM_ELEMENTS // int(kind["PADDED"]), 1), _MOST_ROWS)
        differentiate_far[(nodes, spans)](
            parts[0], parts[-1], grad_out, delta, lse, given.query, far_key, far_value,
            queries, groups, _QUERIES_A_SPAN, given.scale,
            FAR=kind["FAR"], TIED=given.far_value is None, DEPTH=depth, PADDED=kind["PADDED"], ROWS=rows, **_COMPILE,
        )  # fmt: skip
    grads = [part.sum(0).to(given.query.dtype) for part in parts]
    return grads if count == 2 else [grads[0], grads[0].new_empty(0)]


def _device(tensor: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
