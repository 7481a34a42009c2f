import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize

from fulgurite.plugins.dynamic_async.maps import AnchoredMap, LogisticLoss, QuadraticLoss, SoftmaxLoss, objective_bounds
from fulgurite.plugins.dynamic_async.maps.curvature import largest_step, moment_bounds
from fulgurite.plugins.dynamic_async.model import MapError, RandomSchedule, certify, simulate
from fulgurite.plugins.dynamic_async.model.domain import image, weighted_residual

SEEDS = st.integers(0, 2**32 - 1)
LOSSES = st.sampled_from(["quadratic", "logistic", "softmax"])
UPDATES = st.sampled_from(["prox", "gradient"])
SHAPES = st.sampled_from(["complete", "star", "path"])


def drawn_loss(rng, kind, decay=0.1):
    features = rng.normal(size=(12, 3))
    if kind == "quadratic":
        return QuadraticLoss(features, rng.normal(size=12), decay)
    if kind == "logistic":
        return LogisticLoss(features, rng.choice([-1, 1], size=12), decay)
    return SoftmaxLoss(features, rng.integers(3, size=12), decay, classes=3)


def value(loss, z):
    """The loss itself, written another way."""
    if loss.name == "softmax":
        logits = loss.features @ z.reshape(loss.classes, -1).T
        data = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), loss.labels])
    elif loss.name == "logistic":
        data = np.mean(np.log1p(np.exp(-loss.labels * (loss.features @ z))))
    else:
        data = 0.5 * np.mean((loss.features @ z - loss.labels) ** 2)
    return data + 0.5 * loss.weight_decay * z @ z


def drawn_map(rng, kind, update, shape, size=4, **options):
    losses = [drawn_loss(rng, kind, decay=0.1 * (i + 1)) for i in range(size)]
    weights = np.diag(np.ones(size - 1), 1) + np.diag(np.ones(size - 1), -1) if shape == "path" else shape
    return AnchoredMap(losses, 0.7, weights, update=update, **options)


@settings(deadline=None)
@given(SEEDS, LOSSES)
def test_gradients_and_hessians(seed, kind):
    rng = np.random.default_rng(seed)
    loss = drawn_loss(rng, kind)
    z = rng.normal(size=loss.dimension)
    np.testing.assert_allclose(loss.gradient(z), approx_fprime(z, lambda p: value(loss, p)), atol=1e-5)
    np.testing.assert_allclose(loss.hessian(z), approx_fprime(z, loss.gradient), atol=1e-5)


@settings(deadline=None)
@given(SEEDS, LOSSES)
def test_the_constants_bound_every_hessian(seed, kind):
    rng = np.random.default_rng(seed)
    loss = drawn_loss(rng, kind)
    for size in (0.0, 0.3, 3.0):
        values = np.linalg.eigvalsh(loss.hessian(size * rng.normal(size=loss.dimension)))
        assert loss.mu * (1 - 1e-12) <= values[0]
        assert values[-1] <= loss.smoothness * (1 + 1e-12)
    assert (loss.mu, loss.smoothness) == objective_bounds(loss.name, loss.features, loss.weight_decay)


def test_the_constants_are_met():
    features = np.random.default_rng(0).normal(size=(20, 3))
    top = np.linalg.eigvalsh(features.T @ features / 20)
    assert objective_bounds("quadratic", features, 0.1) == pytest.approx((top[0] + 0.1, top[-1] + 0.1))
    assert objective_bounds("logistic", features, 0.1) == pytest.approx((0.1, top[-1] / 4 + 0.1))
    # Two classes at equal odds: the softmax's Hessian is ¼ of [[1, −1], [−1, 1]] ⊗ XᵀX/n, of greatest eigenvalue ½.
    loss = SoftmaxLoss(features, [0, 1] * 10, 0.1)
    assert np.linalg.eigvalsh(loss.hessian(np.zeros(6)))[-1] == pytest.approx(loss.smoothness)
    with_bias = objective_bounds("softmax", features, 0.1, bias=True)
    assert with_bias == objective_bounds("softmax", np.hstack([features, np.ones((20, 1))]), 0.1)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9))
def test_moments(seed, rows, columns):
    features = np.random.default_rng(seed).normal(size=(rows, columns))
    values = np.linalg.svd(features, compute_uv=False) ** 2 / rows
    low, high = moment_bounds(features)
    assert high == pytest.approx(values[0], rel=1e-12)
    assert high >= values[0]
    assert low <= (values[-1] if rows >= columns else 0.0)


@settings(deadline=None, max_examples=30)
@given(SEEDS, LOSSES, st.sampled_from(["complete", "path"]), st.booleans())
def test_the_prox_is_the_minimiser(seed, kind, shape, alone):
    rng = np.random.default_rng(seed)
    map = drawn_map(rng, kind, "prox", shape)
    others = [rng.normal(size=map.centre.shape) for _ in range(4)]
    participants = np.array([True] * 4) if not alone else np.array([True, False, False, False])
    found = map.evaluate(0, 0, participants, {int(j): others[j] for j in map.neighbours(0)})
    weights = map.weights.toarray()[0] * participants

    def objective(z):
        anchors = sum(w * np.square(z - x).sum() for w, x in zip(weights, others, strict=True))
        return value(map.losses[0], z) + 0.5 * map.coupling * anchors

    best = minimize(objective, np.zeros_like(found), method="BFGS", options={"gtol": 1e-9})
    assert objective(found) <= best.fun + 1e-10
    np.testing.assert_allclose(found, best.x, atol=1e-4)


@settings(deadline=None)
@given(SEEDS, LOSSES, UPDATES, SHAPES)
def test_stated_matrices_and_factors_bound_what_the_map_does(seed, kind, update, shape):
    rng = np.random.default_rng(seed)
    map = drawn_map(rng, kind, update, shape)
    size = map.num_participants
    weights = rng.random(size) + 0.3
    for participants in (np.ones(size, bool), rng.random(size) < 0.6):
        one, other = ([rng.normal(size=map.centre.shape) for _ in range(size)] for _ in range(2))
        one, other = ([b if participants[i] else map.bottom(i) for i, b in enumerate(x)] for x in (one, other))
        apart = np.array([map.distance(i, one[i], other[i]) for i in range(size)])
        after = [image(map, x, 0, participants) for x in (one, other)]
        moved = np.array([map.distance(i, after[0][i], after[1][i]) for i in range(size)])
        assert (moved <= map.lipschitz(0, participants) @ apart + 1e-9).all()
        assert (moved / weights <= map.factors(0, participants, weights) * (apart / weights).max() + 1e-9).all()


@settings(deadline=None, max_examples=30)
@given(SEEDS, LOSSES, UPDATES, SHAPES)
def test_it_is_certified_by_the_factor_of_the_theory(seed, kind, update, shape):
    map = drawn_map(np.random.default_rng(seed), kind, update, shape)
    certificate = certify(map)
    assert certificate.certified, certificate.reason
    mu, degree = min(loss.mu for loss in map.losses), {"complete": 1.0, "star": 1.0, "path": 2.0}[shape]
    ratio = map.coupling * degree / (map.coupling * degree + mu)
    theory = {"prox": ratio if shape != "star" else ratio**0.5, "gradient": 1 - map.step * mu}[update]
    if shape == "star" and update == "gradient":
        assert theory < certificate.gamma < 1
    else:
        assert certificate.gamma <= theory * (1 + 1e-12)


@settings(deadline=None, max_examples=5)
@given(SEEDS, LOSSES, SHAPES)
def test_prox_and_gradient_steps_have_one_fixed_point(seed, kind, shape):
    answers = []
    for update in ("prox", "gradient"):
        map = drawn_map(np.random.default_rng(seed), kind, update, shape)
        everybody = np.ones(map.num_participants, bool)
        state = [map.initial(i) for i in range(map.num_participants)]
        for _ in range(1500 if update == "gradient" else 300):
            state = image(map, state, 0, everybody)
        certificate = certify(map)
        off = certificate.residual_bound(weighted_residual(map, state, 0, everybody, certificate.weights))
        assert off < 1e-6
        answers.append(np.array(state))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


def test_quadratic_losses_against_a_direct_solve():
    rng = np.random.default_rng(4)
    map = drawn_map(rng, "quadratic", "prox", "complete")
    size, dimension = 4, 3
    system = np.kron(map.coupling * (np.eye(size) - map.weights.toarray()), np.eye(dimension))
    right = np.zeros(size * dimension)
    for i, loss in enumerate(map.losses):
        own = slice(i * dimension, (i + 1) * dimension)
        system[own, own] += loss.hessian(np.zeros(dimension))
        right[own] = -loss.gradient(np.zeros(dimension))
    solved = np.linalg.solve(system, right).reshape(size, dimension)
    run = simulate(map, RandomSchedule(size, 300, seed=1, max_delay=3, loss=0.2))
    certificate = certify(map)
    worst = max(float(np.linalg.norm(a - b)) for a, b in zip(run.states, solved, strict=True))
    assert worst <= certificate.bound(50)
    assert worst < 1e-8


def test_the_server_takes_the_mean_of_who_is_there():
    map = drawn_map(np.random.default_rng(0), "quadratic", "prox", "star")
    inputs = {i: np.full(3, float(i)) for i in range(4)}
    participants = np.array([True, False, False, True, True])
    np.testing.assert_allclose(map.evaluate(4, 0, participants, inputs), np.full(3, 1.5))
    np.testing.assert_array_equal(map.evaluate(4, 0, np.array([False] * 4 + [True]), inputs), map.centre)


def test_steps_beyond_the_bound_are_not_certified():
    map = drawn_map(np.random.default_rng(0), "logistic", "gradient", "complete")
    again = drawn_map(np.random.default_rng(0), "logistic", "gradient", "complete", step=map.step * 3)
    assert certify(map).verdict == "certified"
    assert certify(again).verdict == "empirical"
    assert largest_step(1.0, 3.0, 2.0) == pytest.approx(0.25)


def test_a_centre_of_ones_own():
    centre = np.array([3.0, -1.0, 2.0])
    map = drawn_map(np.random.default_rng(0), "quadratic", "prox", "star", centre=centre)
    np.testing.assert_array_equal(map.initial(2), centre)
    assert certify(map).certified
    assert not map.contains(0, centre + 1e6)


FEATURES = np.ones((4, 2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: objective_bounds("hinge", FEATURES, 0.1), "hinge"),
        (lambda: objective_bounds("softmax", FEATURES, -0.1), "weight_decay"),
        (lambda: objective_bounds("softmax", np.ones(3), 0.1), "shape"),
        (lambda: objective_bounds("softmax", FEATURES * np.nan, 0.1), "NaN"),
        (lambda: QuadraticLoss(FEATURES, np.zeros(4)), "strongly convex"),
        (lambda: LogisticLoss(FEATURES, np.zeros(4), 0.1), "−1 and 1"),
        (lambda: SoftmaxLoss(FEATURES, [0, 1, 2, 3], 0.1, classes=3), "integers"),
        (lambda: SoftmaxLoss(FEATURES, [0, 1, 2], 0.1), "labels of shape"),
        (lambda: AnchoredMap([], 1.0), "at least one"),
        (lambda: AnchoredMap([QuadraticLoss(FEATURES, np.zeros(4), 1.0)], 0.0), "coupling"),
        (lambda: AnchoredMap([QuadraticLoss(FEATURES, np.zeros(4), 1.0)], 1.0, "ring"), "ring"),
        (lambda: AnchoredMap([QuadraticLoss(FEATURES, np.zeros(4), 1.0)], 1.0, np.ones((2, 2))), "weights of shape"),
        (lambda: AnchoredMap([QuadraticLoss(FEATURES, np.zeros(4), 1.0)], 1.0, [[1.0]]), "diagonal"),
        (lambda: AnchoredMap([QuadraticLoss(FEATURES, np.zeros(4), 1.0)], 1.0, step=-1.0), "step"),
        (lambda: AnchoredMap([QuadraticLoss(FEATURES, np.zeros(4), 1.0)], 1.0, centre=[1.0]), "centre"),
    ],
)
def test_what_does_not_fit_is_an_error(make, words):
    with pytest.raises(MapError, match=words):
        make()
