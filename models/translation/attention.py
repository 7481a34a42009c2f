"""Additive attention: what each target token looks at in the source."""

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    r"""Attention of Bahdanau et al., *Neural machine translation by jointly learning to align and translate*.

    `arXiv:1409.0473 <https://arxiv.org/abs/1409.0473>`__. For query :math:`q_t` and memory :math:`h_1 … h_S`

    .. math:: e_{ts} = v^⊤ \tanh(W q_t + U h_s), \quad α_t = \mathrm{softmax}(e_t), \quad c_t = Σ_s α_{ts} h_s.

    All T queries are answered at once; the (B, T, S, A) tensor inside the tanh makes time and memory grow with T·S.

    Args:
        query_size: features of a query.
        memory_size: features of a memory state.
        attention_size: A, the width of the scoring layer.

    Shape:
        - query: (B, T, query_size), memory: (B, S, memory_size), mask: (B, S), true where memory is real.
        - Returns the context (B, T, memory_size) and the weights (B, T, S), 0 where masked.

    Example:
        >>> import torch
        >>> from fulgurite.models.translation import AdditiveAttention
        >>> attention = AdditiveAttention(8, 6, attention_size=4)
        >>> mask = torch.tensor([[True, True, False]])
        >>> context, weights = attention(torch.zeros(1, 2, 8), torch.ones(1, 3, 6), mask)
        >>> context.shape, weights.round(decimals=4).tolist()
        (torch.Size([1, 2, 6]), [[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]])
    """

    def __init__(self, query_size: int, memory_size: int, *, attention_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, attention_size, bias=False)
        self.key = nn.Linear(memory_size, attention_size)
        self.score = nn.Linear(attention_size, 1, bias=False)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Look ``query`` up in ``memory``; see the class for shapes."""
        hidden = torch.tanh(self.query(query).unsqueeze(2) + self.key(memory).unsqueeze(1))
        scores = self.score(hidden).squeeze(-1).masked_fill(~mask.unsqueeze(1), -torch.inf)
        weights = scores.softmax(-1)
        return weights.to(memory.dtype) @ memory, weights
