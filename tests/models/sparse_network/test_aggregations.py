import math

import neat.aggregations
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network.aggregations import AGGREGATIONS, aggregation_id

NEAT = neat.aggregations.AggregationFunctionSet().functions


def slopes(name, messages):
    m = torch.tensor(messages, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(AGGREGATIONS[name].function(m[:, None]).sum(), m)
    return gradient.tolist()


def test_ids_never_change():
    names = ["sum", "mean", "product", "max", "min", "maxabs", "median"]
    assert [(entry.id, entry.name) for entry in AGGREGATIONS.values()] == list(enumerate(names))
    assert [aggregation_id(name) for name in names] == list(range(7))
    assert set(names) == set(NEAT)


@pytest.mark.parametrize("name", AGGREGATIONS)
@hypothesis_settings(deadline=None)
@given(messages=st.lists(st.floats(-100, 100) | st.integers(-3, 3).map(float), max_size=9))
def test_values_are_neat_pythons(name, messages):
    column = torch.tensor(messages, dtype=torch.float64)[:, None]
    got = AGGREGATIONS[name].function(column).item()
    assert math.isclose(got, NEAT[name](messages), rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_columns_are_apart(name, count):
    messages = torch.randn(count, 4, generator=torch.Generator().manual_seed(count))
    together = AGGREGATIONS[name].function(messages)
    assert together.shape == (4,)
    apart = [AGGREGATIONS[name].function(messages[:, [j]]).item() for j in range(4)]
    torch.testing.assert_close(together, torch.tensor(apart))
    assert AGGREGATIONS[name].function(messages[:, :0]).shape == (0,)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_nothing_gives_what_neat_python_gives(name):
    assert AGGREGATIONS[name].function(torch.zeros(0, 2)).tolist() == [1.0 if name == "product" else 0.0] * 2


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("place", [0, 1, 4])
def test_nan_stays(name, place):
    messages = torch.arange(5.0)
    messages[place] = math.nan
    assert AGGREGATIONS[name].function(messages[:, None]).isnan().all()


def test_first_of_equals_has_the_gradient():
    assert slopes("max", [1.0, 3.0, 3.0]) == [0.0, 1.0, 0.0]
    assert slopes("min", [2.0, -1.0, -1.0]) == [0.0, 1.0, 0.0]
    assert slopes("maxabs", [1.0, -3.0, 3.0]) == [0.0, 1.0, 0.0]
    assert slopes("maxabs", [1.0, 3.0, -3.0]) == [0.0, 1.0, 0.0]


def test_median_shares_between_the_middle_two():
    assert slopes("median", [5.0, 1.0, 3.0]) == [0.0, 0.0, 1.0]
    assert slopes("median", [5.0, 1.0, 3.0, 4.0]) == [0.0, 0.0, 0.5, 0.5]
    # Ties in edge order: sorted, the first 2 stands second and the second 2 third.
    assert slopes("median", [2.0, 7.0, 2.0]) == [0.0, 0.0, 1.0]
    assert slopes("median", [2.0, 2.0, 2.0, 2.0]) == [0.0, 0.5, 0.5, 0.0]


def test_product_with_zeros_has_the_others_product():
    assert slopes("product", [2.0, 3.0, 4.0]) == [12.0, 8.0, 6.0]
    assert slopes("product", [2.0, 0.0, 4.0]) == [0.0, 8.0, 0.0]
    assert slopes("product", [0.0, 0.0, 4.0]) == [0.0, 0.0, 0.0]
    assert slopes("product", [7.0]) == [1.0]


def test_sum_and_mean():
    assert slopes("sum", [2.0, 3.0]) == [1.0, 1.0]
    assert slopes("mean", [2.0, 3.0]) == [0.5, 0.5]


def test_unknown_name_tells_the_nearest():
    with pytest.raises(ValueError, match="no aggregation 'medain'; did you mean 'median'"):
        aggregation_id("medain")
