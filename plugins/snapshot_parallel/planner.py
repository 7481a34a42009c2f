"""Predict step time and memory for any number of ranks: rank replay on this device, an α–β model for what is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from fulgurite.plugins.snapshot_parallel.calibration import LINKS, Link
from fulgurite.plugins.snapshot_parallel.exchange import HaloMode
from fulgurite.plugins.snapshot_parallel.memory import MemoryPlan, choose_blocks
from fulgurite.plugins.snapshot_parallel.partitioning import Balance, Partition
from fulgurite.plugins.snapshot_parallel.plan import Plan, PlanRow, with_speedups
from fulgurite.plugins.snapshot_parallel.replay import Call, Scene, copied_for, in_small, step_seconds
from fulgurite.plugins.snapshot_parallel.statistics import Statistics
from fulgurite.plugins.snapshot_parallel.streamed import about_transfer, streamed_bytes
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# A shard of more elements (snapshots × vertices) runs with fewer vertices: some seconds a step on each kind of device.
_ELEMENTS = {"cpu": 500_000, "cuda": 50_000_000}
_UNEVEN = 2.0  # longest run over the mean from which on a plan says so: even 3 snapshots over 2 ranks make 1.3
_EXCHANGES = {"to_vertices": "all-to-all", "to_snapshots": "all-to-all", "halo": "halo", "gather": "gather"}
Basis = Literal["replayed", "scaled", "fitted"]


@dataclass(frozen=True)
class _Compute:
    ranks: int
    elements: float
    seconds: float
    basis: Basis


def plan_ranks(
    network: nn.Module,
    statistics: Statistics,
    *,
    ranks: Sequence[int] = RANKS,
    memory_bytes: int,
    link: Link = LINKS["ethernet-100g"],
    blocks: int | Literal["auto"] = "auto",
    collectives: Literal["save", "resend", "auto"] = "auto",
    halo: HaloMode = "auto",
    balance: Balance = "nnz",
    optimizer_states: int = 2,
    efficiency: float = 0.5,
    budget: float = 60.0,
    residency: Literal["graphs", "streamed"] = "graphs",
    bandwidth: float = LINKS["pcie"].beta,
    timeline: TimelineLike | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Plan:
    r"""Predict a step for every number of ranks.

    After "Efficient Scaling of Dynamic Graph Neural Networks" (SC 2021, https://arxiv.org/abs/2109.07893), whose
    partition it plans for; the plan itself is no part of the paper. Compute is measured by *rank replay*: the shards of
    the dearest rank and of the one with most snapshots run alone on the network's device, with what others would send
    made up. Only communication is modelled: a step is

    .. math:: \max_p compute_p + transfer + \sum_{calls} \alpha \lceil \log_2 P \rceil + \max_p bytes_p / \beta

    with nothing overlapped; bytes are exact. Where a shard is too large it runs over fewer vertices, at two sizes, and
    is continued by a line; where the budget is spent, its time follows from the shards that ran.

    Args:
        network: any dynamic network; a copy of it runs, on its device, with as many threads as torch has now.
        statistics: the timeline's size.
        ranks: numbers of ranks; 1 is looked at in any case, for the efficiency.
        memory_bytes: of one rank's device.
        link: what joins the ranks.
        blocks: blocks of the timeline, or "auto": the fewest that fit.
        collectives: what a re-run does, or "auto".
        halo: as the strategy's option.
        balance: the cost by which snapshots are dealt out.
        optimizer_states: numbers that the optimizer keeps for a weight; 2 is Adam's.
        efficiency: the least that a recommendation may have.
        residency: ``"graphs"``: built graphs and features stay on the device, nothing is copied in a step;
            ``"streamed"``: what a block needs is sent whenever it is asked for.
        bandwidth: bytes a second from the host to the device, for ``"streamed"``.
        budget: seconds for replays; memory is looked at whatever it takes.
        timeline: whose shards run; None makes one up by the statistics.
        progress: told what is being done.

    Raises:
        ValueError: no number of ranks, or one below 1; blocks that there are no snapshots for.
    """
    if not ranks or min(ranks) < 1:
        raise ValueError(f"got ranks {tuple(ranks)}; expected one or more numbers, each 1 or more")
    notes = []
    if getattr(network, "coupling", None) == "graph" and max(ranks) > 1:
        ranks = (1,)
        notes.append(
            f"{type(network).__name__} couples snapshots through the graph, so that they cannot be dealt out: for "
            "more ranks give each its own windows of the timeline (data parallelism)."
        )
    counts = sorted({1, *ranks})
    memory: dict[int, MemoryPlan] = {}
    for count in counts:
        progress(f"memory of {count} {'rank' if count == 1 else 'ranks'}")
        memory[count] = choose_blocks(
            network,
            statistics,
            free_bytes=memory_bytes,
            ranks=count,
            blocks=blocks,
            collectives=collectives,
            optimizer_states=optimizer_states,
            balance=balance,
            halo=halo,
            resident=residency == "graphs",
        )
    compute = _compute(network, statistics, memory, halo=halo, budget=budget, timeline=timeline, progress=progress)
    weights = sum(parameter.numel() for parameter in network.parameters()) * statistics.itemsize
    on_cpu = _device(network).type == "cpu"
    transfer = dict.fromkeys(counts, 0.0)
    if residency == "streamed" and not on_cpu:
        transfer = {count: streamed_bytes(memory[count], statistics, timeline) / bandwidth for count in counts}
    rows = [_row(memory[count], compute[count], transfer[count], weights, link, memory_bytes) for count in counts]
    rows = list(with_speedups(rows, rows[0].step))
    if any(row.efficiency > 1.02 for row in rows):
        notes.append(
            "An efficiency above 100 % is no mistake: one rank has to compute blocks twice to fit, or works outside "
            "its caches, and more ranks need not."
        )
    if any(row.idle for row in rows):
        notes.append("Ranks beyond the snapshots of a block idle there; a data-parallel axis would use them.")
    if balance == "nnz" and (uneven := _uneven(memory[count] for count in counts if 1 < count <= statistics.snapshots)):
        notes.append(
            f"With {uneven.ranks} ranks the longest run of snapshots is {_longest_over_mean(uneven):.1f} times the "
            "mean, since snapshots differ in their entries; what is done once a vertex then waits for that rank. With "
            f'balance "nnz+nodes" it is {_with_nodes(statistics, uneven)}: look at a plan with that.'
        )
    if link.source == "assumed":
        notes.append(f"The link {link.name!r} has nominal numbers that nobody measured.")
    notes.append(about_transfer(residency, bandwidth, on_cpu=on_cpu))
    notes.append(
        "Not in these numbers are the task's own loss, waiting for stragglers, congestion, and the overlap of "
        "computing and sending."
    )
    return Plan(
        network=type(network).__name__,
        statistics=statistics,
        link=link,
        device=_device_name(network),
        memory_bytes=memory_bytes,
        rows=tuple(row for row in rows if row.ranks in ranks),
        efficiency=efficiency,
        balance=balance,
        notes=tuple(notes),
    )


def _with_nodes(statistics: Statistics, uneven: MemoryPlan) -> str:
    part = statistics.partition(uneven.ranks, uneven.blocks, balance="nnz+nodes")
    longest = max(len(part.owned(rank)) for rank in range(part.ranks)) * part.ranks / part.num_snapshots
    dearest = part.max_over_mean(statistics.nnz)
    return f"{longest:.1f} times, and the most entries of a rank are {dearest:.1f} times their mean"


def _longest_over_mean(memory: MemoryPlan) -> float:
    part = memory.partition
    assert part is not None
    return max(len(part.owned(rank)) for rank in range(part.ranks)) * part.ranks / part.num_snapshots


def _uneven(plans: Iterable[MemoryPlan]) -> MemoryPlan | None:
    """The plan with the longest run of snapshots for its ranks, if it is much longer than the mean."""
    worst = max(plans, key=_longest_over_mean, default=None)
    return worst if worst is not None and _longest_over_mean(worst) > _UNEVEN else None


def _row(
    memory: MemoryPlan, compute: _Compute, transfer: float, weights: int, link: Link, memory_bytes: int
) -> PlanRow:
    part = memory.partition
    assert part is not None
    count = memory.ranks
    sent, calls, kinds = _traffic(memory.calls, part)
    # A ring all-reduce of the gradients, and the sum of the loss's weights.
    reduced = 2 * (count - 1) / count * (weights + 8)
    calls += 2 if count > 1 else 0
    slowest = int(sent.max() + reduced)
    return PlanRow(
        ranks=count,
        memory=memory,
        fits=memory.total <= memory_bytes,
        idle=sum(not part.owned(rank) for rank in range(count)),
        exchange="+".join(kinds) or "none",
        compute=compute.seconds,
        basis=compute.basis,
        transfer=transfer,
        calls=calls,
        sent=slowest,
        total_sent=int(sent.sum() + reduced * count),
        communication=link.seconds(calls=calls, sent=slowest, ranks=count),
    )


def _traffic(calls: dict[int, tuple[Call, ...]] | object, part: Partition) -> tuple[np.ndarray, int, list[str]]:
    """Bytes that each rank sends, (P,); how many collectives; of which kinds."""
    assert isinstance(calls, dict)
    made = max(calls.values(), key=len)  # the same on every rank
    sent = np.zeros(part.ranks, dtype=np.int64)
    known: dict[Call, np.ndarray] = {}
    for call in made:
        if call not in known:
            known[call] = call.sent(part)
        sent += known[call]
    return sent, len(made), sorted({_EXCHANGES[call.kind] for call in made})


def _compute(
    network: nn.Module,
    statistics: Statistics,
    memory: dict[int, MemoryPlan],
    *,
    halo: HaloMode,
    budget: float,
    timeline: TimelineLike | None,
    progress: Callable[[str], None],
) -> dict[int, _Compute]:
    """Seconds for every number of ranks; many ranks first, since their shards are small."""
    network = copied_for(network, statistics.torch_dtype)
    device = _device(network)
    limit = _ELEMENTS.get(device.type, _ELEMENTS["cpu"])
    found: dict[int, _Compute] = {}
    begin = time.monotonic()
    for count in sorted(memory, reverse=True):
        plan = memory[count]
        part = plan.partition
        assert part is not None
        ran = [item for item in found.values() if item.basis != "fitted"]
        # Two shards make a line; the first two run in any case.
        if len(ran) >= 2 and time.monotonic() - begin > budget:
            elements = max(_elements(part, rank) for rank in _sample(statistics, part))
            found[count] = _Compute(count, elements, _fitted(ran, elements), "fitted")
            continue
        progress(f"replaying {count} {'rank' if count == 1 else 'ranks'}")
        timings = [
            _replay(network, statistics, plan, part, rank, halo=halo, limit=limit, device=device, timeline=timeline)
            for rank in _sample(statistics, part)
        ]
        found[count] = max(timings, key=lambda item: item.seconds)
    return found


def _replay(
    network: nn.Module,
    statistics: Statistics,
    plan: MemoryPlan,
    part: Partition,
    rank: int,
    *,
    halo: HaloMode,
    limit: int,
    device: torch.device,
    timeline: TimelineLike | None,
) -> _Compute:
    elements = _elements(part, rank)

    def seconds(what: Scene) -> float:
        shard, _ = what.shard(device, plan.collectives, halo)
        return step_seconds(network, shard)

    if elements <= limit:
        whole = Scene(statistics, part, rank, timeline)
        return _Compute(part.ranks, elements, seconds(whole), "replayed")
    # Multiples of P, so that vertices are shared out in the small as in the large. The small run is to tell what does
    # not grow with N: the smaller, the less do its errors weigh in the line.
    large = max(2 * part.ranks, round(statistics.nodes * limit / elements / part.ranks) * part.ranks)
    small = max(part.ranks, round(large / 20 / part.ranks) * part.ranks)
    low, high = (seconds(in_small(statistics, part, rank, nodes)) for nodes in (small, large))
    slope = max(high - low, 0.0) / (large - small)
    return _Compute(part.ranks, elements, high + slope * (statistics.nodes - large), "scaled")


def _elements(part: Partition, rank: int) -> float:
    """Snapshots × vertices that a rank works on, the mean of its two phases."""
    own = sum(split.steps_each[rank] for split in part.blocks) * part.num_nodes
    lines = part.num_snapshots * part.blocks[0].vertices_each[rank]
    return (own + lines) / 2


def _sample(statistics: Statistics, part: Partition) -> list[int]:
    """The dearest rank and the one with most snapshots, unless one is as good as the other."""
    owned = [part.owned(rank) for rank in range(part.ranks)]
    cost = [sum(statistics.nnz[step] for step in steps) for steps in owned]
    length = [len(steps) for steps in owned]
    dearest = max(range(part.ranks), key=lambda rank: (cost[rank], length[rank]))
    longest = max(range(part.ranks), key=lambda rank: (length[rank], cost[rank]))
    alike = length[longest] == length[dearest]
    return [dearest] if alike else [dearest, longest]


def _fitted(ran: Sequence[_Compute], elements: float) -> float:
    """A line through the shards that ran, weighted so that relative errors count; never falling."""
    x = np.array([item.elements for item in ran])
    y = np.array([item.seconds for item in ran])
    slope, fixed = np.polyfit(x, y, 1, w=1 / y)
    if slope <= 0 or fixed < 0:
        slope, fixed = float((x * y).sum() / (x * x).sum()), 0.0
    return float(fixed + slope * elements)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters(), torch.zeros(0)).device


def _device_name(network: nn.Module) -> str:
    device = _device(network)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"this machine's CPU, {threads} {'thread' if threads == 1 else 'threads'} a rank"
