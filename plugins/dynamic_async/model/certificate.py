"""What a certified run is promised: the factor, the weights, X, and the error bounds that follow from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.plugins.dynamic_async.model.bounds import gap, upper_ratio, upper_sum
from fulgurite.plugins.dynamic_async.model.dynamic_map import Box
from fulgurite.plugins.dynamic_async.model.errors import MapError

Verdict = Literal["certified", "empirical", "refused"]


@dataclass(frozen=True)
class Certificate:
    """Whether an iteration contracts in a weighted maximum norm ‖x‖_w = maxᵢ dᵢ(xᵢ, 0)/wᵢ, and what follows.

    From ``certified`` follows, for every schedule, every loss, delay, join and leave: after k pseudocycles of an epoch
    the state is within γᵏr₀ of the epoch's fixed point (Daggitt and Griffin, https://arxiv.org/abs/2012.01686, with
    boxes of radius γᵏr₀). The statement is about the map as its numbers are stored; what an evaluation in floating
    point adds is ``error``. From the other two nothing follows, and their bounds are infinite.

    Args:
        verdict: ``"certified"``: all of it checked, rounded outward; ``"empirical"``: not known, only watch;
            ``"refused"``: known not to converge under every schedule.
        gamma: γ, rounded up; infinite unless certified.
        weights: (n,) w > 0, of maximum 1.
        r0: the greatest ‖x − x*‖_w of an x in X, rounded up.
        domain: X; None unless certified.
        scope: the epochs and sets of participants it covers.
        reason: the decisive fact, a sentence.
        error: bound on an evaluation's own error in ‖·‖_w.

    Example:
        >>> half = Certificate("certified", 0.5, np.ones(2), 1.0, None, "epoch 0", "‖M‖ = 0.5")
        >>> half.pseudocycles(1e-3), round(half.posterior(0.25), 9)
        (10, 0.25)
    """

    verdict: Verdict
    gamma: float
    weights: NDArray[np.float64]
    r0: float
    domain: Box | None
    scope: str
    reason: str
    error: float = 0.0

    @property
    def certified(self) -> bool:
        """Whether the bounds hold."""
        return self.verdict == "certified"

    @property
    def floor(self) -> float:
        """e/(1 − γ): what the evaluations' own errors may add up to; no bound is below it."""
        return upper_ratio(self.error, gap(self.gamma)) if self.certified else math.inf

    def bound(self, k: int) -> float:
        """γᵏr₀ + e/(1 − γ): the greatest ‖x − x*‖_w after k pseudocycles of an epoch, or of a value of round tag k."""
        if k < 0:
            raise MapError(f"a number of pseudocycles is at least 0, not {k}")
        if not self.certified:
            return math.inf
        power = self.gamma**k if k else 1.0
        shrunk = power * self.r0
        exact = math.frexp(self.gamma)[0] == 0.5 and shrunk > 2.0**-1021
        if k and self.gamma and not exact:  # a power and a product, each right to an ulp
            shrunk = float(np.nextafter(shrunk * (1.0 + 2.0**-50), np.inf))
        return upper_sum(shrunk, self.floor) if self.floor else shrunk

    def pseudocycles(self, eps: float) -> int:
        """k*(ε): after so many pseudocycles ‖x − x*‖_w ≤ ε.

        Raises:
            MapError: there is no bound, as the verdict is not ``"certified"``; or ε is not above the :attr:`floor`.
        """
        if not self.certified:
            raise MapError(
                f"no number of pseudocycles is known to suffice, the verdict is {self.verdict}: {self.reason}"
            )
        if not eps > self.floor * (1.0 + 1e-9):
            raise MapError(
                f"ε = {eps} must be above {self.floor:g}, what the rounding of the evaluations may add up to"
            )
        if self.bound(0) <= eps:
            return 0
        if self.gamma == 0.0:
            return 1
        k = max(math.ceil(math.log(self.r0 / (eps - self.floor)) / -math.log(self.gamma)), 1)
        while self.bound(k) > eps:
            k += 1
        while k > 1 and self.bound(k - 1) <= eps:
            k -= 1
        return k

    def posterior(self, variation: float) -> float:
        """γD/(1 − γ) + e/(1 − γ): ‖x(t) − x*‖_w, from how much the states of a window [s, t] varied.

        Args:
            variation: D, the greatest dᵢ/wᵢ between two states of one participant in [s, t], a part of one epoch that
                holds everybody's last evaluation and all that it read.
        """
        if not self.certified:
            return math.inf
        return upper_sum(upper_ratio(self.gamma * variation * (1.0 + 2.0**-50), gap(self.gamma)), self.floor)

    def residual_bound(self, residual: float) -> float:
        """‖x − x*‖_w ≤ (‖F(x) − x‖_w + e)/(1 − γ), from the residual of an assembled state."""
        return upper_ratio(upper_sum(residual, self.error), gap(self.gamma)) if self.certified else math.inf

    def admits(self, i: int, row: ArrayLike) -> bool:
        """Whether a joiner's own row keeps the factor: Σⱼ Mᵢⱼwⱼ ≤ γwᵢ, in exact arithmetic, from no other row.

        Args:
            i: the joiner.
            row: (n,) its row of the Lipschitz matrix, ≥ 0.

        Raises:
            MapError: the row has another length, or holds a NaN or a negative number.
        """
        values = np.asarray(row, dtype=np.float64)
        if values.shape != self.weights.shape:
            raise MapError(
                f"a row of shape {values.shape} was given for a certificate of {len(self.weights)} participants"
            )
        if not np.isfinite(values).all() or (values < 0).any():
            raise MapError(f"participant {i}'s row holds a negative number, a NaN or an infinity")
        if not self.certified:
            return False
        total = sum((Fraction(values[j]) * Fraction(self.weights[j]) for j in np.flatnonzero(values)), Fraction(0))
        return total <= Fraction(self.gamma) * Fraction(self.weights[i])

    def to_json(self) -> str:
        """Text that :meth:`from_json` reads back to the last bit."""
        box = None
        if self.domain is not None:
            box = {"centre": [_written(block) for block in self.domain.centre], "radius": self.domain.radius.tolist()}
        fields = {
            "verdict": self.verdict,
            "gamma": _number(self.gamma),
            "weights": self.weights.tolist(),
            "r0": _number(self.r0),
            "domain": box,
            "scope": self.scope,
            "reason": self.reason,
            "error": _number(self.error),
        }
        return json.dumps(fields, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read back what :meth:`to_json` wrote.

        Raises:
            MapError: the text is not such a certificate.
        """
        try:
            fields = json.loads(text)
            box = fields["domain"]
            if fields["verdict"] not in ("certified", "empirical", "refused"):
                raise ValueError(f"verdict {fields['verdict']!r}")
            return cls(
                fields["verdict"],
                _read_number(fields["gamma"]),
                np.asarray(fields["weights"], dtype=np.float64),
                _read_number(fields["r0"]),
                None
                if box is None
                else Box(tuple(_read(block) for block in box["centre"]), np.asarray(box["radius"], dtype=np.float64)),
                str(fields["scope"]),
                str(fields["reason"]),
                _read_number(fields["error"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise MapError(f"this is not a certificate that was written by to_json: {error}") from error


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read_number(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _written(block: NDArray[Any]) -> Mapping[str, Any]:
    return {"dtype": block.dtype.str, "shape": block.shape, "values": block.reshape(-1).tolist()}


def _read(block: Mapping[str, Any]) -> NDArray[Any]:
    return np.asarray(block["values"], dtype=np.dtype(block["dtype"])).reshape(block["shape"])
