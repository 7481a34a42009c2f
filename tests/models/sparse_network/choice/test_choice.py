import copy
import math
import pickle
import threading

import numpy as np
import pytest
import torch

from fulgurite.models import SparseNetwork
from fulgurite.models.sparse_network.choice import backends, choice
from fulgurite.models.sparse_network.choice.choice import can_time


def layered(width=64, layers=2, density=1.0, **options):
    random = np.random.default_rng(0)
    edges = [
        (layer * width + i, (layer + 1) * width + j)
        for layer in range(layers)
        for i in range(width)
        for j in range(width)
        if random.random() < density
    ]
    last = layers * width
    return SparseNetwork(edges, num_inputs=width, outputs=range(last, last + width), num_nodes=last + width, **options)


class Stopwatch:
    """Stands in for the clock: what each backend is to take, and a note of every timing."""

    def __init__(self, monkeypatch, **seconds):
        self.seconds, self.timings = seconds, []
        monkeypatch.setattr(choice, "measure", self)

    def __call__(self, runs, device, warm=()):
        self.timings.append(sorted(runs))
        for run in (*warm, *runs.values()):
            run()
        return {name: self.seconds[name] for name in runs}


def test_close_estimates_are_timed_once_for_each_situation(monkeypatch):
    monkeypatch.setattr(choice, "CLOSE", math.inf)
    clock = Stopwatch(monkeypatch, cpu=2.0, dense=1.0)
    network = layered()
    x = torch.ones(100, 64)
    for _ in range(3):
        network(x)
    assert clock.timings == [["cpu", "dense"]]
    network(x[:70])  # between the same powers of two
    assert len(clock.timings) == 1
    network(x[:60])
    assert len(clock.timings) == 2
    with torch.no_grad():
        network(x)
        network(x)
    assert len(clock.timings) == 3, "inference is another situation"
    network.requires_grad_(False)
    network(x)
    assert len(clock.timings) == 3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        network(x)
        assert len(clock.timings) == 4
    finally:
        torch.set_num_threads(threads)
    network(x[:0])
    assert len(clock.timings) == 4
    network.double()(x.double())
    assert len(clock.timings) == 5
    assert network.explain(100).inference == "dense"


@pytest.mark.parametrize(("seconds", "chosen"), [((2.0, 1.0), "dense"), ((1.0, 2.0), "cpu"), ((1.0, math.inf), "cpu")])
def test_the_quicker_is_used(monkeypatch, seconds, chosen):
    monkeypatch.setattr(choice, "CLOSE", math.inf)
    Stopwatch(monkeypatch, cpu=seconds[0], dense=seconds[1])
    network = layered()
    used = []
    original = backends.evaluate_by

    def noting(backend, *args):
        used.append(backend)
        return original(backend, *args)

    monkeypatch.setattr("fulgurite.models.sparse_network.network.evaluate_by", noting)
    network(torch.ones(32, 64))
    assert used == ["cpu", "dense"] * 2 + [chosen]
    told = network.explain(32)
    assert (told.training, told.setting) == (chosen, "auto")
    assert told.training_reason.startswith("timed, ")


def test_far_estimates_are_believed(monkeypatch):
    clock = Stopwatch(monkeypatch)
    monkeypatch.setattr(choice, "CLOSE", 1.0)
    network = layered()
    network(torch.ones(32, 64))
    network.backend = "dense"
    network(torch.ones(32, 64))
    assert clock.timings == []


def test_nothing_is_timed_while_a_program_is_recorded(monkeypatch):
    monkeypatch.setattr(choice, "CLOSE", math.inf)
    clock = Stopwatch(monkeypatch, cpu=2.0, dense=1.0)
    network = layered()
    x = torch.ones(32, 64)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for batch in (32, 1, 7, 2000):
        assert compiled(x[:1].expand(batch, 64)).shape == (batch, 64)
    torch._dynamo.reset()
    exported = torch.export.export(network.requires_grad_(False), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    pinned = copy.deepcopy(network)
    pinned.backend = "cpu"
    torch.testing.assert_close(exported.module()(x[:5]), pinned(x[:5]))
    network.requires_grad_(True)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert network(mode.from_tensor(x)).shape == (32, 64)
    seen = []
    torch.func.grad(lambda value: seen.append(can_time(value)) or value.sum())(x)
    assert seen == [False]
    assert can_time(x)
    assert clock.timings == []
    network(x)
    assert len(clock.timings) == 1


def test_compiled_programs_follow_the_estimates():
    chooser = layered(width=128).to("cpu")._chooser
    for training in (False, True):
        limits = [limit for limit, _ in chooser.untimed[training]]
        assert limits == sorted(set(limits))
        for batch in (1, 16, 4096):
            costs = chooser.estimates(batch, training=training)
            expected = min(costs, key=costs.__getitem__)
            assert next(name for limit, name in chooser.untimed[training] if batch <= limit) == expected


def test_where_dense_does_not_come_into_question(monkeypatch):
    def refusal(network):
        assert network._chooser.candidates == ("cpu",)
        told = network.explain(8)
        assert next(cost for cost in told.costs if cost.backend == "dense").estimated == math.inf
        return told.inference_reason

    assert "some nodes do not sum" in refusal(layered(aggregation={64: "max"}))
    assert "fewer than 64 edges a level" in refusal(layered(width=4))
    monkeypatch.setattr(backends, "_LEVELS", 1)
    assert "more than 1 levels" in refusal(layered())
    monkeypatch.undo()
    monkeypatch.setattr(backends, "DENSE_BYTES", 2 * 64 * 64 * 4)
    assert layered()._chooser.candidates == ("cpu", "dense")
    monkeypatch.setattr(backends, "DENSE_BYTES", 2 * 64 * 64 * 4 - 1)
    assert "its matrices would take" in refusal(layered())


def test_several_threads_time_once(monkeypatch):
    monkeypatch.setattr(choice, "CLOSE", math.inf)
    clock = Stopwatch(monkeypatch, cpu=2.0, dense=1.0)
    network = layered()
    x = torch.ones(32, 64)
    barrier = threading.Barrier(4)

    def run():
        barrier.wait()
        network(x)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clock.timings) == 1


def test_decisions_live_as_long_as_the_work_is_the_same(monkeypatch):
    monkeypatch.setattr(choice, "CLOSE", math.inf)
    clock = Stopwatch(monkeypatch, cpu=2.0, dense=1.0)
    network = layered()
    x = torch.ones(32, 64)
    network(x)
    copy.deepcopy(network)(x)
    assert len(clock.timings) == 1
    read = pickle.loads(pickle.dumps(network))
    read(x)
    assert len(clock.timings) == 2, "it may be read on another machine"
    network(x)
    read(x)
    assert len(clock.timings) == 2
    moved = network.edges.clone()
    moved[-1, 0] = 0  # from an input into the last layer
    network.replace_edges(moved, network.weight)
    network(x)
    assert len(clock.timings) == 2, "an edge more here and one less there costs the same"
    network.replace_edges(network.edges[1:], network.weight[1:])
    network(x)
    assert len(clock.timings) == 3


def test_large_batches_are_timed_on_a_part(monkeypatch):
    samples = []

    def watch(runs, device, warm=()):
        return dict.fromkeys(runs, 1.0)

    monkeypatch.setattr(choice, "measure", watch)

    def trial(name, count):
        samples.append(count)
        return lambda: None

    chooser = layered(width=256)._chooser
    decision = chooser.time(10**7, training=True, trial=trial, backends=("cpu", "dense"))
    assert samples[:2] == [64, 64], "to warm up"
    assert samples[2] == samples[3]
    assert 1024 <= samples[2] < 10**6
    assert decision.timed["cpu"] == pytest.approx(1e7 / samples[2])
