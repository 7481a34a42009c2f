"""A recurrent layer that reads padded sequences both ways."""

from typing import Literal

import torch
from torch import Tensor, nn


class Bidirectional(nn.Module):
    r"""Two recurrent layers, one ahead and one back from each sequence's own end: *Bidirectional recurrent networks*.

    Schuster & Paliwal, 1997, `doi:10.1109/78.650093 <https://doi.org/10.1109/78.650093>`__:

    .. math:: f_t = \mathrm{cell}(x_t, f_{t-1}), \quad b_t = \mathrm{cell}'(x_t, b_{t+1}), \quad b_{L+1} = 0
        \text{ for a sequence of length } L.

    The numbers are those of ``nn.LSTM(bidirectional=True)`` on a packed sequence, but nothing is packed. On a CPU a
    packed layer runs a step at a time, and each step of its backward pass fills a tensor as large as the whole input.
    Here each direction is one call of oneDNN's LSTM (of cuDNN's on a GPU) and its time depends on the padded shape
    alone, for the price of computing in padding too.

    Args:
        input_size: features of x.
        hidden_size: features of each direction.
        cell: kind of recurrence; on a CPU a GRU runs a step at a time, because torch calls oneDNN for LSTM only.

    Shape:
        - x: (B, T, input_size), lengths: (B,) on any device.
        - Returns both directions, each (B, T, hidden_size); what they hold in padding is not meant to be read.

    Raises:
        ValueError: another cell.

    Example:
        >>> import torch
        >>> from fulgurite.models.bidirectional import Bidirectional
        >>> forward, backward = Bidirectional(3, 4)(torch.randn(2, 5, 3), torch.tensor([5, 2]))
        >>> forward.shape, backward.shape
        (torch.Size([2, 5, 4]), torch.Size([2, 5, 4]))
    """

    def __init__(self, input_size: int, hidden_size: int, *, cell: Literal["lstm", "gru"] = "lstm") -> None:
        super().__init__()
        if cell not in ("lstm", "gru"):
            raise ValueError(f"cell is {cell!r}; expected 'lstm' or 'gru'")
        layer = nn.LSTM if cell == "lstm" else nn.GRU
        self.ahead = layer(input_size, hidden_size, batch_first=True)
        self.back = layer(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read ``x`` both ways; see the class for shapes."""
        places = torch.arange(x.shape[1], device=x.device)
        from_end = lengths.to(x.device, non_blocking=True).unsqueeze(1) - 1 - places
        order = torch.where(from_end >= 0, from_end, places).unsqueeze(2)
        ahead, _ = self.ahead(x)
        back, _ = self.back(x.gather(1, order.expand_as(x)))
        return ahead, back.gather(1, order.expand_as(back))
