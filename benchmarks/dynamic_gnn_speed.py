"""Seconds of a training step on one and on two ranks: for dynamic_gnn.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from dynamic_gnn_cases import Size
from dynamic_gnn_ranks import Arrangement, Ranks, started

ONE, TWO, THREADS = Arrangement(1, 1), Arrangement(2, 1), Arrangement(1, 2)
MODELS = ("CDGCN", "TGCN", "TMGCN", "EvolveGCNO")
LAYERS = 2


def measure(quick: bool, take_turns: Callable[..., dict[str, tuple[float, float, float]]]) -> dict[str, Any]:
    """Every network: one rank, two ranks, one rank of two threads, in turn."""
    size = Size(200, 4, 16, 800) if quick else Size(10_000, 32, 64, 50_000)
    rows = {
        model: measure_model(model, size, take_turns, rounds=1 if quick else 7)
        for model in (MODELS[:1] if quick else MODELS)
    }
    return {"size": asdict(size), "title": str(size), "layers": LAYERS, "rows": rows}


def measure_model(
    model: str, size: Size, take_turns: Callable[..., dict[str, tuple[float, float, float]]], *, rounds: int
) -> dict[str, Any]:
    """One network; the three arrangements are alive together and idle until it is their turn."""
    arrangements = (ONE, TWO, THREADS)
    losses: dict[str, list[float]] = {str(arrangement): [] for arrangement in arrangements}
    sent: dict[str, list[int]] = {str(arrangement): [] for arrangement in arrangements}
    with started(lambda: [Ranks(arrangement, model, size, LAYERS) for arrangement in arrangements]) as groups:

        def turn(name: str, group: Ranks) -> float:
            seconds, loss, bytes_so_far = group.step()
            losses[name].append(loss)
            sent[name].append(bytes_so_far)
            return seconds

        calls = {
            name: (lambda name=name, group=group: turn(name, group)) for name, group in zip(losses, groups, strict=True)
        }
        seconds = take_turns(calls, rounds=rounds)
    apart = max(abs(a - b) / abs(a) for a, b in zip(losses[str(ONE)], losses[str(TWO)], strict=True))
    line = "; ".join(f"{name} {values[0]:.3f} s" for name, values in seconds.items())
    print(f"speed {model}, {size}: {line}; losses apart by {apart:.1g}", flush=True)
    steps = sent[str(TWO)]
    return {"seconds": seconds, "apart": apart, "sent": steps[-1] - steps[-2]}
