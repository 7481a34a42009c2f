import numpy as np
import pytest

from fulgurite.callbacks.seqpoint.fingerprint import difference, fingerprint

COLUMNS = ("batch", "source", "optimizer_step")


def epoch(seed, *, steps=400, batch=16, scale=1.0, every=1):
    """Batches of real-looking (log-normal) lengths, drawn anew for every seed, the last one short."""
    rng = np.random.default_rng(seed)
    longest = np.exp(rng.normal(2.3, 0.7, (steps, batch))).max(axis=1)
    shapes = np.stack([np.full(steps, batch), scale * longest, np.arange(steps) % every == every - 1], axis=1)
    shapes[-1, 0] = 3
    return shapes.astype(np.int64)


@pytest.mark.parametrize("steps", [40, 150, 600])
def test_the_same_data_drawn_anew_passes(steps):
    """All but the oddest of draws: of forty batches, one pair in hundreds is as unlike as two data sets."""
    prints = [fingerprint(epoch(seed, steps=steps)) for seed in range(400)]
    apart = sum(difference(a, b, COLUMNS) is not None for a, b in zip(prints[::2], prints[1::2], strict=True))
    assert apart <= 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": 1.5}, "source"),
        ({"batch": 20}, "batch"),
        ({"steps": 300}, "steps"),
        ({"every": 4}, "optimizer_step"),
    ],
)
def test_other_data_batch_size_or_accumulation_is_told_apart(changes, said):
    found = difference(fingerprint(epoch(0)), fingerprint(epoch(1, **changes)), COLUMNS)
    assert found is not None
    assert said in found


def test_the_order_does_not_matter():
    shapes = epoch(0)
    assert fingerprint(shapes) == fingerprint(np.random.default_rng(0).permutation(shapes))
    assert fingerprint(shapes) != fingerprint(epoch(1))


@pytest.mark.parametrize("text", ["", "abc", "ab/x/1 2", "ab/3/1 2 nan", "ab/3/" + " ".join("1" * 15)])
def test_garbage_is_refused(text):
    with pytest.raises(ValueError, match="fingerprint"):
        difference(text, fingerprint(epoch(0)), COLUMNS)


def test_another_number_of_columns_is_refused():
    short = fingerprint(epoch(0)[:, :2])
    with pytest.raises(ValueError, match="3 columns"):
        difference(short, short, COLUMNS)
