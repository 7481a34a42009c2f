import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.choice import ATTEMPTS, FixedSteps, LikeSteps
from fulgurite.callbacks.seqpoint.select import select


def epoch(steps=300, seed=0):
    return np.column_stack([np.full(steps, 8), np.random.default_rng(seed).lognormal(3, 0.6, steps).astype(int) + 1])


def plan_for(shapes, points=6):
    return select(shapes, 0.001 * shapes[:, 1] + 0.002, points=points)


def walk(choice, shapes, *, whole=lambda step: True, new=lambda step: False):
    """Offer a whole epoch; step → point of the traces taken."""
    taken = {}
    for step, shape in enumerate(map(tuple, shapes.tolist())):
        point = choice.offer(step, shape, new=new(step))
        if point is not None:
            good = whole(step)
            choice.settle(point, whole=good)
            if good:
                taken[step] = point
    return taken


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**16))
def test_every_point_finds_a_like_step_in_an_epoch_shuffled_anew(seed):
    shapes = epoch()
    plan = plan_for(shapes)
    choice = LikeSteps(plan, plan.cost.predict(shapes), steps=len(shapes))
    other = np.random.default_rng(seed).permutation(shapes)
    taken = walk(choice, other)
    assert choice.done
    assert sorted(taken.values()) == list(range(len(plan.points)))
    order = np.sort(plan.cost.predict(shapes))
    for step, point in taken.items():
        cost = plan.cost.predict(other[[step]])[0]
        ranks = np.searchsorted(order, sorted([cost, plan.points[point].cost]))
        assert ranks[1] - ranks[0] <= len(shapes) / len(plan.points)


def test_in_an_epoch_of_the_same_order_the_points_own_shapes_are_taken():
    shapes = epoch()
    plan = plan_for(shapes)
    costs = plan.cost.predict(shapes)
    for step, point in walk(LikeSteps(plan, costs, steps=len(shapes)), shapes).items():
        away = abs(costs[step] - plan.points[point].cost)
        assert (abs(costs - plan.points[point].cost) < away).sum() <= 3 * len(shapes) / (len(shapes) - step)


def test_early_steps_are_not_taken_for_want_of_better():
    """The longest batches come last: the dearest point must wait for them."""
    shapes = np.sort(epoch(), axis=0)
    plan = plan_for(shapes)
    taken = walk(LikeSteps(plan, plan.cost.predict(shapes), steps=len(shapes)), shapes)
    dearest = len(plan.points) - 1
    assert next(step for step, point in taken.items() if point == dearest) > 280


def test_an_incomplete_trace_is_tried_again_and_given_up_after_three():
    shapes = np.full((50, 2), 8)
    plan = select(shapes, np.full(50, 0.1))
    choice = LikeSteps(plan, plan.cost.predict(shapes), steps=50)
    assert walk(choice, shapes, whole=lambda step: step == 1) == {1: 0}
    assert choice.failed == []
    choice = LikeSteps(plan, plan.cost.predict(shapes), steps=50)
    asked = []
    assert walk(choice, shapes, whole=lambda step: asked.append(step) or False) == {}
    assert asked == list(range(ATTEMPTS))
    assert choice.failed == [0]
    assert choice.done


def test_new_sizes_are_passed_over_where_asked():
    shapes = np.full((50, 2), 8)
    plan = select(shapes, np.full(50, 0.1))
    for avoid, step in ((True, 2), (False, 0)):
        choice = LikeSteps(plan, plan.cost.predict(shapes), steps=50, avoid_new=avoid)
        assert walk(choice, shapes, new=lambda step: step < 2) == {step: 0}


def test_fixed_steps_are_the_same_whatever_a_rank_sees():
    shapes = epoch()
    plan = plan_for(shapes)
    mine = walk(FixedSteps(plan), shapes)
    theirs = walk(FixedSteps(plan), epoch(seed=1), new=lambda step: True)
    assert mine == theirs
    assert {step: point for point, p in enumerate(plan.points) for step in p.runs[:2]} == mine


def test_fixed_steps_end():
    plan = plan_for(epoch())
    choice = FixedSteps(plan, runs=1)
    assert not choice.done
    last = max(point.runs[0] for point in plan.points)
    choice.offer(last - 1, (8, 8))
    assert not choice.done
    choice.offer(last, (8, 8))
    assert choice.done
