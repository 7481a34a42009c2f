"""Where a pass goes: the report folder, the loggers, the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from rich.console import Console

from fulgurite.callbacks.representative_interpretation.report import summary_table
from fulgurite.callbacks.representative_interpretation.survey import Survey

PREFIX = "representative_interpretation"


def scalars(survey: Survey) -> dict[str, float]:
    """The numbers for loggers, as far as they are known."""
    return {f"{PREFIX}/{name}": value for name, value in survey.snapshot.values.items()}


def log_to(
    loggers: Iterable[Logger], numbers: Mapping[str, float], pictures: Mapping[str, NDArray[np.uint8]], *, step: int
) -> None:
    """Hand the numbers to every logger, and the pictures to TensorBoard and Weights & Biases.

    Args:
        loggers: the trainer's.
        numbers: by name.
        pictures: (H, W, 3) pixels by name.
        step: the trainer's step.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            # One call for all of a step: W&B takes a second one for the next step.
            logger.log_metrics({**numbers, **_wandb_images(pictures)}, step=step)
            continue
        logger.log_metrics(dict(numbers), step=step)
        if isinstance(logger, TensorBoardLogger):
            for name, pixels in pictures.items():
                logger.experiment.add_image(f"{PREFIX}/{name}", pixels, global_step=step, dataformats="HWC")


def show(survey: Survey, report: Path | None, notes: Sequence[str] = ()) -> None:
    """Print the headline numbers, the alarms, the cuts, the notes, and where the report is."""
    console = Console()
    console.print(summary_table(survey))
    for clue in survey.clues:
        console.print(f"! {clue.text}", markup=False, highlight=False, style="red")
    for note in dict.fromkeys([*notes, *survey.notes]):
        console.print(f"· {note}", markup=False, highlight=False)
    if report is not None:
        # Not broken into lines, so that a terminal can open it.
        console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)


def _wandb_images(pictures: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
    import wandb

    return {f"{PREFIX}/{name}": [wandb.Image(pixels, caption=name)] for name, pixels in pictures.items()}
