"""The CPU backend: forward and backward of a whole network on tensors."""

import itertools
import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.sparse_network.cpu import threads
from fulgurite.models.sparse_network.cpu.backward import (
    edge_factors,
    gather,
    input_gradients,
    parameter_gradients,
    sweep_tile,
)
from fulgurite.models.sparse_network.cpu.forward import forward_one, forward_tile, load_inputs
from fulgurite.models.sparse_network.cpu.schedule import Schedule, schedule_of
from fulgurite.models.sparse_network.cpu.vectors import LANES

# What computing a node costs beside its edges, in edges.
_NODE_COST = 8
# A weight's gradient sums so many samples in registers before it is added up.
_SAMPLES_TOGETHER = 128
# Scratch up to this size is kept for the next call.
_KEPT_BYTES = 32 * 2**20

_scratch = threading.local()


def tile_shape(batch: int) -> tuple[int, int]:
    """Number and width T of the tiles that a batch is cut into; V is kept as (tiles, N, T).

    They follow from the batch alone, never from the number of threads, so that any number of threads gives the same
    sums. A wide tile saves work a node and an edge; one of 64 keeps two layers of 1024 nodes in half a megabyte, and
    gives threads something to share from 128 samples on. Wider ones were no faster.

    Example:
        >>> tile_shape(1), tile_shape(128), tile_shape(4000)
        ((1, 16), (2, 64), (63, 64))
    """
    width = 16 if batch <= 16 else 32 if batch <= 32 else 64
    return (batch + width - 1) // width, width


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, response: Tensor, structure: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """Evaluate a network.

    Args:
        x: (B, F).
        weight: (E,) in edge order.
        bias: (n,) in the topology's order.
        response: (n,), or (0,) for all 1.
        structure: ``packed`` of :class:`~fulgurite.models.sparse_network.structure.Topology`.
        keep: whether a backward pass follows. If not, a node's row is used again after its last reader.

    Returns:
        y (B, O), and V (tiles, N, T), a row a node, 0 where there is no sample; or (0,) without ``keep``.
    """
    schedule = schedule_of(structure)
    batch = len(x)
    xs, weights, biases, responses = _arrays(x, weight, bias, response)
    knobs = schedule.knobs[xs.dtype]
    y = x.new_empty(batch, schedule.num_outputs)
    ys = y.numpy()
    work = _work(schedule) * batch

    if batch == 1 and not keep:

        def one(low: int, high: int) -> None:
            values = np.empty(schedule.num_nodes, xs.dtype)
            forward_one(
                xs[0], schedule.spans, low, high, schedule.bounds, schedule.steps, schedule.rows,
                schedule.out_bounds, schedule.out_columns, schedule.out_rows, *_scratch_rows(schedule, 1, xs.dtype),
                weights, biases, responses, knobs, values, ys[0],
            )  # fmt: skip

        threads.for_each(one, _chunks(schedule, 1), work=work)
        return y, x.new_empty(0)

    tiles, width = tile_shape(batch)
    rows = schedule.rows if keep else schedule.slot_rows
    out_rows = schedule.out_rows if keep else schedule.out_slots

    def compute(tile: int, low: int, high: int, table: NDArray[np.floating]) -> None:
        begin, count, columns = _extent(tile, width, batch)
        forward_tile(
            begin, count, columns, low, high, schedule.num_inputs, keep, schedule.bounds, schedule.steps, rows,
            schedule.out_bounds, schedule.out_columns, out_rows, *_scratch_rows(schedule, width, xs.dtype),
            weights, biases, responses, knobs, table, ys,
        )  # fmt: skip

    if not keep:

        def infer(tile: int, low: int, high: int) -> None:
            begin, count, _ = _extent(tile, width, batch)
            table = _table(schedule.num_slots, width, x)
            load_inputs(xs, begin, count, schedule.slots, schedule.spans, low, high, table)
            compute(tile, low, high, table)

        threads.for_each(infer, _tasks(schedule, tiles), work=work)
        return y, x.new_empty(0)

    values = x.new_empty(tiles, schedule.num_nodes, width)
    kept = values.numpy()
    numbers = np.arange(schedule.num_inputs, dtype=np.int32)

    def load(tile: int) -> None:
        begin, count, _ = _extent(tile, width, batch)
        load_inputs(xs, begin, count, numbers, schedule.spans, -1, schedule.num_groups, kept[tile])

    def train(tile: int, low: int, high: int) -> None:
        compute(tile, low, high, kept[tile])

    threads.for_each(load, [(tile,) for tile in range(tiles)], work=schedule.num_inputs * batch)
    threads.for_each(train, _tasks(schedule, tiles), work=work)
    return y, values


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of what :func:`forward` computed.

    Args:
        grad_y: (B, O).
        values: V of ``forward(…, keep=True)``.
        weight: as there, like the next three.
        bias: likewise.
        response: likewise.
        structure: likewise.
        need_x: whether to compute ∂L/∂x, and so on.
        need_weight: likewise.
        need_bias: likewise.
        need_response: likewise; False where ``response`` is empty.

    Returns:
        ∂L/∂x (B, F), ∂L/∂w (E,), ∂L/∂b (n,), ∂L/∂r (n,); (0,) for those that are not needed.
    """
    schedule = schedule_of(structure)
    batch, width = len(grad_y), values.shape[2]
    tiles = len(values)
    grads, kept, weights, biases, responses = _arrays(grad_y, values, weight, bias, response)
    knobs = schedule.knobs[kept.dtype]
    deltas = torch.empty_like(values).numpy()
    work = _work(schedule) * batch

    factors = weights
    if len(responses) or schedule.means:
        factors = np.empty_like(weights)
        edge_factors(schedule.steps, weights, responses, factors)
    pulled = np.empty(len(schedule.pull_edges), weights.dtype)
    cuts = _cuts(np.arange(len(pulled) + 1), len(pulled))
    threads.for_each(
        lambda start, stop: gather(factors, schedule.pull_edges, start, stop, pulled), cuts, work=len(pulled)
    )
    pull = (schedule.pull_bounds, schedule.pull_rows, pulled)

    def scratch() -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        return _scratch_rows(schedule, width, kept.dtype)

    def sweep(tile: int, low: int, high: int) -> None:
        begin, count, columns = _extent(tile, width, batch)
        sweep_tile(
            begin, count, columns, low, high, schedule.num_inputs, schedule.bounds, schedule.steps, schedule.rows,
            schedule.out_bounds, schedule.out_columns, schedule.out_rows, *scratch(), *pull,
            weights, biases, responses, knobs, grads, kept[tile], deltas[tile],
        )  # fmt: skip

    threads.for_each(sweep, _tasks(schedule, tiles), work=work)

    of_edges = need_weight or need_response
    dweight = _zeros(weight, schedule.num_edges if of_edges else 0)
    dbias = _zeros(weight, len(bias) if need_bias else 0)
    dresponse = _zeros(weight, len(response) if need_response else 0)
    if of_edges or need_bias:
        outs = (dweight.numpy(), dbias.numpy(), dresponse.numpy())
        span = max(1, _SAMPLES_TOGETHER // width)

        def parameters(start: int, stop: int) -> None:
            parameter_gradients(
                start, stop, span, schedule.num_inputs, of_edges, need_bias, schedule.steps, schedule.rows, *scratch(),
                weights, responses, kept, deltas, *outs,
            )  # fmt: skip

        cost = schedule.work + _NODE_COST * np.arange(len(schedule.work))
        threads.for_each(parameters, _cuts(cost, len(schedule.steps)), work=work)

    dx = grad_y.new_empty((batch, schedule.num_inputs) if need_x else 0)
    if need_x:
        dxs = dx.numpy()

        def inputs(tile: int, start: int, stop: int) -> None:
            begin, count, columns = _extent(tile, width, batch)
            input_gradients(
                begin, count, columns, start, stop, schedule.nonlinear, schedule.steps, schedule.rows,
                schedule.out_columns, schedule.out_rows, schedule.input_outputs, *scratch(), *pull,
                weights, responses, grads, kept[tile], deltas[tile], dxs,
            )  # fmt: skip

        reading = int(schedule.pull_bounds[schedule.num_inputs])
        cost = schedule.pull_bounds[: schedule.num_inputs + 1] + np.arange(schedule.num_inputs + 1)
        ranges = _cuts(cost, schedule.num_inputs, among=tiles)
        threads.for_each(
            inputs, [(tile, *cut) for tile in range(tiles) for cut in ranges], work=(reading + len(cost)) * batch
        )
    return dx, dweight if need_weight else weight.new_empty(0), dbias, dresponse


def _arrays(*tensors: Tensor) -> list[NDArray[np.floating]]:
    """The tensors' memory, or a copy of it in usual order."""
    return [np.ascontiguousarray(tensor.numpy(force=True)) for tensor in tensors]


def _zeros(like: Tensor, size: int) -> Tensor:
    """As new_zeros, but filled by NumPy: torch fills, and copies, on OpenMP's threads, which a forked child waits for.

    They are torch's memory all the same, which begins at a cache line and can be resized.
    """
    zeros = like.new_empty(size)
    zeros.numpy().fill(0)
    return zeros


def _table(rows: int, width: int, like: Tensor) -> NDArray[np.floating]:
    """Scratch of the calling thread's own, (rows, width); torch's memory begins at a cache line."""
    size = rows * width
    store: Tensor | None = getattr(_scratch, "store", None)
    if store is None or store.dtype != like.dtype or len(store) < size:
        store = torch.empty(size, dtype=like.dtype)
        if size * store.itemsize <= _KEPT_BYTES:
            _scratch.store = store
    return store[:size].view(rows, width).numpy()


def _scratch_rows(schedule: Schedule, width: int, dtype: np.dtype) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """What kernels note down while they compute a node."""
    return np.empty((4, max(width, schedule.longest)), dtype), np.empty(schedule.longest, np.int64)


def _extent(tile: int, width: int, batch: int) -> tuple[int, int, int]:
    """First sample of a tile, its samples, and how many columns are computed."""
    begin = tile * width
    count = min(width, batch - begin)
    return begin, count, -(-count // LANES) * LANES


def _work(schedule: Schedule) -> int:
    return schedule.num_edges + _NODE_COST * len(schedule.steps)


def _tasks(schedule: Schedule, tiles: int) -> list[tuple[int, int, int]]:
    chunks = _chunks(schedule, tiles)
    return [(tile, low, high) for tile in range(tiles) for low, high in chunks]


def _chunks(schedule: Schedule, tiles: int) -> list[tuple[int, int]]:
    """Ranges of groups of about equal work: groups depend on nothing in one another, so any cut will do."""
    if schedule.num_groups == 1:
        return [(0, 1)]
    cost = (schedule.work + _NODE_COST * np.arange(len(schedule.work)))[schedule.bounds]
    return _cuts(cost, schedule.num_groups, among=tiles)


def _cuts(cost: NDArray[np.integer], count: int, *, among: int = 1) -> list[tuple[int, int]]:
    """Ranges of 0 … count of about equal cost (count + 1,), a few for each thread where ``among`` others share it."""
    number = torch.get_num_threads()
    parts = 1 if number == 1 else min(count, max(1, 4 * number // max(among, 1)))
    if parts <= 1:
        return [(0, count)]
    edges = np.searchsorted(cost, cost[0] + (cost[-1] - cost[0]) * np.arange(1, parts) / parts)
    cuts = [0, *np.unique(edges[(edges > 0) & (edges < count)]).tolist(), count]
    return list(itertools.pairwise(cuts))
