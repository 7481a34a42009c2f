import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.cost import candidate_terms, features, fit_cost, length_model, work_model

COLUMNS = ("batch", "source", "target", "optimizer_step")


def shapes_of(seed, steps=400):
    rng = np.random.default_rng(seed)
    source = rng.integers(3, 90, steps)
    target = np.maximum(1, source + rng.integers(-5, 20, steps))
    return np.stack([rng.integers(8, 33, steps), source, target, np.arange(steps) % 4 == 3], axis=1).astype(np.int64)


def true_cost(shapes):
    batch, source, target, stepping = shapes.T.astype(float)
    return 3e-3 + 2e-6 * batch * (source + 2 * target) + 1e-8 * batch * source * target + 5e-3 * stepping


def test_phi_is_that_of_the_note():
    terms = candidate_terms(COLUMNS)
    names = {"1": (0, 0, 0, 0), "B": (1, 0, 0, 0), "BS": (1, 1, 0, 0), "BT": (1, 0, 1, 0), "O": (0, 0, 0, 1)}
    squares = {"BS²": (1, 2, 0, 0), "BT²": (1, 0, 2, 0), "BST": (1, 1, 1, 0)}
    assert set(terms) == set((names | squares).values())
    assert features(np.array([[2, 3, 5, 1]]), terms).tolist() == [
        [float(np.prod(np.array([2, 3, 5, 1]) ** np.array(term))) for term in terms]
    ]


def test_without_noise_the_true_coefficients_come_back():
    shapes = shapes_of(0)
    model, explained = fit_cost(shapes, true_cost(shapes), COLUMNS)
    np.testing.assert_allclose(model.predict(shapes_of(1)), true_cost(shapes_of(1)), rtol=1e-6)
    assert explained == pytest.approx(1.0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_the_fit_is_the_weighted_least_squares_of_the_note_where_nothing_is_disturbed(seed):
    """Huber weights hardly move a fit to normal noise: compare with an unweighted solve of min Σ((t − p)/t)²."""
    rng = np.random.default_rng(seed)
    shapes = shapes_of(seed)
    seconds = true_cost(shapes) * rng.normal(1.0, 0.02, len(shapes))
    phi = features(shapes, candidate_terms(COLUMNS))
    beta = np.linalg.lstsq(phi / seconds[:, None], np.ones(len(shapes)), rcond=None)[0]
    model, explained = fit_cost(shapes, seconds, COLUMNS)
    ratio = model.predict(shapes) / (phi @ beta)
    assert abs(ratio - 1).max() < 0.02
    assert explained > 0.98


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_hiccups_of_the_machine_do_not_bend_the_fit(seed):
    rng = np.random.default_rng(seed)
    shapes = shapes_of(seed)
    seconds = true_cost(shapes) * rng.normal(1.0, 0.02, len(shapes))
    seconds[rng.choice(len(shapes), 4, replace=False)] *= 30
    model, explained = fit_cost(shapes, seconds, COLUMNS)
    assert abs(np.median(model.predict(shapes) / true_cost(shapes)) - 1) < 0.01
    assert explained > 0.9


def test_what_does_not_vary_is_dropped():
    shapes = shapes_of(0)
    shapes[:, 0], shapes[:, 3] = 16, 1
    model, _ = fit_cost(shapes, true_cost(shapes), COLUMNS)
    assert (1, 0, 0, 0) not in model.terms
    assert (0, 0, 0, 1) not in model.terms
    np.testing.assert_allclose(model.predict(shapes), true_cost(shapes), rtol=1e-6)


def test_few_steps_get_few_terms():
    shapes = shapes_of(0, steps=12)
    model, _ = fit_cost(shapes, true_cost(shapes), COLUMNS)
    assert len(model.terms) == 2


def test_predictions_stay_positive_where_the_polynomial_does_not():
    lengths = np.arange(10, 100)
    shapes = np.stack([np.full(90, 8), lengths], axis=1)
    model, _ = fit_cost(shapes, 1e-4 * (lengths - 9.0) ** 2, COLUMNS[:2])
    assert model.predict(np.array([[8, 0], [8, 5], [1000, 9]])).min() > 0


def test_untrusted_steps_stay_out_of_the_fit_if_the_others_suffice():
    shapes = shapes_of(0)
    seconds = true_cost(shapes)
    keep = np.ones(len(shapes), dtype=bool)
    keep[:100] = False
    seconds[:100] *= 5
    model, explained = fit_cost(shapes, seconds, COLUMNS, keep=keep)
    np.testing.assert_allclose(model.predict(shapes), true_cost(shapes), rtol=1e-6)
    assert explained == pytest.approx(1.0)


def test_untrusted_steps_are_used_if_only_they_reach_the_long_shapes():
    lengths = np.arange(1, 101)
    shapes = np.stack([np.full(100, 8), lengths], axis=1)
    seconds = 0.01 * lengths
    model, _ = fit_cost(shapes, np.where(lengths > 50, 0.02 * lengths, seconds), COLUMNS[:2], keep=lengths <= 50)
    assert model.predict(np.array([[8, 100]]))[0] > 1.5


def test_explained_is_nan_for_one_shape_and_low_for_unrelated_times():
    rng = np.random.default_rng(0)
    shapes = shapes_of(0)
    assert np.isnan(fit_cost(np.tile(shapes[:1], (50, 1)), rng.random(50) + 1, COLUMNS)[1])
    assert fit_cost(shapes, rng.permutation(true_cost(shapes)), COLUMNS)[1] < 0.1
    assert fit_cost(shapes, np.full(len(shapes), 0.3), COLUMNS)[1] == 1.0


def test_work_is_padded_tokens_and_scales_to_the_times():
    shapes = shapes_of(0)
    tokens = shapes[:, 0] * (shapes[:, 1] + shapes[:, 2])
    np.testing.assert_allclose(work_model(shapes, COLUMNS).predict(shapes), tokens)
    scaled = work_model(shapes, COLUMNS, seconds=np.full(len(shapes), 2.0))
    assert scaled.predict(shapes).sum() == pytest.approx(2.0 * len(shapes))
    assert work_model(np.array([[0], [4]]), ("batch",)).predict(np.array([[0], [4]])).min() > 0


def test_length_alone():
    assert length_model(COLUMNS, 2).predict(np.array([[9, 9, 0, 1], [9, 9, 7, 1]])).tolist() == [0.5, 7.0]
