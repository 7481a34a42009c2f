"""torch's LSTM of one layer as a module that ``torch.compile`` takes into a graph."""

import torch
from torch import Tensor, nn

from fulgurite.models.dynamic_gnn.recurrence import plain_lstm

State = tuple[Tensor, Tensor]


class VertexLSTM(nn.Module):
    """``nn.LSTM(in_channels, hidden_size)``: the same parameters, names and numbers.

    ``torch.compile`` breaks its graph wherever it meets an ``nn.LSTM``, also where only the parameters are asked for.
    While it looks at this one, steps are plain torch.

    Args:
        input_size: I.
        hidden_size: H.

    Shape:
        (T, n, I) and a state of two (1, n, H) → (T, n, H) and the state after the last step.

    Example:
        >>> module = VertexLSTM(2, 6)
        >>> module, [*module.state_dict()] == [*nn.LSTM(2, 6).state_dict()]
        (VertexLSTM(2, 6), True)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        for name, parameter in nn.LSTM(input_size, hidden_size).named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run over all steps."""
        h, c = state
        weights: list[Tensor] = [*self.parameters()]
        if torch.compiler.is_compiling():
            bias = torch.stack(weights[2:]).sum(0)[:, None]
            hidden, cell = plain_lstm(x, h[0], c[0], torch.cat([*weights[:2], bias], dim=1))
            return hidden, (hidden[-1:], cell[None])
        if x.device.type == "cuda":
            # As cuDNN wants them, else it warns: one behind the other in one piece of memory.
            parts = torch.cat([weight.flatten() for weight in weights]).split([weight.numel() for weight in weights])
            weights = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
        hidden, h, c = torch.lstm(x, (h, c), weights, True, 1, 0.0, True, False, False)
        return hidden, (h, c)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.input_size}, {self.hidden_size}"
