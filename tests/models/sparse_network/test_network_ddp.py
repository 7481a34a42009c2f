"""SparseNetwork over two processes."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fulgurite.models import SparseNetwork

pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings("ignore:.*use of fork")]

EDGES = [(i, j) for i in range(4) for j in range(4, 12) if (i + j) % 3] + [(j, 12) for j in range(4, 12)]
OTHER_EDGES = [*EDGES[1:], (4, 11)]
STEPS = 6


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(STEPS, 8, 4, generator=generator), torch.randn(STEPS, 8, 1, generator=generator)


def network(backend, steps):
    generator = torch.Generator().manual_seed(1)
    return SparseNetwork(
        EDGES, num_inputs=4, outputs=[12], activation="tanh", backend=backend, steps=steps, generator=generator
    )


def train(net, module, rank, ranks):
    """Train on every ranks-th sample; halfway, an edge is replaced."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step, (x, target) in enumerate(zip(*data(), strict=True)):
        if step == STEPS // 2:
            net.replace_edges(OTHER_EDGES, torch.linspace(-1, 1, len(OTHER_EDGES)))
        optimizer.zero_grad()
        (module(x[rank::ranks]) - target[rank::ranks]).square().mean().backward()
        optimizer.step()
    return net.state_dict()


def work(rank, folder, backend, steps):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    net = network(backend, steps)
    state = train(net, DistributedDataParallel(net), rank, 2)
    torch.save(state, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("backend", "steps"), [("auto", None), ("cpu", None), ("dense", None), ("cpu", 3)])
def test_two_processes_train_as_one(tmp_path, backend, steps):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, tmp_path, backend, steps)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    alone = network(backend, steps)
    expected = train(alone, alone, 0, 1)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)
