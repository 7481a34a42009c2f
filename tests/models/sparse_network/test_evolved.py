import random
import sys

import pytest
import torch
from torch.nn import functional

from fulgurite.models.sparse_network import SparseNetwork
from fulgurite.models.sparse_network.evolved import evolve_classifier, losses

neat = pytest.importorskip("neat")


def task(count=60, seed=0):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] + x[:, 1] > 0).long()


def test_evolution_improves_and_converts_what_neat_evaluates():
    x, labels = task()
    found = evolve_classifier(x, labels, num_classes=2, population=40, generations=12, seed=3)
    assert len(found.fitness) == 12
    assert max(found.fitness) > found.fitness[0] + 0.05
    assert found.genome.fitness == max(found.fitness)
    oracle = neat.nn.FeedForwardNetwork.create(found.genome, found.config)
    wanted = torch.tensor([oracle.activate(row) for row in x.tolist()])
    torch.testing.assert_close(found.network(x).detach(), wanted, rtol=1e-5, atol=1e-5)
    assert functional.cross_entropy(wanted, labels).item() == pytest.approx(-found.genome.fitness, rel=1e-4)


def test_equal_seeds_evolve_alike_and_leave_the_global_generators_alone():
    x, labels = task(30)
    random.seed(5)
    before, torch_before = random.getstate(), torch.get_rng_state()
    first, again, other = (
        evolve_classifier(x, labels, num_classes=2, population=20, generations=3, seed=seed) for seed in (1, 1, 2)
    )
    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert first.fitness == again.fitness != other.fitness
    assert torch.equal(first.network.edges, again.network.edges)
    assert torch.equal(first.network.weight, again.network.weight)


def test_outputs_stay_logits():
    x, labels = task(30)
    found = evolve_classifier(x, labels, num_classes=3, population=20, generations=5)
    assert all(found.genome.nodes[key].activation == "identity" for key in range(3))


def test_losses_are_those_of_each_network():
    torch.manual_seed(0)
    networks = [
        SparseNetwork([[0, 4], [1, 4], [4, 5], [2, 6]], num_inputs=4, outputs=[5, 6], activation="tanh"),
        SparseNetwork([[3, 4], [0, 5]], num_inputs=4, outputs=[4, 5], activation="identity"),
    ]
    x, labels = task(10)
    wanted = torch.stack([functional.cross_entropy(network(x), labels) for network in networks])
    torch.testing.assert_close(losses(networks, x, labels), wanted)


def test_a_network_that_overflows_is_the_worst_and_no_error():
    networks = [
        SparseNetwork(
            [[0, 4], [0, 5]], num_inputs=4, outputs=[4, 5], weight=torch.tensor([size, -size]), activation="exp"
        )
        for size in (1e30, 0.1)
    ]
    x, labels = task(10)
    bad, good = losses(networks, x, labels).tolist()
    assert bad == 1e9
    assert good < 10


def test_progress_is_told():
    x, labels = task(10)
    told = []
    evolve_classifier(x, labels, num_classes=2, population=10, generations=2, progress=lambda *what: told.append(what))
    assert [number for number, _ in told] == [1, 2]


def test_bad_options_and_a_missing_package(monkeypatch):
    x, labels = task(10)
    with pytest.raises(ValueError, match="population=2, generations=30"):
        evolve_classifier(x, labels, num_classes=2, population=2)
    with pytest.raises(ValueError, match="connected=2"):
        evolve_classifier(x, labels, num_classes=2, connected=2)
    monkeypatch.setitem(sys.modules, "neat", None)
    with pytest.raises(ImportError, match=r'pip install "fulgurite\[neat\]"'):
        evolve_classifier(x, labels, num_classes=2)
