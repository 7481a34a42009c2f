import numpy as np
import pytest

from fulgurite.callbacks.seqpoint.epoch import Epoch
from fulgurite.callbacks.seqpoint.plan import PlanError

SHAPES = np.stack([np.full(40, 8), np.arange(40) + 5, np.arange(40) + 7], axis=1)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_default_names(width):
    shapes = np.tile(np.arange(1, width + 1), (3, 1))
    names = ("batch", "source", "target", "optimizer_step")[:width] if width > 1 else ("source",)
    assert Epoch.of(shapes, None, length=width - 1).columns == names


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": ("a", "b")}, "3 columns"),
        ({"columns": ("a", "b", "b")}, "different names"),
        ({"columns": ("a", "b", "")}, "different names"),
        ({"length": 3}, "batch, source, target"),
        ({"length": -1}, "expected 0 to 2"),
        ({"cold": np.zeros(40)}, "one bool"),
        ({"cold": np.zeros(39, bool)}, "one bool"),
        ({"seconds": np.ones(39)}, r"expected \(40,\)"),
        ({"seconds": ["a"] * 40}, "no numbers"),
        ({"seconds": np.r_[np.ones(39), np.nan]}, "iteration 39 has a time of nan"),
        ({"seconds": np.r_[np.ones(39), -1]}, "iteration 39 has a time of -1"),
        ({"seconds": np.r_[0, np.ones(39)]}, "iteration 0 has a time of 0"),
        ({"seconds": np.r_[np.ones(39), np.inf]}, "inf"),
    ],
)
def test_bad_input(changes, said):
    with pytest.raises(PlanError, match=said):
        Epoch.of(SHAPES, **({"seconds": np.ones(40)} | changes))


def test_five_columns_need_names():
    with pytest.raises(PlanError, match="columns="):
        Epoch.of(np.ones((3, 5), int), None)
    assert Epoch.of(np.ones((3, 5), int), None, columns=tuple("abcde")).columns == tuple("abcde")


def test_spread_does_not_count_a_few_disturbed_steps():
    seconds = np.ones(1000)
    seconds[:4] = 40
    assert Epoch.of(np.ones((1000, 2), int), seconds).spread == 0.0
    seconds[:200] = 3
    assert Epoch.of(np.ones((1000, 2), int), seconds).spread > 0.5
