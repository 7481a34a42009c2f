"""Milliseconds, bytes and memory of what stays on a GPU and what travels to it: for dynamic_gnn.py."""

from __future__ import annotations

from collections.abc import Callable
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
    """Every mode on one timeline; the last line is the copy alone that is to be hidden.

    Hidden is what does not show: with r an epoch whose graphs are resident, s one that streams, and c the same runs
    asked for by nobody who computes, the share is 1 − (s − r) / c.
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
            "copy": timed(asking(shard), device, repeats=repeats) if options["residency"] == "streamed" else 0.0,
            "peak": count.allocated_peak if count.allocated_peak is not None else count.peak,
        }
    resident = rows["resident graphs"]["seconds"]
    for row in rows.values():
        row["hidden"] = 1 - (row["seconds"] - resident) / row["copy"] if row["copy"] else None
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


def asking(shard: Shard) -> Callable[[], None]:
    """As often as a checkpointed epoch asks for each run: forward in order, backward in reverse."""

    def ask() -> None:
        for block in (*shard.blocks, *reversed(shard.blocks)):
            with block.held():
                _ = block.graphs.nnz, block.features.shape

    return ask
