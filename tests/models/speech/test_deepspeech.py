import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fulgurite.models import DeepSpeech2
from fulgurite.models.speech.deepspeech import SequenceBatchNorm


def build(**options) -> DeepSpeech2:
    torch.manual_seed(3)
    network = DeepSpeech2(alphabet="abcd", num_features=9, conv_channels=4, hidden_size=6, **options)
    for module in network.modules():  # else normalisation in eval mode is the identity
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def utterances(seed: int, lengths: list[int]):
    """Features whose padding is not zero, so that only masking can keep it out."""
    return torch.randn(len(lengths), max(lengths), 9, generator=torch.Generator().manual_seed(seed))


lengths_of_a_batch = st.lists(st.integers(1, 30), min_size=2, max_size=4)


@pytest.mark.parametrize("training", [True, False])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), lengths=lengths_of_a_batch, more=st.integers(1, 9))
def test_padding_changes_neither_logits_nor_statistics(training: bool, seed: int, lengths: list[int], more: int):
    network = build().train(training)
    longer = copy.deepcopy(network)
    features = utterances(seed, lengths)
    logits, out_lengths = network(features, torch.tensor(lengths))
    padded, padded_lengths = longer(functional.pad(features, (0, 0, 0, more), value=5.0), torch.tensor(lengths))
    assert out_lengths.tolist() == padded_lengths.tolist()
    real = torch.arange(logits.shape[1]) < out_lengths[:, None]
    torch.testing.assert_close(padded[:, : logits.shape[1]][real], logits[real], rtol=1e-4, atol=1e-4)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(longer.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), lengths=lengths_of_a_batch)
def test_utterances_are_independent_when_evaluating(seed: int, lengths: list[int]):
    network = build().eval()
    features = utterances(seed, lengths)
    logits, out_lengths = network(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, (out_length,) = network(features[row : row + 1, :length], torch.tensor([length]))
        assert out_length == out_lengths[row] == alone.shape[1]
        torch.testing.assert_close(logits[row, :out_length], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", range(1, 40))
def test_output_length_formula(length: int):
    network = build()
    x = torch.zeros(1, 1, length, 9)
    for conv in network.convs:
        x = conv(x)
    assert network.output_lengths(torch.tensor([length])).tolist() == [x.shape[2]] == [-(-length // 2)]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    training=st.booleans(),
)
def test_sequence_batch_norm_is_that_of_torch_on_the_frames_without_padding(
    seed: int, lengths: list[int], training: bool
):
    torch.manual_seed(seed)
    norm, reference = SequenceBatchNorm(3).train(training), nn.BatchNorm2d(3).train(training)
    x = torch.randn(len(lengths), 3, max(lengths), 5)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    out = norm(x.permute(0, 2, 3, 1), real.flatten().nonzero().squeeze(1)).permute(0, 3, 1, 2)
    stretched = torch.cat([x[row, :, :length] for row, length in enumerate(lengths)], dim=1)[None]  # one long utterance
    expected = reference(stretched)[0]
    torch.testing.assert_close(out.transpose(1, 2)[real], expected.transpose(0, 1), rtol=1e-4, atol=1e-5)
    assert not out.transpose(1, 2)[~real].any()
    torch.testing.assert_close(norm.norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.norm.running_var, reference.running_var)


def test_equals_a_plain_stack_of_torch_layers_without_padding():
    network = build(recurrent_layers=3).eval()
    features = utterances(0, [20, 20])
    x = features[:, None]
    for conv, norm in zip(network.convs, network.conv_norms, strict=True):
        plain = nn.BatchNorm2d(4).eval()
        plain.load_state_dict(norm.norm.state_dict())
        x = functional.hardtanh(plain(conv(x)), 0, 20)
    x = x.transpose(1, 2).flatten(2)
    for norm, layer in zip(network.recurrent_norms, network.recurrent, strict=True):
        x = norm.norm(x.transpose(1, 2)).transpose(1, 2)
        x = layer.ahead(x)[0] + layer.back(x.flip(1))[0].flip(1)
    expected = network.output(network.output_norm.norm(x.transpose(1, 2)).transpose(1, 2))
    logits, _ = network(features, torch.tensor([20, 20]))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradient_reaches_every_parameter(cell: str):
    network = build(cell=cell)
    logits, _ = network(utterances(0, [12, 7]), torch.tensor([12, 7]))
    logits.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_bfloat16_autocast():
    network = build().eval()
    features, lengths = utterances(0, [12, 7]), torch.tensor([12, 7])
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = network(features, lengths)
    logits.float().sum().backward()
    torch.testing.assert_close(logits.float(), network(features, lengths)[0], rtol=0.1, atol=0.1)


def test_state_dict_round_trip(tmp_path):
    network = build().eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other = DeepSpeech2(alphabet="abcd", num_features=9, conv_channels=4, hidden_size=6).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    features, lengths = utterances(0, [12, 7]), torch.tensor([12, 7])
    torch.testing.assert_close(other(features, lengths), network(features, lengths))


def batch(**change) -> dict:
    return {
        "features": utterances(0, [12, 8]),
        "lengths": torch.tensor([12, 8]),
        "targets": torch.tensor([[1, 2, 2], [4, 0, 0]]),
        "target_lengths": torch.tensor([3, 1]),
    } | change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(2, 12, 40)}, "got features \\(2, 12, 40\\).*expected \\(B, T, 9\\)"),
        ({"lengths": torch.tensor([12, 13])}, "run from 12 to 13, but features have 12 frames"),
        ({"lengths": torch.tensor([12, 0])}, "from 1 to 12"),
        ({"targets": torch.tensor([1, 2])}, "expected \\(B, L\\) and \\(B,\\)"),
        ({"target_lengths": torch.tensor([3])}, "expected \\(B, L\\) and \\(B,\\)"),
        ({"target_lengths": torch.tensor([4, 1])}, "run from 1 to 4, but targets are 3 wide"),
        ({"targets": torch.tensor([[1, 5, 2], [4, 0, 0]])}, "run from 1 to 5.*4 symbols.*same alphabet"),
        ({"targets": torch.tensor([[1, 0, 2], [4, 0, 0]])}, "run from 0 to 4.*0 is the blank"),
        ({"lengths": torch.tensor([6, 8])}, "utterance 0 .* 6 frames, 3 after .* 3 symbols need 4"),
    ],
)
def test_check_says_what_is_wrong(change: dict, message: str):
    build().check(batch())
    with pytest.raises(ValueError, match=message):
        build().check(batch(**change))


def test_check_names_missing_keys():
    with pytest.raises(ValueError, match="not \\['features'\\]"):
        build().check({name: value for name, value in batch().items() if name != "features"})


@settings(deadline=None, max_examples=60)
@given(
    symbols=st.lists(st.integers(1, 4), min_size=0, max_size=8),
    frames=st.integers(1, 24),
)
def test_check_refuses_exactly_what_makes_the_loss_infinite(symbols: list[int], frames: int):
    network = build()
    one = batch(
        features=torch.zeros(1, frames, 9),
        lengths=torch.tensor([frames]),
        targets=torch.tensor([[*symbols, 0]]),
        target_lengths=torch.tensor([len(symbols)]),
    )
    out = network.output_lengths(one["lengths"])
    log_probs = torch.zeros(int(out), 1, 5).log_softmax(-1)
    loss = functional.ctc_loss(log_probs, one["targets"], out, one["target_lengths"])
    if loss.isinf():
        with pytest.raises(ValueError, match="need"):
            network.check(one)
    else:
        network.check(one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphabet": ""}, "at least one symbol"),
        ({"alphabet": "aba"}, "none twice"),
        ({"recurrent_layers": 0}, "0 recurrent layers"),
        ({"cell": "rnn"}, "'lstm' or 'gru'"),
    ],
)
def test_impossible_sizes_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DeepSpeech2(**options)
