import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models import GNMT, TranslationTransformer
from fulgurite.models.translation import TranslationNetwork, greedy_decode
from fulgurite.models.translation.network import Memory

NETWORKS = {
    "gnmt": lambda: GNMT(source_vocab_size=20, target_vocab_size=12, hidden_size=8),
    "transformer": lambda: TranslationTransformer(
        source_vocab_size=20, target_vocab_size=12, hidden_size=8, heads=2, feedforward_size=16
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_teacher_forcing_with_the_decode_would_choose_the_decode(name: str, seed: int):
    torch.manual_seed(seed)
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        network.output.bias[2] += 1.0  # so that some rows end early
    source, lengths = torch.randint(4, 20, (4, 6)), torch.tensor([6, 3, 1, 5])
    decoded = greedy_decode(network, source, lengths, max_length=9)
    forced = network(source, lengths, torch.cat([torch.ones(4, 1, dtype=torch.long), decoded[:, :-1]], dim=1))
    forced[..., :2] = -torch.inf
    for row, choice in zip(decoded.tolist(), forced.argmax(-1).tolist(), strict=True):
        end = row.index(2) + 1 if 2 in row else len(row)
        assert row[:end] == choice[:end]
        assert set(row[end:]) <= {0}
        assert 0 not in row[:end]
        assert 1 not in row[:end]


class Scripted(TranslationNetwork):
    """Says the sentence that its source spells, then <eos>, whatever else; counts the calls."""

    def __init__(self):
        super().__init__(source_vocab_size=20, target_vocab_size=20)
        self.calls = 0

    def encode(self, source, source_lengths):
        return Memory(source, source > 0)

    def decode(self, target, memory, state=None):
        self.calls += 1
        place = state or 0
        assert target.shape[1] == 1
        said = memory.states[:, place] if place < memory.states.shape[1] else torch.zeros(len(target), dtype=torch.long)
        logits = torch.nn.functional.one_hot(said.masked_fill(said == 0, 2), 20).float()
        return logits[:, None], place + 1


def test_each_row_ends_at_its_own_end_and_the_loop_with_the_last():
    network = Scripted()
    source = torch.tensor([[5, 6, 7], [8, 0, 0]])
    decoded = greedy_decode(network, source, torch.tensor([3, 1]), max_length=50)
    assert decoded.tolist() == [[5, 6, 7, 2], [8, 2, 0, 0]]
    assert network.calls == 4


def test_stops_at_max_length():
    decoded = greedy_decode(Scripted(), torch.tensor([[5, 6, 7]]), torch.tensor([3]), max_length=2)
    assert decoded.tolist() == [[5, 6]]


def test_max_length_must_leave_room():
    with pytest.raises(ValueError, match="max_length is 0"):
        greedy_decode(Scripted(), torch.tensor([[5]]), torch.tensor([1]), max_length=0)
