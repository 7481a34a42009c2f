"""The report folder: plan, steps, operators, pictures and one page; and the table in the terminal."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from fulgurite.callbacks.seqpoint.figures import figures
from fulgurite.callbacks.seqpoint.headline import headline
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.operators import OperatorTable
from fulgurite.callbacks.seqpoint.page import render
from fulgurite.callbacks.seqpoint.plan import Plan, Projection
from fulgurite.callbacks.seqpoint.summary import Summary, summarize
from fulgurite.plugins.files import replacing, write_text

if TYPE_CHECKING:
    from fulgurite.callbacks.seqpoint.trace import StepTrace


def write_report(
    folder: Path,
    *,
    plan: Plan,
    log: EpochLog,
    following: EpochLog | None,
    projection: Projection | None,
    table: OperatorTable | None,
    traces: Mapping[int, Sequence["StepTrace"]],
    notes: Sequence[str] = (),
    straggler: float = math.nan,
) -> Path:
    """Write ``plan.json``, ``steps.csv``, ``operators.csv``, a PNG a figure and ``report.html`` into a folder.

    Everything is worked out before the first file is written, and each file is written whole or not at all. Files of
    these names that an earlier report left and this one does not have are removed.

    Args:
        folder: where; made if missing.
        plan: the plan.
        log: the epoch that it was selected on.
        following: the epoch after it, in which points were traced; its steps go to ``steps_following.csv``.
        projection: the projected epoch; ``None`` where the plan refuses.
        table: the weighted operator table; ``None`` without traces.
        traces: number of a point → its traces.
        notes: what the reader must know before trusting a number, in plain text.
        straggler: share of step time in which ranks wait for the one with the longest batch.

    Returns:
        The path of ``report.html``.

    Raises:
        OSError: the folder cannot be made or written to.
        ValueError: the plan was not made from this log.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> lengths = np.arange(10, 210)
        >>> shapes = np.stack([np.full(200, 8), lengths], axis=1)
        >>> no, zero, unknown = np.zeros(200, dtype=bool), np.zeros(200), np.full(200, -1)
        >>> log = EpochLog(
        ...     0, ("batch", "source"), shapes, 1e-4 * lengths, zero, zero, no, no, unknown, unknown, zero + np.nan
        ... )
        >>> plan = select(shapes, log.seconds, points=4, columns=log.columns)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = write_report(
        ...         Path(folder), plan=plan, log=log, following=None, projection=None, table=None, traces={}
        ...     )
        ...     report.name, len(list(report.parent.iterdir()))
        ('report.html', 6)
    """
    folder = Path(folder)
    summary = summarize(
        plan=plan, log=log, following=following, projection=projection, traces=traces, straggler=straggler
    )
    drawn = figures(plan=plan, log=log, following=following, table=table, traces=traces)
    page = render(
        plan=plan, log=log, summary=summary, table=table, traces=traces, figures=drawn, notes=notes, folder=folder
    )
    pictures: dict[str, bytes] = {}
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        pictures[f"{name}.png"] = buffer.getvalue()

    plan.save(folder / "plan.json")
    log.save_csv(folder / "steps.csv")
    for name, content in pictures.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    for name, kept in (("steps_following.csv", following), ("operators.csv", table)):
        if kept is not None:
            kept.save_csv(folder / name)
    left_behind = {
        "steps_following.csv": following is None,
        "operators.csv": table is None,
        "operators.png": table is None,
    }
    for name, old in left_behind.items():
        if old:
            (folder / name).unlink(missing_ok=True)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def summary_table(plan: Plan, summary: Summary) -> Table:
    """The headline numbers for the terminal.

    Args:
        plan: the plan.
        summary: its numbers, from :func:`~fulgurite.callbacks.seqpoint.summary.summarize`.
    """
    table = Table(title="SeqPoint", title_style="bold", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column("what")
    table.add_column("value", justify="right", style="bold", no_wrap=True)
    table.add_column("against", style="dim")
    for tile in headline(plan, summary):
        table.add_row(tile.name, tile.value, tile.more)
    return table
