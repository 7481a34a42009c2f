import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation.strangers import draw_strangers


def draw(predicted, *, label=0, count=50, seed=0, logits=None, **options):
    predicted = torch.as_tensor(predicted)
    logits = torch.zeros(len(predicted), 10) if logits is None else logits
    generator = torch.Generator().manual_seed(seed)
    return draw_strangers(predicted, logits, label=label, count=count, generator=generator, **options)


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=10),
    count=st.integers(1, 80),
    at_least=st.integers(0, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_other_class_has_its_share(sizes, count, at_least, seed):
    predicted = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    predicted = predicted[torch.randperm(len(predicted), generator=torch.Generator().manual_seed(seed))]
    drawn = draw(predicted, count=count, at_least=at_least, seed=seed)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    got = predicted[drawn].bincount(minlength=len(sizes)).tolist()
    assert got[0] == 0
    assert all(number >= min(at_least, size) for number, size in zip(got[1:], sizes[1:], strict=True))
    rivals = sum(size > 0 for size in sizes[1:])
    assert len(drawn) == min(sum(sizes[1:]), max(count, at_least * rivals))


def test_every_stranger_can_be_drawn_and_seeds_decide():
    predicted = [0] * 5 + [1] * 40 + [2] * 40
    seen = [draw(predicted, count=12, seed=seed).tolist() for seed in range(60)]
    assert {index for drawn in seen for index in drawn} == set(range(5, 85))
    assert draw(predicted, count=12, seed=3).tolist() == seen[3] != seen[4]


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    draw([0] * 5 + [1] * 40, count=12)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_strangers_none_are_drawn():
    assert draw([3] * 20, label=3).tolist() == []
    assert draw(torch.zeros(0, dtype=torch.long)).tolist() == []


def test_fewer_strangers_than_wanted_are_all_used():
    assert draw([0, 1, 0, 2, 1], count=50).tolist() == [1, 3, 4]


@pytest.mark.parametrize("own", [200, 0])
def test_of_a_thousand_classes_the_strongest_rivals_have_their_share(own):
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(1, 1000).repeat_interleave(8)
    predicted = torch.cat([torch.zeros(own, dtype=torch.long), classes])
    strong = torch.randperm(999, generator=generator)[:10] + 1
    logits = torch.rand(len(predicted), 1000, generator=generator)
    logits[:own, strong] += 5.0
    if not own:
        logits[:, strong] += 5.0
    drawn = draw(predicted, count=50, logits=logits)
    got = predicted[drawn].bincount(minlength=1000)
    assert len(drawn) == 100
    assert bool((got[strong] >= 5).all())
    assert 30 <= int((got > 0).sum()) - 10 <= 50, "the other half comes from any class"


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got predicted \(3,\) and logits \(4, 10\)"):
        draw([0, 1, 2], logits=torch.zeros(4, 10))
    with pytest.raises(ValueError, match="got count=0"):
        draw([0, 1, 2], count=0)
