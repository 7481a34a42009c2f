"""Peak bytes of a rank's activations against blocks, beside the planner's prediction: for dynamic_gnn.py."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from dynamic_gnn_cases import Size, made, network, options_of

from fulgurite.plugins.snapshot_parallel.live_bytes import LiveBytes
from fulgurite.plugins.snapshot_parallel.memory import predict
from fulgurite.plugins.snapshot_parallel.replay import Scene, load
from fulgurite.plugins.snapshot_parallel.shard import Collectives
from fulgurite.plugins.snapshot_parallel.statistics import Statistics

MODELS = ("CDGCN", "TGCN", "TMGCN", "EvolveGCNO")
LAYERS = 2


def measure(quick: bool) -> dict[str, Any]:
    """Every network, one rank of two, by blocks and collectives."""
    size = Size(300, 8, 8, 200) if quick else Size(4_000, 32, 16, 8_000)
    torch.set_num_threads(1)
    rows = []
    for model in MODELS[:1] if quick else MODELS:
        for blocks, collectives in [(1, "none"), *((n, c) for n in (2, 4, 8) for c in ("save", "resend"))]:
            row = measure_one(model, size, blocks, collectives)  # type: ignore[arg-type]
            rows.append({"model": model, "blocks": blocks, "collectives": collectives} | row)
            print("memory", rows[-1], flush=True)
    return {"size": asdict(size), "title": str(size), "layers": LAYERS, "rows": rows}


def measure_one(model: str, size: Size, blocks: int, collectives: Collectives) -> dict[str, float]:
    """Predicted from the timeline's statistics; counted operator by operator on the timeline itself."""
    options = options_of(model)
    timeline = made(size, m_window=options.get("window", 1))
    statistics = Statistics.of(timeline)
    net = network(model, size.channels, LAYERS, **options)
    plan = predict(net, statistics, ranks=2, blocks=blocks, collectives=collectives)
    assert plan.partition is not None
    worst = max(plan.per_rank, key=lambda memory: memory.working)
    shard, _ = Scene(statistics, plan.partition, worst.rank, timeline).shard(torch.device("cpu"), collectives, "auto")
    load(shard)
    with LiveBytes() as count:
        output = shard.run(net)
        output.backward(torch.full_like(output, 0.1))
    gradients = sum(parameter.grad.nbytes for parameter in net.parameters() if parameter.grad is not None)
    return {"predicted": worst.working, "measured": count.peak - gradients}
