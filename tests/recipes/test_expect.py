import math

import pytest
import torch

from fulgurite.recipes.expect import judge, parse_bars
from fulgurite.recipes.library import RecipeError


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        (">= 0.5", 0.5, True),
        ("> 0.5", 0.5, False),
        ("<= 1e-3", 0.001, True),
        ("< -1", -2, True),
        ("== 3", 3.0, True),
        (">= 0.5", math.nan, False),
        ("< 0.5", math.nan, False),
        (">= .5", torch.tensor(0.75), True),
    ],
)
def test_bars(bar, value, met):
    assert judge(parse_bars({"m": bar}), {"m": value})[0].met is met


def test_a_metric_that_was_not_logged_is_not_met_and_the_nearest_is_named():
    verdict = judge(parse_bars({"val/lss": "< 1"}), {"val/loss": 0.1})[0]
    assert not verdict.met
    assert verdict.got is None
    assert "val/loss" in verdict.hint


@pytest.mark.parametrize("bad", [{"m": 0.5}, {"m": "about 3"}, {"m": "=> 1"}, {"m": ">= 1 or so"}, [1], "x"])
def test_a_malformed_bar_is_refused(bad):
    with pytest.raises(RecipeError, match="expect"):
        parse_bars(bad)
