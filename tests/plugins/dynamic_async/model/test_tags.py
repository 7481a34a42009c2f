import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.maps.affine import AffineMap
from fulgurite.plugins.dynamic_async.model import DenseSchedule, pseudocycles, round_tags, simulate
from fulgurite.plugins.dynamic_async.model.simulation import links_of


@settings(deadline=None, max_examples=200)
@given(data=st.data(), links=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_the_least_tag_is_never_less_than_the_pseudocycles(schedules, data, links, seed):
    schedule = data.draw(schedules.schedules())
    n = schedule.num_participants
    read = np.random.default_rng(seed).random((n, n)) < 0.6
    some = (np.cumsum([0, *read.sum(axis=1)]), np.nonzero(read)[1]) if links else None
    tags = round_tags(schedule, some)
    for t in range(schedule.num_ticks + 1):
        present = schedule.present(t)
        assert (tags[t, ~present] == 0).all()
        so_far = [c for c in pseudocycles(schedule, some) if c.end <= t and c.epoch == schedule.epoch(t)]
        assert not present.any() or tags[t, present].min() >= len(so_far)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), gamma=st.sampled_from([0.3, 0.9]))
def test_each_value_keeps_the_bound_of_its_tag(schedules, data, seed, gamma):
    schedule = data.draw(schedules.schedules())
    n = schedule.num_participants
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, n))
    matrix *= gamma / np.abs(matrix).sum(axis=1, keepdims=True)
    # X = [−1, 1]ⁿ: |c| ≤ 1 − γ keeps F within it, and any part of the rows has no greater sum.
    map = AffineMap(matrix, rng.uniform(gamma - 1, 1 - gamma, n), initial=rng.choice([-1.0, 1.0], n))
    run = simulate(map, schedule, record=("history", "tags"))
    for t in range(schedule.num_ticks + 1):
        present = schedule.present(t)
        solution = map.solution(present)
        error = np.abs(run.history[t, :, 0] - solution)[present]
        assert (error <= gamma ** run.tag_history[t, present] * 2 * (1 + 1e-12) + 1e-15).all()


def test_the_rules_one_by_one():
    """Two participants; 0 reads both, 1 reads itself only, and is away in epoch 1."""
    links = np.array([0, 2, 3]), np.array([0, 1, 1])
    active = np.ones((9, 2), dtype=bool)
    active[2, 0] = False
    reads = np.repeat(np.arange(-1, 8).clip(0)[:, None], 4, axis=1).reshape(9, 2, 2)
    reads[8, 0, 1] = 4
    masks = np.array([[True, True], [True, False], [True, True]])
    schedule = DenseSchedule(active, reads, [0, 0, 0, 1, 1, 2, 2, 2, 2], masks)
    assert round_tags(schedule, links).tolist() == [
        [0, 0],
        [1, 1],
        [1, 2],  # 0 was not active
        [1, 0],  # a new epoch: what it read counts as 0; the other has left
        [2, 0],  # nobody but itself is there to be read
        [1, 0],  # 1 joins with 0, whatever it does on that tick
        [1, 1],
        [2, 2],
        [1, 3],  # what 0 read of 1 is of another epoch
    ]


def test_who_reads_nobody_counts_its_own():
    nobody = np.array([0, 0]), np.array([], dtype=int)
    schedule = DenseSchedule(np.ones((4, 1), bool), np.zeros((4, 1, 1), int), [0, 0, 1, 1], np.ones((2, 1), bool))
    assert round_tags(schedule, nobody).ravel().tolist() == [0, 1, 1, 2]
    map = AffineMap([[0.0]], [3.0])
    assert simulate(map, schedule, record=("tags",)).tag_history.ravel().tolist() == [0, 1, 1, 2]
    assert links_of(map)[0].tolist() == [0, 0]
