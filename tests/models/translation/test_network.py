"""What holds for every network that translates; a new one is tested by being listed in NETWORKS."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fulgurite.models import GNMT, TranslationTransformer
from fulgurite.models.translation import TranslationNetwork

SIZES = {"source_vocab_size": 30, "target_vocab_size": 40, "hidden_size": 16}
NETWORKS = {
    "gnmt": lambda **options: GNMT(**SIZES, **options),
    "gnmt-deep": lambda **options: GNMT(**SIZES, encoder_layers=4, decoder_layers=3, **options),
    "gnmt-shallow": lambda **options: GNMT(**SIZES, encoder_layers=1, decoder_layers=1, **options),
    "transformer": lambda **options: TranslationTransformer(**SIZES, heads=2, feedforward_size=32, **options),
}


def sentences(seed: int, batch: int = 3, source: int = 6, target: int = 5):
    """Source ids, lengths and target ids as a data module would give them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, source + 1, (batch,), generator=generator)
    lengths[seed % batch] = source
    ids = torch.randint(4, 30, (batch, source), generator=generator)
    ids = ids.masked_fill(torch.arange(source) >= lengths[:, None], 0)
    labels = torch.randint(4, 40, (batch, target), generator=generator)
    labels[:, 0] = 1
    return ids, lengths, labels


@pytest.fixture(params=NETWORKS, name="network", scope="module")
def _network(request) -> TranslationNetwork:
    torch.manual_seed(1)
    return NETWORKS[request.param](dropout=0.0)


@pytest.mark.parametrize("training", [True, False])
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), more=st.integers(1, 7))
def test_padding_changes_nothing(network: TranslationNetwork, training: bool, seed: int, more: int):
    network.train(training)
    source, lengths, target = sentences(seed)
    logits = network(source, lengths, target)
    padded = network(functional.pad(source, (0, more)), lengths, functional.pad(target, (0, more)))
    torch.testing.assert_close(padded[:, : target.shape[1]], logits, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32 - 1))
def test_rows_are_independent(network: TranslationNetwork, seed: int):
    network.eval()
    source, lengths, target = sentences(seed)
    logits = network(source, lengths, target)
    for row, length in enumerate(lengths.tolist()):
        alone = network(source[row : row + 1, :length], lengths[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(alone, logits[row : row + 1], rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), at=st.integers(1, 4))
def test_no_token_sees_the_ones_after_it(network: TranslationNetwork, seed: int, at: int):
    network.eval()
    source, lengths, target = sentences(seed)
    logits = network(source, lengths, target)
    other = target.clone()
    other[:, at] = (target[:, at] - 4 + 1) % 36 + 4
    changed = network(source, lengths, other)
    torch.testing.assert_close(changed[:, :at], logits[:, :at], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(changed[:, at], logits[:, at])


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 4))
def test_decoding_in_pieces_gives_what_decoding_at_once_gives(network: TranslationNetwork, seed: int, cut: int):
    network.eval()
    source, lengths, target = sentences(seed)
    memory = network.encode(source, lengths)
    first, state = network.decode(target[:, :cut], memory)
    second, _ = network.decode(target[:, cut:], memory, state)
    whole = network(source, lengths, target)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter(network: TranslationNetwork):
    network.zero_grad()
    network(*sentences(0)).square().sum().backward()
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert silent == []


def test_source_matters(network: TranslationNetwork):
    network.eval()
    source, lengths, target = sentences(3)
    other = source.clone()
    other[:, 0] = (source[:, 0] - 4 + 1) % 26 + 4
    assert not torch.allclose(network(other, lengths, target), network(source, lengths, target), atol=1e-6)


def test_bfloat16_autocast(network: TranslationNetwork):
    inputs = sentences(0)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(*inputs)
        loss = functional.cross_entropy(logits.flatten(0, 1), inputs[2].flatten())
    loss.backward()
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), network(*inputs), rtol=0.1, atol=0.1)


def test_state_dict_round_trip(network: TranslationNetwork, tmp_path, request):
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    copy = NETWORKS[request.node.callspec.params["network"]]()
    copy.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    inputs = sentences(2)
    torch.testing.assert_close(copy.eval()(*inputs), network.eval()(*inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_lengths": torch.tensor([6, 0, 3])}, "leave empty sentences out"),
        ({"source_lengths": torch.tensor([6, 7, 3])}, "from 1 to 6"),
        ({"source_lengths": torch.tensor([6, 7])}, "expected \\(B, S\\), \\(B,\\)"),
        ({"source": torch.ones(6, dtype=torch.long)}, "expected \\(B, S\\)"),
        ({"target": torch.ones(2, 5, dtype=torch.long)}, "expected \\(B, S\\)"),
        ({"target": torch.ones(3, 1, dtype=torch.long)}, "at least <bos> and <eos>"),
        ({"source": torch.full((3, 6), 30)}, "source ids run from 30 to 30.*source_vocab_size=30"),
        ({"target": torch.full((3, 5), -1)}, "target ids run from -1 to -1.*target_vocab_size=40"),
    ],
)
def test_check_says_what_is_wrong(change: dict, message: str):
    source, lengths, target = sentences(0)
    batch = {"source": source, "source_lengths": lengths, "target": target}
    network = GNMT(**SIZES)
    network.check(batch)
    with pytest.raises(ValueError, match=message):
        network.check(batch | change)


def test_check_names_missing_keys():
    with pytest.raises(ValueError, match="not \\['source_lengths', 'target'\\]"):
        GNMT(**SIZES).check({"source": torch.ones(1, 1)})


def test_forward_checks_shapes_too():
    source, _, target = sentences(0)
    with pytest.raises(ValueError, match="leave empty sentences out"):
        GNMT(**SIZES)(source, torch.tensor([6, 0, 3]), target)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GNMT(hidden_size=7), "must be even"),
        (lambda: GNMT(encoder_layers=0), "0 encoder"),
        (lambda: GNMT(decoder_layers=0), "0 decoder"),
        (lambda: GNMT(source_vocab_size=4), "source_vocab_size is 4"),
        (lambda: TranslationTransformer(hidden_size=16, heads=3), "multiple of heads, here 3"),
        (lambda: TranslationTransformer(decoder_layers=0), "at least 1"),
    ],
)
def test_impossible_sizes_are_refused(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()
