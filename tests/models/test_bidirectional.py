import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fulgurite.models.bidirectional import Bidirectional

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU}


@pytest.mark.parametrize("cell", LAYERS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_equals_a_packed_layer_of_torch(cell: str, seed: int, lengths: list[int]):
    torch.manual_seed(seed)
    layer, packed = Bidirectional(3, 4, cell=cell), LAYERS[cell](3, 4, bidirectional=True, batch_first=True)
    with torch.no_grad():
        for name, parameter in layer.ahead.named_parameters():
            packed.get_parameter(name).copy_(parameter)
        for name, parameter in layer.back.named_parameters():
            packed.get_parameter(f"{name}_reverse").copy_(parameter)
    x = torch.randn(len(lengths), max(lengths) + 2, 3, requires_grad=True)
    real = torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]
    got = torch.cat(layer(x, torch.tensor(lengths)), dim=-1)[real]
    out, _ = packed(pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False))
    expected = pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])[0][real]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(got.square().sum(), x)[0],
        torch.autograd.grad(expected.square().sum(), x)[0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_unknown_cell():
    with pytest.raises(ValueError, match="'lstm' or 'gru'"):
        Bidirectional(3, 4, cell="rnn")
