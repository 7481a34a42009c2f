"""Dynamic asynchronous iterations in simulation: how fast the simulator is, and what a barrier costs.

    python benchmarks/dynamic_async_simulated.py            a minute and a half on one core; prints tables and JSON
    python benchmarks/dynamic_async_simulated.py --quick    a small run that shows that it works

Simulator: 10,000 participants of 8 inputs each, over 1,000 ticks, with churn, loss and reordering drawn in the loop;
one core, without compilation; and a plain Python loop over the same kind of schedule, at a smaller size.
Events: the time until an affine iteration (factor 0.9 in the max norm, 4 inputs each) is within 1e-6 of its fixed
point, with a barrier and without, under five kinds of speed; both use the same durations. Weights of one sign are the
slowest to converge that the factor allows. With random signs synchronous rounds gain more than the factor says, and
waiting for them is worth more.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, get_args

import numpy as np
from scipy.sparse import csr_array
from tables import markdown

from fulgurite.plugins.dynamic_async.maps.affine import AffineMap
from fulgurite.plugins.dynamic_async.model import RandomSchedule, simulate
from fulgurite.plugins.dynamic_async.model.event_simulation import Speeds, barrier_time, durations, free_time

GAMMA = 0.9
TOLERANCE = 1e-6
GOAL_SECONDS, GOAL_RATIO = 2.0, 4.0


def network(size: int, degree: int, *, seed: int, signs: bool = False) -> AffineMap:
    """Everybody reads ``degree`` others, with weights that sum to ``GAMMA`` in modulus."""
    rng = np.random.default_rng(seed)
    others = np.array([rng.choice(size - 1, degree, replace=False) for _ in range(size)])
    others += others >= np.arange(size)[:, None]
    weights = np.full(others.size, GAMMA / degree)
    if signs:
        weights *= rng.choice([-1.0, 1.0], others.size)
    matrix = csr_array((weights, (np.repeat(np.arange(size), degree), others.ravel())), shape=(size, size))
    return AffineMap(matrix, rng.normal(size=size), initial=rng.normal(size=size))


def measure_simulator(quick: bool) -> dict[str, Any]:
    """Seconds of one core, best of three, for two rates of activation; and of the loop in Python."""
    size, ticks = (1_000, 100) if quick else (10_000, 1_000)
    churn = {"max_delay": 8, "loss": 0.1, "churn": 0.02, "away": 0.25}
    map = network(size, 8, seed=0)
    rows = []
    for activation in (0.3, 1.0):
        schedule = RandomSchedule(size, ticks, seed=1, activation=activation, **churn)
        simulate(map, RandomSchedule(size, 1, seed=1, activation=activation, **churn))  # compiles
        seconds = min(cpu_seconds(lambda schedule=schedule: simulate(map, schedule)) for _ in range(3))
        done = sum(activations(schedule))
        rows.append({"activation": activation, "seconds": seconds, "activations": done, "rate": done / seconds})
    small, few = network(200, 8, seed=0), 30
    schedule = RandomSchedule(200, few, seed=1, activation=0.3, **churn)
    seconds = cpu_seconds(lambda: simulate(small, schedule, path="python"))
    return {
        "participants": size,
        "ticks": ticks,
        "compiled": rows,
        "python_rate": sum(activations(schedule)) / seconds,
        "goal_seconds": None if quick else GOAL_SECONDS,
    }


def activations(schedule: RandomSchedule) -> list[int]:
    """How many evaluate at each tick but the first."""
    result = []
    before = schedule.present(0)
    for t in range(1, schedule.num_ticks + 1):
        present = schedule.present(t)
        result.append(int((schedule.active(t) & present & before).sum()))
        before = present
    return result


def cpu_seconds(run: Any) -> float:
    """Time of this process alone, so that others on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure_events(quick: bool) -> list[dict[str, Any]]:
    """How many times as long it takes with a barrier, for each kind of speed, size and latency."""
    rows = []
    for size in (16,) if quick else (64, 256):
        for signs in (False, True):
            for latency in (0.0, 0.5):
                ratios = {kind: [ratio(kind, size, signs, latency, seed) for seed in range(2)] for kind in KINDS}
                rows.append({"participants": size, "signs": signs, "latency": latency, "ratios": ratios})
    return rows


KINDS = get_args(Speeds)


def ratio(kind: Speeds, size: int, signs: bool, latency: float, seed: int) -> float:
    """Time with a barrier / time without."""
    map = network(size, 4, seed=seed, signs=signs)
    goal, takes = map.solution()[:, None], durations(kind, size, 4_000, seed=seed)
    waiting = barrier_time(map, takes, goal, TOLERANCE, latency=latency)
    return waiting.time / free_time(map, takes, goal, TOLERANCE, latency=latency, seed=seed).time


def measure(quick: bool) -> dict[str, Any]:
    """Both parts."""
    return {"simulator": measure_simulator(quick), "events": measure_events(quick)}


def tables(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    simulator = found["simulator"]
    speed = markdown(
        ["active each tick", "seconds", "evaluations", "evaluations a second", "in Python, a second"],
        [
            [
                f"{row['activation']:.0%}",
                f"{row['seconds']:.2f}",
                f"{row['activations']:,}",
                f"{row['rate'] / 1e6:.1f} M",
                f"{simulator['python_rate']:,.0f}",
            ]
            for row in simulator["compiled"]
        ],
    )
    events = markdown(
        ["participants, weights, latency", *KINDS],
        [
            [
                f"{row['participants']}, {'random signs' if row['signs'] else 'one sign'}, {row['latency']}",
                *(f"{np.mean(row['ratios'][kind]):.2f}" for kind in KINDS),
            ]
            for row in found["events"]
        ],
    )
    return (
        f"{simulator['participants']:,} participants of 8 inputs, {simulator['ticks']:,} ticks with churn, loss and "
        f"reordering, one core, without compilation:\n\n{speed}\n\nTime with a barrier / time without, to {TOLERANCE}, "
        f"mean of two seeds (1 is the usual length of an evaluation and the unit of latency):\n\n{events}"
    )


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    found = measure(parser.parse_args(argv).quick)
    print(tables(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
