import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fulgurite.models.speech import ctc_greedy_decode


def naive(path: list[int], blank: int) -> list[int]:
    said, before = [], None
    for symbol in path:
        if symbol not in (before, blank):
            said.append(symbol)
        before = symbol
    return said


@settings(deadline=None)
@given(
    paths=st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4),
    blank=st.integers(0, 3),
    data=st.data(),
)
def test_equals_a_loop(paths: list[list[int]], blank: int, data: st.DataObject):
    lengths = [data.draw(st.integers(0, 7)) for _ in paths]
    logits = functional.one_hot(torch.tensor(paths), 4).float()
    expected = [naive(path[:length], blank) for path, length in zip(paths, lengths, strict=True)]
    assert ctc_greedy_decode(logits, torch.tensor(lengths), blank=blank) == expected


def test_collapse_is_the_one_that_the_loss_of_torch_sums_over():
    """The probability of a target, summed over all paths that collapse to it, is what ctc_loss gives."""
    log_probs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double().log_softmax(-1)
    for target in ([1], [1, 2], [2, 2], [1, 2, 1]):
        total = torch.tensor(0.0, dtype=torch.double)
        for path in itertools.product(range(3), repeat=4):
            if ctc_greedy_decode(functional.one_hot(torch.tensor([path]), 3), torch.tensor([4])) == [target]:
                total += log_probs[range(4), list(path)].sum().exp()
        loss = functional.ctc_loss(
            log_probs[:, None], torch.tensor([target]), torch.tensor([4]), torch.tensor([len(target)]), reduction="sum"
        )
        torch.testing.assert_close(-total.log(), loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.tensor([3, 3])), "expected \\(B, T, C\\)"),
        ((torch.zeros(2, 3, 4), torch.tensor([3])), "expected \\(B, T, C\\)"),
        ((torch.zeros(2, 3, 4), torch.tensor([3, 4])), "run from 3 to 4; expected 0 to 3"),
    ],
)
def test_bad_shapes(arguments, message: str):
    with pytest.raises(ValueError, match=message):
        ctc_greedy_decode(*arguments)


def test_blank_must_be_a_class():
    with pytest.raises(ValueError, match="one of the 4 classes"):
        ctc_greedy_decode(torch.zeros(1, 3, 4), torch.tensor([3]), blank=4)
