"""Where findings go: the report folder, the loggers, the terminal."""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from rich.console import Console

from fulgurite.callbacks.seqpoint.figures import figures
from fulgurite.callbacks.seqpoint.findings import Findings
from fulgurite.callbacks.seqpoint.report import summary_table, write_report
from fulgurite.callbacks.seqpoint.summary import Summary, summarize


def can_write(folder: Path) -> str | None:
    """Try to write into a folder, which is made if missing; why it cannot be done, or ``None``.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     can_write(Path(folder) / "new") is None
        True
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def write(findings: Findings, folder: Path) -> Path:
    """Write the report; the path of ``report.html``.

    Raises:
        OSError: the folder cannot be written to.
    """
    assert findings.plan is not None
    assert findings.log is not None
    return write_report(
        folder,
        plan=findings.plan,
        log=findings.log,
        following=findings.following,
        projection=findings.projection,
        table=findings.table,
        traces=findings.traces,
        notes=findings.notes,
        straggler=findings.straggler,
    )


def summary_of(findings: Findings) -> Summary:
    """The headline numbers."""
    assert findings.plan is not None
    assert findings.log is not None
    return summarize(
        plan=findings.plan,
        log=findings.log,
        following=findings.following,
        projection=findings.projection,
        traces=findings.traces,
        straggler=findings.straggler,
    )


def scalars(findings: Findings) -> dict[str, float]:
    """The numbers for loggers, as far as they are known."""
    assert findings.plan is not None
    summary = summary_of(findings)
    values = {
        "logged_seconds": summary.logged,
        "actual_seconds": summary.actual,
        "projected_seconds": math.nan if findings.projection is None else findings.projection.total,
        "error": summary.error,
        "foreseen_error": findings.plan.error,
        "explained": findings.plan.explained,
        "points": float(summary.points),
        "serial_reduction": summary.serial,
        "critical_path_reduction": summary.critical,
        "padding": summary.padding,
        "input_wait": summary.waiting,
        "cold_seconds": summary.cold_seconds,
        "straggler": summary.straggler,
        "peak_bytes": summary.memory.peak_bytes,
    }
    return {f"seqpoint/{name}": float(value) for name, value in values.items() if not math.isnan(value)}


def log_to(loggers: Iterable[Logger], findings: Findings, *, step: int) -> None:
    """Hand the numbers to every logger, and the figures to TensorBoard.

    Args:
        loggers: the trainer's.
        findings: with a plan.
        step: the trainer's step.
    """
    assert findings.plan is not None
    assert findings.log is not None
    drawn = None
    for logger in loggers:
        logger.log_metrics(scalars(findings), step=step)
        if isinstance(logger, TensorBoardLogger):
            drawn = drawn or figures(
                plan=findings.plan,
                log=findings.log,
                following=findings.following,
                table=findings.table,
                traces=findings.traces,
            )
            for name, figure in drawn.items():
                logger.experiment.add_figure(f"seqpoint/{name}", figure, global_step=step, close=False)


def show(findings: Findings, report: Path | None) -> None:
    """Print the table of headline numbers, the notes, and where the report is."""
    assert findings.plan is not None
    console = Console()
    console.print(summary_table(findings.plan, summary_of(findings)))
    for note in findings.notes:
        console.print(f"· {note}", markup=False, highlight=False)
    if report is not None:
        # Not broken into lines, so that a terminal can open it.
        console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)
