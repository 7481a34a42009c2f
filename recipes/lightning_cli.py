"""Lightning's own command line, held to what a recipe may do, with one-line errors and the bars of ``expect:``."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from fulgurite.plugins.opened_imports import opening
from fulgurite.plugins.registry import Registry, nearest
from fulgurite.recipes.expect import Verdict, judge, parse_bars
from fulgurite.recipes.library import REMOTE, Document, Recipe, RecipeError
from fulgurite.recipes.lint import KEYS, lint, load_named, short_names
from fulgurite.recipes.trust import enforced, opened_by_user, opening_hint

_WORD = re.compile(r"[A-Za-z_]\w*")
_INNER = re.compile(r"⟦(.*?)⟧", re.DOTALL)


# Added by `check`; a fault is never theirs.
OWN_WORDS = ("--trainer.fast_dev_run=true", "--trainer.logger=false")


class RecipeParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage page; a nested parser's marked error ends up in the outer one's."""
        raise RecipeError(f"⟦{condense(message)}⟧") from ex

    def add_function_arguments(self, function: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Refuse: where a parameter takes a callable, jsonargparse would call a function with a recipe's arguments."""
        name = getattr(function, "__qualname__", function)
        raise RecipeError(f"{name} is no class; a recipe can only build classes")


def condense(message: str) -> str:
    r"""One line out of jsonargparse's report: the key, what was got, what was expected.

    Example:
        >>> condense('Parser key "trainer.max_epochs":\n  Does not validate against any of the Union subtypes\n'
        ...          "  Subtypes: [<class 'int'>, <class 'NoneType'>]\n  Given value: two")
        'trainer.max_epochs: got two, expected int or null'
    """
    key = re.match(r'\s*Parser key "([^"]*)":', message)
    prefix = key[1] if key else ""
    inner = _INNER.findall(message)
    if inner:
        text = inner[0]
        return text if not prefix or text.startswith(prefix) else f"{prefix}: {text}"
    denied = re.search(r"Importing '([^']*)' is not allowed", message)
    if denied:
        return (f"{prefix}: " if prefix else "") + f"importing {denied[1]} is refused{opening_hint(denied[1])}"
    unknown = re.search(r"(?:Key|Option) '([^']+)' is not (?:expected|accepted)", message) or re.search(
        r"(?:No action for key|[Uu]nrecognized arguments:) \"?([^\s\"=]+)", message
    )
    if unknown:
        return (f"{prefix}: " if prefix else "") + f"no such option {unknown[1]!r}"
    causes = re.findall(r"^ +- (?!Expected an? |Not |Does not validate|an? )(.+)$", message, re.MULTILINE)
    if causes:
        return f"{prefix}: {causes[0]}" if prefix else causes[0]
    given = re.findall(r"(?:Given|Got) value: (.*)", message)
    subtypes = re.search(r"Subtypes: \[(.*)\]", message) or re.search(r"Expected an? (<class '[^']+'>)", message)
    if given and subtypes:
        wanted = [_plain(name) for name in re.split(r", (?![^\[]*\])", subtypes[1])]
        return f"{prefix}: got {given[-1].strip()}, expected {' or '.join(wanted)}"
    body = message[key.end() :] if key else message
    lines = [line.strip(" -") for line in body.splitlines() if line.strip(" -")]
    return (f"{prefix}: " if prefix else "") + "; ".join(lines[:3])


def _plain(annotation: str) -> str:
    name = re.sub(r"<class '([\w.]+)'>", lambda match: match[1].rsplit(".", 1)[-1], annotation).strip()
    return "null" if name == "NoneType" else re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", name)


class RecipeCLI(LightningCLI):
    """``LightningCLI`` for recipes: any model and data module, `expect:` and `needs:` as keys, logs under ``runs/``."""

    def __init__(self, args: list[str], *, name: str = "run", run: bool = True) -> None:
        logger = {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "runs", "name": name},
        }
        super().__init__(
            parser_class=RecipeParser,
            trainer_defaults={"logger": logger},
            save_config_kwargs={"overwrite": True},
            args=args,
            run=run,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Options are written out: a shortened ``--conf`` would pass by the reading of recipes."""
        return super().init_parser(**{"allow_abbrev": False, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the two keys that are ours."""
        parser.add_argument(
            "--expect", type=dict[str, Any] | None, default=None, help="bars on logged metrics, checked after fit"
        )
        parser.add_argument(
            "--needs", type=dict[str, list[str]] | None, default=None, help="data folders and extras that must be there"
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if "weights_only" in self._subcommand_method_arguments[subcommand]:
            # Lightning's default trusts a checkpoint that comes from a URL.
            parser.set_defaults({"weights_only": True})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what was given; ``sys.argv`` keeps the words that a re-executed rank will read."""
        self.config = parser.parse_args(args)
        mine = self.config.get(self.config.get("subcommand") or "") if self.config.get("subcommand") else None
        if mine is not None and "weights_only" in mine and mine.weights_only is None:
            mine.weights_only = True

    @property
    def verdicts(self) -> list[Verdict]:
        """The bars of the recipe beside what the run logged."""
        return judge(parse_bars(self._get(self.config, "expect")), self.trainer.callback_metrics)


def run_cli(
    args: list[str], registry: Registry, allowed: tuple[str, ...], *, name: str = "run", run: bool = True
) -> RecipeCLI:
    """Check the recipes among the arguments, then parse, build and run.

    Args:
        args: Lightning's own words: ``["fit", "--config", path, "--trainer.max_epochs", "2"]``.
        registry: the installed plugins.
        allowed: what may be imported (:func:`fulgurite.recipes.trust.allow_list`).
        name: under which the run is logged (``runs/<name>/version_0``).
        run: False builds trainer, model and data only; ``args`` then begin without a sub-command.

    Raises:
        RecipeError: one line that says what is wrong.
    """
    with enforced(allowed), opening(opened_by_user(allowed, registry)), without_notices():
        load_named([word for arg in args for word in _WORD.findall(arg)], registry)
        documents = [_read_config(path) for path in config_paths(args)]
        for document in documents:
            lint(document, registry, allowed)
            load_named(_WORD.findall(Path(document.source).read_text(encoding="utf-8")), registry)
        try:
            return RecipeCLI(args, name=name, run=run)
        except RecipeError as error:
            raise RecipeError(_explained(str(error), documents, args, registry)) from error
        except (TypeError, ValueError) as error:
            # An exception in a constructor comes wrapped in a report of every type that the value might have had.
            if "Subtypes:" not in str(error):
                raise
            raise RecipeError(_explained(condense(str(error)), documents, args, registry)) from error
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's way of ending an interrupted run
                raise KeyboardInterrupt from stop
            raise


@contextmanager
def without_notices() -> Iterator[None]:
    """Keep out of a run's output what its reader can do nothing about."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")

    def keep(record: logging.LogRecord) -> bool:
        return "Tip:" not in record.getMessage()

    logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
            warnings.filterwarnings(
                "ignore", message="(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4)"
            )  # LightningCLI's own
            yield
    finally:
        logger.removeFilter(keep)


def config_paths(args: list[str]) -> list[str]:
    """The files named by ``--config``/``-c``.

    Raises:
        RecipeError: a URL, or nothing after the option.
    """
    paths = []
    for index, word in enumerate(args):
        option, equals, value = word.partition("=")
        if word.startswith("-c") and not word.startswith("--") and len(option) > 2:
            raise RecipeError(f"{word}: write --config {word[2:].lstrip('=')}")
        if option not in ("--config", "-c"):
            continue
        if not equals:
            if index + 1 >= len(args):
                raise RecipeError(f"{option}: give a file")
            value = args[index + 1]
        if REMOTE.match(value):
            raise RecipeError(f"{value}: remote configs are off; download the file, read it, and give its path")
        paths.append(value)
    return paths


def _read_config(path: str) -> Document:
    if not Path(path).is_file():
        beside = [str(other) for other in Path(path).parent.glob("*.y*ml")]
        raise RecipeError(f"{path}: no such file{nearest(path, beside)}")
    return Recipe(path, Path(path)).document()


def _explained(message: str, documents: list[Document], args: list[str], registry: Registry) -> str:
    text = message.removeprefix("⟦").removesuffix("⟧")
    if name := re.search(r": got ([A-Za-z_]\w*), expected .*\b[A-Z]\w+", text):
        text += nearest(name[1], short_names(registry))
    if option := re.match(r"no such option '-*([\w.]+)'", text):
        group, _, last = option[1].rpartition(".")
        if group == "trainer":
            text += nearest(last, inspect.signature(pl.Trainer).parameters)
        elif not group:
            text += nearest(last, KEYS)
    start = re.match(r"[\w.]*", text)
    key = start[0] if start else ""
    path: tuple[str | int, ...] = tuple(key.split(".")) if key else ()
    given = [word.lstrip("-").partition("=")[0] for word in args if word.startswith("--") and word not in OWN_WORDS]
    if key and any(word == key or word.startswith(key + ".") or key.startswith(word + ".") for word in given):
        return f"command line: {text}"
    while path:
        for document in documents:
            if path in document.lines:
                return f"{document.where(path)}: {text}"
        path = path[:-1]
    return text
