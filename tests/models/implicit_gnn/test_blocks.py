import numpy as np
import pytest
import torch

from fulgurite.models.implicit_gnn.blocks import IGNNBlock, NEMONBlock
from fulgurite.models.implicit_gnn.graph import propagation


def measure(equation):
    """μ_∞ of K = A ⊗ W in the weighted norm, by the definition."""
    w = np.repeat(equation.graph.norm_weight.numpy(), len(equation.weight))
    dense = np.kron(equation.graph.matrix.to_dense().numpy(), equation.weight.detach().numpy())
    diagonal = np.diag(dense)
    return float(((np.abs(dense) @ w) / w - np.abs(diagonal) + diagonal).max())


@pytest.mark.parametrize("normalisation", ["mean", "symmetric"])
@pytest.mark.parametrize("constraint", ["projection", "parametrisation"])
@pytest.mark.parametrize("kind", [IGNNBlock, NEMONBlock])
def test_every_step_of_training_stays_certified(make_edges, kind, constraint, normalisation):
    torch.manual_seed(0)
    graph = propagation(make_edges(10, 20, 0, undirected=True), 10, normalisation=normalisation)
    block = kind(5, kappa=0.8, constraint=constraint)
    injection, target = torch.randn(10, 5), torch.randn(10, 5)
    optimizer = torch.optim.Adam(block.parameters(), lr=0.3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (block(graph, injection) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        equation = block.equation(graph, injection)
        assert equation.factor < 1
        assert measure(equation) <= 0.8 + 1e-5
        if kind is IGNNBlock:
            assert equation.factor <= 0.8 + 1e-5
    assert min(losses) < losses[0]


def test_nemon_has_weights_that_ignn_may_not_have():
    chain = torch.stack([torch.arange(9), torch.arange(1, 10)])  # half of what a node reads is itself
    graph = propagation(chain, 10, dtype=torch.float64)
    wide = torch.tensor([[-6.0, 0.7], [-0.7, -6.0]], dtype=torch.float64)
    sizes = {}
    for kind in (IGNNBlock, NEMONBlock):
        block = kind(2, kappa=0.9).double()
        block.raw_weight.data.copy_(wide)
        equation = block.equation(graph, torch.ones(10, 2, dtype=torch.float64))
        sizes[kind] = equation.weight.abs().sum(dim=1).max().item()
        assert equation.factor < 1
    assert sizes[IGNNBlock] == pytest.approx(0.9, abs=1e-6)
    assert sizes[NEMONBlock] > 6


def test_without_self_loops_nemon_is_ignn(make_edges):
    graph = propagation(torch.tensor([[0, 1, 2], [1, 2, 0]]), 3, self_loops=False)
    torch.manual_seed(0)
    one, other = IGNNBlock(3), NEMONBlock(3)
    other.raw_weight.data.copy_(one.raw_weight.data.normal_())
    torch.testing.assert_close(one(graph, torch.ones(3, 3)), other(graph, torch.ones(3, 3)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kappa": 1.0}, "kappa=1.0"),
        ({"kappa": 0.0}, "kappa=0.0"),
        ({"constraint": "hope"}, "'hope'"),
        ({"activation": "gelu"}, "'gelu'"),
    ],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        IGNNBlock(3, **options)


def test_a_block_needs_a_channel():
    with pytest.raises(ValueError, match="channels=0"):
        IGNNBlock(0)


def test_print_says_what_it_is():
    assert "kappa=0.9" in repr(NEMONBlock(3))
