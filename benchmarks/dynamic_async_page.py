"""The benchmark's part of the page."""

from __future__ import annotations

from typing import Any

import numpy as np
from tables import markdown

GOALS = {"slow": 1.5, "even": 0.6, "recovery_s": 1.0}


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{np.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def report(results: dict[str, Any]) -> str:
    """Every part that was measured."""
    parts = {"simulated": simulated, "processes": processes, "training": training}
    head = (
        "## Dynamic asynchronous iterations\n\n"
        f"`benchmarks/dynamic_async.py`, {results['date']}, {results['machine']}. Each process computes in one thread; "
        "competitors take turns in each round. Median (least–greatest)."
    )
    return "\n\n".join([head, *(write(results[name]) for name, write in parts.items() if name in results)])


def simulated(found: dict[str, Any]) -> str:
    """As the part says it itself."""
    return f"### Simulated\n\n{found['tables']}"


def processes(found: dict[str, Any]) -> str:
    """With a barrier and without."""
    rows = [
        [row["case"], *(spread(row[key]) for key in ("barrier_s", "free_s", "ratios")), f"≥ {row['goal']}"]
        for row in found["speed"]
    ]
    speed = markdown(["four processes", "barrier, s", "no barrier, s", "ratio", "aim"], rows)
    said = "\n".join(
        f"- {row['case']}: “{row['advice']}”" if row["advice"] else f"- {row['case']}: none, no barrier pays here"
        for row in found["speed"]
    )
    return (
        "### Real processes\n\nFour processes over ZeroMQ iterate an affine map of 200,000 unknowns (contraction 0.95) "
        "in four blocks, until all are within 1e-6 of the direct solution for good; the version with a barrier is the "
        f"same program.\n\n{speed}\n\nAdvice that the measured speeds give:\n\n{said}\n\nFrom the SIGKILL of one of "
        "four until the others have adopted its shard and all is right again, beyond the time-out of "
        f"{found['timeout_s']:g} s: {spread(found['recovery_s'])} s (aim ≤ {GOALS['recovery_s']:g} s)."
    )


def training(found: dict[str, Any]) -> str:
    """Against DDP."""
    rows = []
    for case, taken in found["seconds"].items():
        ratios = [a / b for a, b in zip(taken["ddp"], taken["dynamic_async"], strict=True)]
        rows.append([case, *(spread(values) for values in (taken["ddp"], taken["dynamic_async"], ratios))])
    limits, numbers = found["limits"], found["setup"]
    last = "; ".join(
        f"{name}: loss {limits[key]['loss']:.4f}, accuracy {limits[key]['accuracy']:.3f}"
        for name, key in (("DDP", "ddp"), ("`dynamic_async`", "dynamic_async"))
    )
    failures = sorted(set(found["failures"]))
    return (
        "### Training, against DDP over gloo\n\nA softmax head on random features of 1,256 real digits, in four "
        "processes, each with a quarter of them, by full-batch gradient steps in float64; each step also sleeps "
        f"{numbers['sleep_s'] * 1000:g} ms, the slow process's ten times as long. Seconds until the model's validation "
        "loss is within 1e-3 of that of its own limit, for good: DDP minimises the mean loss, `dynamic_async` the "
        f"anchored one (λ = {numbers['lam']:g}), both with weight decay {numbers['decay']:g}; a step is the largest "
        f"that is sure to converge, {numbers['rates']['ddp']:.2f} and {numbers['rates']['dynamic_async']:.2f}. In the "
        f"limit, on validation images: {last}; the parameters are {found['apart']:.2g} apart.\n\n"
        + markdown(["case", "DDP, s", "`dynamic_async`, s", "ratio"], rows)
        + "\n\nOne process of four is killed by SIGKILL, with equal speeds:\n\n"
        + markdown(
            ["", "what happens"],
            [
                ["DDP", "; ".join(f"ends, {text}" if text.startswith("exit") else text for text in failures)],
                [
                    "`dynamic_async`",
                    f"goes on; its shard is adopted, and the model is right for good {spread(found['recovery_s'])} s "
                    f"beyond the time-out of {found['timeout_s']:g} s",
                ],
            ],
        )
    )
