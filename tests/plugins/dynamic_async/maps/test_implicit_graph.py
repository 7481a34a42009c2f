import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.maps import ImplicitGraphMap
from fulgurite.plugins.dynamic_async.maps.graph_rows import even_weights, measures
from fulgurite.plugins.dynamic_async.model import MapError, RandomSchedule, certify, pseudocycles, simulate
from fulgurite.plugins.dynamic_async.model.domain import image, weighted_residual
from fulgurite.plugins.dynamic_async.model.simulation import links_of

SEEDS = st.integers(0, 2**32 - 1)
ACTIVATIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "identity": lambda z: z,
}
KINDS = st.sampled_from(
    [(n, a, "ignn") for n in ("given", "row", "symmetric") for a in ACTIVATIONS]
    + [("given", "relu", "nemon"), ("given", "tanh", "nemon"), ("row", "relu", "nemon")]
)


def drawn(seed, kind, *, nodes=9, channels=3, parts=3, **options):
    rng = np.random.default_rng(seed)
    normalisation, activation, iteration = kind
    graph = rng.random((nodes, nodes)) * (rng.random((nodes, nodes)) < 0.35)
    if normalisation == "symmetric":
        graph = graph + graph.T
    if normalisation == "given":
        graph /= max(np.abs(np.linalg.eigvals(graph)).max(), 0.1)
    weight = rng.normal(size=(channels, channels))
    if iteration == "nemon":
        np.fill_diagonal(weight, 0.0)
        weight *= 0.9 / np.abs(weight).sum(axis=1).max()
        np.fill_diagonal(weight, -2.0)
        np.fill_diagonal(graph, 0.0)
        graph *= 0.15 / np.maximum(graph.sum(axis=1, keepdims=True), 0.15)
        if normalisation == "given":  # no contraction in the plain maximum norm
            scale = 10.0 ** rng.uniform(-1, 1, nodes)
            graph *= scale[:, None] / scale[None, :]
        np.fill_diagonal(graph, 0.3 + 0.5 * rng.random(nodes))
    else:
        weight *= 0.8 / np.abs(np.linalg.eigvals(np.abs(weight))).max()
    bias = rng.normal(size=(nodes, channels))
    order = rng.permutation(nodes)
    cut = np.sort(rng.choice(np.arange(1, nodes), parts - 1, replace=False))
    return ImplicitGraphMap(
        graph,
        weight,
        bias,
        np.split(order, cut),
        normalisation=normalisation,
        activation=activation,
        iteration=iteration,
        **options,
    )


def dense(map, participants):
    """A of the view."""
    present = np.zeros(len(map.bias))
    for i, nodes in enumerate(map.parts):
        present[nodes] = participants[i]
    graph = map.adjacencies[0].toarray() * present[:, None] * present[None, :]
    degree = graph.sum(axis=1)
    if map.normalisation == "row":
        graph = graph / np.where(degree > 0, degree, 1)[:, None]
    if map.normalisation == "symmetric":
        root = np.sqrt(np.where(degree > 0, degree, 1))
        graph = graph / root[:, None] / root[None, :]
    return graph, present[:, None]


def expected(map, states, participants):
    graph, present = dense(map, participants)
    fresh = ACTIVATIONS[map.activation](graph @ (states * present) @ map.weight.T + map.bias)
    if map.iteration == "nemon":
        loops = map.adjacencies[0].diagonal() if map.normalisation == "given" else np.diag(graph)
        alpha = 1 / (1 - min(0.0, np.outer(loops, np.diag(map.weight)).min()))
        fresh = (1 - alpha) * states + alpha * fresh
    return fresh * present


def solve(map, participants=None, steps=250):
    mask = np.ones(map.num_participants, bool) if participants is None else participants
    blocks = [map.initial(i) for i in range(map.num_participants)]
    for _ in range(steps):
        blocks = image(map, blocks, 0, mask)
    return blocks


@settings(deadline=None)
@given(SEEDS, KINDS)
def test_a_step_is_the_formula(seed, kind):
    map = drawn(seed, kind)
    rng = np.random.default_rng(seed + 1)
    states = rng.normal(size=map.bias.shape)
    for participants in (np.ones(3, bool), np.array([True, False, True])):
        found = map.assemble(image(map, map.split(states), 0, participants))
        np.testing.assert_allclose(found, expected(map, states, participants), atol=1e-12)


@settings(deadline=None)
@given(SEEDS, KINDS)
def test_stated_matrices_and_factors_bound_what_the_map_does(seed, kind):
    map = drawn(seed, kind)
    rng = np.random.default_rng(seed + 1)
    weights = rng.random(3) + 0.2
    for participants in (np.ones(3, bool), rng.random(3) < 0.7):
        for _ in range(3):
            one, other = (map.split(rng.normal(size=map.bias.shape)) for _ in range(2))
            one, other = ([b * participants[i] for i, b in enumerate(blocks)] for blocks in (one, other))
            apart = np.array([map.distance(i, one[i], other[i]) for i in range(3)])
            after = [image(map, blocks, 0, participants) for blocks in (one, other)]
            moved = np.array([map.distance(i, after[0][i], after[1][i]) for i in range(3)])
            assert (moved <= map.lipschitz(0, participants) @ apart + 1e-12).all()
            assert (moved / weights <= map.factors(0, participants, weights) * (apart / weights).max() + 1e-12).all()


@settings(deadline=None, max_examples=25)
@given(SEEDS, KINDS)
def test_it_is_certified_and_the_limit_is_the_fixed_point(seed, kind):
    map = drawn(seed, kind)
    certificate = certify(map)
    assert certificate.certified, certificate.reason
    assert certificate.gamma < 0.95
    found = map.assemble(solve(map))
    np.testing.assert_allclose(expected(map, found, np.ones(3, bool)), found, atol=1e-10)
    for i, block in enumerate(map.split(found)):
        assert map.contains(i, block)


def test_row_sums_by_blocks_say_less_than_whole_rows():
    """Two nodes of one part that read different parts: each pair of parts has the greatest sum, but no node both."""
    graph = np.zeros((4, 4))
    graph[0, 2] = graph[1, 3] = graph[2, 0] = graph[3, 1] = 1.0
    map = ImplicitGraphMap(graph, [[0.8]], np.ones((4, 1)), [[0, 1], [2], [3]])
    everybody = np.ones(3, bool)
    assert map.lipschitz(0, everybody).sum(axis=1).max() == pytest.approx(1.6)
    assert map.factors(0, everybody, np.ones(3)).max() == pytest.approx(0.8)
    assert certify(map).gamma == pytest.approx(0.8)


def test_nemon_contracts_where_ignn_does_not():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 4)) * 0.3
    np.fill_diagonal(weight, -4.0)
    bias = rng.normal(size=(6, 4))
    assert certify(ImplicitGraphMap(np.eye(6), weight, bias, 2)).verdict == "empirical"
    map = ImplicitGraphMap(np.eye(6), weight, bias, 2, iteration="nemon")
    certificate = certify(map)
    mu = (np.diag(weight) + np.abs(weight - np.diag(np.diag(weight))).sum(axis=1)).max()
    alpha = 1 / (1 - weight.diagonal().min())
    assert certificate.gamma == pytest.approx(1 - alpha * (1 - max(mu, 0)))
    found = map.assemble(solve(map))
    np.testing.assert_allclose(np.maximum(found @ weight.T + bias, 0), found, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(SEEDS, KINDS)
def test_the_adjoint_solves_the_transposed_system(seed, kind):
    map = drawn(seed, kind)
    rng = np.random.default_rng(seed + 2)
    states, gradient = map.assemble(solve(map)), rng.normal(size=map.bias.shape)
    back = map.adjoint(states, gradient)
    certificate = certify(back)
    assert certificate.certified, certificate.reason
    # By the implicit function theorem, entry by entry: V = S(I − KᵀS)⁻¹G for K = A ⊗ W.
    graph, _ = dense(map, np.ones(3, bool))
    pre = graph @ states @ map.weight.T + map.bias
    nudge = 1e-6
    slope = (ACTIVATIONS[map.activation](pre + nudge) - ACTIVATIONS[map.activation](pre - nudge)) / (2 * nudge)
    kernel = np.kron(graph, map.weight)
    by_solve = np.linalg.solve(np.eye(kernel.shape[0]) - slope.ravel()[:, None] * kernel.T, (slope * gradient).ravel())
    found = back.assemble(solve(back))
    np.testing.assert_allclose(found.ravel(), by_solve, atol=1e-5)
    np.testing.assert_array_equal(map.adjoint(states, gradient).scale, back.scale)
    missing = map.adjoint(states, gradient, participants=np.array([True, False, True]))
    assert certify(missing).certified
    assert not missing.assemble(solve(missing))[map.parts[1]].any()
    # Its own bound, per node and channel.
    everybody = np.ones(3, bool)
    blocks = solve(back, steps=5)
    residual = weighted_residual(back, blocks, 0, everybody, certificate.weights)
    worst = certificate.residual_bound(residual) * certificate.weights.max()
    assert (np.abs(back.assemble(blocks) - found) <= back.node_errors(worst) + 1e-9).all()


def test_the_gradients_of_a_loss():
    map = drawn(3, ("given", "tanh", "ignn"))
    rng = np.random.default_rng(0)
    target = rng.normal(size=map.bias.shape)
    states = map.assemble(solve(map))
    back = map.adjoint(states, states - target)
    inner = back.assemble(solve(back))
    by_weight = inner.T @ map.aggregated(states)

    def loss(weight, bias):
        moved = ImplicitGraphMap(map.adjacencies[0], weight, bias, map.parts, activation="tanh")
        return 0.5 * np.square(moved.assemble(solve(moved)) - target).sum()

    nudge = 1e-6
    for k, j in [(0, 0), (1, 2)]:
        shift = np.zeros_like(map.weight)
        shift[k, j] = nudge
        slope = (loss(map.weight + shift, map.bias) - loss(map.weight - shift, map.bias)) / (2 * nudge)
        assert by_weight[k, j] == pytest.approx(slope, rel=1e-5, abs=1e-7)
    shift = np.zeros_like(map.bias)
    shift[4, 1] = nudge
    slope = (loss(map.weight, map.bias + shift) - loss(map.weight, map.bias - shift)) / (2 * nudge)
    assert inner[4, 1] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_under_churn_and_delay_the_answer_is_that_of_all_at_once():
    map = drawn(1, ("row", "relu", "ignn"), dtype=np.float32)
    certificate = certify(map)
    schedule = RandomSchedule(3, 400, seed=2, max_delay=4, loss=0.3, churn=0.01, away=0.4)
    run = simulate(map, schedule)
    last = schedule.epoch(400)
    present = schedule.participants(last)
    k = sum(cycle.epoch == last for cycle in pseudocycles(schedule, links_of(map)))
    assert k > 5
    found = solve(map, present)
    assert all(block.dtype == np.float32 for block in run.states)
    for i in np.flatnonzero(present):
        assert map.distance(i, run.states[i], found[i]) / certificate.weights[i] <= certificate.bound(k)


def test_an_epoch_has_its_own_graph():
    rng = np.random.default_rng(0)
    graphs = [csr_array((rng.random((6, 6)) < 0.4).astype(float)) for _ in range(2)]
    map = ImplicitGraphMap(graphs, [[0.7]], np.ones((6, 1)), 2, normalisation="row")
    assert map.num_epochs == 2
    certificate = certify(map)
    assert certificate.gamma == pytest.approx(0.7)
    assert "every epoch" in certificate.scope
    state, everybody = map.split(rng.normal(size=(6, 1))), np.ones(2, bool)
    for epoch in range(4):
        alone = map.at_epoch(epoch)
        for one, other in zip(image(map, state, epoch, everybody), image(alone, state, 0, everybody), strict=True):
            np.testing.assert_array_equal(one, other)
    assert map.fingerprint() != map.at_epoch(1).fingerprint()


def test_equal_arguments_give_equal_bits_wherever_they_lie():
    map = drawn(5, ("row", "tanh", "ignn"), channels=7)
    states = map.split(np.random.default_rng(0).normal(size=map.bias.shape))
    first = image(map, states, 0, np.ones(3, bool))
    for offset in (1, 3):
        moved = []
        for block in states:
            room = np.empty(block.size + offset)
            room[offset:] = block.ravel()
            moved.append(room[offset:].reshape(block.shape))
        for one, other in zip(first, image(map, moved, 0, np.ones(3, bool)), strict=True):
            np.testing.assert_array_equal(one, other)


@settings(deadline=None)
@given(SEEDS, st.integers(2, 12))
def test_even_weights_bring_the_greatest_row_near_the_radius(seed, size):
    rng = np.random.default_rng(seed)
    matrix = rng.random((size, size)) + 0.05  # irreducible
    scale = 10.0 ** rng.integers(-2, 3, size=size)
    matrix = csr_array(matrix * scale[None, :] / scale[:, None])
    weights = even_weights(matrix)
    radius = np.abs(np.linalg.eigvals(matrix.toarray())).max()
    assert (weights > 0).all()
    assert ((matrix @ weights) / weights).max() <= radius * 1.06


@settings(deadline=None)
@given(SEEDS)
def test_measures_are_those_of_the_full_matrix(seed):
    rng = np.random.default_rng(seed)
    graph, weight, scale = rng.normal(size=(4, 4)), rng.normal(size=(3, 3)), rng.random((4, 3)) + 0.1
    full = np.kron(graph, weight)
    own = np.diag(full)
    weighted = np.abs(full) * scale.ravel()[None, :] / scale.ravel()[:, None]
    found = measures(csr_array(graph), weight, scale).ravel()
    exact = own + weighted.sum(axis=1) - np.abs(own)
    np.testing.assert_allclose(found, exact, atol=1e-11)
    assert (found >= exact - 1e-15).all()


GRAPH = np.full((4, 4), 0.25)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((GRAPH, np.eye(3), np.zeros((4, 2)), 2), {}, "weight of shape"),
        ((np.ones((3, 4)), np.eye(2), np.zeros((4, 2)), 2), {}, "adjacency has shape"),
        ((np.ones((3, 3)), np.eye(2), np.zeros((4, 2)), 2), {}, "adjacency has shape"),
        ((GRAPH * np.nan, np.eye(2), np.zeros((4, 2)), 2), {}, "NaN"),
        ((GRAPH, np.full((2, 2), np.inf), np.zeros((4, 2)), 2), {}, "infinity"),
        ((-GRAPH, np.eye(2), np.zeros((4, 2)), 2), {"normalisation": "row"}, "negative"),
        (([], np.eye(2), np.zeros((4, 2)), 2), {}, "no adjacency"),
        ((GRAPH, np.eye(2), np.zeros((4, 2)), 5), {}, "5 parts"),
        ((GRAPH, np.eye(2), np.zeros((4, 2)), [[0, 1], [1, 2, 3]]), {}, "disjoint"),
        ((GRAPH, np.eye(2), np.zeros((4, 2)), 2), {"activation": "gelu"}, "gelu"),
        ((GRAPH, np.eye(2), np.zeros((4, 2)), 2), {"scale": np.zeros((4, 1))}, "positive"),
        ((GRAPH, np.eye(2), np.zeros((4, 2)), 2), {"scale": np.ones((3, 1))}, "scale of shape"),
        ((GRAPH, np.eye(2), np.zeros((4, 2)), 2), {"gain": np.full((4, 2), 2.0)}, "gain"),
    ],
)
def test_what_does_not_fit_is_an_error(arguments, options, words):
    with pytest.raises(MapError, match=words):
        ImplicitGraphMap(*arguments, **options)
