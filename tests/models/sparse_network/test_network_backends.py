"""How a network's backend is chosen, timed and changed, as its callers see it."""

import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fulgurite.models import SparseNetwork


def small_network():
    edges = torch.cartesian_prod(torch.arange(4), torch.arange(4, 10))
    return SparseNetwork(edges, num_inputs=4, outputs=range(4, 10), activation="tanh", dtype=torch.float64)


def test_autos_timing_does_not_show_in_the_caller(monkeypatch):
    """Not in what a checkpoint counts, not in gradients or random numbers; and in inference mode it works."""
    timed = []
    monkeypatch.setattr("fulgurite.models.sparse_network.choice.choice.CLOSE", float("inf"))
    monkeypatch.setattr("fulgurite.models.sparse_network.choice.choice.measure", watched(timed))
    torch.manual_seed(0)
    edges = [(i, 16 + j) for i in range(16) for j in range(16)]
    network = SparseNetwork(edges, num_inputs=16, outputs=range(16, 32))
    x = torch.randn(8, 16, requires_grad=True)
    state = torch.get_rng_state()
    y = checkpoint(network, x, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert len(timed) == 1
    gradient = x.grad.clone()
    x.grad = None
    network(x).sum().backward()
    torch.testing.assert_close(x.grad, gradient)
    with torch.inference_mode():
        assert network(torch.randn(8, 16)).shape == (8, 16)
    assert len(timed) == 2, "once in training, once in inference"
    network(x)
    assert len(timed) == 2


def watched(timed):
    from fulgurite.models.sparse_network.choice.backends import measure

    def measuring(runs, device, warm):
        timed.append(sorted(runs))
        return measure(runs, device, warm=warm)

    return measuring


def test_several_python_threads():
    network = small_network()
    x = torch.linspace(-1, 1, 400, dtype=torch.float64).view(100, 4)
    expected = network(x)
    got = [None] * 4

    def run(number):
        for _ in range(20):
            got[number] = network(x)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for y in got:
        torch.testing.assert_close(y, expected)


def test_nothing_is_chosen_where_there_is_no_choice(monkeypatch):
    chosen = []
    monkeypatch.setattr(SparseNetwork, "_choose", lambda self, x, chooser: chosen.append(self) or "dense")
    edges = torch.cartesian_prod(torch.arange(10), torch.arange(10, 20))
    narrow = SparseNetwork(edges[:50], num_inputs=10, outputs=range(10, 15))
    wide = SparseNetwork(edges, num_inputs=10, outputs=range(10, 20))
    for network in (narrow, wide):
        network(torch.ones(1, 10))
    assert chosen == [wide]
    wide.backend = "cpu"
    wide(torch.ones(1, 10))
    wide.backend = "auto"
    wide(torch.ones(1, 10))
    assert chosen == [wide, wide]


def test_backend_can_be_changed():
    network = small_network()
    assert network.backend == "auto"
    network.backend = "dense"
    assert "backend=dense" in repr(network)
    with pytest.raises(ValueError, match="did you mean 'dense'"):
        network.backend = "dens"
    unlike = SparseNetwork([(0, 1)], num_inputs=1, outputs=[1], aggregation="max")
    with pytest.raises(ValueError, match="backend='dense' is for"):
        unlike.backend = "dense"
    assert unlike.backend == "auto"
    assert unlike(torch.ones(1, 1)).shape == (1, 1)
