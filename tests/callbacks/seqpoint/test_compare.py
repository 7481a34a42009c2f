import math
from dataclasses import replace

import numpy as np
import pytest

from fulgurite.callbacks.seqpoint.compare import compare
from fulgurite.callbacks.seqpoint.plan import Plan, PlanError
from fulgurite.callbacks.seqpoint.select import select


def epoch(seed=0, steps=600):
    rng = np.random.default_rng(seed)
    source = np.exp(rng.normal(2.8, 0.5, steps)).astype(int) + 1
    shapes = np.stack([np.full(steps, 16), source, source + rng.integers(0, 9, steps)], axis=1)
    return rng, shapes


def before(shapes):
    return 0.02 + 4e-5 * shapes[:, 0] * (shapes[:, 1] + shapes[:, 2])


def after(shapes):
    """Long steps gain, short ones are held up by a floor."""
    return np.maximum(0.03, 0.5 * before(shapes))


def timed(plan, seconds, rng, noise=0.03):
    measured: dict = {}
    for point in plan.points:
        runs = seconds[list(point.runs)]
        measured.setdefault(point.shape, []).extend(runs * rng.normal(1, noise, len(runs)))
    return measured


@pytest.mark.parametrize("selector", ["interpolate", "audit"])
def test_the_speedup_is_the_ratio_of_totals_and_its_interval_holds_it(selector):
    held, errors, widths = [], [], []
    for seed in range(80):
        rng, shapes = epoch(seed)
        plan = select(shapes, before(shapes) * rng.normal(1, 0.03, 600), selector=selector, points=8, seed=seed)
        found = compare(plan, plan, timed(plan, before(shapes), rng), timed(plan, after(shapes), rng), seed=seed)
        assert found.paired
        assert found.speedup.total == pytest.approx(found.before.total / found.after.total)
        truth = before(shapes).sum() / after(shapes).sum()
        held.append(found.speedup.low <= truth <= found.speedup.high)
        errors.append(found.speedup.total / truth - 1)
        widths.append((found.speedup.high - found.speedup.low) / 2 / truth)
    assert np.mean(held) >= 0.85
    assert np.abs(errors).mean() < 0.02
    assert np.mean(widths) < 0.12


@pytest.mark.parametrize("selector", ["interpolate", "audit", "paper"])
def test_bands_add_up_to_the_totals(selector):
    rng, shapes = epoch()
    plan = select(shapes, before(shapes), selector=selector)
    found = compare(plan, plan, timed(plan, before(shapes), rng), timed(plan, after(shapes), rng), bands=5)
    assert sum(band.before for band in found.bands) == pytest.approx(found.before.total, rel=1e-9)
    assert sum(band.after for band in found.bands) == pytest.approx(found.after.total, rel=1e-9)
    if selector == "interpolate":
        speedups = [band.speedup for band in found.bands]
        assert speedups == sorted(speedups)
        assert speedups[0] < 1.5 < speedups[-1]


def test_plans_with_points_of_their_own_are_compared_by_their_intervals():
    rng, shapes = epoch()
    other = shapes[rng.permutation(600)]
    first = select(shapes, before(shapes) * rng.normal(1, 0.02, 600), points=7, seed=1)
    second = select(other, after(other) * rng.normal(1, 0.02, 600), points=9, seed=2)
    found = compare(first, second, timed(first, before(shapes), rng, 0.02), timed(second, after(other), rng, 0.02))
    assert not found.paired
    assert found.speedup.total == pytest.approx(before(shapes).sum() / after(shapes).sum(), rel=0.05)
    halves = [(p.high - p.low) / 2 / p.total for p in (found.before, found.after)]
    assert math.log(found.speedup.high / found.speedup.total) == pytest.approx(math.hypot(*halves))
    assert [band.label for band in found.bands] == [band.label for band in first.length_bands()]


def test_a_noise_common_to_both_sides_is_paired_away():
    rng, shapes = epoch()
    plan = select(shapes, before(shapes), points=8)
    common = {shape: np.array(v) for shape, v in timed(plan, before(shapes), rng, 0.2).items()}
    halved = {shape: v / 2 for shape, v in common.items()}
    found = compare(plan, plan, common, halved)
    assert found.speedup.total == pytest.approx(2.0)
    assert found.speedup.high - found.speedup.low < 1e-6
    assert found.before.high - found.before.low > 0.01 * found.before.total


def test_times_kept_in_the_files_are_used(tmp_path):
    rng, shapes = epoch()
    plan = select(shapes, before(shapes), points=6)
    first, second = timed(plan, before(shapes), rng), timed(plan, after(shapes), rng)
    plan.with_measured(first).save(tmp_path / "a.json")
    plan.with_measured(second).save(tmp_path / "b.json")
    kept = compare(Plan.load(tmp_path / "a.json"), Plan.load(tmp_path / "b.json"))
    assert kept == compare(plan, plan, first, second)


def test_times_of_selection_stand_in_for_fresh_ones():
    _, shapes = epoch()
    first, second = select(shapes, before(shapes)), select(shapes, after(shapes))
    found = compare(first, second)
    assert found.speedup.total == pytest.approx(before(shapes).sum() / after(shapes).sum(), rel=0.02)


def test_one_length_has_a_ratio_but_no_interval():
    _, shapes = epoch()
    plan = select(shapes, before(shapes), selector="paper")
    found = compare(plan, plan)
    assert found.speedup.total == 1.0
    assert math.isnan(found.speedup.low)
    assert math.isnan(found.speedup.high)


@pytest.mark.parametrize("replicates", [1, 3])
def test_a_single_point(replicates):
    plan = select([[8, 5]] * 40, [0.1] * 40, replicates=replicates)
    found = compare(plan, plan, {(8, 5): 0.1}, {(8, 5): 0.05})
    assert found.speedup.total == pytest.approx(2.0)
    assert found.speedup.low <= 2.0 <= found.speedup.high
    assert [band.label for band in found.bands] == ["5"]


def test_the_same_seed_gives_the_same_interval():
    rng, shapes = epoch()
    plan = select(shapes, before(shapes), points=6)
    first, second = timed(plan, before(shapes), rng), timed(plan, after(shapes), rng)
    assert compare(plan, plan, first, second, seed=1) == compare(plan, plan, first, second, seed=1)
    assert compare(plan, plan, first, second, seed=1) != compare(plan, plan, first, second, seed=2)


def test_other_data_is_refused():
    _, shapes = epoch()
    plan = select(shapes, before(shapes))
    with pytest.raises(PlanError, match="other data"):
        compare(plan, select(shapes * [1, 2, 2], before(shapes)))
    with pytest.raises(PlanError, match="600 steps in one and 300"):
        compare(plan, select(shapes[:300], before(shapes[:300])))
    with pytest.raises(PlanError, match="same columns"):
        compare(plan, select(shapes[:, :2], before(shapes)))
    with pytest.raises(PlanError, match="same columns and length"):
        compare(plan, select(shapes, before(shapes), length=2))


def test_plans_without_times_or_refused_are_refused():
    _, shapes = epoch()
    plan, untimed = select(shapes, before(shapes)), select(shapes, None)
    with pytest.raises(PlanError, match="measured_after"):
        compare(plan, untimed)
    with pytest.raises(PlanError, match="measured_before"):
        compare(untimed, plan)
    with pytest.raises(PlanError, match="because"):
        compare(replace(plan, refusal="because"), plan)
    with pytest.raises(PlanError, match="no value"):
        compare(plan, plan, {})
