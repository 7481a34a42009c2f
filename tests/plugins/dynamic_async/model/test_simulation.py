import inspect
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.maps.affine import AffineMap
from fulgurite.plugins.dynamic_async.model import (
    Adversary,
    Box,
    DenseSchedule,
    DynamicMap,
    MapError,
    RandomSchedule,
    ScheduleError,
    compiled_run,
    delta,
    fair_schedule,
    pseudocycles,
    round_tags,
    simulate,
    simulation,
)
from fulgurite.plugins.dynamic_async.model.simulation import links_of

SEEDS = st.integers(0, 2**32 - 1)


def affine(n, seed, gamma=0.8):
    """A random contraction that a part of the entries is missing from; it starts anywhere."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.6)
    sums = np.abs(matrix).sum(axis=1, keepdims=True)
    matrix = np.divide(gamma * matrix, sums, out=np.zeros((n, n)), where=sums > 0)
    return AffineMap(matrix, rng.normal(size=n), initial=rng.normal(size=n))


class Mixed(DynamicMap):
    """States of different shapes and types, and a map that looks at the epoch and the participants."""

    num_participants = 3

    def bottom(self, i):
        return [np.zeros((2, 2)), np.zeros(3, dtype=np.int64), np.array(0.0)][i]

    def initial(self, i):
        return self.bottom(i) + 1

    def neighbours(self, i):
        return np.array([(i + 1) % 3, 2] if i == 0 else [(i + 1) % 3])

    def evaluate(self, i, epoch, participants, inputs):
        total = sum(float(x.sum()) for x in inputs.values()) + epoch + 10 * participants.sum()
        return (self.bottom(i) + int(total) % 17).astype(self.bottom(i).dtype)


def same(one, other):
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), seed=SEEDS)
def test_compiled_and_in_python_it_is_the_state_function_to_the_bit(schedules, data, seed):
    schedule = data.draw(schedules.schedules())
    map = affine(schedule.num_participants, seed)
    expected = delta(map, schedule)
    runs = [simulate(map, schedule, record=("history", "tags"), path=path) for path in ("compiled", "python")]
    for run in runs:
        assert same(run.history, expected)
        np.testing.assert_array_equal(run.tag_history, round_tags(schedule, links_of(map)))
        # Only the last ticks are kept where nobody asks for more.
        last = simulate(map, schedule)
        assert same([last.states], expected[-1:])
        np.testing.assert_array_equal(last.tags, run.tag_history[-1])


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_map_is_interpreted(schedules, data):
    schedule = data.draw(schedules.schedules(participants=st.just(3)))
    run = simulate(Mixed(), schedule, record=("history",))
    assert same(run.history, delta(Mixed(), schedule))
    assert same([run.states], [run.history[-1]])


def test_by_itself_it_takes_the_compiled_way(monkeypatch):
    schedule = RandomSchedule(4, 50)
    monkeypatch.setattr(simulation, "_interpret", None)
    simulate(affine(4, 0), schedule)
    with pytest.raises(TypeError):
        simulate(Mixed(), RandomSchedule(3, 50))


def test_another_beginning_in_both_ways():
    map, schedule = affine(3, 1), RandomSchedule(3, 40, seed=2, churn=0.3, away=0.5)
    start = [np.array([float(i)]) for i in range(3)]
    for path in ("compiled", "python"):
        run = simulate(map, schedule, initial=start, record=("history",), path=path)
        assert same(run.history, delta(map, schedule, start))
    assert not np.array_equal(run.history, simulate(map, schedule, record=("history",)).history)


def joining(n=2):
    """Participant 0 is away at tick 2 and back at tick 3; nobody evaluates."""
    masks = np.ones((3, n), dtype=bool)
    masks[1, 0] = False
    reads = np.zeros((5, n, n), dtype=int)
    return DenseSchedule(np.zeros((5, n), dtype=bool), reads, [0, 0, 1, 2, 2], masks)


def test_a_joiner_may_bring_a_value():
    joins = {(3, 0): np.array([5.0]), (0, 1): np.array([-4.0])}
    run = simulate(AffineMap(np.eye(2), np.zeros(2)), joining(), joins=joins, record=("history",))
    assert run.history[..., 0].tolist() == [[0, -4], [0, -4], [0, -4], [5, -4], [5, -4]]


class Boxed(AffineMap):
    """Within ±1."""

    @property
    def domain(self):
        return Box((np.zeros(1), np.zeros(1)), np.ones(2))


@pytest.mark.parametrize(
    ("joins", "message"),
    [
        ({(3, 0): np.array([1.5])}, "participant 0: the value that it joins with at tick 3 is not in X"),
        ({(3, 0): np.array([np.nan])}, "not in X"),
        ({(3, 0): np.array([0.5, 0.5])}, r"expected float64 of shape \(1,\)"),
        ({(3, 0): np.array([0.5], dtype=np.float32)}, "expected float64"),
        ({(2, 0): np.array([0.5])}, "does not join there"),
        ({(3, 1): np.array([0.5])}, "participant 1 at tick 3, but it does not join there"),
        ({(9, 0): np.array([0.5])}, "which the schedule has not"),
        ({(3, 2): np.array([0.5])}, "which the schedule has not"),
    ],
)
def test_joining_values_that_are_refused(joins, message):
    with pytest.raises(MapError, match=message):
        simulate(Boxed(np.eye(2), np.zeros(2)), joining(), joins=joins)


def test_beginnings_that_are_refused():
    map = Boxed(np.eye(2), np.zeros(2))
    with pytest.raises(MapError, match="participant 1: the initial state is not in X"):
        simulate(map, joining(), initial=[np.array([0.0]), np.array([2.0])])
    with pytest.raises(MapError, match="2 participants; got 1 initial states"):
        simulate(map, joining(), initial=[np.array([0.0])])
    with pytest.raises(ScheduleError, match="for 2 participants, the map has 3"):
        simulate(Mixed(), joining())
    with pytest.raises(MapError, match="no compiled way"):
        simulate(Mixed(), RandomSchedule(3, 5), path="compiled")


@pytest.mark.parametrize("axiom", ["causality", "epochs"])
def test_a_schedule_of_ones_own_that_breaks_an_axiom(axiom):
    class Wrong(RandomSchedule):
        def compiled(self, indptr, indices):
            return None

        def read_time(self, t, i, j):
            return t if axiom == "causality" and t == 3 else t - 1

        def epochs(self):
            return np.arange(6)[::-1] if axiom == "epochs" else super().epochs()

    message = "as of tick 3; causality" if axiom == "causality" else "must never fall"
    with pytest.raises(ScheduleError, match=message):
        simulate(affine(4, 0), Wrong(4, 5, activation=1.0))


def test_residuals_go_down_and_pseudocycles_are_of_the_links_that_are_read():
    map, schedule = affine(5, 3), fair_schedule(5, 200, seed=1)
    run = simulate(map, schedule, record=("residuals", "pseudocycles", "history"))
    state = run.history[7, :, 0]
    expected = np.abs(map.matrix @ state + map.constant - state).max()
    assert run.residuals[7] == pytest.approx(expected, rel=1e-12)
    assert run.residuals[0] > 0.1
    assert run.residuals[-1] < 1e-3
    assert run.pseudocycles == pseudocycles(schedule, links_of(map))
    assert len(run.pseudocycles) >= len(pseudocycles(schedule)) > 20


SPECTRAL = np.array([[0.6, 0.6], [-0.6, 0.6]])


def grown(matrix, ticks, choose=None):
    n = len(matrix)
    schedule = RandomSchedule(n, ticks, activation=1.0, max_delay=1)
    run = simulate(AffineMap(matrix, np.zeros(n), initial=np.ones(n)), schedule, choose=choose)
    return float(np.abs(run.states).max())


def test_an_adversary_diverges_where_only_the_spectral_radius_is_below_1():
    assert grown(SPECTRAL, 400) == pytest.approx(5e-29, rel=0.5)
    assert 1e6 < grown(SPECTRAL, 400, Adversary(2)) < 1e9
    assert grown(0.8 * SPECTRAL, 400, Adversary(4)) == pytest.approx(5e-5, rel=0.5)
    assert grown(0.8 * SPECTRAL, 400, Adversary(8)) < 0.1


def test_an_adversary_diverges_where_only_the_euclidean_norm_contracts():
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    assert grown(0.9 * orthogonal, 200) < 1e-8
    assert grown(0.9 * orthogonal, 200, Adversary(6)) > 1e30


def test_an_adversary_that_cannot_be():
    with pytest.raises(ValueError, match="got depth 0"):
        Adversary(0)
    with pytest.raises(MapError, match="one number"):
        simulate(Mixed(), RandomSchedule(3, 9, activation=1.0), choose=Adversary(2))


@pytest.fixture
def mutant(monkeypatch):
    """A module with one line of it spoilt."""

    def make(module, old, new):
        source = inspect.getsource(module)
        assert source.count(old) == 1, f"{old!r} is not there once"
        made = ModuleType("mutant")
        monkeypatch.setitem(sys.modules, "mutant", made)  # dataclasses look for their module
        exec(compile(source.replace(old, new), "<mutant>", "exec"), made.__dict__)
        return made

    return make


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("elif not before[i]:", "elif t == 0:"),  # no reset on join
        ("if present[j] else bottoms[j] for j, read", "for j, read"),  # the absent are read as what they were
        ("if not present[i]:", "if False:"),  # who has left goes on
        ("reads = {j: schedule.read_time(t, i, j) if present[j] else t - 1", "reads = {j: t - 1"),  # always fresh
    ],
)
def test_mutants_are_caught_by_the_comparison(mutant, old, new):
    wrong = mutant(simulation, old, new)
    map = affine(4, 5)
    schedule = RandomSchedule(4, 200, seed=3, churn=0.2, away=0.4, max_delay=5)
    expected = delta(map, schedule)
    assert same(simulation.simulate(map, schedule, record=("history",), path="python").history, expected)
    assert not same(wrong.simulate(map, schedule, record=("history",), path="python").history, expected)


def test_the_compiled_mutant_without_reset_is_caught(mutant):
    wrong = mutant(compiled_run, "elif changed and not before[i]:", "elif t == 0:")
    map, schedule = affine(4, 5), RandomSchedule(4, 200, seed=3, churn=0.2, away=0.4)
    kernel = map.kernel()
    states, _ = wrong.run_compiled(kernel, schedule.compiled(kernel.indptr, kernel.indices), keep_all=True)
    assert not same(states, delta(map, schedule))


def test_without_reset_a_joiner_could_bring_a_value_from_outside_x_back():
    """F(x) = x²/2 on X = [−0.9, 0.9] goes to 0 from wherever in X anybody joins; from 3 it does not."""

    class Square(DynamicMap):
        num_participants = 1
        bound = 0.9

        def bottom(self, i):
            return np.zeros(1)

        def neighbours(self, i):
            return np.array([0])

        def evaluate(self, i, epoch, participants, inputs):
            return inputs[0] ** 2 / 2

        @property
        def domain(self):
            return Box((np.zeros(1),), np.array([self.bound]))

    reads = np.arange(-1, 6).clip(0).reshape(-1, 1, 1)
    schedule = DenseSchedule(np.ones((7, 1), bool), reads, [0, 1, 2, 2, 2, 2, 2], [[True], [False], [True]])
    map = Square()
    with pytest.raises(MapError, match="not in X"):
        simulate(map, schedule, joins={(2, 0): np.array([3.0])})
    assert simulate(map, schedule, joins={(2, 0): np.array([0.9])}).states.item() < 1e-5
    map.bound = np.inf
    values = simulate(map, schedule, joins={(2, 0): np.array([3.0])}, record=("history",)).history[2:5, 0, 0]
    assert values.tolist() == [3.0, 4.5, 10.125]
