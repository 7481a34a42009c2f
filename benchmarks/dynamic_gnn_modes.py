"""Milliseconds, bytes and memory of what stays on a GPU and what travels to it: for dynamic_gnn.py."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from dynamic_gnn_cases import Size, made, network

from fulgurite.plugins.snapshot_parallel import Exchange, Shard
from fulgurite.plugins.snapshot_parallel.calibration import timed
from fulgurite.plugins.snapshot_parallel.live_bytes import LiveBytes
from fulgurite.plugins.snapshot_parallel.partitioning import partition, snapshot_costs
from fulgurite.plugins.snapshot_parallel.residency import Residency

MODES = {
    "resident graphs": {"residency": "graphs"},
    "resident events, rebuilt": {"residency": "events"},
    "streamed, events": {"residency": "streamed", "transfer": "events"},
    "streamed, difference": {"residency": "streamed", "transfer": "difference"},
    "streamed, full": {"residency": "streamed", "transfer": "full"},
}


def measure(device: torch.device, size: Size, *, blocks: int, model: str = "CDGCN", repeats: int = 5) -> dict[str, Any]:
    """Every mode on one timeline: wall time, bytes, peak, and what its copies cost.

    A copy is hidden as far as the computing stream did not wait for it: with c the time of copies on their stream and w
    that of waits on the computing one, both by CUDA events, the share is 1 − w / c.
    """
    timeline = made(size, seed=1).replace(name=None)
    net = network(model, size.channels, 1).to(device)
    rows: dict[str, dict[str, Any]] = {}
    for mode, options in MODES.items():
        residency, shard = prepare(timeline, device, blocks, options)
        epoch = epoch_of(net, shard)
        epoch()
        before = sum(residency.bytes.values())
        with LiveBytes(device.type) as count:
            epoch()
        rows[mode] = {
            "bytes": sum(residency.bytes.values()) - before,
            "seconds": timed(epoch, device, repeats=repeats),
            **copied(residency, epoch, device, repeats=repeats),
            "peak": count.allocated_peak if count.allocated_peak is not None else count.peak,
        }
    return {"title": str(size), "blocks": blocks, "model": model, "rows": rows}


def prepare(timeline: Any, device: torch.device, blocks: int, options: dict[str, Any]) -> tuple[Residency, Shard]:
    """A shard of one rank whose runs come as the options say."""
    part = partition(snapshot_costs(timeline, "nnz"), timeline.num_nodes, ranks=1, blocks=blocks)
    residency = Residency(device, **options)
    source = residency.source(timeline, [split.steps[0] for split in part.blocks])
    return residency, Shard.build(timeline, part, Exchange(), source=source, collectives="save")


def epoch_of(net: torch.nn.Module, shard: Shard) -> Callable[[], None]:
    """Forward and backward."""

    def epoch() -> None:
        net.zero_grad(set_to_none=True)
        shard.run(net).square().mean().backward()

    return epoch


def copied(residency: Residency, epoch: Callable[[], None], device: torch.device, *, repeats: int) -> dict[str, Any]:
    """Seconds of an epoch's copies and of waits for them, and the share that is hidden; medians of so many epochs."""
    rounds = []
    for _ in range(repeats):
        torch.cuda.synchronize(device)
        with residency.transfer.timed() as times:
            epoch()
            torch.cuda.synchronize(device)
        rounds.append((times.copied / 1e3, times.waited / 1e3, times.hidden))
    hidden = [share for _, _, share in rounds if share is not None]
    return {
        "copy": median(seconds for seconds, _, _ in rounds),
        "waited": median(seconds for _, seconds, _ in rounds),
        "hidden": median(hidden) if hidden else None,
    }
