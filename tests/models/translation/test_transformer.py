import numpy as np
import torch
from torch import nn

from fulgurite.models import TranslationTransformer
from fulgurite.models.translation.transformer import sinusoids


def test_equals_the_transformer_of_torch():
    torch.manual_seed(0)
    network = TranslationTransformer(
        source_vocab_size=20, target_vocab_size=30, hidden_size=8, heads=2, feedforward_size=16
    ).eval()
    whole = nn.Transformer(
        8, 2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=16, batch_first=True, norm_first=True,
        custom_encoder=network.encoder, custom_decoder=network.decoder,
    ).eval()  # fmt: skip
    source, target = torch.randint(4, 20, (2, 5)), torch.randint(4, 30, (2, 4))
    lengths = torch.tensor([5, 3])
    positions = sinusoids(5, 8)
    padding = torch.arange(5) >= lengths[:, None]
    hidden = whole(
        network.source_embedding(source) * 8**0.5 + positions,
        network.target_embedding(target) * 8**0.5 + positions[:4],
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(4),
        src_key_padding_mask=torch.zeros(2, 5).masked_fill(padding, -torch.inf),
        memory_key_padding_mask=torch.zeros(2, 5).masked_fill(padding, -torch.inf),
    )
    torch.testing.assert_close(network(source, lengths, target), network.output(hidden))


def test_layers_start_different():
    network = TranslationTransformer(source_vocab_size=20, target_vocab_size=20, hidden_size=8, heads=2)
    first, second = (layer.linear1.weight for layer in network.encoder.layers)
    assert not torch.equal(first, second)


def test_positions_are_those_of_the_paper():
    size, length = 6, 9
    expected = np.zeros((length, size))
    for position in range(length):
        for i in range(size // 2):
            angle = position / 10000 ** (2 * i / size)
            expected[position, i], expected[position, size // 2 + i] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(sinusoids(length, size), expected, atol=1e-6)


def test_no_sentence_is_too_long():
    network = TranslationTransformer(source_vocab_size=20, target_vocab_size=20, hidden_size=8, heads=2).eval()
    source = torch.randint(4, 20, (1, 700))
    assert network(source, torch.tensor([700]), source[:, :600]).isfinite().all()
