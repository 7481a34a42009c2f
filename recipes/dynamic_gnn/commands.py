"""``fulgurite dynamic-gnn plan``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fulgurite.recipes.library import RecipeError

if TYPE_CHECKING:
    from torch import nn

    from fulgurite.plugins.snapshot_parallel.calibration import Link
    from fulgurite.plugins.snapshot_parallel.plan import Plan
    from fulgurite.plugins.snapshot_parallel.statistics import Statistics
    from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2.0**10, "MI": 2.0**20, "GI": 2.0**30, "TI": 2.0**40}

PLAN = """Predict memory and time of a training step for many numbers of ranks, and recommend one.

From a recipe (its training timeline and its network; overrides as for `fulgurite run`), or from numbers alone:

  fulgurite dynamic-gnn plan dynamic_gnn/laundering --ranks 1-64 --link ethernet-10g
  fulgurite dynamic-gnn plan --statistics snapshots=200,nodes=1e6,nnz=5e6,features=2 --network TMGCN --memory 80GB

Each rank's part of the work runs here, alone, in turn (too large a part: in small, at two sizes), so that a plan for
128 ranks needs one. What ranks send each other is counted exactly, and its time modelled by a link's latency and
bandwidth. Everything is predicted: no number of a plan was measured on several ranks."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{self.prog}: {message}; see: {self.prog} --help")


def main(args: Sequence[str]) -> int:
    """Run a sub-command and return its exit code.

    Args:
        args: the words after ``fulgurite dynamic-gnn``.

    Raises:
        RecipeError: one line that says what is wrong.
    """
    parser = _parser()
    options, overrides = parser.parse_known_args(args)
    if options.command is None:
        parser.print_help()
        return 0
    return _plan(options, overrides)


def _parser() -> _Parser:
    parser = _Parser(prog="fulgurite dynamic-gnn", description="Plan snapshot-parallel training.")
    commands = parser.add_subparsers(dest="command", parser_class=_Parser, metavar="plan")
    plan = commands.add_parser(
        "plan",
        help="memory and time for many numbers of ranks, and which to take",
        description=PLAN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a recipe's own options follow, and may begin alike
    )
    plan.add_argument("recipe", nargs="?", help="a recipe's name or path; its options may follow (--data.… --model.…)")
    plan.add_argument(
        "--statistics",
        metavar="WORDS",
        help="instead of a recipe: snapshots=T,nodes=N,nnz=MEAN,features=F; nnz: stored entries of a snapshot's "
        "windowed adjacency; also events=, dtype=, symmetric=",
    )
    plan.add_argument("--network", metavar="NAME", help="with --statistics: WDGCN, CDGCN, TGCN, TMGCN, EvolveGCNO, …")
    plan.add_argument("--hidden", metavar="F,…", help="with --network: channels of its layers (default: the network's)")
    plan.add_argument(
        "--ranks", metavar="P,…", default="1-1024", help="1,2,8, or 1-1024 for its powers of two (default)"
    )
    plan.add_argument("--memory", metavar="SIZE", help="of one rank: 16GB, 80GiB (default: what this device has)")
    plan.add_argument(
        "--link",
        metavar="NAME",
        default="measure",
        help="what joins the ranks: measure (two processes on this machine, the default), or nominal numbers of "
        "ethernet-10g, ethernet-100g, infiniband-400g, pcie, nvlink",
    )
    plan.add_argument("--alpha", type=float, metavar="S", help="the link's latency, seconds; in place of --link's")
    plan.add_argument("--beta", metavar="SIZE", help="the link's bandwidth, bytes a second (12.5GB); likewise")
    plan.add_argument(
        "--blocks", metavar="N|auto", default="auto", help="blocks of the timeline (default: as few as fit)"
    )
    plan.add_argument(
        "--collectives", choices=("auto", "save", "resend"), default="auto", help="default: save if it fits"
    )
    plan.add_argument(
        "--balance", choices=("nnz", "nnz+nodes"), default="nnz", help="cost of a snapshot (default: nnz)"
    )
    plan.add_argument(
        "--halo", choices=("auto", "always", "never"), default="auto", help="default: as moves fewer bytes"
    )
    plan.add_argument(
        "--residency",
        choices=("graphs", "streamed"),
        default="graphs",
        help="graphs stay on the device (default), or everything is copied there in every step",
    )
    plan.add_argument(
        "--bandwidth", metavar="SIZE", help="with --residency streamed: bytes a second to the device (nominal: 25GB)"
    )
    plan.add_argument(
        "--efficiency", type=float, default=0.5, help="the least that the recommended ranks may have (default: 0.5)"
    )
    plan.add_argument("--device", choices=("cpu", "cuda"), help="where to run parts (default: cuda if there is one)")
    plan.add_argument("--threads", type=int, default=1, help="CPU threads of a rank (default: 1)")
    plan.add_argument("--budget", type=float, default=60.0, metavar="S", help="seconds to run parts for (default: 60)")
    plan.add_argument(
        "--output", default="plan.json", metavar="JSON", help="a picture and a page lie beside it (default: plan.json)"
    )
    plan.add_argument("--allow-import", metavar="PKG", action="append", default=[], help="a module of your own")
    return parser


def _plan(options: argparse.Namespace, overrides: list[str]) -> int:
    _check(options, overrides)
    ranks = read_ranks(options.ranks)
    bandwidth = None if options.bandwidth is None else read_size("--bandwidth", options.bandwidth)
    memory = None if options.memory is None else read_size("--memory", options.memory)
    blocks = options.blocks if options.blocks == "auto" else _whole("--blocks", options.blocks)

    import torch

    from fulgurite.plugins.snapshot_parallel.plan_page import write_page, write_picture
    from fulgurite.plugins.snapshot_parallel.planner import plan_ranks

    link = _link(options)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError("--device cuda: there is none here; leave it out to run parts on the CPU")
    network, statistics, timeline = _subject(options, overrides)
    with _threads(options.threads), _progress() as progress:
        plan = plan_ranks(
            network.to(device),
            statistics,
            ranks=ranks,
            memory_bytes=memory or _memory_of(device),
            link=link,
            blocks=blocks,
            collectives=options.collectives,
            halo=options.halo,
            balance=options.balance,
            efficiency=options.efficiency,
            budget=options.budget,
            residency=options.residency,
            timeline=timeline,
            **({} if bandwidth is None else {"bandwidth": bandwidth}),
            progress=progress,
        )
    output = Path(options.output)
    page, picture = output.with_suffix(".html"), output.with_suffix(".png")
    plan.save(output)
    write_picture(plan, picture)
    write_page(plan, page)
    _show(plan)
    print(f"Plan: {output}, {picture}, {page}")
    return 0


def _check(options: argparse.Namespace, overrides: list[str]) -> None:
    if (options.recipe is None) == (options.statistics is None):
        raise RecipeError("fulgurite dynamic-gnn plan: give a recipe, or --statistics WORDS --network NAME")
    if options.statistics is None and (options.network or options.hidden):
        raise RecipeError("--network and --hidden go with --statistics; a recipe has its own: --model.network.…")
    if options.statistics is not None and overrides:
        raise RecipeError(f"{overrides[0]}: no such option; overrides are for a recipe, not for --statistics")
    if options.statistics is not None and not options.network:
        raise RecipeError("--statistics: give a network, too: --network WDGCN")
    if overrides and not overrides[0].startswith("--"):
        raise RecipeError(f"fulgurite dynamic-gnn plan: unknown word {overrides[0]!r}")
    if not 0 < options.efficiency <= 1:
        raise RecipeError(f"--efficiency {options.efficiency}: expected above 0, at most 1")
    if options.threads < 1:
        raise RecipeError(f"--threads {options.threads}: expected at least 1")
    if Path(options.output).suffix in (".html", ".png"):
        raise RecipeError(f"--output {options.output}: the JSON's name; picture and page are named after it")


def read_ranks(text: str) -> tuple[int, ...]:
    """Numbers of ranks: a list, or a range for the powers of two in it.

    Raises:
        RecipeError: neither.

    Example:
        >>> read_ranks("1-10"), read_ranks("3,1"), read_ranks("2-3,12")
        ((1, 2, 4, 8), (1, 3), (2, 12))
    """
    found: set[int] = set()
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word.strip())
        if not match or int(match[1]) < 1 or (match[2] and int(match[2]) < int(match[1])):
            raise RecipeError(f"--ranks {text}: expected numbers from 1 on as in 1,2,8, or a range as in 1-1024")
        low, high = int(match[1]), int(match[2] or match[1])
        found |= {1 << power for power in range(high.bit_length()) if low <= 1 << power <= high} if match[2] else {low}
    if not found or max(found) > 1 << 16:
        raise RecipeError(f"--ranks {text}: expected numbers up to {1 << 16:,}, or a range with a power of two in it")
    return tuple(sorted(found))


def read_size(option: str, text: str) -> int:
    """Bytes from a number and a unit.

    Raises:
        RecipeError: no number above 0, or another unit.

    Example:
        >>> read_size("--memory", "16GB"), read_size("--memory", "1.5 KiB"), read_size("--memory", "7")
        (16000000000, 1536, 7)
    """
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([kmgt]?i?)b?(?:/s)?", text.strip(), re.IGNORECASE)
    try:
        count = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    except (ValueError, KeyError):
        count = 0.0
    if count < 1:
        raise RecipeError(f"{option} {text}: expected a size above 0, such as 16GB or 80GiB")
    return int(count)


def _whole(option: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise RecipeError(f"{option} {text}: expected a whole number from 1 on, or auto")
    return int(text)


def _link(options: argparse.Namespace) -> Link:
    from fulgurite.plugins.snapshot_parallel.calibration import LinkError, find_link

    beta = None if options.beta is None else read_size("--beta", options.beta)
    try:
        return find_link(options.link, alpha=options.alpha, beta=beta)
    except LinkError as error:
        raise RecipeError(f"--link {options.link}: {error}") from error


def _subject(options: argparse.Namespace, overrides: list[str]) -> tuple[nn.Module, Statistics, TimelineLike | None]:
    from fulgurite.models.dynamic_gnn.tensor_m import TMGCNLayer
    from fulgurite.plugins.snapshot_parallel.statistics import Statistics, StatisticsError

    if options.statistics is not None:
        try:
            statistics = Statistics.parse(options.statistics)
        except StatisticsError as error:
            raise RecipeError(
                f"--{error}" if str(error).startswith("statistics") else f"--statistics: {error}"
            ) from error
        network = _named(options.network, statistics.features, options.hidden)
        windows = [layer.window for layer in network.modules() if isinstance(layer, TMGCNLayer)]
        if windows and statistics.m_window == 1:
            statistics = replace(statistics, m_window=max(windows))
        return network, statistics, None
    network, timeline = _of_recipe(options.recipe, overrides, options.allow_import)
    dtype = next((parameter.dtype for parameter in network.parameters()), None)
    return network, Statistics.of(timeline, dtype=dtype), timeline


def _named(name: str, features: int, hidden: str | None) -> nn.Module:
    from fulgurite.models import dynamic_gnn
    from fulgurite.plugins.registry import nearest

    stacks = [word for word in dynamic_gnn.__all__ if not word.startswith("Dynamic")]
    if name not in stacks:
        raise RecipeError(f"--network {name}: no such network{nearest(name, stacks)}")
    maker = getattr(dynamic_gnn, name)
    if hidden is None:
        return maker(features)
    channels = [_whole("--hidden", word.strip()) for word in hidden.split(",")]
    return maker(features, hidden_channels=channels)


def _of_recipe(name: str, overrides: list[str], allow_import: Sequence[str]) -> tuple[nn.Module, TimelineLike]:
    from fulgurite.plugins.registry import discover
    from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike
    from fulgurite.recipes.building import build, train_batches
    from fulgurite.recipes.library import find_recipe
    from fulgurite.recipes.needs import data_arguments, missing_needs

    recipe = find_recipe(name, discover())
    needs = recipe.settings.get("needs")
    if missing := missing_needs(needs, overrides):
        raise RecipeError(f"{recipe.name}: needs " + "; needs ".join(missing))
    # One process builds it, whatever the recipe trains on: the plan is about how many there should be.
    alone = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    cli = build(name, [*data_arguments(needs, overrides), *overrides, *alone], allow_import=allow_import)
    network = getattr(cli.model, "network", None)
    if network is None or not hasattr(network, "initial_carry"):
        raise RecipeError(
            f"{recipe.name}: its model {type(cli.model).__name__} has no dynamic `network`; expected one such as "
            "DynamicLinkPredictor's"
        )
    timeline = next(iter(train_batches(cli)), None)
    if not isinstance(timeline, TimelineLike):
        raise RecipeError(
            f"{recipe.name}: its training batches are {type(timeline).__name__}; expected timelines, as TemporalGraph's"
        )
    return network, timeline


def _memory_of(device: object) -> int:
    import os

    import torch

    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    raise RecipeError("this machine does not tell how much memory it has; give --memory 16GB")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    from rich.console import Console

    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with console.status("Planning ...") as status:
        yield lambda text: status.update(f"Planning: {text} ...")


def _show(plan: Plan) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from fulgurite.plugins.snapshot_parallel.plan_page import cells, columns

    # The page has the rest; eighty columns have room for so many.
    shown = [name for name in columns(plan) if name not in ("sent by all", "compute is", "idle ranks")]
    table = Table(title=f"{plan.network}, predicted: memory and time of a step", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row in plan.rows:
        table.add_row(*(cells(row)[name] for name in shown), style="bold" if row is plan.recommended else None)
    console = Console()
    console.print(table)
    console.print(f"Recommended: {plan.reason}", markup=False, highlight=False)
    for note in plan.notes:
        console.print(f"· {note}", markup=False, highlight=False)
