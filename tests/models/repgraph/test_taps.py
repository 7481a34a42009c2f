"""The sparse products as torch operators: their examples, what torch asks of an operator, and loops."""

import doctest
import importlib

import pytest
import torch

from fulgurite.models.repgraph.taps import tap_dots, tap_spread, tap_sums


def test_examples_run():
    """Operators are no functions, so that doctest does not look for examples in them by itself."""
    module = importlib.import_module("fulgurite.models.repgraph.taps")
    runner = doctest.DocTestRunner()
    for name in ("tap_dots", "tap_sums", "tap_spread"):
        example = doctest.DocTestParser().get_doctest(
            getattr(module, name)._init_fn.__doc__, dict(vars(module)), name, module.__file__, 0
        )
        assert example.examples, name
        assert runner.run(example).failed == 0


def drawn(kind):
    draw = torch.Generator().manual_seed(0)
    left, table, weights = (
        torch.randn(shape, generator=draw, dtype=torch.double, requires_grad=True) for shape in ((4, 3), (5, 3), (4, 6))
    )
    return left, table, torch.randint(5, (4, 6), generator=draw, dtype=kind), weights


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the check looks at it
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_operators_are_what_torch_takes_them_for(kind):
    left, table, rows, weights = drawn(kind)
    for operator, given in (
        (tap_dots, (left, table, rows)),
        (tap_sums, (table, rows, weights)),
        (tap_spread, (left, rows, weights, 5)),
    ):
        torch.library.opcheck(operator, given)


def test_operators_are_their_loops():
    left, table, rows, weights = (x.detach() for x in drawn(torch.int64))
    dots, sums, spread = torch.zeros(4, 6).double(), torch.zeros(4, 3).double(), torch.zeros(5, 3).double()
    for m in range(4):
        for k in range(6):
            j = rows[m, k]
            dots[m, k] = left[m] @ table[j]
            sums[m] += weights[m, k] * table[j]
            spread[j] += weights[m, k] * left[m]
    torch.testing.assert_close(tap_dots(left, table, rows), dots)
    torch.testing.assert_close(tap_sums(table, rows, weights), sums)
    torch.testing.assert_close(tap_spread(left, rows, weights, 5), spread)
