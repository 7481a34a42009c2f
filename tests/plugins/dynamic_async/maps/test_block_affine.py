import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.maps.block_affine import BlockAffineMap, damped_walk
from fulgurite.plugins.dynamic_async.model.certification import certify
from fulgurite.plugins.dynamic_async.model.errors import MapError


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_blocks_compute_the_rows_of_the_whole(size, data):
    blocks = data.draw(st.integers(1, size))
    chance = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    matrix = chance.normal(size=(size, size)) * (chance.random((size, size)) < 0.5)
    constant, x = chance.normal(size=size), chance.normal(size=size)
    map = BlockAffineMap(matrix, constant, blocks=blocks)
    present = np.array(data.draw(st.lists(st.booleans(), min_size=blocks, max_size=blocks)))
    parts = np.split(x, map.bounds[1:-1])
    masked = np.where(np.repeat(present, np.diff(map.bounds)), x, 0.0)
    for i in range(blocks):
        inputs = {j: parts[j] if present[j] else map.bottom(j) for j in map.neighbours(i).tolist()}
        value = map.evaluate(i, 0, present, inputs)
        np.testing.assert_allclose(value, (matrix @ masked + constant)[map.bounds[i] : map.bounds[i + 1]], atol=1e-12)
        assert value.shape == map.bottom(i).shape
        assert map.evaluate(i, 0, present, inputs).tobytes() == value.tobytes()


def test_the_certificate_is_the_row_sums_and_the_solution_the_fixed_point():
    map = damped_walk(60, blocks=4, damping=0.75)
    certificate = certify(map)
    assert certificate.verdict == "certified"
    assert 0.75 <= certificate.gamma <= 0.7501
    present = np.array([True, False, True, True])
    state = map.solution(present)
    assert not state[1].any()
    for i in (0, 2, 3):
        value = map.evaluate(i, 0, present, {j: state[j] for j in map.neighbours(i).tolist()})
        np.testing.assert_allclose(value, state[i], atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "constant", "blocks", "message"),
    [
        (np.zeros((2, 3)), np.zeros(2), 1, "square"),
        (np.zeros((2, 2)), np.zeros(3), 1, "go with it"),
        (np.full((2, 2), np.nan), np.zeros(2), 1, "NaN"),
        (np.zeros((2, 2)), np.full(2, np.inf), 1, "infinity"),
        (np.zeros((2, 2)), np.zeros(2), 3, "cut into 3"),
        (np.zeros((2, 2)), np.zeros(2), 0, "cut into 0"),
    ],
)
def test_what_does_not_fit_is_refused(matrix, constant, blocks, message):
    with pytest.raises(MapError, match=message):
        BlockAffineMap(matrix, constant, blocks=blocks)


def test_without_a_contraction_there_is_no_ball():
    map = BlockAffineMap(np.eye(2), np.ones(2), blocks=2)
    assert map.domain is None
    assert certify(map).verdict != "certified"
    assert map.fingerprint() != BlockAffineMap(np.eye(2), np.ones(2), blocks=1).fingerprint()
