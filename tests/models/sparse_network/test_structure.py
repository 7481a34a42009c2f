import copy
import pickle

import numpy as np
import pytest
import torch

from fulgurite.models.sparse_network.structure import Topology, unpack
from fulgurite.models.sparse_network.topology import compile_topology

TENSORS = ["ptr", "src", "dst", "optr", "odst", "oeid", "act_id", "agg_id", "out_idx", "group_ptr", "level_ptr"]


def compiled(edges, outputs, *, num_inputs=2, **options):
    return compile_topology(
        edges, **{"num_inputs": num_inputs, "outputs": outputs, "activations": 1, "aggregations": 0, **options}
    )[0]


def layered(width, layers, fan_in):
    """Every node of a layer reads fan_in nodes of the one before."""
    edges = [
        (layer * width + (i + k) % width, (layer + 1) * width + i)
        for layer in range(layers)
        for i in range(width)
        for k in range(fan_in)
    ]
    return compiled(edges, list(range(layers * width, (layers + 1) * width)), num_inputs=width)


def test_types_and_shapes_are_what_kernels_expect():
    topology = compiled([(0, 2), (1, 3), (2, 4), (3, 4)], [4, 0, 4], num_nodes=6)
    shapes = {name: (tuple(getattr(topology, name).shape), getattr(topology, name).dtype) for name in TENSORS}
    whole, half = torch.int64, torch.int32
    assert shapes == {
        "ptr": ((5,), whole),
        "src": ((4,), half),
        "dst": ((4,), half),
        "optr": ((7,), whole),
        "odst": ((4,), half),
        "oeid": ((4,), half),
        "act_id": ((4,), half),
        "agg_id": ((4,), half),
        "out_idx": ((3,), whole),
        "group_ptr": ((2,), whole),
        "level_ptr": ((3,), whole),
    }
    assert (topology.node_ids.dtype, topology.level.dtype) == (whole, half)


def test_packed_holds_all_that_kernels_read():
    topology = compiled([(0, 2), (1, 3), (2, 4), (3, 4)], [4, 0, 4], num_nodes=6)
    found = unpack(topology.packed)
    assert list(found) == TENSORS
    assert all(tensor.dtype == getattr(topology, name).dtype for name, tensor in found.items())
    assert all(tensor.equal(getattr(topology, name)) for name, tensor in found.items())
    assert topology.packed.dtype == torch.int32
    for name in ("src", "dst", "odst", "oeid", "act_id", "agg_id"):
        views = found[name], getattr(topology, name)
        assert {view.untyped_storage().data_ptr() for view in views} == {topology.packed.untyped_storage().data_ptr()}
        assert (views[0].data_ptr() - topology.packed.data_ptr()) % 16 == 0


def test_facts_of_a_layered_network():
    topology = layered(8, 5, 2)
    assert (topology.depth, topology.num_outputs, topology.num_edges) == (5, 8, 80)
    assert topology.fan_in.tolist() == [2] * 40
    assert topology.dense_size == 5 * 64
    assert topology.density == pytest.approx(2 / 8)


def test_a_level_reads_only_what_it_needs():
    # Node 3 (level 2) reads an input and node 2; node 2 and the orphan 4 are level 1 and read one input.
    topology = compiled([(0, 2), (1, 3), (2, 3)], [3], num_nodes=5)
    assert topology.dense_size == 1 * 2 + 2 * 1
    assert topology.density == pytest.approx(3 / 4)
    assert compiled([], [1]).density == 1.0
    assert compiled([], [1]).depth == 0


def test_groups_have_matrices_of_their_own():
    edges = [(0, 2), (1, 2), (0, 3), (1, 3)]
    assert compiled(edges, [2, 3]).dense_size == 4
    assert compiled(edges, [2, 3], groups=[0, 0, 0, 1]).dense_size == 4
    apart = [(0, 2), (1, 3)]
    assert compiled(apart, [2, 3]).dense_size == 4
    assert compiled(apart, [2, 3], groups=[0, 0, 1, 0]).dense_size == 2
    assert compiled(apart, [2, 3], groups=[0, 0, 0, 3]).dense_size == 2


def test_digest_tells_what_is_computed():
    edges = [(0, 2), (1, 2), (2, 3)]
    first = compiled(edges, [3])
    assert first.digest() == compiled(edges[::-1], np.array([3])).digest()
    assert len(first.digest()) == 64
    others = [
        compiled([(0, 2), (1, 2), (1, 3)], [3]),
        compiled(edges, [2]),
        compiled(edges, [3, 3]),
        compiled(edges, [3], num_nodes=5),
        compiled(edges, [3], activations=9),
        compiled(edges, [3], aggregations=[0, 0, 3, 0]),
        compiled([(0, 3), (1, 3), (3, 2)], [2]),
        compiled([(0, 2), (0, 2), (1, 2), (2, 3)], [3], duplicates="sum", activations=0),
    ]
    assert len({first.digest(), *(other.digest() for other in others)}) == len(others) + 1


def test_digest_is_the_same_in_every_release():
    """A hash that was written down must still mean the same."""
    digest = compiled([(0, 2), (1, 2), (2, 3)], [3]).digest()
    assert digest == "2db036a1032270ed4b378e649be1106bc9b220bb97e66489de046c439397437f"


def test_moves_with_its_tensors():
    topology = compiled([(0, 2)], [2])
    moved = topology.to("meta")
    assert moved.device.type == "meta"
    assert all(tensor.device.type == "meta" for tensor in vars(moved).values() if isinstance(tensor, torch.Tensor))
    assert topology.device.type == "cpu"
    assert topology.to("cpu") is topology


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_facts_are_the_same_on_a_gpu():
    topology = layered(8, 5, 2)
    there = topology.to("cuda")
    assert there.device.type == "cuda"
    assert there.digest() == topology.digest()
    assert (there.depth, there.density) == (topology.depth, topology.density)
    assert there.edges.cpu().equal(topology.edges)
    assert there.to("cuda") is there


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda topology: pickle.loads(pickle.dumps(topology))])
def test_copies_are_equal_and_apart(copied):
    topology = compiled([(0, 2), (2, 3)], [3])
    other = copied(topology)
    assert isinstance(other, Topology)
    assert other.digest() == topology.digest()
    assert other.src.data_ptr() != topology.src.data_ptr()


def test_cannot_be_changed():
    topology = compiled([(0, 2)], [2])
    with pytest.raises(AttributeError):
        topology.num_edges = 5


def test_says_what_it_is():
    assert repr(compiled([(0, 2), (2, 3)], [3])) == "Topology(2 inputs, 4 nodes, 2 edges, 1 outputs, depth 2)"
