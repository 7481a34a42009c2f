import torch
from torch import nn

from fulgurite.models import GNMT


def test_equals_the_equations_step_by_step():
    """The decoder as a loop of LSTM cells, asking attention at each step, from the same weights."""
    torch.manual_seed(0)
    network = GNMT(source_vocab_size=20, target_vocab_size=30, hidden_size=8, decoder_layers=3).eval()
    source, lengths = torch.randint(4, 20, (2, 5)), torch.tensor([5, 5])
    target = torch.randint(4, 30, (2, 4))

    embedded = network.source_embedding(source)
    both = nn.LSTM(8, 4, bidirectional=True, batch_first=True)
    both.load_state_dict(
        network.bidirectional.ahead.state_dict()
        | {f"{name}_reverse": value for name, value in network.bidirectional.back.state_dict().items()}
    )
    first, _ = both(embedded)
    memory = network.encoder[0](first)[0] + first
    cells = [nn.LSTMCell(layer.input_size, layer.hidden_size) for layer in network.decoder]
    for cell, layer in zip(cells, network.decoder, strict=True):
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    states = [None] * len(cells)
    logits = []
    for t in range(target.shape[1]):
        states[0] = cells[0](network.target_embedding(target[:, t]), states[0])
        hidden = states[0][0]
        context = network.attention(hidden[:, None], memory, torch.ones(2, 5, dtype=torch.bool))[0][:, 0]
        hidden = hidden + context
        for i in range(1, len(cells)):
            states[i] = cells[i](torch.cat([hidden, context], dim=-1), states[i])
            hidden = states[i][0] + hidden
        logits.append(network.output(hidden))
    torch.testing.assert_close(network(source, lengths, target), torch.stack(logits, dim=1))


def test_first_layer_reads_both_ways():
    torch.manual_seed(0)
    network = GNMT(source_vocab_size=20, target_vocab_size=20, hidden_size=8, encoder_layers=1).eval()
    source, lengths = torch.randint(4, 20, (1, 6)), torch.tensor([6])
    states = network.encode(source, lengths).states
    other = source.clone()
    other[0, 3] = (source[0, 3] - 4 + 1) % 16 + 4
    moved = (network.encode(other, lengths).states - states).abs()[0] > 1e-9
    forward, backward = moved[:, :4].any(1), moved[:, 4:].any(1)
    assert forward.tolist() == [False] * 3 + [True] * 3
    assert backward.tolist() == [True] * 4 + [False] * 2


def test_padding_row_of_the_embeddings_stays_zero():
    network = GNMT(source_vocab_size=20, target_vocab_size=20, hidden_size=8)
    network(torch.tensor([[5, 0]]), torch.tensor([1]), torch.tensor([[1, 0]])).sum().backward()
    for embedding in (network.source_embedding, network.target_embedding):
        assert embedding.weight[0].abs().sum() == 0
        assert embedding.weight.grad[0].abs().sum() == 0
