"""Choosing the few iterations that stand for an epoch."""

import difflib
import math
import warnings
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike

from fulgurite.callbacks.seqpoint.epoch import Epoch
from fulgurite.callbacks.seqpoint.fingerprint import fingerprint
from fulgurite.callbacks.seqpoint.plan import Plan, PlanError, Selector, ShapeWarning
from fulgurite.callbacks.seqpoint.points import EXPLAINED, Options, audited, interpolated, layout_of, papered

_STEADY = 0.1  # times that vary by less than this, relatively, can be projected whatever they follow
_EVIDENCE = 10  # fewer steps than this cannot show that shape and time have nothing to do with each other


def select(
    shapes: ArrayLike,
    seconds: ArrayLike | None,
    *,
    selector: Selector = "interpolate",
    length: int = 1,
    points: int | None = None,
    replicates: int = 3,
    max_share: float = 0.05,
    error: float = 0.01,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    cold: ArrayLike | None = None,
    iterations: int | None = None,
) -> Plan:
    """Choose the few weighted iterations that stand for an epoch of variable-length training.

    After S. Pati et al., "SeqPoint: Identifying Representative Iterations of Sequence-based Neural Networks",
    https://arxiv.org/abs/2007.10459, which characterises an iteration by its sequence length:

    - ``"interpolate"`` predicts each step's cost from its whole shape, p = β·φ(x), places points by predicted mass and
      at both ends, and projects any total as T̂ = Σᵢ g(pᵢ) = Σⱼ ωⱼyⱼ with g piecewise linear through the points.
    - ``"audit"`` draws at random within strata of equal predicted cost, and gives an interval that follows from the
      draws. It holds whatever step time depends on.
    - ``"paper"`` keys on one length: bins of equal width, in each the length whose mean time is nearest to the bin's.

    Args:
        shapes: (M, C) whole numbers, one row an iteration: batch size, source length, target length, optimizer step
            (0 or 1), as far as there are any.
        seconds: (M,) time of each step, or ``None`` for a plan from shapes alone (not for ``"paper"``).
        selector: how to choose.
        length: the column that ``"paper"`` and length bands use.
        points: how many points (``"audit"``: strata; ``"paper"``: bins). ``None``: the fewest whose foreseen error is
            at most ``error``. For ``"interpolate"`` that error comes from leaving points out and from trying the points
            on the cost proxy's own terms; for ``"audit"`` it is half the interval; ``"paper"`` has its own stop test.
        replicates: runs of each point, steps that are adjacent in predicted cost (``"paper"``: of the same length, as
            far as there are any). The median of three drops a disturbed one. ``"audit"``: draws a stratum on average,
            at least three.
        max_share: with ``points=None``, no more runs than this share of the iterations (but at least two points,
            ``"audit"``: one stratum; ``"paper"`` is not bound by it).
        error: relative error aimed at with ``points=None``.
        seed: of private random numbers; the global generators are left alone.
        columns: names of the columns; default ``("batch", "source", "target", "optimizer_step")`` as far as needed, or
            ``("source",)`` for a single one. Every name but ``batch`` and ``optimizer_step`` is taken for a length.
        cold: (M,) true for steps whose times are not to be trusted, such as the first of their shape. They count with
            their predicted cost, and are fitted only where the others are too few or too short.
        iterations: how many the whole epoch has, where ``shapes`` are a random part of it.

    Returns:
        The plan. Where all shapes are equal it has one point.

    Raises:
        PlanError: an empty epoch, times that are not finite and positive, shapes that are not whole numbers, wrong
            dimensions, or an option out of range.

    Warns:
        ShapeWarning: shape explains less than half of the variance of step time, and leaving points out shows an error
            above twice ``error``. Such a plan refuses to project (``"audit"`` is never refused).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> lengths = rng.integers(5, 100, size=1000)
        >>> shapes = np.stack([np.full(1000, 32), lengths], axis=1)
        >>> plan = select(shapes, (0.01 + 0.001 * lengths) * rng.normal(1.0, 0.03, size=1000))
        >>> plan.error < 0.01, plan.runs <= 50, round(float(plan.weights.sum()), 6)
        (True, True, 1000.0)
        >>> faster = {point.shape: 0.005 + 0.0004 * point.shape[1] for point in plan.points}
        >>> bool(abs(plan.project(faster).total / (0.005 + 0.0004 * lengths).sum() - 1) < 0.01)
        True
    """
    if selector not in get_args(Selector):
        close = difflib.get_close_matches(str(selector), get_args(Selector), n=1, cutoff=0.0)
        raise PlanError(
            f"no selector {selector!r}: did you mean {close[0]!r}? There are {', '.join(get_args(Selector))}"
        )
    epoch = Epoch.of(shapes, seconds, columns=columns, length=length, cold=cold)
    logged = len(epoch.shapes)
    options = _options(
        points=points,
        replicates=replicates,
        max_share=max_share,
        error=error,
        iterations=logged if iterations is None else iterations,
        seed=seed,
        logged=logged,
    )
    chosen = {"interpolate": interpolated, "audit": audited, "paper": papered}[selector](epoch, options)
    refusal = None if selector == "audit" else _refusal(epoch, options, len(chosen.points))
    if refusal is not None:
        warnings.warn(refusal, ShapeWarning, stacklevel=2)
    return Plan(
        selector=selector,
        columns=epoch.columns,
        points=chosen.points,
        iterations=options.iterations,
        seconds=math.nan if epoch.seconds is None else float(epoch.seconds.sum()),
        explained=epoch.explained,
        error=chosen.error,
        refusal=refusal,
        fingerprint=fingerprint(epoch.shapes),
        length=length,
        cost=chosen.cost,
        lengths=tuple(epoch.shapes[:, length].tolist()),
        systematic=math.hypot(chosen.systematic, _unlogged(epoch, options)),
    )


def _options(
    *,
    points: int | None,
    replicates: int,
    max_share: float,
    error: float,
    iterations: int,
    seed: int,
    logged: int,
) -> Options:
    for name, number in (("points", points), ("replicates", replicates)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1):
            raise PlanError(f"got {name}={number!r}; expected a whole number from 1 on")
    if not 0 < max_share <= 1:
        raise PlanError(f"got max_share={max_share}; expected a share of the iterations, above 0 and at most 1")
    if not 0 < error < math.inf:
        raise PlanError(f"got error={error}; expected a relative error above 0, such as 0.01 for 1 %")
    if iterations < logged:
        raise PlanError(f"got iterations={iterations}, but {logged} were logged: pass the number in the whole epoch")
    return Options(points, int(replicates), max_share, error, iterations, seed)


def _refusal(epoch: Epoch, options: Options, points: int) -> str | None:
    suspicious = epoch.varies and epoch.explained < EXPLAINED and epoch.spread > _STEADY
    if not suspicious or len(epoch.shapes) < _EVIDENCE:
        return None
    layout, _, _ = layout_of(epoch, options, points)
    error = math.hypot(layout.noise, layout.bias)
    if error <= 2 * options.error:
        return None
    return (
        f"shape explains {max(epoch.explained, 0.0):.0%} of the variance of step time, and leaving points out shows an "
        f"error of {error:.1%}: this run cannot be projected from shapes; use selector='audit', which draws steps at "
        "random, or pass shapes with what step time depends on"
    )


def _unlogged(epoch: Epoch, options: Options) -> float:
    """Two-phase sampling: with m of M iterations logged, Var adds M²(1 − m/M)s_p²/m; its root over the total."""
    costs = epoch.model.predict(epoch.shapes)
    logged = len(costs)
    if logged == options.iterations or logged < 2:
        return 0.0
    variation = float(costs.std(ddof=1) / costs.mean())
    return variation * math.sqrt((1 - logged / options.iterations) / logged)
