import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation.sampling import Reservoir, check_images, read_batch


def pictures(values):
    return torch.as_tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 3)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), size=st.integers(1, 30), seed=st.integers(0, 2**32 - 1)
)
def test_a_sample_is_a_part_of_what_came_in_its_order(sizes, size, seed):
    reservoir, start = Reservoir(size, seed=seed), 0
    for count in sizes:
        numbers = torch.arange(start, start + count)
        reservoir.offer(pictures(numbers), numbers)
        start += count
    sample = reservoir.sample()
    if start == 0:
        assert sample is None
        return
    kept = sample.images[:, 0, 0, 0].long()
    assert len(sample) == min(size, start)
    assert sample.seen == start
    assert (kept.diff() > 0).all()
    assert torch.equal(kept, sample.labels)
    assert (sample.images == pictures(kept)).all()


def test_every_image_is_as_likely_as_any_other():
    counts = np.zeros(40)
    for seed in range(2000):
        reservoir = Reservoir(10, seed=seed)
        for start in range(0, 40, 8):
            reservoir.offer(pictures(range(start, start + 8)))
        counts[reservoir.sample().images[:, 0, 0, 0].long().numpy()] += 1
    # 500 expected of 2000, standard deviation sqrt(2000 · 1/4 · 3/4) ≈ 19.
    assert abs(counts - 500).max() < 5 * 19.4


def test_a_sorted_set_is_sampled_evenly():
    reservoir = Reservoir(512, seed=0)
    for label in range(10):
        for _ in range(20):
            reservoir.offer(pictures([label] * 25), torch.full((25,), label))
    counts = reservoir.sample().labels.bincount(minlength=10)
    assert counts.min() > 25
    assert counts.sum() == 512


def test_global_random_numbers_stay_and_so_does_the_batch():
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    batch = pictures(range(20)).clone()
    reservoir = Reservoir(5, seed=3)
    reservoir.offer(batch)
    batch += 100  # a module may work on its batch in place
    assert reservoir.sample().images.max() < 20
    assert torch.equal(state, torch.get_rng_state())
    assert (numbers == np.random.get_state()[1]).all()


def test_images_of_inference_mode_become_ordinary_tensors():
    reservoir = Reservoir(5, seed=3)
    with torch.inference_mode():
        for _ in range(3):
            reservoir.offer(pictures(range(4)).clone())
        inside = reservoir.sample()
    assert not reservoir._images.is_inference()
    assert not inside.images.is_inference()
    inside.images.requires_grad_()


def test_labels_that_are_missing_once_are_missing():
    reservoir = Reservoir(5, seed=0)
    reservoir.offer(pictures(range(3)), torch.arange(3))
    reservoir.offer(pictures(range(3)))
    assert reservoir.sample().labels is None


def test_images_of_several_sizes_are_refused():
    reservoir = Reservoir(5, seed=0)
    reservoir.offer(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"got images of shape \(3, 9, 8\) after \(3, 8, 8\); expected one size"):
        reservoir.offer(torch.zeros(2, 3, 9, 8))


def test_splitting_is_repeatable_and_loses_nothing():
    reservoir = Reservoir(50, seed=0)
    reservoir.offer(pictures(range(50)), torch.arange(50))
    first, rest = reservoir.sample().split(30, seed=4)
    again, _ = reservoir.sample().split(30, seed=4)
    assert torch.equal(first.labels, again.labels)
    assert (len(first), len(rest)) == (30, 20)
    assert sorted([*first.labels.tolist(), *rest.labels.tolist()]) == list(range(50))
    assert first.fingerprint() == again.fingerprint() != rest.fingerprint()


IMAGES, LABELS = torch.zeros(4, 3, 8, 8), torch.arange(4)


@pytest.mark.parametrize(
    ("batch", "labelled"),
    [
        (IMAGES, False),
        ((IMAGES, LABELS), True),
        ([IMAGES, LABELS, "more"], True),
        ({"pixel_values": IMAGES, "labels": LABELS}, True),
        ({"x": IMAGES}, False),
        ((IMAGES, torch.ones(4, 10)), False),
        ((IMAGES, torch.ones(4)), False),
        ((IMAGES, torch.ones(4, dtype=torch.bool)), False),
    ],
)
def test_usual_batches_are_understood(batch, labelled):
    images, labels = read_batch(batch)
    assert images is IMAGES
    assert (labels is LABELS) == labelled


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((IMAGES.byte(), LABELS), r"got \(4, 3, 8, 8\) of torch.uint8 as images from a tuple of Tensor, Tensor"),
        ({"text": "a"}, "from a mapping with text"),
        ([], "from a list of nothing"),
        ("words", "got str as images"),
        (torch.zeros(4), r"got \(4,\) of torch.float32"),
    ],
)
def test_other_batches_are_refused_with_advice(batch, words):
    with pytest.raises(ValueError, match=f"{words}.*pass images_fn"):
        read_batch(batch)


def test_what_images_fn_gives_is_checked():
    with pytest.raises(ValueError, match="got NoneType as images from images_fn"):
        check_images(None, None, "images_fn")
