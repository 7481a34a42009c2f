"""What each backend should cost: seconds by edges, levels, batch and machine."""

import math
from dataclasses import dataclass

import torch

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.choice.dense import DensePlan
from fulgurite.models.sparse_network.cpu.backend import tile_shape
from fulgurite.models.sparse_network.structure import Topology

_CHEAP = {"identity", "relu", "relu32", "leaky_relu", "abs", "square", "hardtanh"}
_CHEAP |= {"neat_identity", "neat_relu", "neat_lelu", "neat_abs", "neat_square", "neat_cube", "neat_clamped"}
_CHEAP |= {"neat_hat", "neat_inv"}
_CURVED = torch.tensor([name not in _CHEAP for name in ACTIVATIONS], device="cpu")  # by id


@dataclass(frozen=True)
class Workload:
    """What the cost of evaluating a network depends on, apart from the batch.

    Args:
        nodes: that are computed.
        edges: of the compiled topology.
        depth: levels.
        curved: nodes whose activation takes an exponential or the like.
        gathering: edges into nodes that do not sum.
        dense_size: numbers in all dense matrices; None where dense is out of the question.
        dense_pieces: pieces that dense levels' inputs are joined of.
    """

    nodes: int
    edges: int
    depth: int
    curved: int
    gathering: int
    dense_size: int | None
    dense_pieces: int


def workload_of(topology: Topology, plan: DensePlan | None) -> Workload:
    """What there is to compute.

    Args:
        topology: of the network.
        plan: to evaluate it as dense matrices; None where that is out of the question.

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology([(0, 1), (1, 2)], num_inputs=1, outputs=[2], activations=9, aggregations=0)
        >>> workload_of(topology, None)
        Workload(nodes=2, edges=2, depth=2, curved=2, gathering=0, dense_size=None, dense_pieces=0)
    """
    return Workload(
        nodes=topology.num_nodes - topology.num_inputs,
        edges=topology.num_edges,
        depth=topology.depth,
        curved=int(_CURVED[topology.act_id.cpu()].sum()),
        gathering=int(topology.fan_in[topology.agg_id != 0].sum()),
        dense_size=None if plan is None else plan.size,
        dense_pieces=0 if plan is None else plan.pieces,
    )


@dataclass(frozen=True)
class Machine:
    """Where a network runs, as far as the cost depends on it.

    Args:
        device: ``cpu``, ``cuda``, ….
        itemsize: bytes a number.
        threads: of the CPU.
        tensor_cores: whether float32 products may be rounded to TF32.
    """

    device: str
    itemsize: int = 4
    threads: int = 1
    tensor_cores: bool = False


def estimate(work: Workload, machine: Machine, backend: str, batch: int, *, training: bool) -> float:
    r"""Seconds that a batch should take; right within a factor of two or three on machines of the last years.

    A sparse kernel costs :math:`E (a + c\,T)` a tile of T samples. A dense level costs its matrix product, and the
    making of its matrix, which is what counts in small batches. Rates for the CPU come from measurements of one core
    with AVX-512; those for GPUs are data sheets' with allowances.

    Args:
        work: of the network.
        machine: where.
        backend: ``cpu``, ``triton``, ``dense`` or ``reference``.
        batch: B.
        training: forward and backward rather than forward alone.

    Returns:
        Seconds; infinity where the backend cannot run.

    Example:
        >>> work = Workload(nodes=1024, edges=32768, depth=1, curved=0, gathering=0, dense_size=2**20, dense_pieces=1)
        >>> cpu = Machine("cpu")
        >>> estimate(work, cpu, "cpu", 256, training=False) < estimate(work, cpu, "dense", 256, training=False)
        True
    """
    if backend == "reference":
        once = 20e-6 * work.nodes + 2e-9 * work.edges * batch
        return once * (3 if training else 1)
    if backend == "dense":
        return math.inf if work.dense_size is None else _dense(work, work.dense_size, machine, batch, training)
    if (machine.device == "cpu") != (backend == "cpu"):
        return math.inf
    return (_sparse_on_cpu if backend == "cpu" else _sparse_on_gpu)(work, machine, batch, training)


def _sparse_on_cpu(work: Workload, machine: Machine, batch: int, training: bool) -> float:
    tiles, tile = tile_shape(batch)
    lanes = min(tile, batch) * machine.itemsize / 4
    edge = 1.2e-9 + 0.062e-9 * lanes
    edges = (work.edges + 4 * work.gathering) * (max(3.7 * edge, 11e-9) if training else edge)
    nodes = work.nodes * (60e-9 + 1.4e-9 * lanes) + work.curved * 2e-9 * lanes
    one_tile = edges + (3 * nodes if training else nodes)
    return (80e-6 if training else 30e-6) + one_tile * tiles / min(machine.threads, max(tiles, 1))


def _sparse_on_gpu(work: Workload, machine: Machine, batch: int, training: bool) -> float:
    products = (work.edges + 4 * work.gathering) * batch / 0.7e12 * (machine.itemsize / 4)
    forward = 2e-6 * work.depth + products
    return 150e-6 + 4 * forward if training else 60e-6 + forward


def _dense(work: Workload, size: int, machine: Machine, batch: int, training: bool) -> float:
    width = machine.itemsize / 4
    if machine.device == "cpu":
        flops, bandwidth, values = 120e9 * machine.threads / width, 12e9, 0.3e-9 * work.nodes + 1e-9 * work.curved
        making = 0.15e-9 * width * size + 1.5e-9 * work.edges
        calls = 5e-6 + 15e-6 * work.depth + 5e-6 * work.dense_pieces
    else:
        flops = 250e12 if machine.tensor_cores and machine.itemsize == 4 else 40e12
        bandwidth, values = 3e12, 8e-12 * work.nodes
        making = 8e-12 * width * size + 5e-12 * work.edges
        calls = 10e-6 + 40e-6 * work.depth + 10e-6 * work.dense_pieces
    product = size * max(2 * batch / flops, machine.itemsize / bandwidth)
    once = product + values * width * batch / (machine.threads if machine.device == "cpu" else 1)
    if machine.device == "cpu":
        return 3 * once + 2 * making + 4 * calls if training else once + making + calls
    # A GPU computes while Python issues the calls, and the slower of the two counts.
    return max(3 * once + 2 * making, 3 * calls) if training else max(once + making, calls)
