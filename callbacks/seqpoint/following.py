"""What the epoch after the logged one says: fresh times of the points, and whether steps still cost the same."""

import math

import numpy as np
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.plan import Plan, PlanError

_FIRST = 3  # steps of a run that pay for its start


def ordinary(log: EpochLog) -> NDArray[np.bool_]:
    """The steps whose times can be trusted, (M,).

    Not those that were traced, nor the ones right behind them, nor cold ones. Where more than half of all steps are
    cold, new shapes are what an ordinary step of this run has, so that only the first three are left out.

    Example:
        >>> from fulgurite.callbacks.seqpoint.log import EpochLog
        >>> n, no = np.zeros(4), np.zeros(4, dtype=bool)
        >>> one = np.array([True, False, False, False])
        >>> log = EpochLog(0, ("batch",), np.ones((4, 1)), n, n, n, one, one[::-1], n, n, n)
        >>> ordinary(log).tolist()
        [False, True, True, False]
    """
    disturbed = log.traced.copy()
    disturbed[1:] |= log.traced[:-1]
    return ~disturbed & ~start_up(log)


def start_up(log: EpochLog) -> NDArray[np.bool_]:
    """The steps to keep out of the cost proxy: cold ones, or the first three where most are cold, (M,)."""
    if log.cold.mean() > 0.5:
        return log.cold & (np.arange(len(log)) < _FIRST)
    return log.cold


def measure(plan: Plan, log: EpochLog, *, seed: int = 0) -> dict[tuple[int, ...], list[float]]:
    """Fresh times of a plan's points, from the steps of another epoch that are most like them.

    For each point as many steps as it has runs, no step twice: the nearest in predicted cost, for ``paper`` the nearest
    in length. Times play no part in the choice. Equally near steps are drawn at random, lest all of them lie at the
    epoch's beginning.

    Args:
        plan: the plan.
        log: the other epoch.
        seed: of the private random numbers.

    Returns:
        What :meth:`~fulgurite.callbacks.seqpoint.plan.Plan.project` takes.

    Raises:
        PlanError: the epoch has fewer steps than the plan has runs.
    """
    usable = ordinary(log)
    if usable.sum() < plan.runs:
        usable = ~log.traced
    if usable.sum() < plan.runs:
        raise PlanError(
            f"{int(usable.sum())} untraced steps are too few to measure the {plan.runs} runs of the plan: "
            "ask for fewer points or replicates, or for an epoch of more steps"
        )
    costs = plan.cost.predict(log.shapes)
    lengths = log.shapes[:, plan.length]
    rng = np.random.default_rng(seed)
    measured: dict[tuple[int, ...], list[float]] = {}
    free = usable.copy()
    for point in plan.points:
        distance = np.abs(costs - point.cost)
        if plan.selector == "paper":
            distance = np.abs(lengths - point.shape[plan.length]).astype(np.float64)
        order = np.lexsort((rng.random(len(log)), distance, ~free))
        taken = order[: len(point.runs)]
        free[taken] = False
        measured.setdefault(point.shape, []).extend(log.seconds[taken].tolist())
    return measured


def drift(plan: Plan, log: EpochLog, following: EpochLog) -> float:
    """How much dearer like steps became from the logged epoch to the following one, as a share; nan for too few steps.

    A profiler may slow down the steps behind its windows too, and a machine may be busier than before.

    Args:
        plan: knows what a shape costs.
        log: the logged epoch.
        following: the following one.
    """
    before, after = (_ratios(plan, epoch) for epoch in (log, following))
    if min(len(before), len(after)) < 10:
        return math.nan
    return float(np.median(after) / np.median(before)) - 1.0


def _ratios(plan: Plan, log: EpochLog) -> NDArray[np.float64]:
    trusted = ordinary(log)
    return log.seconds[trusted] / plan.cost.predict(log.shapes[trusted])
