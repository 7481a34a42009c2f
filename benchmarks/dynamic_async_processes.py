"""Dynamic asynchronous iterations between real processes: what a barrier costs, and how soon a death is got over.

    python benchmarks/dynamic_async_processes.py            about six minutes on two cores; prints tables and JSON
    python benchmarks/dynamic_async_processes.py --quick    a small run that shows that it works

Speed: four processes of one thread over ZeroMQ iterate x ← dPx + c, d = 0.95, in four blocks, until every block is
within 1e-6 of the direct solution for good. With a barrier nobody evaluates version k + 1 before it has version k of
every block; both versions are the same program over the same transport. A step also sleeps, so that four processes on
fewer cores do not slow each other down; slow is a process that sleeps nine more times as long as its step took. The
versions take turns; medians of the rounds, with the least and greatest.
Recovery: from SIGKILL of one of four until the others have adopted its shard, begun it anew from its initial value,
and every block is within 1e-6 of the answer again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tables import markdown

from fulgurite.plugins.dynamic_async.engine.pacing import advice
from fulgurite.plugins.dynamic_async.engine.worker import Work
from fulgurite.plugins.dynamic_async.engine.workers import Workers
from fulgurite.plugins.dynamic_async.maps.block_affine import damped_walk

PEERS = 4
MAP = "fulgurite.plugins.dynamic_async.maps.block_affine:damped_walk"
GOAL_SLOW, GOAL_EVEN, GOAL_RECOVERY_S = 1.5, 0.6, 1.0


def prepare(folder: Path, nodes: int, damping: float) -> Work:
    """What every worker does, with the answer in a file."""
    arguments = {"nodes": nodes, "blocks": PEERS, "damping": damping}
    map = damped_walk(**arguments)
    # Their graph mixes at once: a direct solve of 200,000 unknowns would fill in, iterating reaches its last bit.
    state, everybody = [map.bottom(i) for i in range(PEERS)], np.ones(PEERS, dtype=bool)
    for _ in range(int(np.log(1e-17) / np.log(damping))):
        state = [map.evaluate(i, 0, everybody, dict(enumerate(state))) for i in range(PEERS)]
    np.savez(folder / "solution.npz", *state)
    return Work(MAP, arguments, solution=str(folder / "solution.npz"), tolerance=1e-6)


def reached(workers: Workers, numbers: list[int]) -> bool:
    """All blocks have a host among these, who finds them near enough."""
    said = [workers.status(k) for k in numbers]
    if not all(status and status["below_since"] is not None for status in said):
        return False
    return sorted(shard for status in said for shard in status["hosted"]) == list(range(PEERS))


def time_to_answer(work: Work, *, slow: float, barrier: bool) -> tuple[float, int, str | None]:
    """Seconds from a common start, evaluations, and what the measured speeds advise."""
    # A time-out that no step comes near: here nobody dies.
    work = replace(work, hold=True, barrier=barrier, peer={"heartbeat_s": 1, "timeout_s": 15, "expected_peers": PEERS})
    with tempfile.TemporaryDirectory() as folder, Workers(work, Path(folder), timeout_s=300) as workers:
        numbers = [*workers.start(PEERS - 1), *workers.start(1, slow=slow)]
        workers.until(lambda: all(len(workers.status(k).get("view", ())) == PEERS for k in numbers))
        workers.until(lambda: all(len(workers.status(k)["hosted"]) == 1 for k in numbers))
        began = time.time()
        for k in numbers:
            workers.send(k, "go")
        workers.until(lambda: reached(workers, numbers))
        # A block may leave the tolerance once more while others still move; wait until nothing does.
        time.sleep(0.5)
        workers.until(lambda: reached(workers, numbers))
        said = [workers.status(k) for k in numbers]
        seconds = max(status["below_since"] for status in said) - began
        return seconds, sum(s["evaluations"] for s in said), advice({k: s["step_s"] for k, s in enumerate(said)})


def measure_speed(quick: bool, rounds: int) -> list[dict[str, Any]]:
    """With and without a barrier, with and without a slow process."""
    results: dict[tuple[float, bool], list[float]] = {}
    advised: dict[float, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = replace(prepare(Path(folder), 4_000 if quick else 200_000, 0.95), cost_s=0.01 if quick else 0.02)
        for _ in range(rounds):
            for slow in (0.0, 9.0):
                for barrier in (True, False):
                    seconds, evaluations, sentence = time_to_answer(work, slow=slow, barrier=barrier)
                    results.setdefault((slow, barrier), []).append(seconds)
                    advised[slow] = sentence
                    print(f"slow {slow}, barrier {barrier}: {seconds:.2f} s, {evaluations} evaluations", flush=True)
    rows = []
    for slow in (0.0, 9.0):
        ratios = [a / b for a, b in zip(results[slow, True], results[slow, False], strict=True)]
        rows.append(
            {
                "case": "one of four 10 times slower" if slow else "equal speeds",
                "barrier_s": results[slow, True],
                "free_s": results[slow, False],
                "ratios": ratios,
                "goal": GOAL_SLOW if slow else GOAL_EVEN,
                "advice": advised[slow],
            }
        )
    return rows


def measure_recovery(rounds: int, timeout_s: float) -> list[float]:
    """Seconds from SIGKILL to the answer, beyond the time-out."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        peer = {"heartbeat_s": timeout_s / 5, "timeout_s": timeout_s, "expected_peers": PEERS}
        work = replace(prepare(Path(folder), 4_000, 0.9), peer=peer, cost_s=0.002)
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as logs, Workers(work, Path(logs), timeout_s=120) as workers:
                numbers = workers.start(PEERS)
                workers.until(lambda workers=workers, numbers=numbers: reached(workers, numbers))
                killed = time.time()
                workers.kill(numbers[0])
                workers.until(lambda workers=workers, numbers=numbers: reached(workers, numbers[1:]))
                time.sleep(0.5)
                workers.until(lambda workers=workers, numbers=numbers: reached(workers, numbers[1:]))
                taken.append(max(workers.status(k)["below_since"] for k in numbers[1:]) - killed - timeout_s)
                print(f"recovery: {taken[-1]:.2f} s beyond the time-out of {timeout_s} s", flush=True)
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds of silence until a peer counts as dead")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    speed = measure_speed(options.quick, rounds)
    recovery = measure_recovery(rounds, options.timeout)

    def spread(values: list[float]) -> str:
        return f"{np.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"

    rows = [[r["case"], *(spread(r[key]) for key in ("barrier_s", "free_s", "ratios")), r["goal"]] for r in speed]
    print(markdown(["four processes", "barrier, s", "no barrier, s", "ratio", "goal ≥"], rows))
    for row in speed:
        print(f"{row['case']}: {row['advice'] or 'iterating without a barrier pays here'}")
    print(
        markdown(["after SIGKILL", "s beyond the time-out", "goal ≤"], [["answer", spread(recovery), GOAL_RECOVERY_S]])
    )
    print(json.dumps({"speed": speed, "recovery_s": recovery, "timeout_s": options.timeout}))


if __name__ == "__main__":
    main()
