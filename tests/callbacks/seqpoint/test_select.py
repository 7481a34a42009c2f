import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.plan import Plan, PlanError, ShapeWarning
from fulgurite.callbacks.seqpoint.select import select

SELECTORS = ("interpolate", "audit", "paper")


def epoch(rng, steps=800, *, policy="shuffled", batch=32):
    """Shapes of batches of real-looking (log-normal) sentence pairs, padded to the longest of the batch."""
    source = np.exp(rng.normal(2.6, 0.7, steps * batch)).astype(int) + 1
    target = np.maximum(1, source * rng.normal(1.1, 0.25, len(source))).astype(int) + 1
    if policy == "tokens":
        # Summaries: their length has little to do with the source's, whose padded tokens the budget counts.
        source, target = np.sort(source), np.exp(rng.normal(2.0, 0.8, len(source))).astype(int) + 1
        groups, start = [], 0
        while start < len(source):
            stop = start + max(1, 20 * batch // source[min(start + batch, len(source) - 1)])
            groups.append((len(source[start:stop]), source[start:stop].max(), target[start:stop].max()))
            start = stop
        shapes = np.array(groups)
        return shapes[rng.permutation(len(shapes))]
    if policy == "bucketed":
        order = np.argsort(source + rng.normal(0, 4, len(source)), kind="stable")
        source, target = source[order], target[order]
    grid = source.reshape(steps, batch).max(axis=1), target.reshape(steps, batch).max(axis=1)
    shapes = np.stack([np.full(steps, batch), *grid], axis=1)
    return shapes if policy == "sorted" else shapes[rng.permutation(steps)]


def cost(shapes, kind="first"):
    batch, source, target = shapes.T.astype(float)
    if kind == "first":
        return 20 + 0.02 * batch * (source + 1.2 * target) + 1.5e-4 * batch * (source**2 + target**2 + source * target)
    if kind == "floored":  # a faster machine, with a launch-bound floor under short steps
        cheap = 6 + 0.012 * batch * (source + 1.1 * target) + 1e-4 * batch * (source**2 + target**2)
        return np.maximum(cheap, np.median(cheap))
    return 15 + 0.01 * batch * (0.3 * source + 2 * target)  # mostly the decoder


def noisy(rng, seconds):
    return seconds * rng.normal(1, 0.03, seconds.shape) * np.where(rng.random(seconds.shape) < 0.01, 1.5, 1.0)


def fresh(rng, plan, seconds):
    """One fresh, noisy run of each run of the plan, at its true cost."""
    measured: dict = {}
    for point in plan.points:
        measured.setdefault(point.shape, []).extend(noisy(rng, seconds[list(point.runs)]).tolist())
    return measured


def transfer(selector, policy, kind, *, seeds, **options):
    """Relative errors on another configuration's full epoch, and whether the interval held it."""
    errors, held = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        shapes = epoch(rng, policy=policy)
        plan = select(shapes, noisy(rng, cost(shapes)), selector=selector, seed=seed, **options)
        truth = noisy(rng, cost(shapes, kind)).sum()
        projection = plan.project(fresh(rng, plan, cost(shapes, kind)))
        errors.append(projection.total / truth - 1)
        held.append(projection.low <= truth <= projection.high)
    return np.abs(errors), np.array(held)


def test_neither_torch_nor_lightning_is_imported():
    code = (
        "import sys, fulgurite.callbacks.seqpoint.select, fulgurite.callbacks.seqpoint.compare\n"
        "from fulgurite.callbacks.seqpoint import Plan, select\n"
        "plan = select([[8, 5], [8, 9]], [0.1, 0.2])\n"
        "print(sorted({'torch', 'lightning', 'numba', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 150),
    columns=st.integers(1, 4),
    selector=st.sampled_from(SELECTORS),
    points=st.one_of(st.none(), st.integers(1, 12)),
    replicates=st.integers(1, 5),
    related=st.booleans(),
)
@pytest.mark.filterwarnings("ignore::fulgurite.callbacks.seqpoint.plan.ShapeWarning")
def test_every_plan_adds_up(seed, steps, columns, selector, points, replicates, related):
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, 40, (steps, columns))
    seconds = 0.01 + 1e-3 * shapes.sum(axis=1) if related else rng.random(steps) + 0.1
    plan = select(
        shapes, seconds, selector=selector, points=points, replicates=replicates, length=columns - 1, seed=seed
    )
    assert plan.iterations == steps
    assert plan.seconds == pytest.approx(seconds.sum())
    assert sorted(i for point in plan.points for i in point.indices) == list(range(steps))
    runs = [run for point in plan.points for run in point.runs]
    assert len(set(runs)) == len(runs)
    assert all(point.shape == tuple(shapes[point.runs[0]]) for point in plan.points)
    assert [point.cost for point in plan.points] == sorted(point.cost for point in plan.points)
    assert (plan.weights >= 0).all()
    if selector != "audit":
        assert plan.weights.sum() == pytest.approx(steps, abs=1e-9)
    if plan.refusal is None:
        # Any table of operators adds up to the projected total: the same weights for its rows and for their sum.
        rows = rng.random((5, len(plan.points))) + 0.01
        counts = {p.shape: sum(q.shape == p.shape for q in plan.points) for p in plan.points}
        if set(counts.values()) == {1}:
            total = plan.project({p.shape: float(rows[:, j].sum()) for j, p in enumerate(plan.points)}).total
            assert (rows @ plan.weights).sum() == pytest.approx(total, rel=1e-9)


def test_the_same_seed_gives_the_same_plan_and_leaves_the_global_generator_alone():
    shapes = epoch(np.random.default_rng(0))
    seconds = noisy(np.random.default_rng(1), cost(shapes))
    np.random.seed(7)
    before = np.random.get_state()[1].tolist()
    plans = [select(shapes, seconds, selector=s, seed=3) for s in SELECTORS]
    assert np.random.get_state()[1].tolist() == before
    assert [repr(select(shapes, seconds, selector=s, seed=3)) for s in SELECTORS] == [repr(p) for p in plans]
    assert select(shapes, seconds, selector="audit", seed=4) != plans[1]


@pytest.mark.parametrize("policy", ["shuffled", "bucketed"])
@pytest.mark.parametrize("kind", ["first", "floored", "decoder"])
def test_interpolation_transfers_with_at_most_a_twentieth_of_the_iterations(policy, kind):
    errors, held = transfer("interpolate", policy, kind, seeds=range(25))
    assert errors.mean() <= 0.015
    assert held.mean() >= 0.9


def test_interpolation_beats_one_length_at_equal_cost():
    ours, _ = transfer("interpolate", "shuffled", "floored", seeds=range(30), points=8)
    paper, _ = transfer("paper", "shuffled", "floored", seeds=range(30), points=8)
    assert ours.mean() < 0.7 * paper.mean()


def test_no_more_runs_than_the_share_allows():
    rng = np.random.default_rng(0)
    shapes = epoch(rng)
    seconds = noisy(rng, cost(shapes))
    for share in (0.02, 0.05, 0.2):
        for selector in ("interpolate", "audit"):
            plan = select(shapes, seconds, selector=selector, max_share=share, error=1e-6)
            assert plan.runs <= share * len(shapes)
    assert len(select(shapes, seconds, max_share=0.001).points) == 2


def test_a_hundred_thousand_iterations():
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(3, 0.6, 100_000)).astype(int)
    shapes = np.stack([np.full(100_000, 32), lengths], axis=1)
    plan = select(shapes, 0.01 * (5.0 + lengths) * rng.normal(1, 0.03, 100_000))
    assert plan.runs < 100
    assert plan.error <= 0.01


class TestNegativeControls:
    def test_fixed_length_is_one_point(self):
        rng = np.random.default_rng(0)
        seconds = noisy(rng, np.full(500, 0.2))
        for selector in ("interpolate", "paper"):
            plan = select(np.tile([[32, 20, 22]], (500, 1)), seconds, selector=selector)
            (point,) = plan.points
            assert (point.weight, len(point.runs), len(point.indices)) == (500.0, 3, 500)
            assert np.isnan(plan.explained)
            assert plan.refusal is None
            assert plan.project({(32, 20, 22): [0.1, 0.1, 0.4]}).total == pytest.approx(100.0)

    def test_fixed_length_has_an_interval(self):
        rng = np.random.default_rng(0)
        held, widths = [], []
        for _ in range(100):
            plan = select(np.tile([[32, 20]], (500, 1)), 0.2 * rng.normal(1, 0.03, 500))
            projection = plan.project({(32, 20): 0.2 * rng.normal(1, 0.03, 3)})
            held.append(projection.low <= 100.0 <= projection.high)
            widths.append(projection.high - projection.low)
        assert np.mean(held) >= 0.88
        assert 2.0 < np.median(widths) < 20.0

    def test_token_budget_batches_need_the_whole_shape(self):
        """One length does not say how many sentences the budget held, nor how long their targets are."""
        shape, _ = transfer("interpolate", "tokens", "decoder", seeds=range(12))
        single, _ = transfer("paper", "tokens", "decoder", seeds=range(12))
        assert single.mean() > 0.1
        assert shape.mean() < 0.015

    @pytest.mark.parametrize("selector", ["interpolate", "paper"])
    @pytest.mark.parametrize("kind", ["permuted", "uniform", "bursts"])
    def test_cost_unrelated_to_length_is_refused(self, selector, kind):
        rng = np.random.default_rng(0)
        shapes = epoch(rng)
        seconds = {
            "permuted": rng.permutation(noisy(rng, cost(shapes, "decoder"))),
            "uniform": rng.uniform(0.5, 1.5, len(shapes)),
            "bursts": np.where(rng.random(len(shapes)) < 0.2, 3.0, 1.0) * rng.normal(1, 0.03, len(shapes)),
        }[kind]
        with pytest.warns(ShapeWarning, match="audit"):
            plan = select(shapes, seconds, selector=selector)
        assert plan.explained < 0.1
        with pytest.raises(PlanError, match="audit"):
            plan.project({point.shape: 1.0 for point in plan.points})

    def test_cost_unrelated_to_length_can_be_audited(self):
        held = []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            shapes = epoch(rng)
            seconds = rng.permutation(noisy(rng, cost(shapes, "decoder")))
            plan = select(shapes, seconds, selector="audit", seed=seed)
            assert plan.refusal is None
            measured: dict = {}
            for point in plan.points:
                measured.setdefault(point.shape, []).append(seconds[point.runs[0]])
            projection = plan.project(measured)
            held.append(projection.low <= seconds.sum() <= projection.high)
        assert np.mean(held) >= 0.88

    @pytest.mark.parametrize("noise", [0.005, 0.03, 0.06])
    @pytest.mark.parametrize("steps", [60, 300, 1000])
    def test_steady_cost_is_not_refused_though_lengths_vary(self, noise, steps):
        rng = np.random.default_rng(steps)
        plan = select(epoch(rng, steps=steps), rng.normal(1, noise, steps))
        assert plan.explained < 0.5
        assert plan.refusal is None
        total = plan.project({point.shape: 1.0 for point in plan.points}).total
        assert total == pytest.approx(steps)

    def test_constant_times_are_projected_exactly(self):
        shapes = epoch(np.random.default_rng(0))
        plan = select(shapes, np.full(len(shapes), 0.25))
        assert plan.project({point.shape: 0.25 for point in plan.points}).total == pytest.approx(plan.seconds)

    def test_a_length_sorted_epoch_is_as_good_as_any_while_its_first_steps_are_not(self):
        errors, _ = transfer("interpolate", "sorted", "floored", seeds=range(12))
        assert errors.mean() < 0.015
        shapes = epoch(np.random.default_rng(0), policy="sorted")
        # Sorted for the test: batches as drawn come in no order, so order them by source length.
        seconds = np.sort(cost(shapes, "floored"))
        first = seconds[3:30].mean() * len(seconds) / seconds.sum() - 1
        assert abs(first) > 0.2


class TestCold:
    def test_cold_steps_do_not_count_in_the_fit_but_in_the_epoch(self):
        rng = np.random.default_rng(0)
        shapes = epoch(rng)
        cold = rng.random(len(shapes)) < 0.2
        cold[shapes[:, 1] > 60] = False
        seconds = cost(shapes) * np.where(cold, 4.0, 1.0)
        plan = select(shapes, seconds, cold=cold)
        np.testing.assert_allclose(plan.cost.predict(shapes), cost(shapes), rtol=1e-3)
        assert plan.weights.sum() == pytest.approx(len(shapes))
        assert plan.error < 0.01

    def test_nothing_but_cold_steps_is_better_than_nothing(self):
        rng = np.random.default_rng(0)
        shapes = epoch(rng)
        plan = select(shapes, noisy(rng, cost(shapes)), cold=np.ones(len(shapes), bool))
        assert plan.explained > 0.9


class TestShapesAlone:
    @pytest.mark.parametrize("selector", ["interpolate", "audit"])
    def test_a_plan_without_times(self, selector):
        shapes = epoch(np.random.default_rng(0))
        plan = select(shapes, None, selector=selector)
        assert plan.refusal is None
        assert all(np.isnan([plan.seconds, plan.explained, plan.error]))
        assert all(np.isnan(point.seconds) for point in plan.points)
        assert plan.runs <= 0.05 * len(shapes)
        work = {p.shape: float(p.shape[0] * (p.shape[1] + p.shape[2])) for p in plan.points}
        truth = float((shapes[:, 0] * (shapes[:, 1] + shapes[:, 2])).sum())
        assert plan.project(work).total == pytest.approx(truth, rel=0.02)

    def test_the_paper_needs_times(self):
        with pytest.raises(PlanError, match="pass seconds"):
            select([[8, 5]], None, selector="paper")


@pytest.mark.parametrize("selector", SELECTORS)
def test_one_iteration(selector, tmp_path):
    plan = select([[8, 5, 7]], [0.5], selector=selector)
    (point,) = plan.points
    assert (point.weight, point.runs, point.indices, point.seconds) == (1.0, (0,), (0,), 0.5)
    assert plan.project({(8, 5, 7): 0.25}).total == 0.25
    plan.save(tmp_path / "plan.json")
    assert repr(Plan.load(tmp_path / "plan.json")) == repr(plan)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("steps", range(2, 12))
def test_tiny_epochs(selector, steps):
    shapes = np.stack([np.full(steps, 4), np.arange(steps) + 1], axis=1)
    plan = select(shapes, 0.1 * shapes[:, 1], selector=selector, replicates=1)
    assert plan.refusal is None
    assert plan.project({p.shape: 0.1 * p.shape[1] for p in plan.points}).total == pytest.approx(plan.seconds, rel=0.35)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selector": "interpolated"}, "did you mean 'interpolate'"),
        ({"selector": "papper"}, "did you mean 'paper'"),
        ({"selector": None}, "no selector None"),
        ({"selector": ["paper"]}, "no selector"),
        ({"points": 0}, "points=0"),
        ({"points": 2.5}, r"points=2\.5"),
        ({"points": True}, "points=True"),
        ({"replicates": 0}, "replicates=0"),
        ({"max_share": 0}, "max_share=0"),
        ({"max_share": 1.01}, "max_share"),
        ({"max_share": float("nan")}, "max_share"),
        ({"error": 0}, "error=0"),
        ({"error": float("nan")}, "error=nan"),
        ({"length": 3}, "length=3"),
        ({"length": -1}, "length=-1"),
        ({"iterations": 19}, "20 were logged"),
        ({"columns": ("a", "b")}, "3 columns"),
        ({"shapes": np.zeros((0, 3), int)}, "empty epoch"),
        ({"shapes": np.ones(20, int)}, "dimensions"),
        ({"shapes": np.full((20, 3), 0.5)}, "whole numbers"),
        ({"shapes": -np.ones((20, 3), int)}, "not negative"),
        ({"seconds": np.ones(19)}, r"expected \(20,\)"),
        ({"seconds": np.full(20, np.nan)}, "iteration 0 has a time of nan"),
        ({"seconds": -np.ones(20)}, "iteration 0 has a time of -1"),
        ({"seconds": np.zeros(20)}, "iteration 0 has a time of 0"),
    ],
)
def test_bad_input_is_a_plan_error(changes, said):
    given_ = {"shapes": np.arange(60).reshape(20, 3), "seconds": np.arange(20) + 1.0} | changes
    with pytest.raises(PlanError, match=said):
        select(given_.pop("shapes"), given_.pop("seconds"), **given_)


def test_the_first_part_of_an_epoch_stands_for_all_of_it_with_a_wider_interval():
    """Over many epochs of which a random third was logged: the total is met, and the interval holds it."""
    held, errors = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        shapes = epoch(rng, steps=900)
        seconds = cost(shapes)
        plan = select(shapes[:300], noisy(rng, seconds[:300]), iterations=900, max_share=0.05, seed=seed)
        assert plan.weights.sum() == pytest.approx(900)
        projection = plan.project(fresh(rng, plan, seconds[:300]))
        errors.append(projection.total / seconds.sum() - 1)
        held.append(projection.low <= seconds.sum() <= projection.high)
    assert np.abs(errors).mean() < 0.04
    assert np.mean(held) >= 0.9
    whole = select(shapes[:300], seconds[:300])
    assert plan.systematic > whole.systematic


def test_a_low_explanation_warns_once_where_the_caller_stands():
    rng = np.random.default_rng(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        select(epoch(rng), rng.uniform(0.5, 1.5, 800))
    assert [(w.category, w.filename) for w in caught] == [(ShapeWarning, __file__)]
