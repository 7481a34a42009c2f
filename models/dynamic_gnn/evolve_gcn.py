"""EvolveGCN: graph convolutions whose weights change over time, by themselves (-O) or fed by the features (-H)."""

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from fulgurite.models.dynamic_gnn.layer import Carry, Coupling, DynamicLayer, own_steps
from fulgurite.models.dynamic_gnn.propagate import Backend

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.shard import Block

WeightCell = Literal["lstm", "gru"]
# Steps up to which a recurrence that has learned nothing yet remembers the weight before the first step.
_MEMORY = 1000


class EvolvingLayer(DynamicLayer):
    """What both forms share: the weight before the first step, and a convolution with a weight a step."""

    coupling: ClassVar[Coupling] = "weights"

    def __init__(self, in_channels: int, out_channels: int, *, activation: bool = True, backend: Backend) -> None:
        super().__init__(in_channels, out_channels, backend=backend)
        self.activation = activation
        self.initial_weight = nn.Parameter(torch.empty(in_channels, out_channels))
        nn.init.xavier_uniform_(self.initial_weight)

    def spatial(self, block: "Block", x: Tensor | None, weights: Tensor) -> Tensor:
        r""":math:`f(\tilde A_t X_t W_t)`, (t_p, N, F'), with weights (t_p, F, F') of this rank's steps."""
        if x is not None and self.out_channels < self.in_channels:
            y = self.neighbours(block, torch.bmm(x, weights))
        else:
            y = torch.bmm(self.neighbours(block, x), weights)
        return y.relu() if self.activation else y

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return super().extra_repr() + ("" if self.activation else ", activation=False")


class EvolveGCNOLayer(EvolvingLayer):
    r"""A layer of EvolveGCN-O: the weight of a graph convolution is the state of a recurrence of its own.

    A. Pareja et al., "EvolveGCN: Evolving Graph Convolutional Networks for Dynamic Graphs",
    `arXiv:1902.10191 <https://arxiv.org/abs/1902.10191>`__:

    .. math:: W_t = \mathrm{LSTM}(W_{t-1}), \qquad Y_t = \mathrm{relu}(\tilde A_t X_t W_t),

    every column of W a sequence of its own, :math:`W_0` being the LSTM's first memory too. Each rank runs the whole
    recurrence, and nothing is sent. The weight is handed on as carry, never kept in the module: a second backward pass
    needs no ``retain_graph``. Gates begin open for the past, else all columns would soon be one, whatever :math:`W_0`.

    Args:
        in_channels: F.
        out_channels: F'.
        cell: ``"lstm"`` (the paper's), or ``"gru"``.
        activation: relu, or none.
        backend: see :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`.

    Attributes:
        initial_weight: :math:`W_0` before the first step, (F, F').

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Example:
        >>> EvolveGCNOLayer(2, 6)
        EvolveGCNOLayer(
          2, 6, cell=lstm
          (recurrence): LSTMCell(2, 2)
        )
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        cell: WeightCell = "lstm",
        activation: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(in_channels, out_channels, activation=activation, backend=backend)
        if cell not in ("lstm", "gru"):
            raise ValueError(f"got cell={cell!r}; choose from lstm, gru")
        self.cell = cell
        self.carry_size = 2 if cell == "lstm" else 1
        self.recurrence = (nn.LSTMCell if cell == "lstm" else nn.GRUCell)(in_channels, in_channels)
        _remember(self.recurrence)

    def initial_carry(self, block: "Block") -> Carry:
        """The initial weight, which is the LSTM's memory too."""
        return (self.initial_weight,) * self.carry_size

    def temporal(self, steps: int, carry: Carry) -> tuple[Tensor, Carry]:
        """The weights (T, F, F') of so many steps, and the carry after them."""
        state = tuple(tensor.t() for tensor in carry)
        weights = []
        for _ in range(steps):
            given = state if self.cell == "lstm" else state[0]
            after = self.recurrence(state[0], given)
            state = after if isinstance(after, tuple) else (after,)
            weights.append(state[0].t())
        return torch.stack(weights), tuple(tensor.t() for tensor in state)

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        weights, carry = self.temporal(block.split.num_steps, carry)
        return self.spatial(block, x, weights[own_steps(block)]), carry

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{super().extra_repr()}, cell={self.cell}"


class EvolveGCNHLayer(EvolvingLayer):
    r"""A layer of EvolveGCN-H: a GRU changes the weight, fed with the vertices that score highest.

    A. Pareja et al., "EvolveGCN: Evolving Graph Convolutional Networks for Dynamic Graphs",
    `arXiv:1902.10191 <https://arxiv.org/abs/1902.10191>`__:

    .. math::
        s_t = X_t p / \|p\|, \qquad Q_t = (X_t \circ \tanh s_t)_{\mathrm{top}\,k}^T, \qquad
        W_t = \mathrm{GRU}(Q_t, W_{t-1}), \qquad Y_t = \mathrm{relu}(\tilde A_t X_t W_t),

    with k = F', the columns of W. Of equal scores the lower vertex comes first; p begins without negative numbers.
    Ranks send one another the summaries :math:`Q_t`, F·F' numbers a step, and each runs the whole recurrence.

    Args:
        in_channels: F.
        out_channels: F', at most N.
        activation: relu, or none.
        backend: see :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`.

    Attributes:
        score: p, (F,).
        initial_weight: :math:`W_0` before the first step, (F, F').

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Raises:
        ValueError: in ``forward``, fewer vertices than out_channels.

    Example:
        >>> EvolveGCNHLayer(2, 6)
        EvolveGCNHLayer(
          2, 6
          (recurrence): GRUCell(2, 2)
        )
    """

    carry_size = 1

    def __init__(
        self, in_channels: int, out_channels: int, *, activation: bool = True, backend: Backend = "auto"
    ) -> None:
        super().__init__(in_channels, out_channels, activation=activation, backend=backend)
        self.score = nn.Parameter(torch.empty(in_channels))
        # The paper's code draws either sign. But degrees and what a relu gives are not negative, and with weights below
        # zero those that score highest are vertices of zeros: nothing would feed the GRU, and no gradient reach p.
        nn.init.uniform_(self.score, 0, in_channels**-0.5)
        self.recurrence = nn.GRUCell(in_channels, in_channels)
        _remember(self.recurrence)

    def initial_carry(self, block: "Block") -> Carry:
        """The initial weight."""
        return (self.initial_weight,)

    def summaries(self, x: Tensor) -> Tensor:
        """The rows (t, F', F) of features (t, N, F) that score highest, each times tanh of its score."""
        vertices = x.shape[1]
        if vertices < self.out_channels:
            raise ValueError(
                f"got {vertices} vertices for an EvolveGCN-H of {self.out_channels} output channels; it takes as many "
                f"vertices as channels in every snapshot; give it at most {vertices} channels, or use EvolveGCN-O"
            )
        chosen = top_vertices(x.detach(), self.score.detach(), self.out_channels)
        rows = x.gather(1, chosen[:, :, None].expand(-1, -1, x.shape[2]))
        return rows * (rows @ (self.score / self.score.norm())).tanh()[:, :, None]

    def temporal(self, summaries: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """The weights (T, F, F') of the steps of summaries (T, F', F), and the carry after them."""
        state = carry[0].t()
        weights = []
        for summary in summaries.unbind():
            state = self.recurrence(summary, state)
            weights.append(state.t())
        return torch.stack(weights), (state.t(),)

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        summaries = block.exchange.gather_steps(self.summaries(self.features(block, x)), block.split)
        weights, carry = self.temporal(summaries, carry)
        return self.spatial(block, x, weights[own_steps(block)]), carry


def _remember(cell: nn.LSTMCell | nn.GRUCell) -> None:
    """Begin with gates that keep the state, for times spread up to ``_MEMORY`` steps.

    A recurrence that nothing feeds draws all columns to one point; with torch's initial biases a hundredth of their
    differences is left after ten steps, and a layer has one channel, or none where relu cuts it off, and learns
    nothing. The biases are those of C. Tallec, Y. Ollivier, "Can recurrent neural networks warp time?",
    `arXiv:1804.11188 <https://arxiv.org/abs/1804.11188>`__.
    """
    size = cell.hidden_size
    with torch.no_grad():
        keep = torch.empty(size).uniform_(1, _MEMORY - 1).log_()
        # Gates stand in the order i, f, g, o and r, z, n; z keeps.
        if isinstance(cell, nn.LSTMCell):
            cell.bias_ih[: 2 * size] = torch.cat([-keep, keep])
            cell.bias_hh[: 2 * size] = 0
        else:
            cell.bias_ih[size : 2 * size] = keep
            cell.bias_hh[size : 2 * size] = 0


# One operator: which scores are equal decides how much there is to sort, and no compiler knows that ahead.
@torch.library.custom_op("fulgurite::top_vertices", mutates_args=())
def top_vertices(x: Tensor, score: Tensor, count: int) -> Tensor:
    """The vertices of each snapshot whose x·score is highest; of equal ones the lowest number first.

    Args:
        x: (t, N, F).
        score: (F,).
        count: k ≤ N.

    Returns:
        (t, k) int64, by falling score.

    Example:
        >>> top_vertices(torch.tensor([[[1.0], [3.0], [3.0]]]), torch.ones(1), 2).tolist()
        [[1, 2]]
    """
    # Column by column: a product with a vector rounds a row by where it stands, and equal rows would not be equal.
    scores = x.new_zeros(x.shape[:2])
    for column, factor in zip(x.unbind(2), score.unbind(), strict=True):
        scores += column * factor
    scores = scores.masked_fill(scores.isnan(), -torch.inf)  # of a training that diverges
    least = scores.topk(count, dim=1).values[:, -1:]
    step, vertex = (scores >= least).nonzero(as_tuple=True)
    # Candidates stand in order of (step, vertex); stable sorts keep it among equals.
    by_score = scores[step, vertex].sort(descending=True, stable=True).indices
    order = by_score[step[by_score].sort(stable=True).indices]
    first = torch.searchsorted(step, torch.arange(len(x), device=x.device))
    return vertex[order][first[:, None] + torch.arange(count, device=x.device)]


@top_vertices.register_fake
def _(x: Tensor, score: Tensor, count: int) -> Tensor:
    return x.new_empty((len(x), count), dtype=torch.int64)
