"""Greedy decoding: the likeliest token at each step."""

import torch
from torch import Tensor

from fulgurite.models.translation.network import BOS, EOS, PAD, TranslationNetwork


@torch.no_grad()
def greedy_decode(
    network: TranslationNetwork, source: Tensor, source_lengths: Tensor, *, max_length: int = 64
) -> Tensor:
    r"""Translate by the likeliest token at each step, :math:`y_t = \arg\max_v p(v | y_{<t}, x)`, until all rows end.

    Put the network in ``eval()`` first. ``<pad>`` and ``<bos>`` are never chosen; ``<unk>`` may be.

    Args:
        network: any :class:`~fulgurite.models.translation.TranslationNetwork`.
        source: (B, S) ids.
        source_lengths: (B,) real ids of each row.
        max_length: the most tokens of a translation, ``<eos>`` counted.

    Returns:
        (B, N) ids with N ≤ ``max_length``: no ``<bos>``, ``<eos>`` where a translation ended, 0 after it.

    Raises:
        ValueError: ``max_length`` below 1.

    Example:
        >>> import torch
        >>> from fulgurite.models import GNMT
        >>> from fulgurite.models.translation import greedy_decode
        >>> network = GNMT(source_vocab_size=20, target_vocab_size=20, hidden_size=8).eval()
        >>> ids = greedy_decode(network, torch.tensor([[5, 6, 2], [7, 2, 0]]), torch.tensor([3, 2]), max_length=6)
        >>> ids.shape[0], ids.shape[1] <= 6
        (2, True)
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}; a translation has at least one token, <eos>")
    memory = network.encode(source, source_lengths)
    token = torch.full((len(source), 1), BOS, device=source.device)
    ended = torch.zeros_like(token, dtype=torch.bool)
    state = None
    tokens = []
    for _ in range(max_length):
        logits, state = network.decode(token, memory, state)
        logits[..., [PAD, BOS]] = -torch.inf
        token = logits.argmax(-1).masked_fill(ended, PAD)
        tokens.append(token)
        ended |= token == EOS
        if ended.all():
            break
    return torch.cat(tokens, dim=1)
