"""Timelines and networks that benchmarks/dynamic_gnn.py measures on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fulgurite.data import Timeline
from fulgurite.data.transaction_graph import TransactionGraph
from fulgurite.models import dynamic_gnn

ROOT = Path(os.environ.get("FULGURITE_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))

AMLSIM = ROOT / "amlsim_20k" / "20K_cycle200"
M_WINDOW = 10
TENNIS = ROOT / "twitter_tennis" / "twitter_tennis_rg17.json"


@dataclass(frozen=True)
class Size:
    """How large a made timeline is: N vertices, T snapshots, F features, and events a snapshot."""

    num_nodes: int
    num_snapshots: int
    channels: int
    events: int
    window: int = 5

    def __str__(self) -> str:
        return (
            f"N = {self.num_nodes:,}, T = {self.num_snapshots}, F = hidden = {self.channels}, "
            f"{self.events:,} events a snapshot, window {self.window}"
        )


def made(size: Size, *, seed: int = 0, m_window: int = 1) -> Timeline:
    """The generator's payments, symmetrised, with random features and as many targets as vertices, spread evenly."""
    rng = np.random.default_rng(seed)
    events = TransactionGraph(
        num_nodes=size.num_nodes, num_steps=size.num_snapshots, events_per_step=size.events, churn=0.0, seed=seed
    ).events()
    return Timeline.from_events(
        events.source,
        events.target,
        events.time,
        num_nodes=size.num_nodes,
        num_snapshots=size.num_snapshots,
        features=torch.from_numpy(
            rng.standard_normal((size.num_snapshots, size.num_nodes, size.channels), dtype=np.float32)
        ),
        target_index=rng.integers(0, size.num_nodes, size.num_nodes),
        target_label=rng.integers(0, 2, size.num_nodes),
        target_time=np.arange(size.num_nodes) % size.num_snapshots,
        window=size.window,
        symmetrise=True,
        m_window=m_window,
        name=f"made-{size}-{seed}-{m_window}",
    )


def options_of(model: str) -> dict[str, Any]:
    """What a network needs beside its channels; TM-GCN's window is its timeline's ``m_window`` too."""
    return {"window": M_WINDOW} if model == "TMGCN" else {}


def network(model: str, channels: int, layers: int, **options: Any) -> torch.nn.Module:
    """A network of ours by its name, of so many layers as wide as its input."""
    torch.manual_seed(0)
    return getattr(dynamic_gnn, model)(channels, [channels] * layers, **options)


def windowed(timeline: Timeline, window: int, *, symmetrise: bool = False) -> Timeline:
    """The same events under another window."""
    return timeline.replace(window=window, symmetrise=symmetrise, name=None)
