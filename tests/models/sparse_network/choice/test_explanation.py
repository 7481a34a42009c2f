import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from fulgurite.models import SparseNetwork
from fulgurite.models.sparse_network.choice import choice


def network(width=32, **options):
    edges = [(i, width + j) for i in range(width) for j in range(width)]
    return SparseNetwork(edges, num_inputs=width, outputs=range(width, 2 * width), **options)


def test_tells_what_the_network_is_and_what_is_chosen():
    told = network().explain(64)
    assert (told.num_inputs, told.num_outputs, told.num_nodes, told.num_edges) == (32, 32, 64, 1024)
    assert (told.batch_size, told.device, told.dtype, told.setting) == (64, "cpu", "float32", "auto")
    assert (told.widths, told.density, told.threads) == ((32,), 1.0, torch.get_num_threads())
    assert {(cost.backend, cost.training) for cost in told.costs} == {
        (name, training) for name in ("cpu", "triton", "dense", "reference") for training in (False, True)
    }
    for training, chosen in ((False, told.inference), (True, told.training)):
        costs = {cost.backend: cost.estimated for cost in told.costs if cost.training == training}
        assert costs["triton"] == math.inf
        assert chosen == min(costs, key=costs.__getitem__)
    with pytest.raises(FrozenInstanceError):
        told.inference = "dense"


def test_prints_as_a_table():
    lines = str(network(activation="tanh").explain(1000)).splitlines()
    assert lines[0] == (
        "SparseNetwork: 32 inputs, 32 outputs, 64 nodes, 1,024 edges in 1 levels, 32 to 32 wide; density 100 %"
    )
    assert lines[1].startswith("batch of 1,000 on cpu, float32, ")
    rows = {line.split()[0]: line for line in lines[5:9]}
    assert list(rows) == ["cpu", "triton", "dense", "reference"]
    assert rows["triton"].endswith("for CUDA devices")
    assert "µs" in rows["cpu"] or "ms" in rows["cpu"]
    assert lines[-2].startswith("inference runs on ")
    assert lines[-1].startswith("training runs on ")
    assert repr(network().explain(4)) == str(network().explain(4))


def test_timed_times_every_backend_and_auto_goes_by_it(monkeypatch):
    seconds = {"cpu": 3e-3, "dense": 4e-3, "reference": 1.5}
    timings = []

    def measure(runs, device, warm):
        timings.append(sorted(runs))
        for run in (*warm, *runs.values()):
            run()
        return {name: seconds[name] for name in runs}

    monkeypatch.setattr(choice, "measure", measure)
    net = network()
    told = net.explain(64, timed=True)
    assert timings == [["cpu", "dense", "reference"]] * 2
    assert {(cost.backend, cost.timed) for cost in told.costs} == {*seconds.items(), ("triton", None)}
    assert (told.inference, told.inference_reason) == ("cpu", "timed, dense would take 1.33× as long")
    assert "3 ms" in str(told)
    assert "1.5 s" in str(told)
    net(torch.ones(64, 32))
    assert len(timings) == 2, "it is known by now"
    later = net.explain(60)
    assert [cost.timed for cost in later.costs if cost.backend == "cpu"] == [3e-3, 3e-3]


def test_a_pinned_backend_is_told_so():
    told = network(backend="dense").explain(8)
    assert (told.inference, told.training) == ("dense", "dense")
    assert told.inference_reason == "pinned by backend='dense'"
    lone = SparseNetwork([(0, 1)], num_inputs=1, outputs=[1], backend="dense").explain(np.int64(8))
    assert all(math.isfinite(cost.estimated) for cost in lone.costs if cost.backend == "dense")


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_batch_size(batch_size):
    with pytest.raises(ValueError, match="batch_size is"):
        network().explain(batch_size)


def test_times_for_real():
    told = network(width=8).explain(3, timed=True)
    for cost in told.costs:
        if cost.backend in ("cpu", "reference"):
            assert 0 < cost.timed < 60
