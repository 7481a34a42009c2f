import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.data import DataLoader, Dataset

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.choice.reference import evaluate
from fulgurite.models.sparse_network.cpu import schedule as cpu_schedule
from fulgurite.models.sparse_network.cpu import threads
from fulgurite.models.sparse_network.operator import sparse_network
from fulgurite.models.sparse_network.topology import compile_topology

EDGES = [(0, 3), (1, 3), (2, 4), (0, 4), (3, 5), (4, 5), (1, 5), (3, 6), (5, 6), (2, 7), (5, 7), (6, 7)]


def network(*, activation="tanh", aggregation="sum", dtype=torch.float64, batch=5, response=True):
    topology, _ = compile_topology(
        EDGES,
        num_inputs=3,
        outputs=[7, 3, 5, 1],
        activations=ACTIVATIONS[activation].id,
        aggregations=AGGREGATIONS[aggregation].id,
    )
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(batch, 3, generator=generator, dtype=dtype) + 0.1
    weight = torch.rand(len(EDGES), generator=generator, dtype=dtype) / 2 + 0.1
    bias = torch.rand(5, generator=generator, dtype=dtype) / 4 + 0.05
    r = torch.rand(5, generator=generator, dtype=dtype) / 2 + 0.5 if response else torch.empty(0, dtype=dtype)
    return topology, [tensor.requires_grad_() for tensor in (x, weight, bias, r)]


def facts(topology):
    return topology.packed, topology.num_nodes, topology.num_outputs


def operator(topology, keep=True):
    def function(x, weight, bias, response):
        return torch.ops.fulgurite.sparse_network(x, weight, bias, response, *facts(topology), keep, "cpu")[0]

    return function


# Between 0.05 and about 2, no activation has a kink but these, which are tried elsewhere.
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_gradcheck_of_every_activation(name):
    topology, tensors = network(activation=name)
    if name in ("hardtanh", "neat_clamped", "neat_hat"):
        tensors = [(tensor.detach() / 3).requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(operator(topology), tensors)


@pytest.mark.parametrize("name", list(AGGREGATIONS))
@pytest.mark.parametrize("response", [True, False])
def test_gradcheck_of_every_aggregation(name, response):
    topology, tensors = network(aggregation=name, response=response)
    assert torch.autograd.gradcheck(operator(topology), tensors)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (0, 3), (1, 2)])
def test_gradients_asked_for_alone_are_those_of_all(needed):
    topology, tensors = network(aggregation="mean")
    full = torch.autograd.grad(operator(topology)(*tensors).sum(), tensors)
    some = [tensor.detach().requires_grad_(index in needed) for index, tensor in enumerate(tensors)]
    operator(topology)(*some).sum().backward()
    for index, (tensor, expected) in enumerate(zip(some, full, strict=True)):
        assert torch.equal(tensor.grad, expected) if index in needed else tensor.grad is None


# opcheck itself looks at gradients of copies of its arguments.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("response", [True, False])
def test_opcheck(dtype, keep, response):
    topology, tensors = network(dtype=dtype, response=response)
    if not keep:
        tensors = [tensor.detach() for tensor in tensors]
    elif not response:
        tensors[3] = tensors[3].detach()
    torch.library.opcheck(torch.ops.fulgurite.sparse_network.default, (*tensors, *facts(topology), keep, "cpu"))


@pytest.mark.parametrize("needs", [(True, True, True, True), (False, True, False, False), (True, False, False, True)])
def test_opcheck_of_the_companion(needs):
    topology, tensors = network(batch=9)
    x, weight, bias, response = [tensor.detach() for tensor in tensors]
    y, values = torch.ops.fulgurite.sparse_network(x, weight, bias, response, *facts(topology), True, "cpu")
    arguments = (torch.ones_like(y), values, weight, bias, response, *facts(topology)[:2], *needs, "cpu")
    torch.library.opcheck(torch.ops.fulgurite.sparse_network_backward.default, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic):
    torch._dynamo.reset()
    topology, (_, weight, bias, _) = network(response=False)

    def function(x, weight, bias):
        return sparse_network(x * 2, weight, bias, None, topology).square().mean()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch in (5, 12, 70):
        x = torch.rand(batch, 3, dtype=torch.float64).requires_grad_()
        results = []
        for run in (function, compiled):
            loss = run(x, weight, bias)
            results.append([loss, *torch.autograd.grad(loss, (x, weight, bias))])
        for expected, got in zip(*results, strict=True):
            assert torch.equal(expected, got)
        with torch.no_grad():
            assert torch.equal(function(x, weight, bias), compiled(x, weight, bias))


def test_compiled_code_finds_the_schedule_again(monkeypatch):
    topology, (x, weight, bias, _) = network(response=False)
    made = []
    make = cpu_schedule.make_schedule
    monkeypatch.setattr(cpu_schedule, "make_schedule", lambda structure: made.append(1) or make(structure))
    compiled = torch.compile(
        lambda x: sparse_network(x, weight, bias, None, topology), fullgraph=True, backend="aot_eager"
    )
    for _ in range(4):
        compiled(x).sum().backward()
        sparse_network(x, weight, bias, None, topology)
    assert len(made) == 1


def test_a_batch_of_nothing():
    topology, (_, weight, bias, response) = network()
    x = torch.empty(0, 3, dtype=torch.float64, requires_grad=True)
    y = sparse_network(x, weight, bias, response, topology)
    assert y.shape == (0, 4)
    y.sum().backward()
    assert x.grad.shape == (0, 3)
    assert weight.grad.tolist() == [0.0] * len(EDGES)
    assert bias.grad.tolist() == response.grad.tolist() == [0.0] * 5


def test_a_second_derivative_is_refused_with_what_to_do():
    topology, (x, *rest) = network()
    y = sparse_network(x, *rest, topology)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r'differentiable once.*backend="reference"'):
        gradient.sum().backward()


# Forward mode compiles some of torch's own derivatives when it is first used.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
        lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
        lambda f, x: torch.func.vmap(lambda row: f(row[None]))(x),
        lambda f, x: torch.func.jacrev(f)(x),
    ],
    ids=["jvp", "grad", "vmap", "jacrev"],
)
def test_transforms_are_refused_with_what_to_do(transform):
    topology, tensors = network()
    x, *rest = [tensor.detach() for tensor in tensors]
    transform(lambda x: evaluate(topology, x, *rest), x)
    with pytest.raises(RuntimeError, match=r"torch.func and forward-mode .* need backend='dense' or 'reference'"):
        transform(lambda x: sparse_network(x, *rest, topology), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
@pytest.mark.parametrize("place", range(4))
def test_forward_mode_is_refused_where_it_asks_for_this_derivative(place):
    topology, tensors = network()
    given = [tensor.detach() for tensor in tensors]
    expected = sparse_network(*given, topology)
    with forward_ad.dual_level():
        assert torch.equal(sparse_network(*given, topology), expected)
        given[place] = forward_ad.make_dual(given[place], torch.ones_like(given[place]))
        with pytest.raises(RuntimeError, match="forward-mode derivatives need backend='dense'"):
            sparse_network(*given, topology)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
def test_forward_mode_through_the_backward_pass_is_refused_too():
    topology, (x, *rest) = network()
    y = sparse_network(x, *rest, topology)
    with forward_ad.dual_level():
        upstream = forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y))
        with pytest.raises(RuntimeError, match="forward-mode derivatives need"):
            torch.autograd.grad(y, x, upstream)


def test_backward_without_keeping_is_refused():
    topology, tensors = network()
    with pytest.raises(RuntimeError, match="keep=False"):
        operator(topology, keep=False)(*tensors).sum().backward()


def test_gradients_of_views_and_expanded_tensors():
    topology, (x, weight, bias, response) = network()
    wide = torch.stack([x, x], dim=2).detach()[:, :, 1]
    assert not wide.is_contiguous()
    assert torch.equal(
        sparse_network(wide, weight, bias, response, topology), sparse_network(x, weight, bias, response, topology)
    )
    y = sparse_network(x, weight, bias, response, topology)
    (summed,) = torch.autograd.grad(y.sum(), weight, retain_graph=True)
    (ones,) = torch.autograd.grad(y, weight, torch.ones_like(y))
    assert torch.equal(summed, ones)


def test_autocast_computes_in_float32():
    topology, tensors = network(dtype=torch.float32)
    expected = sparse_network(*tensors, topology)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = sparse_network(*tensors, topology)
        half = sparse_network(tensors[0].bfloat16(), *tensors[1:], topology)
    assert torch.equal(y, expected)
    assert half.dtype == torch.float32
    half.sum().backward()
    assert tensors[1].grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (5, 4)}, r"x has shape \(5, 4\), expected \(B, 3\)"),
        ({"x": (3,)}, r"x has shape \(3,\), expected \(B, 3\)"),
        ({"weight": (2,)}, r"weight has shape \(2,\), expected \(12,\)"),
        ({"bias": (8,)}, r"bias has shape \(8,\), expected \(5,\)"),
        ({"response": (1,)}, r"response has shape \(1,\), expected \(5,\)"),
    ],
)
def test_wrong_shapes(changes, message):
    topology, tensors = network()
    given = dict(zip(("x", "weight", "bias", "response"), tensors, strict=True))
    given |= {name: torch.zeros(shape, dtype=torch.float64) for name, shape in changes.items()}
    with pytest.raises(ValueError, match=message):
        sparse_network(**given, topology=topology)


def test_wrong_types_and_backends():
    topology, (x, *rest) = network()
    with pytest.raises(ValueError, match=r"x torch.float32, weight torch.float64.*float64 everywhere"):
        sparse_network(x.float(), *rest, topology)
    with pytest.raises(ValueError, match="float16"):
        sparse_network(x.half(), *(tensor.half() for tensor in rest), topology)
    with pytest.raises(ValueError, match=r"no kernels for backend 'cuda'"):
        sparse_network(x, *rest, topology, backend="cuda")


class Networked(Dataset):
    """Evaluates, and differentiates, a network for each item."""

    def __init__(self):
        self.topology, tensors = network()
        self.tensors = [tensor.detach() for tensor in tensors]

    def __len__(self):
        return 4

    def __getitem__(self, index):
        x, *rest = self.tensors
        x = (x + index).requires_grad_()
        y = sparse_network(x, *rest, self.topology)
        y.sum().backward()
        return torch.cat([y.detach().flatten(), x.grad.flatten()])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_workers_of_a_data_loader():
    data = Networked()
    expected = torch.stack([data[index] for index in range(4)])
    loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="fork")
    assert torch.equal(next(iter(loader)), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_with_threads(monkeypatch):
    monkeypatch.setattr(threads, "INLINE_BELOW", 0)
    topology, (x, *rest) = network(batch=300, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        expected = sparse_network(x, *rest, topology).detach()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                threads_before = threading.active_count()
                same = torch.equal(sparse_network(x, *rest, topology).detach(), expected)
                os.write(writing, b"same" if same and threading.active_count() > threads_before else b"else")
            finally:
                os._exit(0)
        os.close(writing)
        assert os.read(reading, 4) == b"same"
        os.close(reading)
        os.waitpid(child, 0)
    finally:
        torch.set_num_threads(before)
        threads.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_forked_child_waits_for_none_of_torchs_threads(contiguous):
    """Those, which fill and copy tensors of more than 32,768 numbers, stay with the parent."""
    sources = 300
    topology, _ = compile_topology(
        np.stack(np.meshgrid(np.arange(sources), np.arange(sources, 450), indexing="ij"), axis=-1).reshape(-1, 2),
        num_inputs=sources,
        outputs=[sources],
        activations=9,
        aggregations=0,
    )
    assert topology.num_edges > 40_000
    x, bias, response = torch.linspace(-1, 1, 2 * sources).view(2, -1), torch.zeros(150), torch.ones(150)
    weight = torch.linspace(-1, 1, 2 * topology.num_edges)
    weight = weight[: topology.num_edges] if contiguous else weight[::2]
    tensors = [tensor.requires_grad_() for tensor in (x, weight, bias, response)]

    def results():
        y = sparse_network(*tensors, topology)
        return b"".join(tensor.detach().numpy().tobytes() for tensor in (y, *torch.autograd.grad(y.sum(), tensors)))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.zeros(200_000).fill_(1)  # torch has its threads from here on
        expected = results()
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if results() == expected else 1)
            finally:
                os._exit(2)
        deadline = time.monotonic() + 30
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        assert os.waitstatus_to_exitcode(ended[1]) == 0
    finally:
        torch.set_num_threads(before)
        threads.close()


def test_several_python_threads_at_once(monkeypatch):
    monkeypatch.setattr(threads, "INLINE_BELOW", 0)
    before = torch.get_num_threads()
    networks = [network(batch=50 * (k + 1), dtype=torch.float32) for k in range(4)]
    expected = [sparse_network(*tensors, topology).detach() for topology, tensors in networks]
    wrong = []

    def work(k):
        topology, tensors = networks[k]
        torch.set_num_threads(3)
        for _ in range(20):
            y = sparse_network(*tensors, topology)
            if not torch.equal(y, expected[k]):
                wrong.append(k)
            torch.autograd.grad(y.sum(), tensors)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    torch.set_num_threads(before)
    threads.close()
    assert not wrong


def test_repeats_bit_by_bit():
    topology, tensors = network(batch=200, dtype=torch.float32)
    runs = []
    for _ in range(3):
        y = sparse_network(*tensors, topology)
        runs.append([y, *torch.autograd.grad(y.sum(), tensors)])
    for other in runs[1:]:
        assert all(torch.equal(first, again) for first, again in zip(runs[0], other, strict=True))


@pytest.mark.slow
def test_where_no_code_can_be_kept(tmp_path):
    """Neither the package's folder nor the user's cache can be written to: kernels are compiled in each process."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = (
        "import numba.core.caching as caching, pathlib\n"
        "def refuse(self): raise OSError('read-only')\n"
        "caching._CacheLocator.ensure_cache_path = refuse\n"
        "import torch\n"
        "from fulgurite.models.sparse_network.operator import sparse_network\n"
        "from fulgurite.models.sparse_network.topology import compile_topology\n"
        "t, _ = compile_topology([(0, 1)], num_inputs=1, outputs=[1], activations=0, aggregations=0)\n"
        "print(sparse_network(torch.ones(1, 1), torch.ones(1), torch.ones(1), None, t).item())\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(blocked)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2.0"


def test_agrees_with_the_reference():
    topology, tensors = network()
    torch.testing.assert_close(sparse_network(*tensors, topology), evaluate(topology, *tensors))
