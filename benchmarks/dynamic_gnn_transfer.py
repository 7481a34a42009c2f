"""Bytes of a timeline by format and window, and what rebuilding costs: for dynamic_gnn.py."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from dynamic_gnn_cases import AMLSIM, TENNIS, Size, windowed
from dynamic_gnn_modes import measure as measure_modes

from fulgurite.data import Timeline
from fulgurite.data.event_graph import EventGraph, generated, read_event_graph
from fulgurite.data.transaction_graph import TransactionGraph
from fulgurite.plugins.snapshot_parallel.events import span
from fulgurite.plugins.snapshot_parallel.formats import choose, csr32_bytes, value_bytes
from fulgurite.plugins.snapshot_parallel.graphs import build

WINDOWS = (1, 10, 20)


def data_sets(quick: bool) -> Iterator[tuple[str, EventGraph | None]]:
    """The generator and the files that there are; None for those that are not."""
    size = {"num_nodes": 300, "num_steps": 20, "events_per_step": 60.0} if quick else {
        "num_nodes": 20_000, "num_steps": 150, "events_per_step": 1_500.0
    }  # fmt: skip
    yield "generator", generated(TransactionGraph(**size))  # type: ignore[arg-type]
    if quick:
        return
    yield "AMLSim", read_event_graph(AMLSIM, form="amlsim") if AMLSIM.exists() else None
    yield "Twitter tennis", read_event_graph(TENNIS, form="pygt_json") if TENNIS.exists() else None


def measure(quick: bool) -> dict[str, Any]:
    """Every data set, directed and symmetrised, under every window, as one chunk."""
    rows, sizes, absent = [], {}, []
    torch.set_num_threads(1)
    for name, graph in data_sets(quick):
        if graph is None:
            absent.append(name)
            continue
        events = Timeline.from_events(
            graph.source, graph.target, graph.step, num_nodes=graph.num_nodes, num_snapshots=graph.num_snapshots
        )
        sizes[name] = {
            "num_nodes": graph.num_nodes,
            "num_snapshots": graph.num_snapshots,
            "events": events.edge_index.shape[1],
        }
        for symmetrise in (False, True):
            for window in WINDOWS:
                row = measure_window(windowed(events, window, symmetrise=symmetrise), rounds=1 if quick else 5)
                rows.append({"data": name, "symmetrised": symmetrise, "window": window} | row)
                print("transfer", rows[-1], flush=True)
    modes = None
    if not torch.cuda.is_available():
        print("transfer: modes on a GPU, and the share of a transfer that is hidden: not run: no GPU", flush=True)
    else:
        modes = measure_modes(torch.device("cuda"), Size(100_000, 100, 6, 100_000, window=20), blocks=10)
    return {"rows": rows, "sizes": sizes, "absent": absent, "modes": modes}


def measure_window(timeline: Timeline, *, rounds: int) -> dict[str, Any]:
    """Bytes by mode, and milliseconds to build a snapshot from the events."""
    steps = timeline.num_snapshots
    whole = span(timeline, 0, steps)
    found = {mode: choose(timeline, whole, mode).total for mode in ("full", "difference", "events", "auto")}
    taken = []
    for _ in range(rounds + 1):
        begin = perf_counter()
        graphs = build(timeline, 0, steps)
        taken.append(1e3 * (perf_counter() - begin) / steps)
    return {
        "nnz": graphs.nnz,
        "naive": 20 * graphs.nnz,
        "csr32": csr32_bytes(graphs.nnz, timeline.num_nodes * steps, value_bytes=value_bytes(timeline))
        + 4 * (steps - 1),  # a last row end for each snapshot
        "bytes": found,
        "formats": choose(timeline, whole).bytes,
        "rebuild": np.quantile(taken[1:], [0.5, 0.25, 0.75]).tolist(),
    }
