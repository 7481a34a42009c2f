"""A small Transformer that translates, for contrast with the recurrent network."""

import math

import torch
from torch import Tensor, nn

from fulgurite.models.translation.network import PAD, Memory, TranslationNetwork, padding_mask


class TranslationTransformer(TranslationNetwork):
    r"""Encoder–decoder of Vaswani et al., *Attention is all you need*, of torch's own Transformer layers.

    `arXiv:1706.03762 <https://arxiv.org/abs/1706.03762>`__. Every layer attends by

    .. math:: \mathrm{attention}(Q, K, V) = \mathrm{softmax}(Q K^⊤ / \sqrt{d_k})\, V

    with sinusoidal positions added to the embedded tokens, so that no length is too long. Layer normalisation comes
    before each block rather than after it, which trains without a long warm-up. There is no recurrence: on a GPU a
    step's time is nearly flat while sequences are short, and grows with S², T² and S·T when they are long; a recurrent
    network's grows with S and T from the start.

    Args:
        source_vocab_size: number of source token ids.
        target_vocab_size: number of target token ids.
        hidden_size: features of embeddings and layers; even, and a multiple of ``heads`` (the paper: 512).
        heads: attention heads of each layer (the paper: 8).
        encoder_layers: layers of the encoder (the paper: 6).
        decoder_layers: layers of the decoder (the paper: 6).
        feedforward_size: width of each layer's two-layer perceptron (the paper: 2048).
        dropout: inside every layer and on the embedded tokens.

    Shape:
        - source: (B, S) ids, source_lengths: (B,), target: (B, T) ids.
        - Returns logits (B, T, target_vocab_size).

    Raises:
        ValueError: ``hidden_size`` odd or not a multiple of ``heads``, fewer than one layer; see :meth:`forward`.

    Example:
        >>> import torch
        >>> from fulgurite.models import TranslationTransformer
        >>> network = TranslationTransformer(source_vocab_size=50, target_vocab_size=60, hidden_size=16, heads=2)
        >>> source, target = torch.randint(4, 50, (2, 7)), torch.randint(4, 60, (2, 5))
        >>> network(source, torch.tensor([7, 4]), target).shape
        torch.Size([2, 5, 60])
    """

    def __init__(
        self,
        *,
        source_vocab_size: int = 8000,
        target_vocab_size: int = 8000,
        hidden_size: int = 128,
        heads: int = 4,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        feedforward_size: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size)
        if heads < 1 or hidden_size < 2 or hidden_size % 2 or hidden_size % heads:
            raise ValueError(f"hidden_size is {hidden_size}; it must be even and a multiple of heads, here {heads}")
        if encoder_layers < 1 or decoder_layers < 1:
            raise ValueError(f"got {encoder_layers} encoder and {decoder_layers} decoder layers; each needs at least 1")
        self.hidden_size = hidden_size
        self.source_embedding = nn.Embedding(source_vocab_size, hidden_size, padding_idx=PAD)
        self.target_embedding = nn.Embedding(target_vocab_size, hidden_size, padding_idx=PAD)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                hidden_size, heads, feedforward_size, dropout, batch_first=True, norm_first=True
            ),
            encoder_layers,
            norm=nn.LayerNorm(hidden_size),
            enable_nested_tensor=False,  # it would cut the memory to the longest real sentence
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(
                hidden_size, heads, feedforward_size, dropout, batch_first=True, norm_first=True
            ),
            decoder_layers,
            norm=nn.LayerNorm(hidden_size),
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, target_vocab_size)
        for stack in (self.encoder, self.decoder):  # torch clones one layer: without this all would start the same
            for parameter in stack.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=hidden_size**-0.5)
            with torch.no_grad():
                embedding.weight[PAD].zero_()

    def encode(self, source: Tensor, source_lengths: Tensor) -> Memory:
        """Read source ids (B, S), of which the first ``source_lengths`` (B,) are real; see the class."""
        mask = padding_mask(source_lengths, source.shape[1], source.device)
        return Memory(self.encoder(self._embed(source, self.source_embedding), src_key_padding_mask=~mask), mask)

    def decode(self, target: Tensor, memory: Memory, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give the logits after each of ``target``'s ids (B, T); the state is all ids so far, which are read again."""
        ids = target if state is None else torch.cat([state, target], dim=1)
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        hidden = self.decoder(
            self._embed(ids, self.target_embedding),
            memory.states,
            tgt_mask=later,
            tgt_is_causal=True,
            memory_key_padding_mask=~memory.mask,
        )
        return self.output(hidden[:, -target.shape[1] :]), ids

    def _embed(self, ids: Tensor, embedding: nn.Embedding) -> Tensor:
        embedded = embedding(ids) * math.sqrt(self.hidden_size)
        return self.dropout(embedded + sinusoids(ids.shape[1], self.hidden_size, ids.device).to(embedded.dtype))


def sinusoids(length: int, size: int, device: torch.device | None = None) -> Tensor:
    r"""Positions as in section 3.5 of the Transformer paper, (length, size); sines first, then cosines.

    .. math:: \sin(p / 10000^{2i/size}), \quad \cos(p / 10000^{2i/size})

    The paper interleaves the two; the order of features makes no difference to a layer that learns its weights.

    >>> from fulgurite.models.translation.transformer import sinusoids
    >>> sinusoids(2, 4)
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.8415, 0.0100, 0.5403, 0.9999]])
    """
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-math.log(10000.0) / size))
    angles = torch.arange(length, device=device).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
