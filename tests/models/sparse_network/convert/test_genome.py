import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fulgurite.models.sparse_network import SparseNetwork, TopologyError
from fulgurite.models.sparse_network.convert.genome import from_genome, genome_update

neat = pytest.importorskip("neat")

FLOATS = {"init_mean": 0, "init_stdev": 1, "init_type": "gaussian", "max_value": 5, "min_value": -5}
FLOATS |= {"mutate_rate": 0.5, "mutate_power": 0.5, "replace_rate": 0.1}
EVERY_ACTIVATION = list(neat.activations.ActivationFunctionSet().functions)
EVERY_AGGREGATION = list(neat.aggregations.AggregationFunctionSet().functions)


def configuration(*, inputs=3, outputs=2, hidden=2, activations=("tanh",), aggregations=("sum",), recurrent=False):
    """A neat-python configuration, as its parser makes it of a file."""
    values = {
        "num_inputs": inputs,
        "num_outputs": outputs,
        "num_hidden": hidden,
        "feed_forward": not recurrent,
        "compatibility_disjoint_coefficient": 1,
        "compatibility_weight_coefficient": 0.5,
        "conn_add_prob": 0.7,
        "conn_delete_prob": 0.2,
        "node_add_prob": 0.5,
        "node_delete_prob": 0.1,
        "initial_connection": "partial_direct 0.7",
        "activation_default": "random",
        "activation_options": " ".join(activations),
        "activation_mutate_rate": 0.3,
        "aggregation_default": "random",
        "aggregation_options": " ".join(aggregations),
        "aggregation_mutate_rate": 0.3,
        "enabled_default": True,
        "enabled_mutate_rate": 0.1,
    }
    for attribute in ("bias", "response", "weight"):
        values |= {f"{attribute}_{name}": value for name, value in FLOATS.items()}
    values["response_init_mean"] = 1
    settings = neat.DefaultGenome.parse_config({name: str(value) for name, value in values.items()})
    settings.innovation_tracker = neat.innovation.InnovationTracker()
    return SimpleNamespace(genome_config=settings)


def evolved(config, *, mutations=30):
    genome = neat.DefaultGenome(1)
    genome.configure_new(config.genome_config)
    for _ in range(mutations):
        genome.mutate(config.genome_config)
    return genome


@pytest.fixture(autouse=True)
def _same_random_numbers():
    state = random.getstate()  # neat-python draws from the global generator
    yield
    random.setstate(state)


def activated(network, x):
    return np.array([network.activate(row) for row in x.tolist()])


@pytest.mark.parametrize("seed", range(300))
def test_computes_what_neat_python_computes(seed):
    random.seed(seed)
    config = configuration(
        inputs=1 + seed % 4,
        outputs=1 + seed % 3,
        hidden=seed % 5,
        activations=random.sample(EVERY_ACTIVATION, 1 + seed % len(EVERY_ACTIVATION)),
        aggregations=random.sample(EVERY_AGGREGATION, 1 + seed % len(EVERY_AGGREGATION)),
    )
    genome = evolved(config, mutations=seed % 60)
    x = torch.randn(5, 1 + seed % 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = activated(neat.nn.FeedForwardNetwork.create(genome, config), x)
    net = from_genome(genome, config, dtype=torch.float64)
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(50))
def test_in_single_precision_too(seed):
    random.seed(seed)
    config = configuration(
        activations=("sigmoid", "tanh", "relu", "gauss", "sin", "identity"), aggregations=("sum", "mean", "max")
    )
    genome = evolved(config)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    expected = activated(neat.nn.FeedForwardNetwork.create(genome, config), x)
    got = from_genome(genome, config)(x).detach().numpy()
    # Sines of 5·z with weights up to 5 magnify single precision's rounding from node to node.
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    assert np.median(np.abs(got - expected)) < 1e-5


def test_the_random_genomes_are_worth_comparing():
    """Disabled connections, orphans, nodes that nothing needs, depth and responses all occur among those above."""
    found = set()
    for seed in range(60):
        random.seed(seed)
        config = configuration(inputs=1 + seed % 4, outputs=1 + seed % 3, hidden=seed % 5)
        genome = evolved(config, mutations=seed % 60)
        net = from_genome(genome, config)
        enabled = [key for key, gene in genome.connections.items() if gene.enabled]
        fed = {target for _, target in enabled}
        found |= {"disabled"} if len(enabled) < len(genome.connections) else set()
        found |= {"orphan"} if set(net.node_names[net.num_inputs :]) - fed else set()
        found |= {"dropped"} if len(net.node_names) < net.num_inputs + len(genome.nodes) else set()
        found |= {"deep"} if net.depth >= 4 else set()
        found |= {"response"} if net.response is not None else set()
    assert found == {"disabled", "orphan", "dropped", "deep", "response"}


@pytest.mark.parametrize("seed", range(60))
def test_recurrent_genomes_by_steps(seed):
    random.seed(seed)
    config = configuration(
        activations=("tanh", "sigmoid", "gauss", "clamped", "identity"),
        aggregations=EVERY_AGGREGATION if seed % 2 else ("sum",),
        recurrent=True,
    )
    genome = evolved(config, mutations=15)
    steps = 1 + seed % 4
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    recurrent = neat.nn.RecurrentNetwork.create(genome, config)
    expected = []
    for row in x.tolist():
        recurrent.reset()
        expected.append([recurrent.activate(row) for _ in range(steps)][-1])
    net = SparseNetwork.from_genome(genome, config, steps=steps, dtype=torch.float64)
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-6, atol=1e-8)


def gene(activation="tanh", aggregation="sum", bias=0.5, response=1.0):
    return SimpleNamespace(activation=activation, aggregation=aggregation, bias=bias, response=response)


def link(weight=1.0, enabled=True):
    return SimpleNamespace(weight=weight, enabled=enabled)


SETTINGS = SimpleNamespace(input_keys=[-1, -2], output_keys=[0, 1])


def test_nodes_keep_their_keys():
    genome = SimpleNamespace(
        nodes={7: gene(), 1: gene(), 5: gene(), 0: gene(), 9: gene()},
        connections={(-2, 7): link(), (7, 1): link(), (5, 0): link(), (-1, 9): link(), (-1, 5): link(enabled=False)},
    )
    net = from_genome(genome, SETTINGS)
    assert net.node_names == (-1, -2, 0, 1, 5, 7)
    named = {tuple(net.node_names[node] for node in edge) for edge in net.edges.tolist()}
    assert named == {(-2, 7), (7, 1), (5, 0)}


def test_a_cycle_is_told_by_keys():
    genome = SimpleNamespace(
        nodes={key: gene() for key in (0, 1, 30, 40)},
        connections={(-1, 30): link(), (30, 40): link(), (40, 30): link(), (30, 0): link()},
    )
    with pytest.raises(TopologyError, match=r"cycle: (30 → 40 → 30|40 → 30 → 40); pass steps=k"):
        from_genome(genome, SETTINGS)
    assert from_genome(genome, SETTINGS, steps=3)(torch.zeros(1, 2)).shape == (1, 2)


def test_functions_of_the_users_own():
    config = configuration(activations=("mine", "sigmoid"))
    genome = SimpleNamespace(nodes={0: gene("mine"), 1: gene("sigmoid")}, connections={})
    with pytest.raises(ValueError, match=r"'mine' is no activation function of neat-python's own; .*activations="):
        from_genome(genome, config)
    # The usual trick: neat-python's name, another function.
    config.genome_config.add_activation("sigmoid", lambda z: 1 / (1 + np.exp(-z)))
    with pytest.raises(ValueError, match="'sigmoid' is no activation function of neat-python's own"):
        from_genome(genome, config, activations={"mine": "sin"})
    net = from_genome(genome, config, activations={"mine": "sin", "sigmoid": "sigmoid"})
    torch.testing.assert_close(net(torch.zeros(1, 3)), torch.tensor([[np.sin(0.5), 1 / (1 + np.exp(-0.5))]]).float())
    genome.nodes[1].aggregation = "mode"
    with pytest.raises(ValueError, match=r"'mode' is no aggregation function .*want sum, mean, product"):
        from_genome(genome, config, activations={"mine": "sin", "sigmoid": "sigmoid"})


def test_a_missing_node_is_named():
    genome = SimpleNamespace(nodes={0: gene()}, connections={(8, 0): link()})
    with pytest.raises(ValueError, match=r"the nodes \[1, 8\], which it does not have"):
        from_genome(genome, SETTINGS)


@pytest.mark.parametrize("recurrent", [False, True])
def test_training_is_inherited(recurrent):
    random.seed(3)
    config = configuration(activations=("tanh", "sigmoid"), recurrent=recurrent)
    genome = evolved(config, mutations=20)
    net = from_genome(genome, config, dtype=torch.float64, steps=2 if recurrent else None)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (net(x) - x[:, :2].sin()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    genome_update(genome, net)
    again = from_genome(genome, config, dtype=torch.float64, steps=2 if recurrent else None)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)
    if not recurrent:
        expected = activated(neat.nn.FeedForwardNetwork.create(genome, config), x)
        np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-6, atol=1e-9)


def test_a_node_that_recurrence_holds_at_0_stays_there():
    nodes = {0: gene(aggregation="product"), 1: gene(), 5: gene(bias=2.0)}
    genome = SimpleNamespace(nodes=nodes, connections={(5, 0): link(3.0), (-1, 0): link(), (-2, 1): link()})
    net = from_genome(genome, SETTINGS, steps=2)
    for parameter in net.parameters():
        parameter.grad = None
    net(torch.ones(4, 2)).sum().backward()
    held = net.node_names.index(5) - net.num_inputs
    assert net.bias[held] == 0
    assert net.bias.grad[held] == 0
    genome_update(genome, net)
    assert genome.nodes[5].bias == 2.0


def test_pruned_connections_become_disabled():
    genome = SimpleNamespace(
        nodes={key: gene() for key in (0, 1, 2)},
        connections={(-1, 2): link(), (2, 0): link(), (-2, 0): link(), (-2, 1): link(), (8, 9): link()},
    )
    net = from_genome(genome, SETTINGS)
    keep = net.edges[:, 0] != net.node_names.index(2)
    net.replace_edges(net.edges[keep], net.weight.detach()[keep])
    genome_update(genome, net)
    assert {key for key, connection in genome.connections.items() if not connection.enabled} == {(2, 0)}


def test_values_are_held_within_bounds():
    config = configuration(inputs=2)
    genome = SimpleNamespace(nodes={0: gene(), 1: gene()}, connections={(-1, 0): link(), (-2, 1): link()})
    net = from_genome(genome, config)
    with torch.no_grad():
        net.weight.fill_(9.0), net.bias.fill_(-7.0)
    genome_update(genome, net, config=config)
    assert genome.connections[-1, 0].weight == 5
    assert genome.nodes[1].bias == -5


def test_nothing_is_written_where_something_is_wrong():
    genome = SimpleNamespace(nodes={0: gene(), 1: gene()}, connections={(-1, 0): link(), (-2, 1): link()})
    net = from_genome(genome, SETTINGS)
    with torch.no_grad():
        net.weight.fill_(2.0)
        net.bias[1] = float("nan")
    before = copy.deepcopy(genome)
    with pytest.raises(ValueError, match="bias of 1 is nan; training went wrong, and nothing was written"):
        genome_update(genome, net)
    assert genome == before
    other = SimpleNamespace(nodes={0: gene(), 1: gene()}, connections={(-1, 0): link()})
    with pytest.raises(ValueError, match=r"the genome has no gene for \[\(-2, 1\)\]"):
        genome_update(other, net)
    del net.node_names
    with pytest.raises(ValueError, match="want one that from_genome made"):
        genome_update(genome, net)
