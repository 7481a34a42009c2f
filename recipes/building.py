"""Build what a recipe describes without running it: for commands that plan."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fulgurite.plugins.registry import discover
from fulgurite.recipes.library import RecipeError, find_recipe
from fulgurite.recipes.lightning_cli import RecipeCLI, run_cli
from fulgurite.recipes.trust import allow_list

# Only the steps are wanted: no logger, no checkpoint, no validation, and no callback whose work would be timed too.
BARE = {
    "trainer.logger": "false",
    "trainer.enable_checkpointing": "false",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "trainer.max_epochs": "1",
    "trainer.max_steps": "-1",
    "trainer.max_time": "null",
    "trainer.limit_train_batches": "1.0",
    "trainer.overfit_batches": "0",
    "trainer.fast_dev_run": "false",
    "trainer.profiler": "null",
    "trainer.num_sanity_val_steps": "0",
    "trainer.limit_val_batches": "0",
    "trainer.callbacks": "[]",
}


def build(name: str, overrides: Sequence[str], *, allow_import: Sequence[str] = ()) -> RecipeCLI:
    """The recipe's trainer, model and data, with nothing around the steps.

    Args:
        name: of the recipe, or its path.
        overrides: options as for ``fulgurite run``.
        allow_import: modules of the user's own that it may name.

    Raises:
        RecipeError: no such recipe, a fault in it, or one that wants several processes.
    """
    registry = discover()
    recipe = find_recipe(name, registry)
    words = [f"--{key}={value}" for key, value in BARE.items()]
    args = ["--config", str(recipe.path), *overrides, *words]
    with _without_devices():
        cli = run_cli(args, registry, allow_list(registry, allow_import), name=recipe.name, run=False)
    if cli.trainer.world_size > 1:
        raise RecipeError(
            f"{recipe.name} uses {cli.trainer.world_size} processes; add --trainer.devices=1 to plan or replay"
        )
    return cli


def train_batches(cli: RecipeCLI) -> Any:
    """The loader of the recipe's training batches, its data prepared."""
    owner = cli.model if cli.datamodule is None else cli.datamodule
    owner.prepare_data()
    owner.setup("fit")
    return owner.train_dataloader()


@contextmanager
def _without_devices() -> Iterator[None]:
    """Keep out what a new Trainer tells of GPUs and TPUs that nobody trains on, and of its seed."""
    loggers = [
        logging.getLogger(f"lightning.{part}") for part in ("fabric.utilities.seed", "pytorch.utilities.rank_zero")
    ]

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO

    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
