"""``check``: parse a recipe, build everything that it names, and take one step of each loop."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import Any, Literal

from fulgurite.plugins.registry import Registry
from fulgurite.recipes.library import Recipe, RecipeError
from fulgurite.recipes.needs import data_arguments, missing_needs
from fulgurite.recipes.trust import allow_list

TIMEOUT = (
    600  # seconds for one step of each loop in processes of their own: ranks that wait for each other wait for ever
)


@dataclass(frozen=True)
class Outcome:
    """What ``check`` found.

    Attributes:
        status: ``ok``, ``not run`` (something that it needs is missing) or ``fault``.
        message: one line: what is missing, or what is wrong and where.
    """

    status: Literal["ok", "not run", "fault"]
    message: str = ""


def check_recipe(
    recipe: Recipe,
    registry: Registry,
    *,
    allow_import: tuple[str, ...] = (),
    args: tuple[str, ...] = (),
    own_process: bool | None = None,
) -> Outcome:
    """Check one recipe.

    Args:
        recipe: the recipe.
        registry: the installed plugins.
        allow_import: modules of the user's own that it may import.
        args: overrides, as on the command line.
        own_process: whether to run in a process of its own; None: if it starts others (more than one device, or local
            peers), because those re-execute the command line of the process that starts them.
    """
    try:
        settings = recipe.settings
        needs = settings.get("needs")
        missing = missing_needs(needs, args)
        if missing:
            return Outcome("not run", "needs " + "; needs ".join(missing))
        args = (*data_arguments(needs, args), *args)
        if own_process is None:
            own_process = uses_processes(settings, args)
        if own_process:
            return _check_elsewhere(recipe, allow_import, args)
        _fast_dev_run(recipe, registry, allow_list(registry, allow_import), args)
    except RecipeError as error:
        return Outcome("fault", str(error))
    except SystemExit as stop:
        return Outcome("fault", f"{recipe.path}: it ends the process with code {stop.code}")
    except Exception as error:  # whatever a model or data module raises is a fault of the recipe, said in one line
        return Outcome("fault", f"{recipe.path}: {one_line(error)}")
    return Outcome("ok")


def uses_processes(settings: dict[str, Any], args: tuple[str, ...] = ()) -> bool:
    """Whether a recipe, with these overrides, may start more than one process."""
    trainer = settings.get("trainer")
    asked = dict(trainer) if isinstance(trainer, dict) else {}
    if _local_peers(asked.get("strategy"), args) not in (1, "1"):
        return True
    for word in args:
        key, _, value = word.removeprefix("--trainer.").partition("=")
        if word.startswith("--trainer.") and key in ("devices", "num_nodes", "accelerator"):
            asked[key] = value
    if asked.get("num_nodes", 1) not in (1, "1"):
        return True
    devices = asked.get("devices", "auto")
    if devices in ("auto", -1, "-1") and asked.get("accelerator") != "cpu":
        import torch

        return torch.cuda.device_count() > 1  # Lightning takes all of them
    return devices not in (1, "1", "auto", [0])


def _local_peers(strategy: object, args: tuple[str, ...]) -> object:
    """How many processes a strategy of peers starts on this machine, as it is written there."""
    options = strategy.get("init_args") if isinstance(strategy, dict) else None
    found = options.get("local_peers", 1) if isinstance(options, dict) else 1
    for word in args:
        key, equals, value = word.partition("=")
        if equals and key.startswith("--trainer.strategy.") and key.endswith(".local_peers"):
            found = value
    return found


def one_line(error: BaseException) -> str:
    """An exception as one line.

    Example:
        >>> one_line(KeyError("x"))
        "KeyError: 'x'"
    """
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if isinstance(error, ValueError) and text:
        return text  # ours say in words what is wrong
    return f"{kind}: {text}" if text else kind


def _fast_dev_run(recipe: Recipe, registry: Registry, allowed: tuple[str, ...], args: tuple[str, ...]) -> None:
    from fulgurite.recipes.lightning_cli import OWN_WORDS, run_cli

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),  # what a callback prints is not what a check finds
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            run_cli(["fit", "--config", str(recipe.path), *args, *OWN_WORDS], registry, allowed, name=recipe.name)
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _check_elsewhere(recipe: Recipe, allow_import: tuple[str, ...], args: tuple[str, ...]) -> Outcome:
    allow = [word for name in allow_import for word in ("--allow-import", name)]
    command = [sys.executable, "-m", "fulgurite.recipes.cli", "check", str(recipe.path), *allow, *args]
    environment = {
        key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")
    }
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Outcome("fault", f"{recipe.path}: its processes did not end within {TIMEOUT} s")
    if done.returncode == 0:
        return Outcome("ok")
    lines = [line for line in done.stdout.splitlines() if line.startswith("fault")] or (
        done.stderr or done.stdout
    ).splitlines()[-1:]
    return Outcome("fault", lines[0].partition(": ")[2] if lines else f"its process ended with code {done.returncode}")
