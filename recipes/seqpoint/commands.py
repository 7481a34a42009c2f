"""``fulgurite seqpoint plan | replay | compare``."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fulgurite.recipes.library import RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fulgurite.callbacks.seqpoint.dry_walk import DryWalk
    from fulgurite.callbacks.seqpoint.plan import Plan

SELECTORS = ("interpolate", "paper", "audit")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{self.prog}: {message}; see: {self.prog} --help")


def main(args: Sequence[str]) -> int:
    """Run a sub-command and return its exit code.

    Args:
        args: the words after ``fulgurite seqpoint``.

    Raises:
        RecipeError: one line that says what is wrong.
    """
    parser = _parser()
    options, overrides = parser.parse_known_args(args)
    if options.command is None:
        parser.print_help()
        return 0
    if overrides and (options.command == "compare" or not all(word.startswith("--") for word in overrides[:1])):
        raise RecipeError(f"fulgurite seqpoint {options.command}: unknown word {overrides[0]!r}")
    return int(options.run(options, overrides))


def _parser() -> _Parser:
    parser = _Parser(prog="fulgurite seqpoint", description="Plan, replay and compare profiles of an epoch.")
    commands = parser.add_subparsers(dest="command", parser_class=_Parser, metavar="plan | replay | compare")

    for_recipes = _Parser(add_help=False)
    for_recipes.add_argument("--allow-import", metavar="PKG", action="append", default=[], help="a module of your own")

    plan = commands.add_parser(
        "plan", parents=[for_recipes], help="a plan from lengths and a batch sampler alone, without training"
    )
    plan.description = "Make a plan without training: from a recipe's data, or from a CSV of lengths."
    plan.add_argument("recipe", nargs="?", help="a recipe: its data module's batches are walked through")
    plan.add_argument("--lengths", metavar="CSV", help="instead of a recipe: source[,target] length of each sample")
    plan.add_argument("--batch-size", type=int, default=32, help="with --lengths (default: 32)")
    plan.add_argument(
        "--bucket", action="store_true", help="with --lengths: batches of like lengths, not shuffled ones"
    )
    plan.add_argument("--selector", choices=SELECTORS, default="interpolate")
    plan.add_argument("--points", type=int, help="how many (default: as many as --max-share allows, at most 12)")
    plan.add_argument("--replicates", type=int, default=3, help="runs a point (default: 3)")
    plan.add_argument("--max-share", type=float, default=0.05, help="most of the epoch that may be run (default: 0.05)")
    plan.add_argument("--seed", type=int, default=0)
    plan.add_argument("--output", default="plan.json", help="where to write it (default: plan.json)")
    plan.set_defaults(run=_plan)

    replay = commands.add_parser(
        "replay", parents=[for_recipes], help="run only a plan's batches, and project the epoch"
    )
    replay.add_argument("recipe", help="a recipe with the data that the plan was made from")
    replay.add_argument("--plan", required=True, metavar="JSON", help="a plan, of `seqpoint plan` or of a run's report")
    replay.add_argument(
        "--output", metavar="JSON", help="where to write the plan with its fresh times (default: nowhere)"
    )
    replay.add_argument("--warmup", type=int, default=5, help="steps before the first that is timed (default: 5)")
    replay.set_defaults(run=_replay)

    compare = commands.add_parser("compare", help="the epoch's speed-up from one measured plan to another")
    compare.add_argument("before", metavar="BEFORE.json")
    compare.add_argument("after", metavar="AFTER.json")
    compare.add_argument("--bands", type=int, default=4, help="length bands of the table (default: 4)")
    compare.set_defaults(run=_compare)
    return parser


def _plan(options: argparse.Namespace, overrides: list[str]) -> int:
    from fulgurite.callbacks.seqpoint.select import select

    if (options.recipe is None) == (options.lengths is None):
        raise RecipeError("fulgurite seqpoint plan: give a recipe, or --lengths CSV")
    for name in ("points", "replicates"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise RecipeError(f"--{name} {value}: expected at least 1")
    if options.lengths and overrides:
        raise RecipeError(f"{overrides[0]}: overrides are for a recipe, not for --lengths")
    if options.lengths:
        shapes, columns = read_lengths(Path(options.lengths), options.batch_size, options.bucket, options.seed)
        real = None
    else:
        from fulgurite.recipes.seqpoint.building import walk_recipe

        walk = walk_recipe(options.recipe, overrides, allow_import=options.allow_import)
        shapes, columns = walk.shapes, walk.columns
        real = _padding(walk)
    points = options.points or max(1, min(12, int(options.max_share * len(shapes)) // options.replicates))
    plan = select(
        shapes,
        None,
        selector=options.selector,
        points=points,
        replicates=options.replicates,
        max_share=options.max_share,
        seed=options.seed,
        columns=columns,
    )
    plan.save(options.output)
    _show_plan(plan, shapes, real)
    print(f"Plan: {options.output}")
    return 0


def _padding(walk: DryWalk) -> float | None:
    known = walk.padded > 0
    return float(1 - walk.real[known].sum() / walk.padded[known].sum()) if known.any() else None


def _show_plan(plan: Plan, shapes: NDArray[np.int64], padding: float | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(plan.points)} points, {plan.runs} of {plan.iterations} iterations to run")
    for column in (*plan.columns, "stands for", "runs"):
        table.add_column(column, justify="right")
    for point in plan.points:
        table.add_row(*map(str, point.shape), f"{point.weight:.1f}", str(len(point.runs)))
    Console().print(table)
    largest = shapes[plan.cost.predict(shapes).argmax()]
    words = ", ".join(f"{name} {size}" for name, size in zip(plan.columns, largest, strict=True))
    print(f"Most work, so most likely to run out of memory: {words}")
    if padding is not None:
        print(f"Padding: {padding:.1%} of all tokens")


def read_lengths(path: Path, batch_size: int, bucket: bool, seed: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Shapes of the batches of an epoch from a file of lengths.

    Args:
        path: CSV with one row a sample, source[,target] length; a first row of names is skipped.
        batch_size: samples in a batch.
        bucket: sort by length before batching.
        seed: of the shuffle.

    Returns:
        (M, 2 or 3) batch, source[, target]; and the columns' names.

    Raises:
        RecipeError: the file cannot be read, or a line is not one or two lengths; the line is named.
    """
    import numpy as np

    rows: list[list[int]] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if number == 1 and row and not row[0].strip().isdigit():
                    continue
                if not row or len(row) > 2 or len(row) != len(rows[0] if rows else row):
                    raise RecipeError(
                        f"{path}:{number}: got {row}, expected source[,target] length as on the lines before"
                    )
                if not all(cell.strip().isdigit() and int(cell) > 0 for cell in row):
                    raise RecipeError(f"{path}:{number}: got {row}, expected whole numbers above 0")
                rows.append([int(cell) for cell in row])
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    if not rows:
        raise RecipeError(f"{path}: no lengths in it; expected a row source[,target] a sample")
    if batch_size < 1:
        raise RecipeError(f"--batch-size {batch_size}: expected at least 1")
    lengths = np.array(rows, dtype=np.int64)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(rows)), lengths.sum(axis=1))) if bucket else rng.permutation(len(rows))
    batches = [order[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    shapes = np.array([[len(batch), *lengths[batch].max(axis=0)] for batch in batches], dtype=np.int64)
    return shapes, ("batch", "source", "target")[: shapes.shape[1]]


def _replay(options: argparse.Namespace, overrides: list[str]) -> int:
    from fulgurite.callbacks.seqpoint.plan import Plan
    from fulgurite.recipes.seqpoint.building import replay_recipe

    if options.warmup < 0:
        raise RecipeError(f"--warmup {options.warmup}: expected 0 or more")
    given = Plan.load(options.plan)
    if given.refusal is not None:
        raise RecipeError(f"{options.plan}: {given.refusal}")
    plan = replay_recipe(options.recipe, overrides, given, warmup=options.warmup, allow_import=options.allow_import)
    projection = plan.project()
    spread = f" ({projection.low:.2f} to {projection.high:.2f})" if projection.low == projection.low else ""
    print(f"Projected epoch: {projection.total:.2f} s{spread} from {plan.runs} of {plan.iterations} steps")
    if given.seconds == given.seconds:
        print(f"When the plan was made: {given.seconds:.2f} s logged")
    if options.output:
        plan.save(options.output)
        print(f"Plan with its times: {options.output}")
    return 0


def _compare(options: argparse.Namespace, overrides: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from fulgurite.callbacks.seqpoint.compare import compare
    from fulgurite.callbacks.seqpoint.plan import Plan

    found = compare(Plan.load(options.before), Plan.load(options.after), bands=options.bands)
    table = Table(title="Speed-up of the epoch, before / after")
    for column in ("length", "before, s", "after, s", "speed-up"):
        table.add_column(column, justify="right")
    for band in found.bands:
        table.add_row(band.label, f"{band.before:.2f}", f"{band.after:.2f}", f"{band.speedup:.2f}×")
    table.add_section()
    table.add_row("all", f"{found.before.total:.2f}", f"{found.after.total:.2f}", f"{found.speedup.total:.2f}×")
    Console().print(table)
    low, high = found.speedup.low, found.speedup.high
    if low == low:
        print(f"Speed-up {found.speedup.total:.3f}×, nominal 95 % interval {low:.3f} to {high:.3f} (an estimate)")
    else:
        print(f"Speed-up {found.speedup.total:.3f}×; the paper selector has no interval")
    return 0
