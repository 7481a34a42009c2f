"""The bars of a recipe (`expect:`): what a metric must reach for the run to count as a success."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fulgurite.plugins.registry import nearest
from fulgurite.recipes.library import RecipeError

_SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}
_BAR = re.compile(r"\s*(>=|<=|==|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Bar:
    """One bar.

    Example:
        >>> Bar.parse("val/miou", ">= 0.55").met_by(0.6)
        True
    """

    metric: str
    sign: str
    limit: float

    @classmethod
    def parse(cls, metric: str, text: object) -> Bar:
        """Read ``">= 0.55"``.

        Raises:
            RecipeError: the text has another form.
        """
        match = _BAR.fullmatch(str(text))
        if not match:
            raise RecipeError(f'expect: {metric}: got {text!r}, expected a comparison such as ">= 0.55" or "< 2"')
        return cls(metric, match[1], float(match[2]))

    def met_by(self, value: float | None) -> bool:
        """Whether a measured value reaches the bar; a missing value and NaN never do."""
        return value is not None and not math.isnan(value) and bool(_SIGNS[self.sign](value, self.limit))


@dataclass(frozen=True)
class Verdict:
    """A bar beside what was measured.

    Attributes:
        bar: the bar.
        got: the value, or None where the run logged no such metric.
        met: whether the bar was reached.
        hint: the nearest logged name, where the metric is unknown.
    """

    bar: Bar
    got: float | None
    met: bool
    hint: str = ""


def parse_bars(expect: object) -> list[Bar]:
    """The bars of an ``expect:`` mapping.

    Raises:
        RecipeError: no mapping, or a bar of another form.
    """
    if expect is None:
        return []
    if not isinstance(expect, Mapping):
        raise RecipeError(f'expect: got {type(expect).__name__}, expected a mapping such as {{val/loss: "< 2"}}')
    return [Bar.parse(str(metric), text) for metric, text in expect.items()]


def judge(bars: list[Bar], metrics: Mapping[str, Any]) -> list[Verdict]:
    """Hold the logged metrics against the bars.

    Example:
        >>> [verdict.met for verdict in judge(parse_bars({"val/loss": "< 2"}), {"val/loss": 1.5})]
        [True]
    """
    verdicts = []
    for bar in bars:
        value = metrics.get(bar.metric)
        got = float(value) if value is not None else None
        hint = nearest(bar.metric, list(metrics)) if got is None else ""
        verdicts.append(Verdict(bar, got, bar.met_by(got), hint))
    return verdicts
