import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.maps import AffineMap, PageRankMap, ValueIterationMap
from fulgurite.plugins.dynamic_async.model import MapError, RandomSchedule, certify, delta, simulate
from fulgurite.plugins.dynamic_async.model.domain import image

SEEDS = st.integers(0, 2**32 - 1)


def everybody(map):
    return np.ones(map.num_participants, dtype=bool)


def step(map, state, participants=None):
    mask = everybody(map) if participants is None else participants
    return np.array([block[0] for block in image(map, [np.array([value]) for value in state], 0, mask)])


def drawn_affine(rng, size):
    matrix = rng.normal(size=(size, size)) * (rng.random((size, size)) < 0.6)
    return matrix, rng.normal(size=size)


def drawn_process(rng, size):
    spread = rng.random((3, size, size)) ** 4 * (rng.random((3, size, size)) < 0.6)
    spread /= np.maximum(spread.sum(axis=2, keepdims=True), 1e-12) * (1 + 1e-12)
    return spread, rng.normal(size=(size, 3))


@settings(deadline=None)
@given(SEEDS, st.integers(1, 9))
def test_affine_is_the_matrix_product(seed, size):
    rng = np.random.default_rng(seed)
    matrix, constant = drawn_affine(rng, size)
    state, mask = rng.normal(size=size), rng.random(size) < 0.7
    for made in (AffineMap(matrix, constant), AffineMap(csr_array(matrix), constant)):
        np.testing.assert_allclose(step(made, state), matrix @ state + constant, atol=1e-12)
        # Who is absent counts as 0, and stays at it.
        np.testing.assert_allclose(step(made, state, mask), mask * (matrix @ (mask * state) + constant), atol=1e-12)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 8))
def test_page_rank_is_the_power_iteration(seed, size):
    rng = np.random.default_rng(seed)
    links = rng.random((size, size)) * (rng.random((size, size)) < 0.4)
    map = PageRankMap(links, 0.8)
    found = map.solution()
    # The usual formulation: a page without links leads everywhere.
    out = links.sum(axis=1, keepdims=True)
    spread = np.where(out > 0, links / np.where(out > 0, out, 1.0), 1 / size)
    ranks = np.full(size, 1 / size)
    for _ in range(300):
        ranks = 0.8 * spread.T @ ranks + 0.2 / size
    np.testing.assert_allclose(found / found.sum(), ranks, atol=1e-12)
    certificate = certify(map)
    assert certificate.certified
    assert certificate.gamma < 0.9


@settings(deadline=None)
@given(SEEDS, st.integers(1, 7))
def test_value_iteration_is_bellmans_operator(seed, size):
    rng = np.random.default_rng(seed)
    spread, rewards = drawn_process(rng, size)
    map = ValueIterationMap(spread, rewards, 0.9)
    state = rng.normal(size=size)
    expected = (rewards.T + 0.9 * spread @ state).max(axis=0)
    np.testing.assert_allclose(step(map, state), expected, atol=1e-12)
    values = np.zeros(size)
    for _ in range(500):
        values = step(map, values)
    # The greedy policy's values by a direct solve.
    best = (rewards.T + 0.9 * spread @ values).argmax(axis=0)
    chosen = spread[best, np.arange(size)]
    solved = np.linalg.solve(np.eye(size) - 0.9 * chosen, rewards[np.arange(size), best])
    np.testing.assert_allclose(values, solved, atol=1e-10)
    certificate = certify(map)
    assert certificate.certified
    assert certificate.gamma <= 0.9 + 1e-12


@settings(deadline=None)
@given(SEEDS, st.integers(1, 7), st.sampled_from(["affine", "page rank", "value iteration"]))
def test_stated_matrices_and_factors_bound_what_the_map_does(seed, size, kind):
    rng = np.random.default_rng(seed)
    map = {
        "affine": lambda: AffineMap(*drawn_affine(rng, size)),
        "page rank": lambda: PageRankMap(rng.random((size, size)) < 0.5),
        "value iteration": lambda: ValueIterationMap(*drawn_process(rng, size), 0.9),
    }[kind]()
    weights = rng.random(size) + 0.1
    mask = rng.random(size) < 0.8
    for _ in range(5):
        one, other = rng.normal(size=(2, size)) * mask
        moved = np.abs(step(map, one, mask) - step(map, other, mask))
        apart = np.abs(one - other)
        assert (moved <= map.lipschitz(0, mask) @ apart + 1e-12).all()
        assert (moved / weights <= map.factors(0, mask, weights) * (apart / weights).max() + 1e-12).all()


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 6), st.sampled_from(["affine", "page rank", "value iteration"]))
def test_compiled_and_interpreted_runs_are_the_same_to_the_bit(seed, size, kind):
    rng = np.random.default_rng(seed)
    map = {
        "affine": lambda: AffineMap(0.1 * drawn_affine(rng, size)[0], np.ones(size)),
        "page rank": lambda: PageRankMap(rng.random((size, size)) < 0.5),
        "value iteration": lambda: ValueIterationMap(*drawn_process(rng, size), 0.9),
    }[kind]()
    schedule = RandomSchedule(size, 40, seed=seed, max_delay=3, loss=0.2, churn=0.1)
    compiled = simulate(map, schedule, record=("history",), path="compiled")
    by_hand = delta(map, schedule)
    for t in range(41):
        np.testing.assert_array_equal(np.asarray(compiled.history[t]), np.asarray(by_hand[t]))


@settings(deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_evaluations_err_by_no_more_than_they_say(seed, size):
    rng = np.random.default_rng(seed)
    matrix, constant = drawn_affine(rng, size)
    matrix *= 0.9 / max(np.abs(matrix).sum(axis=1).max(), 0.1)
    map = AffineMap(matrix, constant)
    state = np.array([rng.uniform(-1, 1) * radius for radius in map.domain.radius])
    exact = matrix.astype(np.longdouble) @ state + constant
    off = np.abs(step(map, state) - exact)
    assert (off <= [map.rounding(i) for i in range(size)]).all()


def test_first_states_and_the_domain():
    map = AffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 0.0], initial=[9.0, 0.0])
    assert map.initial(0).tolist() == [9.0]
    assert map.contains(0, np.array([9.0]))
    assert not map.contains(0, np.array([9.1]))
    assert AffineMap([[2.0]], [0.0]).domain is None
    assert map.fingerprint() != AffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 0.0]).fingerprint()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AffineMap(np.ones((2, 3)), [0, 0]), "square"),
        (lambda: AffineMap(np.ones(3), [0, 0, 0]), "square"),
        (lambda: AffineMap(np.eye(2), [0.0]), "shape"),
        (lambda: AffineMap(np.eye(2), [0.0, np.nan]), "NaN"),
        (lambda: AffineMap([[np.nan]], [0.0]), "NaN"),
        (lambda: AffineMap(np.eye(2), [0.0, 0.0], initial=[1.0]), "initial"),
        (lambda: PageRankMap(np.ones((2, 3))), "square"),
        (lambda: PageRankMap(-np.eye(2)), "negative"),
        (lambda: PageRankMap(np.eye(2), 1.0), "damping"),
        (lambda: ValueIterationMap(np.ones((1, 2, 3)), np.zeros((2, 1)), 0.5), "shape"),
        (lambda: ValueIterationMap(np.ones((1, 2, 2)), np.zeros((2, 1)), 0.5), "sums to 2"),
        (lambda: ValueIterationMap(np.zeros((1, 2, 2)), np.zeros((1, 2)), 0.5), "shape"),
        (lambda: ValueIterationMap(np.zeros((1, 2, 2)), np.full((2, 1), np.nan), 0.5), "NaN"),
        (lambda: ValueIterationMap(np.zeros((1, 2, 2)), np.zeros((2, 1)), 1.0), "discount"),
    ],
)
def test_what_does_not_fit_is_an_error(make, words):
    with pytest.raises(MapError, match=words):
        make()
