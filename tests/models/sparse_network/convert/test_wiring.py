import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network import SparseNetwork
from fulgurite.models.sparse_network.convert.wiring import Wired, Wiring


def network(wired: Wired) -> SparseNetwork:
    return SparseNetwork(
        wired.edges,
        num_inputs=wired.num_inputs,
        outputs=wired.outputs,
        num_nodes=wired.num_nodes,
        activation=wired.activations,
        aggregation=wired.aggregations,
        weight=wired.weight,
        bias=False if wired.bias is None else wired.bias,
        dtype=torch.float64,
        backend="reference",
    )


@settings(deadline=None, max_examples=150)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_joining_nodes_changes_nothing(data, seed):
    """A random program of operations, in tensors beside the wiring."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    wiring = Wiring(3, torch.float64)
    known = [(torch.arange(3), x)]
    for kind in data.draw(st.lists(st.sampled_from(["linear", "affine", "tanh", "add", "multiply"]), max_size=12)):
        nodes, values = data.draw(st.sampled_from(known))
        others = [pair for pair in known if len(pair[0]) == len(nodes)]
        other, other_values = data.draw(st.sampled_from(others))
        if kind == "linear":
            weight = torch.randn(data.draw(st.integers(1, 4)), len(nodes), generator=generator, dtype=torch.float64)
            weight *= torch.rand(weight.shape, generator=generator) < 0.6
            bias = torch.randn(len(weight), generator=generator, dtype=torch.float64)
            bias = bias if data.draw(st.booleans()) else None
            made = wiring.linear(nodes, weight, bias)
            result = values @ weight.T + (0 if bias is None else bias)
        elif kind == "affine":
            factor = torch.randn(len(nodes), generator=generator, dtype=torch.float64)
            made, result = wiring.affine(nodes, factor, 0.5), values * factor + 0.5
        elif kind == "tanh":
            made, result = wiring.elementwise(nodes, "tanh"), values.tanh()
        elif kind == "add":
            made, result = wiring.add(nodes, other, factor=-2.0), values - 2 * other_values
        else:
            made, result = wiring.multiply(nodes, other), values * other_values
        known.append((made, result))
    outputs = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    wired = wiring.finish(torch.cat([nodes for nodes, _ in outputs]))
    expected = torch.cat([values for _, values in outputs], dim=1)
    torch.testing.assert_close(network(wired)(x), expected, rtol=1e-9, atol=1e-9)
    assert wired.num_nodes <= wiring.num_nodes
    assert len(wired.edges.unique(dim=0)) == len(wired.edges)


def test_chains_of_wires_fold_into_one_layer():
    wiring = Wiring(2, torch.float64)
    nodes = wiring.linear(torch.arange(2), torch.ones(2, 2), torch.ones(2))
    for _ in range(100):
        nodes = wiring.affine(nodes, 2.0, 1.0)
    wired = wiring.finish(wiring.elementwise(nodes, "relu"))
    assert wired.num_nodes == 4
    assert wired.activations[2:] == ["relu", "relu"]
    assert (wired.weight == 2.0**100).all()
    assert (wired.bias == 2.0**101 - 1).all()


def test_what_is_read_twice_or_put_out_stays():
    wiring = Wiring(1, torch.float64)
    sums = wiring.linear(torch.arange(1), torch.ones(2, 1))
    both = wiring.elementwise(sums, "tanh"), wiring.elementwise(sums, "sin")
    wired = wiring.finish(torch.cat([*both, sums]))
    assert wired.num_nodes == 1 + 2 + 4
    alone = Wiring(1, torch.float64)
    sums = alone.linear(torch.arange(1), torch.ones(2, 1))
    wired = alone.finish(torch.cat([alone.elementwise(sums, "tanh"), sums]))
    assert wired.num_nodes == 1 + 2 + 2


def test_without_any_bias_there_is_none():
    wiring = Wiring(2, torch.float32)
    assert wiring.finish(wiring.linear(torch.arange(2), torch.ones(1, 2))).bias is None
    wiring.linear(torch.arange(2), torch.ones(1, 2), torch.zeros(1))
    assert wiring.finish(torch.arange(2)).bias.tolist() == [0, 0]


def test_nothing_but_inputs():
    wired = Wiring(3, torch.float32).finish(torch.tensor([2, 0]))
    assert (wired.num_nodes, len(wired.edges), wired.outputs.tolist()) == (3, 0, [2, 0])
