import json
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.maps import (
    AffineMap,
    AnchoredMap,
    ImplicitGraphMap,
    QuadraticLoss,
    ValueIterationMap,
)
from fulgurite.plugins.dynamic_async.model import Box, Certificate, DynamicMap, MapError, certify
from fulgurite.plugins.dynamic_async.model.domain import Leaves, check_box
from fulgurite.plugins.dynamic_async.model.exact import exact_factors

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, size):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, size)) * (rng.random((size, size)) < rng.choice([0.3, 1.0]))


@settings(deadline=None, max_examples=150)
@given(SEEDS, st.integers(1, 8), st.floats(0.2, 3.0))
def test_linear_maps_are_certified_or_refused_by_the_radius_of_their_absolute_values(seed, size, wanted):
    matrix = drawn(seed, size)
    radius = np.abs(np.linalg.eigvals(np.abs(matrix))).max()
    if radius < 1e-3 or abs(wanted - 1.0) < 1e-3:
        return
    matrix *= wanted / radius
    certificate = certify(AffineMap(matrix, np.ones(size)))
    assert certificate.verdict == ("certified" if wanted < 1 else "refused")
    if wanted < 1:
        assert wanted * (1 - 1e-9) <= certificate.gamma < 1


@settings(deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_the_factor_holds_in_exact_arithmetic(seed, size):
    matrix = drawn(seed, size)
    matrix *= 0.9 / max(np.abs(matrix).sum(axis=1).max(), 1e-3)
    map = AffineMap(matrix, np.ones(size))
    rows = map.lipschitz(0, np.ones(size, bool))
    by_rationals, by_floats = certify(map), certify(map, exact=False)
    for certificate in (by_rationals, by_floats):
        assert max(exact_factors(rows, certificate.weights)) <= Fraction(certificate.gamma)
        for i in range(size):
            assert certificate.admits(i, rows.toarray()[i])
            assert not certificate.admits(i, rows.toarray()[i] * 1.2 + certificate.weights[i])
    assert by_rationals.gamma <= by_floats.gamma <= by_rationals.gamma * (1 + 1e-12) or not np.array_equal(
        by_rationals.weights, by_floats.weights
    )


def test_exactly_a_half_is_exactly_a_half():
    map = AffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 0.0])
    assert certify(map).gamma == certify(map, exact=True).gamma == 0.5
    assert certify(map, exact=False).gamma > 0.5


def test_a_radius_of_one_is_decided_exactly():
    averaging = np.full((5, 5), 0.2)
    verdict = certify(AffineMap(averaging, np.zeros(5))).verdict
    total = sum(Fraction(value) for value in averaging[0])
    assert verdict == ("refused" if total >= 1 else "certified")
    assert certify(AffineMap([[1.0 - 1e-9]], [0.0])).verdict == "certified"
    assert certify(AffineMap([[1.0]], [0.0])).verdict == "refused"


@settings(deadline=None)
@given(st.floats(0.01, 0.999), st.floats(1e-3, 1e3), st.floats(1e-9, 10.0))
def test_so_many_pseudocycles_suffice_and_one_less_does_not(gamma, r0, eps):
    certificate = Certificate("certified", gamma, np.ones(1), r0, None, "", "")
    k = certificate.pseudocycles(eps)
    assert certificate.bound(k) <= eps
    assert k == 0 or certificate.bound(k - 1) > eps
    assert Fraction(certificate.bound(7)) >= Fraction(gamma) ** 7 * Fraction(r0)
    assert certificate.bound(7) <= gamma**7 * r0 * (1 + 1e-13)
    real = math.log(r0 / eps) / -math.log(gamma)
    assert max(0, math.ceil(real - 1e-6)) <= k <= max(0, math.ceil(real + 1e-6))


def test_errors_of_evaluations_are_the_floor():
    certificate = Certificate("certified", 0.5, np.ones(1), 1.0, None, "", "", error=1e-3)
    assert certificate.floor == pytest.approx(2e-3)
    assert certificate.bound(60) == pytest.approx(2e-3)
    assert certificate.posterior(1.0) == pytest.approx(1.002)
    assert certificate.residual_bound(0.1) == pytest.approx(0.202)
    with pytest.raises(MapError, match="rounding"):
        certificate.pseudocycles(1e-3)
    with pytest.raises(MapError, match="at least 0"):
        certificate.bound(-1)


def test_the_paper_notes_figure_for_a_factor_near_one():
    assert Certificate("certified", 0.99, np.ones(1), 1.0, None, "", "").pseudocycles(1e-6) == 1375


def test_written_and_read_back():
    map = AnchoredMap([QuadraticLoss([[1.0, 0.1]], [a], 0.3) for a in (0.0, 1.0)], 0.7, "star")
    for certificate in (certify(map), certify(AffineMap([[2.0]], [1.0]))):
        again = Certificate.from_json(certificate.to_json())
        assert again.to_json() == certificate.to_json()
        assert again.gamma == certificate.gamma
        assert again.error == certificate.error
        np.testing.assert_array_equal(again.weights, certificate.weights)
        assert (again.domain is None) == (certificate.domain is None)
        if certificate.domain is not None:
            for one, other in zip(again.domain.centre, certificate.domain.centre, strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype


@pytest.mark.parametrize("text", ["", "{}", "[]", "{nonsense", '{"verdict": 3}'])
def test_what_is_no_certificate_is_refused(text):
    with pytest.raises(MapError, match="to_json"):
        Certificate.from_json(text)


def test_an_unknown_verdict_is_refused():
    fields = json.loads(certify(AffineMap([[0.5]], [1.0])).to_json())
    fields["verdict"] = "guaranteed"
    with pytest.raises(MapError, match="guaranteed"):
        Certificate.from_json(json.dumps(fields))


def test_a_joiner_with_a_bad_row_is_told():
    certificate = certify(AffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 0.0]))
    assert certificate.admits(0, [0.25, 0.25])
    assert not certificate.admits(0, [0.25, 0.26])
    with pytest.raises(MapError, match="shape"):
        certificate.admits(0, [0.5])
    with pytest.raises(MapError, match="negative"):
        certificate.admits(0, [-0.5, 0.0])
    assert not certify(AffineMap([[2.0]], [0.0])).admits(0, [0.0])


def views_of(size):
    return [np.array([bool(bits >> i & 1) for i in range(size)]) for bits in range(2**size)]


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(["affine", "value iteration", "graph", "row graph", "prox", "gradient", "star"]))
def test_the_certificate_for_everybody_covers_every_set(seed, kind):
    """What ``leaving`` promises: no factor grows, for any weights, and X is kept."""
    rng = np.random.default_rng(seed)
    size = 4
    map = some_map(kind, rng, size)
    size = map.num_participants
    everybody = np.ones(size, bool)
    certificate = certify(map)
    assert certificate.certified, certificate.reason
    assert "every set" in certificate.scope
    weights = [certificate.weights, np.ones(size), map.domain.radius, rng.random(size) + 0.1]
    for participants in views_of(size):
        for one in weights:
            whole, part = map.factors(0, everybody, one), map.factors(0, participants, one)
            assert (part <= whole * (1 + 1e-14)).all()
            assert not part[~participants].any()
            rows = map.lipschitz(0, participants).toarray()
            assert (rows[~participants] == 0).all()
            assert (rows[:, ~participants] == 0).all()
        assert check_box(map, map.domain, [(0, participants)]) is None


def some_map(kind, rng, size):
    if kind == "affine":
        matrix = rng.normal(size=(size, size))
        return AffineMap(matrix * 0.9 / np.abs(np.linalg.eigvals(np.abs(matrix))).max(), rng.normal(size=size))
    if kind == "value iteration":
        spread = rng.random((2, size, size))
        return ValueIterationMap(spread / (spread.sum(axis=2, keepdims=True) * 1.001), rng.normal(size=(size, 2)), 0.8)
    if kind in ("graph", "row graph"):
        graph = rng.random((3 * size, 3 * size)) * (rng.random((3 * size, 3 * size)) < 0.4)
        weight = rng.normal(size=(2, 2))
        weight *= 0.8 / np.abs(weight).sum(axis=1).max()
        if kind == "graph":
            graph /= max(np.abs(graph).sum(axis=1).max(), 1e-9)
        norm = "row" if kind == "row graph" else "given"
        return ImplicitGraphMap(graph, weight, rng.normal(size=(3 * size, 2)), size, normalisation=norm)
    losses = [QuadraticLoss(rng.normal(size=(6, 2)), rng.normal(size=6), 0.1 * (i + 1)) for i in range(size)]
    if kind == "star":
        return AnchoredMap(losses, 0.5, "star", update=str(rng.choice(["prox", "gradient"])))
    weights = rng.random((size, size)) * (rng.random((size, size)) < 0.7)
    np.fill_diagonal(weights, 0.0)
    return AnchoredMap(losses, 0.5, weights, update=kind)


def test_views_are_checked():
    map = AffineMap([[0.5]], [0.0])
    for views, words in [([], "no view"), ([(0, np.ones(2, bool))], "mask"), ([(-1, np.ones(1, bool))], "from 0")]:
        with pytest.raises(MapError, match=words):
            certify(map, views)
    with pytest.raises(MapError, match="mask"):
        certify(map, [(0, np.ones(1))])


def test_given_views_are_the_scope():
    map = AffineMap(0.4 * np.ones((3, 3)), np.zeros(3))
    assert certify(map).verdict == "refused"
    pairs = [(0, np.array(mask)) for mask in ([True, True, False], [False, True, True])]
    certificate = certify(map, pairs)
    assert certificate.verdict == "certified"
    assert "2 given sets of participants and their subsets" in certificate.scope


class Bad(DynamicMap):
    """A map that states whatever it is told to."""

    num_participants = 2

    def __init__(self, matrix=None, box=None, first=0.0):
        self.matrix, self.box, self.first = matrix, box, first

    def bottom(self, i):
        return np.zeros(1)

    def initial(self, i):
        return np.full(1, self.first)

    def neighbours(self, i):
        return np.array([1 - i])

    def evaluate(self, i, epoch, participants, inputs):
        return inputs[1 - i] / 2

    def lipschitz(self, epoch, participants):
        return self.matrix

    @property
    def domain(self):
        return self.box


HALF = csr_array([[0.0, 0.5], [0.5, 0.0]])


@pytest.mark.parametrize("matrix", [np.full((2, 3), 0.1), np.full((2, 2), np.nan), np.full((2, 2), -0.1), np.eye(3)])
def test_a_map_with_a_bad_matrix_is_an_error(matrix):
    with pytest.raises(MapError):
        certify(Bad(csr_array(matrix)))


def test_the_domain_is_checked():
    def box(centre, radius):
        return Box(tuple(np.full(1, float(centre)) for _ in range(2)), np.asarray(radius, dtype=float))

    assert certify(Bad(HALF, box(0, [1, 1]))).verdict == "certified"
    assert certify(Bad(HALF)).domain.radius.min() > 0
    assert certify(Bad(HALF, box(5, [1, 1]))).verdict == "refused"  # without ⊥
    assert certify(Bad(HALF, box(0, [1, 1]), first=2.0)).verdict == "refused"
    verdict = certify(Bad(HALF, box(0, [1, 3])))
    assert verdict.verdict == "refused"
    assert "leaves X" in verdict.reason
    for wrong in (box(0, [1, 0]), box(0, [1, np.nan]), box(0, [1])):
        with pytest.raises(MapError):
            certify(Bad(HALF, wrong))


def test_what_cannot_be_shown_is_not_certified():
    class Loose(Bad):
        """The matrix says more than F does, so that no witness is there either."""

        def evaluate(self, i, epoch, participants, inputs):
            return inputs[1 - i] * 0.1

    box = Box((np.zeros(1), np.zeros(1)), np.array([1.0, 3.0]))
    verdict = certify(Loose(csr_array([[0.0, 0.9], [0.1, 0.0]]), box))
    assert verdict.verdict == "empirical"
    assert "could not be shown" in verdict.reason
    assert verdict.bound(5) == np.inf
    with pytest.raises(Leaves):
        check_box(Loose(HALF, box, first=9.0), box, [(0, np.ones(2, bool))])


def test_a_nonlinear_map_that_does_not_contract_is_only_watched():
    verdict = certify(Bad(csr_array([[0.0, 1.5], [1.5, 0.0]])))
    assert verdict.verdict == "empirical"
    assert "1.5" in verdict.reason


def test_a_known_counter_condition_refuses():
    class Refused(Bad):
        def refusal(self, epoch, participants):
            return "The graph has a wheel of dispute."

    verdict = certify(Refused(HALF))
    assert (verdict.verdict, verdict.reason) == ("refused", "The graph has a wheel of dispute.")


def test_neither_torch_nor_lightning_is_imported():
    code = """
import sys
from fulgurite.plugins.dynamic_async import maps, model
for package in (maps, model):
    for name in package.__all__:
        getattr(package, name)
assert not {"torch", "lightning"} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
