"""The pictures of a profiled epoch, as Matplotlib figures that leave pyplot's global state alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.following import start_up
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.operators import OperatorTable
from fulgurite.callbacks.seqpoint.plan import Plan
from fulgurite.callbacks.seqpoint.summary import MemoryRisk, find_memory_risk, padded_size

if TYPE_CHECKING:
    from fulgurite.callbacks.seqpoint.trace import StepTrace

INK, MUTED, GRID, STEPS = "#24292f", "#6e7781", "#d8dee4", "#7f90a5"
POINTS, WAITS, COLD, TRACED = "#d9480f", "#e8a33d", "#8250df", "#1a8f6f"
_BARS = ("#3f72b5", "#e0813d", "#4d9f71", "#c5525a", "#8a6cb3", "#9a7b5b", "#cf86b8", "#52a5b5")
_REST = "#a9b4c0"
ON_BAR = "#fefefe"  # white, yet not the page's white, which the HTML page exchanges in the dark
_MOST_BARS = 600  # an epoch's steps are averaged to at most so many bars: a page has no more pixels


def figures(
    *,
    plan: Plan,
    log: EpochLog,
    following: EpochLog | None,
    table: OperatorTable | None,
    traces: Mapping[int, Sequence["StepTrace"]],
) -> dict[str, Figure]:
    """All figures that the data allow: ``step_time``, ``timeline``, ``memory`` and, with a table, ``operators``.

    Args:
        plan: the plan.
        log: the epoch that it was selected on.
        following: the traced epoch, if there was one.
        table: the weighted operator table, if there are traces.
        traces: number of a point → its traces.

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> lengths = np.arange(10, 210)
        >>> shapes = np.stack([np.full(200, 8), lengths], axis=1)
        >>> no, zero, unknown = np.zeros(200, dtype=bool), np.zeros(200), np.full(200, -1)
        >>> log = EpochLog(
        ...     0, ("batch", "source"), shapes, 1e-4 * lengths, zero, zero, no, no, unknown, unknown, zero + np.nan
        ... )
        >>> plan = select(shapes, log.seconds, points=4, columns=log.columns)
        >>> list(figures(plan=plan, log=log, following=None, table=None, traces={}))
        ['step_time', 'timeline', 'memory']
    """
    drawn = {"step_time": step_time(plan, log), "timeline": timeline(log, following)}
    if table is not None:
        drawn["operators"] = operator_share(table)
    drawn["memory"] = peak_memory(log, traces, find_memory_risk(log, traces))
    return drawn


def step_time(plan: Plan, log: EpochLog) -> Figure:
    """Step time against length, and against what the whole shape is predicted to cost; points sized by weight."""
    costs = plan.cost.predict(log.shapes) * 1e3
    varied = [
        (log.shapes[:, plan.length], _axis_name(log.columns[plan.length])),
        (costs, "cost predicted from the whole shape (ms)"),
    ]
    panels = [(values, name) for values, name in varied if np.ptp(values) > 0]
    if not panels:
        panels = [(np.arange(len(log)), "step of the epoch (the shape never changes)")]
    figure, axes = _figure(9.6, 4.0, columns=len(panels))
    runs = np.array([point.runs[0] for point in plan.points])
    weights, times = plan.weights, np.array([point.seconds for point in plan.points]) * 1e3
    highest = _ceiling(log.seconds * 1e3, times)
    cold = start_up(log)
    for axis, (values, name) in zip(axes, panels, strict=True):
        _dots(axis, values[~cold], log.seconds[~cold] * 1e3, STEPS, "step")
        if cold.any():
            _dots(axis, values[cold], log.seconds[cold] * 1e3, COLD, "step of a new shape")
        area = 30 + 370 * weights / weights.max()
        axis.scatter(values[runs], times, s=area, facecolor="none", edgecolor=POINTS, linewidth=1.8, zorder=3)
        axis.scatter(values[runs], times, s=9, color=POINTS, zorder=4, label="point, its ring sized by weight")
        axis.set_xlabel(name)
        axis.set_ylim(0, highest)
        axis.set_title(_count_above(log.seconds * 1e3, highest), loc="right", color=MUTED, fontsize=9)
    axes[0].set_ylabel("step time (ms)")
    _legend(axes[0], loc="upper left")
    return figure


def timeline(log: EpochLog, following: EpochLog | None) -> Figure:
    """Each step's time along the epoch with the input wait before it; new shapes and traced steps are marked."""
    epochs = [log] if following is None else [log, following]
    figure, axes = _figure(9.6, 1.1 + 1.9 * len(epochs), rows=len(epochs))
    highest = max(_ceiling((epoch.seconds + epoch.waits) * 1e3) for epoch in epochs) * 1.1
    for axis, epoch in zip(axes, epochs, strict=True):
        edges, (steps, waits) = _averaged(epoch.seconds * 1e3, epoch.waits * 1e3)
        axis.stairs(steps, edges, fill=True, color=STEPS, alpha=0.85, label="step", linewidth=0)
        axis.stairs(steps + waits, edges, baseline=steps, fill=True, color=WAITS, label="input wait", linewidth=0)
        marks = ((start_up(epoch), COLD, "new shape", 0.985), (epoch.traced, TRACED, "traced", 0.93))
        for mask, color, name, height in marks:
            where = np.flatnonzero(mask)
            if len(where):
                level = np.full(len(where), highest * height)
                axis.scatter(where, level, marker="|", s=26, color=color, linewidth=0.9, label=name, zorder=3)
        axis.set_xlim(-0.5, len(epoch) - 0.5)
        axis.set_ylim(0, highest)
        role = "" if following is None else ", logged" if epoch is log else ", traced"
        axis.set_title(f"Epoch {epoch.epoch}{role}: {len(epoch)} steps", loc="left", color=INK, fontsize=10)
        above = _count_above((epoch.seconds + epoch.waits) * 1e3, highest)
        axis.set_title(above, loc="right", color=MUTED, fontsize=9)
        axis.set_ylabel("ms")
    axes[-1].set_xlabel("step of the epoch")
    entries = {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries, loc="outside upper right", ncols=4, frameon=False, labelcolor=INK)
    return figure


def operator_share(table: OperatorTable, *, most: int = 8) -> Figure:
    """How the time of the epoch, and of each length band, divides among operators; the largest ``most`` by name."""
    rows = table.of("operator")
    named, rest = rows[:most], rows[most:]
    bars = ["whole epoch", *(f"length {band.label}" for band in table.bands)]
    if len(table.bands) == 1:
        bars = bars[:1]
    shares = [[row.share, *row.bands][: len(bars)] for row in named]
    names = [short_name(row.name) for row in named]
    if rest:
        shares.append([sum([row.share, *row.bands][bar] for row in rest) for bar in range(len(bars))])
        names.append(f"{len(rest)} more operators")
    figure, (axis,) = _figure(9.6, 1.5 + 0.46 * max(len(bars), 4))
    left = np.zeros(len(bars))
    height = 0.72 if len(bars) > 1 else 0.4
    for share, name, color in zip(shares, names, [*_BARS[: len(named)], _REST], strict=False):
        width = np.array(share) * 100
        axis.barh(range(len(bars)), width, height, left=left, color=color, label=name, edgecolor="white", linewidth=0.6)
        for bar in np.flatnonzero(width >= 5).tolist():
            middle = left[bar] + width[bar] / 2
            axis.text(middle, bar, f"{width[bar]:.0f}", ha="center", va="center", color=ON_BAR, fontsize=8.5)
        left += width
    axis.set_yticks(range(len(bars)), bars)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.grid(False)
    axis.tick_params(left=False)
    axis.set_xlabel(f"share of {'GPU' if table.on_device else 'CPU'} time (%)")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, fontsize=9)
    return figure


def peak_memory(log: EpochLog, traces: Mapping[int, Sequence["StepTrace"]], memory: MemoryRisk) -> Figure:
    """Peak memory against the size of the batch with its padding; the batch most likely to run out is named."""
    figure, (axis,) = _figure(9.6, 3.6)
    size = padded_size(log)
    name = f"step {memory.step} ({name_shape(log.columns, memory.shape)})"
    axis.set_xlabel("positions in the batch with its padding (batch size times lengths)")
    if memory.basis == "size":
        axis.hist(size, bins=min(40, max(1, len(np.unique(size)))), color=STEPS, alpha=0.85)
        axis.axvline(size[memory.step], color=POINTS, linewidth=1.6)
        axis.set_ylabel("steps")
        axis.set_title(f"Memory was not measured; the largest batch is {name}", loc="left", color=INK, fontsize=10)
        return figure
    unit, scale = _byte_unit(memory.peak_bytes)
    known = np.isfinite(memory.peaks)
    kind = "step, predicted from its shape" if memory.basis == "predicted" else "step, measured"
    _dots(axis, size[known], memory.peaks[known] / scale, STEPS, kind)
    traced = [trace for found in traces.values() for trace in found if len(trace.shape) == len(log.columns)]
    if memory.basis == "predicted":
        probe = np.array([trace.shape for trace in traced])
        places = [size[np.abs(log.shapes - row).sum(axis=1).argmin()] for row in probe]
        axis.scatter(places, [t.peak_bytes / scale for t in traced], s=34, color=TRACED, zorder=3, label="traced step")
    axis.scatter(size[memory.step], memory.peak_bytes / scale, s=110, facecolor="none", edgecolor=POINTS, linewidth=1.8)
    axis.annotate(
        f"{name}\n{memory.peak_bytes / scale:.3g} {unit}{' predicted' * (memory.basis == 'predicted')}",
        (size[memory.step], memory.peak_bytes / scale),
        xytext=(-10, 8),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=POINTS,
    )
    axis.set_ylabel(f"peak memory ({unit})")
    axis.set_ylim(bottom=0, top=float(np.nanmax(memory.peaks)) / scale * 1.3)
    _legend(axis, loc="upper left")
    return figure


def name_shape(columns: Sequence[str], shape: Sequence[int]) -> str:
    """A shape in words, without the optimizer flag.

    Example:
        >>> name_shape(("batch", "source", "optimizer_step"), (32, 20, 1))
        'batch 32, source 20'
    """
    return ", ".join(f"{name} {size}" for name, size in zip(columns, shape, strict=True) if name != "optimizer_step")


def short_name(name: str) -> str:
    """An operator's name as short as it stays clear.

    Example:
        >>> short_name("autograd::engine::evaluate_function: MmBackward0")
        'MmBackward0'
    """
    short = name.removeprefix("autograd::engine::evaluate_function: ").removeprefix("aten::").removeprefix("torch::")
    return name if short.startswith("_") else short  # Matplotlib leaves such names out of a legend


def _figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=rows > 1 and columns == 1).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(MUTED)
        axis.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
        axis.xaxis.label.set_color(INK)
        axis.yaxis.label.set_color(INK)
        axis.grid(True, color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(FuncFormatter(_thousands))
    return figure, axes


def _dots(axis: Axes, x: NDArray[Any], y: NDArray[np.float64], color: str, label: str) -> None:
    # Past some thousands of dots a picture is smaller than a list of shapes.
    many = len(x) > 1500
    axis.scatter(x, y, s=7, color=color, alpha=0.55, linewidth=0, label=label, rasterized=many)


def _legend(axis: Axes, **place: Any) -> None:
    axis.legend(frameon=False, labelcolor=INK, fontsize=9, handletextpad=0.4, **place)


def _thousands(value: float, _: object) -> str:
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _axis_name(column: str) -> str:
    return column if "length" in column else f"{column} length"


def _ceiling(values: NDArray[np.float64], shown: NDArray[np.float64] | None = None) -> float:
    """High enough for ``shown`` and for all but the few values that would flatten the rest."""
    highest = max(min(values.max() * 1.05, np.quantile(values, 0.995) * 1.25), 1e-9)
    if shown is not None and np.isfinite(shown).any():
        highest = max(highest, 1.1 * np.nanmax(shown))
    return float(highest)


def _count_above(values: NDArray[np.float64], highest: float) -> str:
    above = int((values > highest).sum())
    return f"{above} {'step' if above == 1 else 'steps'} higher, up to {values.max():,.0f} ms" if above else ""


def _averaged(*series: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Bars for a long series: edges, (n + 1,), and the means between them, (n,) each."""
    steps = len(series[0])
    starts = np.unique(np.linspace(0, steps, min(steps, _MOST_BARS), endpoint=False).astype(int))
    counts = np.diff([*starts, steps])
    return np.array([*starts, steps]) - 0.5, [np.add.reduceat(values, starts) / counts for values in series]


def _byte_unit(size: float) -> tuple[str, float]:
    return next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)) if size >= s or s == 1.0)
