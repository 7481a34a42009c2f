import pytest
import torch
from torch import nn

from fulgurite.models.sparse_network.convert.sequential import from_sequential

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(),
    nn.LeakyReLU(0.005),
    nn.ELU(),
    nn.SELU(),
    nn.GELU(),
    nn.SiLU(),
    nn.Softplus(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Hardtanh(),
    nn.Hardtanh(0, 32),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_become_the_units_own(activation):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 2)).double().eval()
    net = from_sequential(module)
    x = 20 * torch.randn(9, 4, dtype=torch.float64)
    torch.testing.assert_close(net(x), module(x), rtol=1e-10, atol=1e-10)
    assert net.num_nodes == 4 + 5 + 2
    assert net.depth == 2


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (nn.LeakyReLU(0.2), r"LeakyReLU\(negative_slope=0.2\) .* its arguments make it none of ours"),
        (nn.ELU(alpha=2.0), r"ELU\(alpha=2.0\) .* its arguments make it none of ours"),
        (nn.GELU(approximate="tanh"), "its arguments make it none of ours"),
        (nn.Softplus(beta=3), "its arguments make it none of ours"),
        (nn.Hardtanh(-2, 2), "its arguments make it none of ours"),
        (
            nn.Softmax(dim=1),
            r"Softmax\(dim=1\) \(.*1 in the module\) cannot become nodes and edges; supported: Linear, ",
        ),
        (nn.LayerNorm(5), r"LayerNorm\(.*cannot become nodes and edges"),
        (nn.PReLU(), r"PReLU\(.*cannot become nodes and edges"),
    ],
    ids=str,
)
def test_what_cannot_be_converted_is_named(activation, message):
    with pytest.raises(ValueError, match=message):
        from_sequential(nn.Sequential(nn.Linear(4, 5), activation))


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x), x


class OverTheBatch(TwoOutputs):
    def forward(self, x):
        return self.layer(x) / x.shape[0]


class FirstSample(TwoOutputs):
    def forward(self, x):
        return self.layer(x)[:1]


class BatchBeside(TwoOutputs):
    def forward(self, x):
        return torch.cat([self.layer(x), x])


class WithAConstant(TwoOutputs):
    def forward(self, x):
        return torch.cat([self.layer(x), torch.ones(2, 1)], dim=1)


class ClampedByFeatures(TwoOutputs):
    def forward(self, x):
        return self.layer(x).clamp(torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (TwoInputs(), r"takes 2 inputs \[x, y\]; want one tensor"),
        (TwoOutputs(), "returns tuple; want one tensor of features"),
        (Branching(), "Branching cannot be traced by torch.fx .*supported only, not in conditions"),
        (OverTheBatch(), "depends on the size of the batch"),
        (WithAConstant(), "does not keep samples apart"),
        (ClampedByFeatures(), r"clamp \(clamp in the module\) cannot become nodes and edges: "),
        (FirstSample(), "does not keep samples apart"),
        (BatchBeside(), "does not keep samples apart"),
        (nn.Sequential(nn.ReLU()), "does not tell how many features its input has; pass num_inputs="),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)), "got 4 features where it wants 3"),
        (nn.Sequential(nn.Conv1d(3, 4, 1)), r"Conv1d\(.*cannot become nodes and edges"),
        (nn.Sequential(nn.Linear(3, 4), nn.Conv1d(4, 4, 1)), r"Conv1d\(.*cannot become nodes and edges"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_refusals(module, message):
    with pytest.raises(ValueError, match=message):
        from_sequential(module)
