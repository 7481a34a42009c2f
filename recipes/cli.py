"""The ``fulgurite`` command: list, show, copy, check and run recipes, plugins' sub-commands, and Lightning's own.

``list``, ``show``, ``copy`` and ``plugins`` answer without importing torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fulgurite import __version__
from fulgurite.plugins.registry import Registry, discover, load, nearest
from fulgurite.recipes.expect import Verdict
from fulgurite.recipes.library import RecipeError, copy_recipe, find_recipe, recipes_of

LIGHTNING = {
    "fit": "train, from any config: Lightning's own command",
    "validate": "one pass over the validation data",
    "test": "one pass over the test data",
    "predict": "predictions for the predict data",
}
OWN = {
    "list": "recipes, by name",
    "show": "NAME: print a recipe",
    "copy": "NAME [FILE]: copy a recipe, to change it",
    "check": "NAME...: parse, build, and take one step of each loop; exit code 1 if a recipe has a fault",
    "run": "NAME [--trainer.max_epochs 2 ...]: train a recipe; any option of `fulgurite fit --help` overrides it",
    "plugins": "installed plugins and what they add",
}


@dataclass(frozen=True)
class Words:
    """The command line, less the options that work everywhere."""

    words: tuple[str, ...]
    allow_import: tuple[str, ...]
    traceback: bool

    @classmethod
    def split(cls, args: Sequence[str]) -> Words:
        """Take out ``--traceback`` and every ``--allow-import PKG``."""
        words, allow, tracing = [], [], False
        rest = iter(args)
        for word in rest:
            if word == "--traceback":
                tracing = True
            elif word == "--allow-import":
                allow.append(next(rest, ""))
            elif word.startswith("--allow-import="):
                allow.append(word.partition("=")[2])
            else:
                words.append(word)
        return cls(tuple(words), tuple(allow), tracing)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        args: the words after ``fulgurite``; None: those of the process.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        fulgurite ...
        0
    """
    given = Words.split(sys.argv[1:] if args is None else args)
    try:
        return _dispatch(given)
    except BrokenPipeError:  # the reader of `fulgurite list | head` has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if given.traceback:
            traceback.print_exc()
        elif isinstance(error, RecipeError):
            print(f"fulgurite: {error}", file=sys.stderr)
        else:
            from fulgurite.recipes.check import one_line

            hint = "" if isinstance(error, ValueError) else " (where it comes from: --traceback)"
            print(f"fulgurite: {one_line(error)}{hint}", file=sys.stderr)
        return 1


def _dispatch(given: Words) -> int:
    if not given.words or given.words[0] in ("-h", "--help", "help"):
        print(_help(discover()))
        return 0
    command, *rest = given.words
    if command == "--version":
        print(f"fulgurite {__version__}")
        return 0
    if command in OWN and {"-h", "--help"} & set(rest):
        usage, _, text = OWN[command].rpartition(": ")
        print(f"usage: fulgurite {command} {usage}\n\n{text}".replace(" \n", "\n"))
        return 0
    registry = discover()
    if command in ("list", "plugins"):
        _no_more(command, rest)
        return _list(registry) if command == "list" else _plugins(registry)
    if command == "show":
        _no_more(command, rest[1:])
        print(find_recipe(_needed(command, rest[0] if rest else ""), registry).text, end="")
        return 0
    if command == "copy":
        names = [word for word in rest if word != "--overwrite"]
        _no_more(command, names[2:])
        recipe = find_recipe(_needed(command, names[0] if names else ""), registry)
        print(copy_recipe(recipe, names[1] if len(names) > 1 else None, overwrite="--overwrite" in rest))
        return 0
    if command == "check":
        return _check(given, rest, registry)
    if command == "run" or command in LIGHTNING:
        return _lightning(given, command, rest, registry)
    if command in registry.commands:
        allowed = [word for name in given.allow_import for word in ("--allow-import", name)]
        result = load(registry.commands[command].commands)([*rest, *allowed])
        return result if isinstance(result, int) else 0
    raise RecipeError(
        f"no command {command!r}{nearest(command, [*OWN, *LIGHTNING, *registry.commands])}; see: fulgurite --help"
    )


def _needed(command: str, name: str) -> str:
    if not name or name.startswith("-"):
        raise RecipeError(f"fulgurite {command}: give a recipe's name or path; see: fulgurite list")
    return name


def _no_more(command: str, words: Sequence[str]) -> None:
    if words:
        raise RecipeError(f"fulgurite {command}: one word too many: {words[0]!r}")


def _help(registry: Registry) -> str:
    def block(title: str, rows: dict[str, str]) -> str:
        return title + "\n" + "\n".join(f"  {name:<12} {text}" for name, text in rows.items())

    plugins = {name: plugin.summary for name, plugin in registry.commands.items()}
    return "\n\n".join(
        [
            "usage: fulgurite COMMAND [...]\n\nResearch papers as solid PyTorch Lightning components.",
            block("Recipes", OWN),
            block("Lightning", LIGHTNING),
            *([block("Plugins", plugins)] if plugins else []),
            block(
                "Everywhere",
                {
                    "--allow-import PKG": "let recipes name classes of this module too (it is run when imported)",
                    "--traceback": "show where an error came from",
                    "--version": "",
                },
            ),
        ]
    )


def _list(registry: Registry) -> int:
    recipes = recipes_of(registry)
    width = max((len(recipe.name) for recipe in recipes), default=0)
    for recipe in recipes:
        print(f"{recipe.name:<{width}}  {recipe.summary}")
    return _problems(registry)


def _plugins(registry: Registry) -> int:
    for plugin in registry.plugins:
        print(f"{plugin.name}: {plugin.summary}")
        for title, text in (
            ("paper", plugin.paper),
            ("components", ", ".join(plugin.components)),
            ("recipes", ", ".join(recipe.name for recipe in recipes_of(Registry((plugin,))))),
            ("command", f"fulgurite {plugin.command}" if plugin.commands else ""),
        ):
            if text:
                print(f"  {title:<11}{text}")
    return _problems(registry)


def _problems(registry: Registry) -> int:
    for problem in registry.problems:
        print(f"fulgurite: {problem}", file=sys.stderr)
    return 0


def _check(given: Words, rest: Sequence[str], registry: Registry) -> int:
    from fulgurite.recipes.check import check_recipe

    first = next((index for index, word in enumerate(rest) if word.startswith("-")), len(rest))
    names, overrides = rest[:first], tuple(rest[first:])
    recipes = [find_recipe(_needed("check", name), registry) for name in names or [""]]
    faults = 0
    for recipe in recipes:
        # A lone recipe may start ranks from this very process: they re-execute this command line.
        outcome = check_recipe(
            recipe,
            registry,
            allow_import=given.allow_import,
            args=overrides,
            own_process=False if len(recipes) == 1 else None,
        )
        faults += outcome.status == "fault"
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            print(
                f"{outcome.status:<8} {recipe.name}" + (f": {outcome.message}" if outcome.message else ""), flush=True
            )
    return 1 if faults else 0


def _lightning(given: Words, command: str, rest: Sequence[str], registry: Registry) -> int:
    name, words = "run", list(rest)
    if command == "run":
        command, recipe = "fit", find_recipe(_needed("run", rest[0] if rest else ""), registry)
        from fulgurite.recipes.needs import data_arguments, missing_needs

        needs = recipe.settings.get("needs")
        if missing := missing_needs(needs, rest[1:]):
            raise RecipeError(f"{recipe.name}: needs " + "; needs ".join(missing))
        name = recipe.path.stem if recipe.path == Path(recipe.name) else recipe.name
        words = ["--config", str(recipe.path), *data_arguments(needs, rest[1:]), *rest[1:]]
    if sys.stderr.isatty() and not {"-h", "--help"} & set(words):
        print("Loading PyTorch and Lightning ...", file=sys.stderr, flush=True)
    # The profiler of a CPU step warns in C++, into the progress bar, of memory that it did not see allocated.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from fulgurite.recipes.lightning_cli import run_cli
    from fulgurite.recipes.trust import allow_list

    cli = run_cli([command, *words], registry, allow_list(registry, given.allow_import), name=name)
    if command != "fit" or not cli.trainer.is_global_zero:
        return 0
    return _report(cli.verdicts)


def _report(verdicts: Sequence[Verdict]) -> int:
    if not verdicts:
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "want", "got", "", title="expect")
    for verdict in verdicts:
        bar, got = verdict.bar, verdict.got
        table.add_row(
            bar.metric,
            f"{bar.sign} {bar.limit:g}",
            f"{got:.4g}" if got is not None else f"not logged{verdict.hint}",
            "met" if verdict.met else "NOT MET",
        )
    Console().print(table)
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
