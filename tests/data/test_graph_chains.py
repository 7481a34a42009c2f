import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.graph_chains import GraphChains


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 30), st.integers(1, 12), st.integers(1, 5), st.integers(2, 3), st.integers(0, 2**31))
def test_every_node_hangs_below_the_root_that_tells_its_class(num_chains, length, reach, num_classes, seed):
    data = GraphChains(
        num_chains=num_chains, length=length, reach=reach, num_classes=num_classes, num_features=4, noise=0, seed=seed
    )
    graph = data.part("train")
    parent = {int(target): int(source) for source, target in graph.edge_index.T}
    assert len(parent) == graph.edge_index.shape[1] == num_chains * (length - 1)
    for node in range(num_chains * length):
        root = node
        while root in parent:
            assert 0 < root - parent[root] <= reach * num_chains
            root = parent[root]
        assert root == node % num_chains
        assert int(graph.features[root].argmax()) == int(graph.labels[node])
    assert not graph.features[num_chains:].any()


def test_parts_hold_whole_chains_and_every_node_once():
    data = GraphChains(num_chains=20, length=7)
    masks = torch.stack([data.part(split).mask for split in ("train", "val", "test")])
    assert (masks.sum(dim=0) == 1).all()
    by_chain = masks.reshape(3, 7, 20)
    assert (by_chain == by_chain[:, :1]).all()
    assert by_chain[:, 0].sum(dim=1).tolist() == [8, 6, 6]


def test_the_seed_is_all_that_decides():
    one, same, other = (GraphChains(seed=seed, reach=3).part("val") for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.features, other.features)


def test_small_ones_have_all_three_parts():
    data = GraphChains(num_chains=3, length=1, train_share=0.9, val_share=0.05)
    assert [int(data.part(split).mask.sum()) for split in ("train", "val", "test")] == [1, 1, 1]


def test_a_large_graph_is_generated_at_once():
    graph = GraphChains(num_chains=200, length=100, reach=3).part("test")
    assert graph.features.shape == (20_000, 4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"length": 0}, "length=0"),
        ({"reach": 0}, "reach=0"),
        ({"num_features": 1}, "num_features=1"),
        ({"num_chains": 2}, "num_chains=2"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"train_share": 0.8, "val_share": 0.3}, "less than 1"),
    ],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        GraphChains(**options)


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="'dev'"):
        GraphChains().part("dev")
