"""Snapshot-parallel dynamic graph networks: ranks, a peer, what travels, what is kept, what is learned.

    python benchmarks/dynamic_gnn.py --peer-python PATH    everything; PATH has PyTorch Geometric Temporal
    python benchmarks/dynamic_gnn.py --only speed memory   some parts; the others' tables stay as the JSON has them
    python benchmarks/dynamic_gnn.py --quick               small sizes, to see that it works; writes no page

speed     two ranks of one thread each against one rank, and against one rank of two threads: seconds of a training step
peer      seconds of an epoch against PyTorch Geometric Temporal's cell, outputs compared where the formula is the same
transfer  bytes by format and window, milliseconds to rebuild a snapshot from its events; on a GPU the modes of transfer
memory    peak bytes of activations against blocks, beside what the planner predicted
learning  dynamic networks against a static GCN and no graph, with and without memory, over three seeds; begun again
          it goes on where it was

Times are printed, never asserted: competitors take turns within every round, medians and quartiles are given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_gnn_page import report
from tables import machine, write_section

PARTS = ("speed", "peer", "transfer", "memory", "learning")


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    return tuple(np.quantile(values, [0.5, 0.25, 0.75]).tolist())  # type: ignore[return-value]


def take_turns(calls: dict[str, Callable[[], float]], *, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Quartiles of the seconds that each call says it took, the calls taking turns; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            taken[name].append(call())
    return {name: quartiles(values[1:]) for name, values in taken.items()}


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Training steps of one and two ranks."""
    from dynamic_gnn_speed import measure

    return measure(options.quick, take_turns)


def measure_peer(options: argparse.Namespace) -> dict[str, Any]:
    """Epochs of ours and of the peer's cells."""
    from dynamic_gnn_against_peer import measure

    return measure(options.quick, options.peer_python, take_turns, rounds=options.rounds, threads=options.threads)


def measure_transfer(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes that travel, and rebuilding."""
    from dynamic_gnn_transfer import measure

    return measure(options.quick)


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak activation bytes."""
    from dynamic_gnn_memory import measure

    return measure(options.quick)


def measure_learning(options: argparse.Namespace) -> dict[str, Any]:
    """What is learned."""
    from dynamic_gnn_learning import measure

    cells = options.cells or options.json.with_name(f"{options.json.stem}_cells.jsonl")
    return measure(options.quick, None if options.quick else cells)


def main() -> None:
    """Measure, print, write JSON and the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, default=Path("dynamic_gnn_benchmark.json"))
    parser.add_argument(
        "--cells", type=Path, help="trainings of the part learning that are done, and not run again; beside the JSON"
    )
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has PyTorch Geometric Temporal")
    parser.add_argument("--rounds", type=int, default=5, help="of the part peer, after one that is not counted")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the part peer")
    options = parser.parse_args()
    measures: dict[str, Callable[[argparse.Namespace], Any]] = {
        "speed": measure_speed,
        "peer": measure_peer,
        "transfer": measure_transfer,
        "memory": measure_memory,
        "learning": measure_learning,
    }
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    results |= {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "gpu": torch.cuda.is_available()}
    for part in options.only:
        results[part] = measures[part](options)
        options.json.write_text(json.dumps(results, indent=1))
    text = report(results)
    print(text)
    if not options.quick:
        write_section("dynamic_gnn", text, keep_tables=True)


if __name__ == "__main__":
    main()
