"""``fulgurite dynamic-async route``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fulgurite.plugins.registry import nearest
from fulgurite.recipes.library import RecipeError

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.routing.experiment import RoutingRun
    from fulgurite.plugins.dynamic_async.routing.topology import Topology

BUILT_IN = ("bad-gadget", "disagree", "count-to-infinity", "count-to-sixteen", "path-vector", "stuck-loop")
ALGEBRAS = ("shortest", "widest", "rip", "path-vector", "path-vector-widest", "policy")
MANNERS = ("random", "fair", "synchronous", "adversarial")

ROUTE = """Run routing over a network whose links and nodes come and go, and hold each epoch against its right routes.

  fulgurite dynamic-async route random                      24 nodes, made up; also --nodes, --destinations, --epochs
  fulgurite dynamic-async route bad-gadget                  no stable state: refused, and seen to oscillate
  fulgurite dynamic-async route my.topology --algebra rip   a file of your own

Built in: random, bad-gadget, disagree, count-to-infinity, count-to-sixteen, path-vector, stuck-loop.

A file has a line for each thing; # begins a comment:
  nodes A B C D              or a number
  link A B cost 3            both ways; A -> B: A sends to B. Also capacity N, policy NAME
  policy calm: lower 10 if through C; reject if tag 7
  absent D                   at the beginning
  destinations A B           default: all
  at 100 down A B            also up A B cost 5, change A B cost 2, leave C, join C
  ticks 400

Each event begins an epoch. Before an epoch runs it is judged: certified (right after k* pseudocycles, whatever came
before), refused (a counterexample is known) or empirical. Right routes are found without any history, least costs by
SciPy's Dijkstra, others by synchronous rounds."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{self.prog}: {message}; see: {self.prog} --help")


def main(args: Sequence[str]) -> int:
    """Run a sub-command and return its exit code.

    Args:
        args: the words after ``fulgurite dynamic-async``.

    Raises:
        RecipeError: one line that says what is wrong.
    """
    parser = _parser()
    options = parser.parse_args(args)
    if options.command is None:
        parser.print_help()
        return 0
    return _route(options)


def _parser() -> _Parser:
    parser = _Parser(prog="fulgurite dynamic-async", description="Dynamic asynchronous iterations.")
    commands = parser.add_subparsers(dest="command", parser_class=_Parser, metavar="route")
    route = commands.add_parser(
        "route",
        help="run routing over a network that changes, and see each epoch converge",
        description=ROUTE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    route.add_argument("topology", metavar="FILE|NAME", help="a topology file, or one that is built in")
    route.add_argument(
        "--algebra", choices=ALGEBRAS, help="what routes are (default: the file's own word, or path-vector)"
    )
    route.add_argument(
        "--schedule",
        choices=MANNERS,
        default="random",
        help="who computes when, from how old data (default: random: late, lost and out of order)",
    )
    route.add_argument("--seed", type=int, default=0, help="of the schedule, and of the network random (default: 0)")
    route.add_argument(
        "--activation", type=float, default=0.5, metavar="P", help="random: active in a tick with (default: 0.5)"
    )
    route.add_argument("--delay", type=int, default=4, metavar="TICKS", help="how old data may get (default: 4)")
    route.add_argument("--loss", type=float, default=0.1, metavar="P", help="random: messages lost (default: 0.1)")
    route.add_argument("--nodes", type=int, metavar="N", help="of the network random (default: 24)")
    route.add_argument("--destinations", type=int, metavar="D", help="of the network random (default: 8)")
    route.add_argument("--epochs", type=int, metavar="E", help="of the network random (default: 6)")
    route.add_argument(
        "--output", "--out", default="route.json", metavar="JSON", help="a picture and a page lie beside it"
    )
    route.add_argument("--allow-import", action="append", help=argparse.SUPPRESS)  # the main command hands it on
    return parser


def _route(options: argparse.Namespace) -> int:
    from fulgurite.plugins.dynamic_async.model.errors import ScheduleError
    from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError, TopologyError
    from fulgurite.plugins.dynamic_async.routing.experiment import make_algebra, run_routing
    from fulgurite.plugins.dynamic_async.routing.route_figure import write_route_picture
    from fulgurite.plugins.dynamic_async.routing.route_page import write_route_page
    from fulgurite.plugins.dynamic_async.routing.schedules import topology_schedule
    from fulgurite.plugins.files import write_text

    output = Path(options.output)
    if output.suffix in (".html", ".png"):
        raise RecipeError(f"--output {output}: the JSON's name; picture and page are named after it")
    try:
        topology = _topology(options)
        with _progress() as progress:
            run = run_routing(
                topology,
                make_algebra(options.algebra or topology.algebra or "path-vector", topology),
                topology_schedule(
                    topology,
                    options.schedule,
                    seed=options.seed,
                    activation=options.activation,
                    max_delay=options.delay,
                    loss=options.loss,
                ),
                words=_words(options),
                progress=progress,
            )
    except (AlgebraError, ScheduleError, TopologyError) as error:
        raise RecipeError(str(error)) from error
    page, picture = output.with_suffix(".html"), output.with_suffix(".png")
    try:
        write_text(output, json.dumps(run.to_json()))
        write_route_picture(run, picture)
        write_route_page(run, page)
    except OSError as error:
        raise RecipeError(f"--output {output}: cannot be written: {error.strerror}") from error
    _show(run)
    print(f"Run: {output}, {picture}, {page}")
    return 0


def _topology(options: argparse.Namespace) -> Topology:
    from fulgurite.plugins.dynamic_async.routing.networks import RANDOM, built_in, random_topology
    from fulgurite.plugins.dynamic_async.routing.topology import read_topology

    sizes = {name: getattr(options, name) for name in ("nodes", "destinations", "epochs")}
    given = [f"--{name}" for name, value in sizes.items() if value is not None]
    if options.topology == RANDOM:
        least = {"nodes": 4, "destinations": 1, "epochs": 1}
        for name, value in sizes.items():
            if value is not None and value < least[name]:
                raise RecipeError(f"--{name} {value}: expected at least {least[name]}")
        return random_topology(
            sizes["nodes"] or 24,
            destinations=sizes["destinations"] or 8,
            epochs=sizes["epochs"] or 6,
            seed=options.seed,
        )
    if given:
        raise RecipeError(f"{given[0]} is for the network random; {options.topology} has its own")
    if options.topology in BUILT_IN:
        return built_in(options.topology)
    if not Path(options.topology).exists():
        hint = nearest(options.topology, [RANDOM, *BUILT_IN])
        raise RecipeError(f"{options.topology}: no such file, and none is built in by that name{hint}")
    return read_topology(options.topology)


def _words(options: argparse.Namespace) -> str:
    said = {
        "random": f"random, active {options.activation:g}, delay up to {options.delay}, loss {options.loss:g}",
        "fair": f"fair, delay up to {options.delay}",
    }
    words = said.get(options.schedule, options.schedule)
    return words if options.schedule == "synchronous" else f"{words}, seed {options.seed}"


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    from rich.console import Console

    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with console.status("Routing ...") as status:
        yield lambda text: status.update(f"Routing: {text} ...")


def _show(run: RoutingRun) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from fulgurite.plugins.dynamic_async.routing.route_page import TEXT_COLUMNS, epoch_cells, findings

    # Eighty columns have room for these; the page has the rest.
    rows = [epoch_cells(number, epoch) for number, epoch in enumerate(run.epochs)]
    table = Table(title=f"{run.topology}, {run.algebra}: {run.schedule}", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in (shown := [name for name in rows[0] if name not in ("events", "settled at")]):
        table.add_column(name, justify="left" if name in TEXT_COLUMNS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    console = Console()
    console.print(table)
    for sentence in findings(run):
        console.print(f"· {sentence}", markup=False, highlight=False)
