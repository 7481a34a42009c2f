import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.maps.anchored import AnchoredMap
from fulgurite.plugins.dynamic_async.maps.losses import SoftmaxLoss
from fulgurite.plugins.dynamic_async.model.certification import certify
from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.dynamic_async.training_map import ShardFacts, TrainingMap


def losses(shards=3, seed=0):
    rng = np.random.default_rng(seed)
    return [SoftmaxLoss(rng.normal(size=(8, 4)) / 2, rng.integers(3, size=8), 0.1, classes=3) for _ in range(shards)]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), star=st.booleans(), present=st.integers(1, 15))
def test_a_step_is_that_of_the_anchored_map(seed, star, present):
    topology, step = ("star" if star else "complete"), 0.3
    shards = losses(3, seed)
    expected = AnchoredMap(shards, 0.7, topology, update="gradient", step=step)
    model = TrainingMap(np.zeros(12), shards=3, coupling=0.7, topology=topology)
    rng = np.random.default_rng(seed)
    n = model.num_participants
    assert n == expected.num_participants
    mask = np.array([bool(present >> i & 1) for i in range(n)])
    states = {i: rng.normal(size=12) if mask[i] else model.bottom(i) for i in range(n)}
    for i in np.flatnonzero(mask).tolist():
        want = expected.evaluate(i, 0, mask, states)
        if i < 3:
            got = states[i] - step * (shards[i].gradient(states[i]) + model.pull(i, mask, states))
        else:
            got = model.evaluate(i, 0, mask, states)
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("topology", ["complete", "star"])
def test_the_certificate_is_that_of_the_anchored_map(topology):
    shards = losses()
    bounds = 0.1, max(loss.smoothness for loss in shards)
    model = TrainingMap(np.zeros(12), shards=3, coupling=0.7, topology=topology)
    step = model.largest_step(*bounds)
    facts = {
        i: ShardFacts("cross_entropy", float(np.linalg.norm(loss.gradient(np.zeros(12)))), 1.0, 8)
        for i, loss in enumerate(shards)
    }
    found = model.certificate(facts, bounds=bounds, step=step)
    expected = certify(AnchoredMap(shards, 0.7, topology, update="gradient", step=step))
    assert found.verdict == expected.verdict == "certified"
    assert found.gamma == pytest.approx(expected.gamma)
    assert found.r0 == pytest.approx(expected.r0, rel=0.01)
    assert model.contains(0, np.full(12, model.radius / 12))
    assert not model.contains(0, np.full(12, model.radius))


def test_too_long_a_step_is_not_certified():
    model = TrainingMap(np.zeros(12), shards=3, coupling=0.7)
    facts = dict.fromkeys(range(3), ShardFacts("cross_entropy", 1.0, 1.0, 8))
    longest = model.largest_step(0.1, 2.0)
    assert model.certificate(facts, bounds=(0.1, 2.0), step=longest * 0.999).certified
    assert not model.certificate(facts, bounds=(0.1, 2.0), step=2 / (0.1 + 0.0) * 1.01).certified


def test_single_precision_says_what_its_rounding_may_add():
    facts = dict.fromkeys(range(3), ShardFacts("cross_entropy", 1.0, 1.0, 8))
    floors = [
        TrainingMap(np.zeros(12, dtype=dtype), shards=3, coupling=0.7)
        .certificate(facts, bounds=(0.1, 2.0), step=0.4)
        .floor
        for dtype in (np.float32, np.float64)
    ]
    assert 0 < floors[1] < 1e-6 < floors[0]


def test_without_coupling_each_shard_stands_alone():
    model = TrainingMap(np.zeros(4), shards=2, coupling=0.0)
    assert not model.pull(0, np.ones(2, bool), {0: np.ones(4), 1: np.zeros(4)}).any()
    facts = dict.fromkeys(range(2), ShardFacts("cross_entropy", 1.0, 1.0, 8))
    assert model.certificate(facts, bounds=(0.5, 1.0), step=1.0).gamma == pytest.approx(0.5)


def test_x_holds_whatever_joined():
    facts = dict.fromkeys(range(3), ShardFacts("cross_entropy", 1.0, 1.0, 8))
    model = TrainingMap(np.zeros(12), shards=3, coupling=0.7)
    before = model.certificate(facts, bounds=(0.1, 2.0), step=0.4)
    far = np.full(12, 20.0)
    assert not model.contains(0, far)
    model.reach = model.distance(0, far, model.centre)
    after = model.certificate(facts, bounds=(0.1, 2.0), step=0.4)
    assert model.contains(0, far)
    assert after.certified
    assert after.gamma == before.gamma
    assert after.r0 >= 2 * model.reach > before.r0


def test_facts_agree_up_to_rounding_only():
    facts = ShardFacts("cross_entropy", 1.0, 1.0, 8, "ab")
    assert facts.agrees(ShardFacts("cross_entropy", 1.0005, 0.9995, 8, "ab"))
    others = [
        ("mse_loss", 1.0, 1.0, 8, "ab"),
        ("cross_entropy", 1.1, 1.0, 8, "ab"),
        ("cross_entropy", 1.0, 0.9, 8, "ab"),
    ]
    others += [("cross_entropy", 1.0, 1.0, 9, "ab"), ("cross_entropy", 1.0, 1.0, 8, "cd")]
    assert not any(facts.agrees(ShardFacts(*other)) for other in others)


def test_other_models_have_other_fingerprints():
    def prints(centre, **options):
        return TrainingMap(centre, **{"shards": 3, "coupling": 0.5} | options).fingerprint()

    base = prints(np.zeros(3))
    assert base == prints(np.zeros(3))
    others = [
        prints(np.ones(3)),
        prints(np.zeros(4)),
        prints(np.zeros(3), shards=4),
        prints(np.zeros(3), coupling=0.6),
        prints(np.zeros(3), topology="star"),
        prints(np.zeros(3), identity="another"),
        prints(np.zeros(3, dtype=np.float32)),
    ]
    assert len({base, *others}) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shards": 0}, "0 shards"),
        ({"coupling": -1.0}, "lam = -1.0"),
        ({"coupling": float("nan")}, "lam = nan"),
        ({"topology": "ring"}, "'ring'"),
        ({"centre": np.array([np.nan])}, "not finite"),
        ({"centre": np.zeros((2, 2))}, "shape"),
    ],
)
def test_bad_input_is_named(options, words):
    options = {"centre": np.zeros(2), "shards": 2, "coupling": 1.0} | options
    with pytest.raises(MapError, match=words):
        TrainingMap(options.pop("centre"), **options)


def test_shards_that_nobody_has_evaluated_are_named():
    model = TrainingMap(np.zeros(2), shards=3, coupling=1.0)
    with pytest.raises(MapError, match=r"shards \[0, 2\]"):
        model.certificate({1: ShardFacts("cross_entropy", 1.0, 1.0, 8)}, bounds=(0.1, 1.0), step=0.1)
    with pytest.raises(MapError, match="evaluated by a Trainer"):
        model.evaluate(0, 0, np.ones(3, bool), {})
