"""Dynamic asynchronous iterations: in simulation, between real processes, and in training against Lightning's DDP.

    python benchmarks/dynamic_async.py                        everything, in eight minutes on two cores
    python benchmarks/dynamic_async.py --only training        a part; the others' tables stay as the page has them
    python benchmarks/dynamic_async.py --quick                small sizes, to see that it works; writes no page

simulated   10,000 participants over 1,000 ticks on one core; the time with a barrier against that without, by events
processes   four processes over ZeroMQ with a barrier and without, one of them slow or none; recovery from a SIGKILL
training    the strategy dynamic_async against DDP over gloo, one of four slow or none, and after a SIGKILL

Times are printed, never asserted: competitors take turns within every round, medians are given with the least and
greatest. Each process computes in one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dynamic_async_page import report
from tables import machine, write_section

PARTS = ("simulated", "processes", "training")


def measure_simulated(options: argparse.Namespace) -> dict[str, Any]:
    """The simulator, and what a barrier costs by events."""
    from dynamic_async_simulated import measure, tables

    return {"tables": tables(found := measure(options.quick)), "found": found}


def measure_processes(options: argparse.Namespace) -> dict[str, Any]:
    """Real processes over ZeroMQ."""
    from dynamic_async_processes import measure_recovery, measure_speed

    rounds, timeout_s = 1 if options.quick else options.rounds, 1.0
    speed = measure_speed(options.quick, rounds)
    return {"speed": speed, "recovery_s": measure_recovery(rounds, timeout_s), "timeout_s": timeout_s}


def measure_training(options: argparse.Namespace) -> dict[str, Any]:
    """The strategy and DDP."""
    from dynamic_async_training import measure

    return measure(options.quick, 1 if options.quick else options.rounds)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write JSON and the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=2, help="of processes and training; each takes three minutes")
    parser.add_argument("--json", type=Path, default=Path("dynamic_async_benchmark.json"))
    options = parser.parse_args(argv)
    measures: dict[str, Callable[[argparse.Namespace], Any]] = {
        "simulated": measure_simulated,
        "processes": measure_processes,
        "training": measure_training,
    }
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    results |= {"date": time.strftime("%Y-%m-%d"), "machine": machine()}
    torch.set_num_threads(1)
    for part in options.only:
        results[part] = measures[part](options)
        options.json.write_text(json.dumps(results, indent=1))
    text = report(results)
    print(text)
    if not options.quick:
        write_section("dynamic_async", text, keep_tables=True)


if __name__ == "__main__":
    main()
