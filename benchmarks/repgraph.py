"""RepGraph against non-local layers: what they cost, how long they take, what is learned with them.

    python benchmarks/repgraph.py                          everything; learning takes hours, and goes on where it was
    python benchmarks/repgraph.py --only cost speed        some parts; the others' tables stay as the JSON has them
    python benchmarks/repgraph.py --only learning --budget 60 --tasks region key
    python benchmarks/repgraph.py --quick                  small sizes, to see that it works; writes no page

cost      multiply-adds, counted and by the closed form
speed     seconds and peak memory of a forward pass and of one with its backward, on the CPU and on a GPU
learning  tasks of far context, digit scenes, CamVid and BCCD over three seeds, against no layer, global context and
          non-local; every training is a cell that is kept in a file and never run again unless its settings change

Times are printed, never asserted: competitors take turns within every round, medians and quartiles are given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from repgraph_page import report
from repgraph_picture import draw
from tables import PAGE, machine, write_section

PARTS = ("cost", "speed", "learning")
PICTURE = "repgraph_learning.png"
TASKS = ("region", "key", "scenes", "camvid", "bccd")


def measure_cost(options: argparse.Namespace) -> dict[str, Any]:
    """Multiply-adds."""
    from repgraph_cost import measure

    return measure(options.quick)


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes."""
    from repgraph_speed import measure

    return measure(options.quick)


def measure_learning(options: argparse.Namespace) -> dict[str, Any]:
    """What is learned."""
    from repgraph_learning import measure

    cells = options.cells or options.json.with_name(f"{options.json.stem}_cells.jsonl")
    return measure(
        options.tasks,
        None if options.quick else cells,
        quick=options.quick,
        minutes=options.budget,
        pause_file=options.pause_file,
    )


def main() -> None:
    """Measure, print, write JSON and the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, default=Path("repgraph_benchmark.json"))
    parser.add_argument(
        "--cells", type=Path, help="trainings of the part learning that are done, and not run again; beside the JSON"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="that may be trained now")
    parser.add_argument("--budget", type=float, help="minutes after which no further training begins")
    parser.add_argument("--pause-file", type=Path, help="while this file exists no further training begins")
    parser.add_argument("--no-page", action="store_true", help="write neither page nor picture")
    options = parser.parse_args()
    measures: dict[str, Callable[[argparse.Namespace], Any]] = {
        "cost": measure_cost,
        "speed": measure_speed,
        "learning": measure_learning,
    }
    results: dict[str, Any] = {}
    for part in options.only:
        found = measures[part](options)
        # Another run may have written its part meanwhile.
        results = json.loads(options.json.read_text()) if options.json.exists() else {}
        results |= {"date": time.strftime("%Y-%m-%d"), "gpu": torch.cuda.is_available()}
        if part == "speed" or "machine" not in results:
            results["machine"] = machine()  # threads count for speed alone
        results[part] = found
        options.json.write_text(json.dumps(results, indent=1))
    text = report(results)
    print(text)
    if not (options.quick or options.no_page):
        write_section("repgraph", text, keep_tables=True)
        if "learning" in results:
            draw(results["learning"], PAGE.parent / "images" / PICTURE)


if __name__ == "__main__":
    main()
