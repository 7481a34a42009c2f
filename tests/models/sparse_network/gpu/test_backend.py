"""The Triton backend: what the host decides, here; the kernels, in processes of their own (check_triton.py)."""

import gc
import os
import subprocess
import sys
import weakref
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network.gpu import backend
from fulgurite.models.sparse_network.gpu.facts import facts_of, recycle_rows
from fulgurite.models.sparse_network.gpu.graphs import LIMIT, launch
from fulgurite.models.sparse_network.topology import compile_topology

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]


def in_a_process(*arguments, cwd=ROOT, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment | variables, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def checks():
    return "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "check_triton.py")


@pytest.mark.slow
def test_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    out = in_a_process(*checks(), TRITON_INTERPRET="1")
    assert " passed" in out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_on_the_device():
    out = in_a_process(*checks())
    assert " passed" in out


@pytest.mark.slow
def test_kernels_compile_without_a_device(tmp_path):
    pytest.importorskip("triton")
    out = in_a_process(str(HERE / "compile_triton.py"), TRITON_CACHE_DIR=str(tmp_path))
    for name in ("forward_threads", "forward_tiles", "forward_level", "weight_gradient", "response_gradient"):
        assert name in out


def chain(length, **options):
    topology, _ = compile_topology(
        [(node, node + 1) for node in range(length)],
        num_inputs=1,
        outputs=[length],
        **{"activations": 1, "aggregations": 0} | options,
    )
    return topology


def arguments(topology, batch=2):
    computed = topology.num_nodes - topology.num_inputs
    x, weight = torch.zeros(batch, topology.num_inputs), torch.zeros(topology.num_edges)
    return x, weight, torch.zeros(computed), torch.zeros(0), topology.packed


def test_kernel_by_shape():
    assert backend.choose_kernel(16_384, 100_000, 100, 1) == "threads"
    assert backend.choose_kernel(16_383, 100_000, 100, 1) == "tiles"
    assert backend.choose_kernel(33, 100_000, 10, 1) == "tiles"
    assert backend.choose_kernel(32, 100_000, 10, 1) == "levels"
    assert backend.choose_kernel(1, 64 * 10, 10, 1) == "levels"
    assert backend.choose_kernel(1, 64 * 10 - 1, 10, 1) == "tiles"
    assert backend.choose_kernel(1, 100_000, 0, 7) == "threads"
    assert backend.choose_kernel(1, 100_000, 10, 7) == "threads"


def test_a_cpu_tensor_is_refused():
    pytest.importorskip("triton")
    code = (
        "import torch; from fulgurite.models.sparse_network.gpu import backend\n"
        "from fulgurite.models.sparse_network.topology import compile_topology\n"
        "topology, _ = compile_topology([(0, 1)], num_inputs=1, outputs=[1], activations=0, aggregations=0)\n"
        "one = torch.ones(1)\n"
        "try: backend.forward(one[:, None], one, one, one[:0], topology.packed, True)\n"
        "except RuntimeError as error: print(error)\n"
    )
    out = in_a_process("-c", code)
    assert out.startswith("backend='triton' got tensors on cpu, expected a CUDA device; move the network")


def test_without_triton_only_asking_for_it_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "fulgurite.models.sparse_network.gpu.launch", raising=False)
    # A test before this one may have imported it, and a package remembers its modules.
    monkeypatch.delattr("fulgurite.models.sparse_network.gpu.launch", raising=False)
    with pytest.raises(ImportError, match="needs the package triton, which is not installed"):
        backend.forward(*arguments(chain(2)), True)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_no_row_is_written_before_its_last_reader(seed):
    rng = np.random.default_rng(seed)
    inputs, computed = rng.integers(1, 5), rng.integers(1, 30)
    nodes = inputs + computed
    edges = [(u, v) for v in range(inputs, nodes) for u in range(v) if rng.random() < 2 / nodes]
    topology, _ = compile_topology(
        np.array(edges, np.int64).reshape(-1, 2),
        num_inputs=inputs,
        outputs=rng.choice(nodes, rng.integers(1, 4)),
        num_nodes=nodes,
        activations=1,
        aggregations=0,
    )
    src, dst, outputs = topology.src.numpy(), topology.dst.numpy(), topology.out_idx.numpy()
    levels = topology.level_ptr.tolist()
    rows, count = recycle_rows(src, dst, outputs, levels, nodes)
    assert rows.max() == count - 1
    holder = np.full(count, -1)
    holder[rows[:inputs]] = np.arange(inputs)
    for start, stop in pairwise(levels):
        into = (dst >= start) & (dst < stop)
        assert (holder[rows[src[into]]] == src[into]).all()
        # A level in one go, in any order: what it writes is nothing that it reads.
        assert not set(rows[start:stop]) & set(rows[src[into]])
        assert len(set(rows[start:stop])) == stop - start
        holder[rows[start:stop]] = np.arange(start, stop)
    assert (holder[rows[outputs]] == outputs).all()


def test_a_chain_needs_two_rows():
    recycled = facts_of(chain(100).packed).recycled
    assert recycled is not None
    assert recycled[2] == 2


def test_facts_are_found_once_and_go_with_their_structure():
    topology = chain(3)
    facts = facts_of(topology.packed)
    assert facts_of(topology.packed) is facts
    topology.act_id.fill_(9)
    topology.packed.add_(0)
    renewed = facts_of(topology.packed)
    assert (facts.acts, renewed.acts) == (1 << 1, 1 << 9)
    gone = weakref.ref(renewed)
    del facts, renewed, topology
    gc.collect()
    assert gone() is None


def test_mean_is_a_scaled_sum():
    facts = facts_of(chain(3, aggregations=[0, 1, 0, 3]).packed)
    assert facts.aggs == 1 | 1 << 3
    assert facts_of(chain(3).packed).scale(torch.zeros(0), torch.float32) is None


class Recorder:
    """Launches that double a tensor, and a stand-in for a graph's capture."""

    def __init__(self):
        self.captures = 0
        self.graphs = OrderedDict()

    def capture(self, run):
        self.captures += 1
        run()  # a capture leaves its mark on the graph's own tensors
        return run

    def __call__(self, x, weight, key=("key",)):
        def launches(tensors):
            tensors["x"].mul_(tensors["weight"])

        launch(self.graphs, key, launches, {"x": x, "weight": weight}, "x", capture=self.capture)
        return x


def test_graphs_take_each_calls_own_tensors():
    multiply = Recorder()
    for number in range(1, 5):
        x, weight = torch.full((3,), float(number)), torch.tensor(float(number))
        assert multiply(x, weight).tolist() == [number**2] * 3
        assert weight == number
    assert multiply.captures == 1


def test_graphs_outlive_inference_mode():
    multiply = Recorder()
    for _ in range(2):
        with torch.inference_mode():
            multiply(torch.ones(2), torch.ones(2))
    assert multiply(torch.ones(2), torch.full((2,), 3.0)).tolist() == [3.0, 3.0]


def test_few_graphs_are_kept():
    multiply = Recorder()
    for size in range(LIMIT + 3):
        multiply(torch.ones(size), torch.ones(size), key=(size,))
    assert [key[0] for key in multiply.graphs] == list(range(3, LIMIT + 3))
