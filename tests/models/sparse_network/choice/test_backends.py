import math
import threading

import pytest
import torch

from fulgurite.models.sparse_network.choice import backends
from fulgurite.models.sparse_network.choice.backends import (
    consider_dense,
    evaluate_by,
    matching,
    measure,
    sparse_backend,
)
from fulgurite.models.sparse_network.topology import compile_topology

CPU = torch.device("cpu")


def layer(width=64, **options):
    edges = torch.cartesian_prod(torch.arange(width), torch.arange(width, 2 * width))
    options = {"activations": 1, "aggregations": 0, "outputs": range(width, 2 * width)} | options
    return compile_topology(edges, num_inputs=width, **options)[0]


@pytest.mark.parametrize("backend", ["cpu", "dense", "reference"])
def test_all_compute_the_same(backend):
    topology = layer(8, activations=9)
    x, weight, bias = torch.linspace(-1, 1, 24).view(3, 8), torch.linspace(-1, 1, 64), torch.linspace(0, 1, 8)
    expected = torch.tanh(x @ weight.view(8, 8).T + bias)
    with torch.autocast("cpu", torch.bfloat16):
        got = evaluate_by(backend, topology, None, x, weight, bias, None)
    torch.testing.assert_close(got, expected)


def test_an_unknown_backend_computes_nothing():
    x, weight, bias = torch.zeros(3, 8), torch.zeros(64), torch.zeros(8)
    for backend in ("gpu", "auto"):
        with pytest.raises(ValueError, match=f"no backend '{backend}' evaluates a network; there are cpu, triton"):
            evaluate_by(backend, layer(8), None, x, weight, bias, None)


def test_dense_is_considered_where_it_may_be_worth_something():
    plan = consider_dense(layer(), 4).plan
    assert plan is not None
    assert plan.size == 64 * 64
    for topology, reason in (
        (layer(aggregations=1), "some nodes do not sum"),
        (layer(4), "fewer than 64 edges a level"),
        (
            compile_topology([], num_inputs=3, outputs=[2, 0], num_nodes=3, activations=1, aggregations=0)[0],
            "fewer than 64 edges a level",
        ),
        (layer(2, groups=[0, 0, 0, 1], outputs=[2, 3]), None),
    ):
        dense = consider_dense(topology, 4)
        assert dense.plan is None
        assert reason is None or dense.refusal == reason


def test_a_device_has_one_sparse_backend_or_none():
    assert sparse_backend(CPU) == "cpu"
    assert sparse_backend(torch.device("cuda")) == "triton"
    assert sparse_backend(torch.device("meta")) is None


def test_what_does_not_match():
    single = torch.zeros(3)
    assert matching(single, torch.zeros(2), "auto") is single
    with pytest.raises(ValueError, match=r"the parameters are torch.bfloat16; .*float32 and float64"):
        matching(single, torch.zeros(2, dtype=torch.bfloat16), "auto")
    with pytest.raises(ValueError, match=r"x is torch.float64 .* pass x.to\(torch.float32\)"):
        matching(single.double(), torch.zeros(2), "auto")
    with pytest.raises(ValueError, match="backend='cpu' cannot run on meta"):
        matching(single.to("meta"), torch.zeros(2, device="meta"), "cpu")
    with torch.autocast("cpu"):
        assert matching(single.half(), torch.zeros(2), "auto").dtype == torch.float32
        with pytest.raises(ValueError, match=r"x is torch.int64"):
            matching(single.long(), torch.zeros(2), "auto")


def test_measuring():
    calls = []

    def memory():
        calls.append("memory")
        raise torch.OutOfMemoryError

    runs = {"quick": lambda: calls.append("quick"), "memory": memory}
    seconds = measure(runs, CPU, warm=[lambda: calls.append("warm")])
    assert 0 < seconds["quick"] < 1
    assert seconds["memory"] == math.inf
    assert calls == ["warm", *["quick", "memory"] * 2], "a clear lead is seen in the second round"


def test_equals_are_measured_several_times(monkeypatch):
    monkeypatch.setattr(backends, "_APART", math.inf)
    calls = []
    measure({"one": lambda: calls.append(1), "two": lambda: calls.append(2)}, CPU)
    assert calls == [1, 2] * backends._ROUNDS


def test_measuring_happens_apart_and_fails_here():
    seen = []

    def fails():
        seen.append((threading.current_thread().name, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        raise ZeroDivisionError

    with torch.no_grad(), torch.autocast("cpu"), pytest.raises(ZeroDivisionError):
        measure({"fails": fails}, CPU)
    assert seen == [("fulgurite-timing", True, False)]
