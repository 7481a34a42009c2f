import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fulgurite.models.implicit_gnn.constraint import project_rows, row_bound, scale_rows


def matrix(size, seed, spread=2.0):
    return spread * torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ball_by_sorting(weight, radius):
    """Duchi et al., Efficient Projections onto the l1-Ball, ICML 2008, figure 1."""
    found = weight.clone()
    for row in found:
        if row.abs().sum() <= radius:
            continue
        ordered = row.abs().sort(descending=True).values
        kept = [k for k in range(len(row)) if ordered[k] - (ordered[: k + 1].sum() - radius) / (k + 1) > 0]
        theta = (ordered[: kept[-1] + 1].sum() - radius) / (kept[-1] + 1)
        row.copy_(row.sign() * (row.abs() - theta).clamp_min(0))
    return found


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(0, 2**31), st.floats(0.05, 3.0))
def test_projection_without_self_loops_is_that_onto_the_l1_ball(size, seed, bound):
    weight = matrix(size, seed)
    torch.testing.assert_close(project_rows(weight, bound), ball_by_sorting(weight, bound), rtol=0, atol=1e-12)


@pytest.mark.parametrize("self_weight", [0.2, 0.5, 0.7, 1.0])
def test_projection_with_self_loops_is_the_nearest_matrix_allowed(self_weight):
    weight, bound = matrix(3, 5), 0.9
    found = project_rows(weight, bound, self_weight=self_weight)
    for p in range(3):
        slope = 2 * self_weight - 1

        def room(row, p=p, slope=slope):
            others = np.abs(np.delete(row, p)).sum()
            return bound - others - (row[p] if row[p] >= 0 else slope * row[p])

        target = weight[p].numpy()
        starts = np.random.default_rng(0).normal(size=(6, 3)) * 0.1
        constraint = {"type": "ineq", "fun": room}
        solved = [
            minimize(
                lambda row, target=target: ((row - target) ** 2).sum(),
                start,
                constraints=[constraint],
                method="SLSQP",
                options={"ftol": 1e-14},
            )
            for start in starts
        ]
        best = min(result.fun for result in solved if room(result.x) >= -1e-8)
        distance = float((found[p] - weight[p]).square().sum())
        assert distance == pytest.approx(best, abs=1e-6)
        assert room(found[p].numpy()) >= -1e-12


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 8), st.integers(0, 2**31), st.floats(0.05, 2.0), st.floats(0.1, 3.0), st.floats(0.0, 1.0))
def test_both_ways_keep_the_bound_and_leave_what_is_allowed(size, seed, bound, perron, share):
    options = {"perron": perron, "self_weight": share * perron}
    for constrain in (project_rows, scale_rows):
        found = constrain(matrix(size, seed), bound, **options)
        # The row bound sums numbers that may be far greater than itself: a row's own entry is free to be very negative.
        slack = 1e-13 * (1 + perron * float(found.abs().sum()))
        assert float(row_bound(found, **options).max()) <= bound + slack
        inside = constrain(found, bound * (1 + 1e-9) + slack, **options)
        torch.testing.assert_close(inside, found, rtol=1e-9, atol=1e-12)


def test_a_projected_diagonal_may_be_negative_at_no_cost():
    weight = torch.tensor([[-5.0, 0.6], [0.3, 0.3]], dtype=torch.float64)
    assert torch.equal(project_rows(weight, 0.9, self_weight=0.5), weight)
    assert float(project_rows(weight, 0.9).abs().sum(dim=1).max()) <= 0.9 + 1e-12


def test_scaling_is_differentiable():
    weight = matrix(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: scale_rows(w, 0.9, self_weight=0.25), weight)


@pytest.mark.parametrize(
    ("weight", "options", "named"),
    [
        (torch.ones(2, 3), {}, r"\(2, 3\)"),
        (torch.tensor([[float("nan")]]), {}, "not finite"),
        (torch.ones(1, 1), {"perron": 0.0}, "perron=0"),
        (torch.ones(1, 1), {"self_weight": 2.0}, "self_weight=2"),
    ],
)
@pytest.mark.parametrize("constrain", [project_rows, scale_rows])
def test_what_cannot_be_constrained_is_refused(constrain, weight, options, named):
    with pytest.raises(ValueError, match=named):
        constrain(weight, 0.9, **options)
