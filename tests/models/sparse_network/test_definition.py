import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network import TopologyError
from fulgurite.models.sparse_network.definition import STATE_KEYS, define, from_state

LOOP = [(0, 2), (2, 3), (3, 2), (1, 3)]


def some(seed, **options):
    random = np.random.default_rng(seed)
    pairs = np.unique(np.sort(random.integers(0, 12, (30, 2)), axis=1), axis=0)
    pairs = pairs[(pairs[:, 0] < pairs[:, 1]) & (pairs[:, 1] >= 3)]
    # Renumbered, so that the compiled order is not the user's.
    names = np.concatenate([np.arange(3), 3 + random.permutation(9)])
    activation = random.choice(["relu", "tanh", "sin"], 12).tolist()
    return define(names[pairs], num_inputs=3, outputs=names[[11, 5, 1]], num_nodes=12, activation=activation, **options)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), steps=st.sampled_from([None, 1, 3]))
def test_a_state_makes_the_same_again(seed, steps):
    definition, _ = some(seed, steps=steps)
    state = {name: tensor.clone() for name, tensor in definition.state().items()}
    assert set(state) == set(STATE_KEYS)
    again, order = from_state(state)
    assert order.tolist() == list(range(len(definition.edges)))
    assert again.topology.digest() == definition.topology.digest()
    assert again.equals(state)
    assert again.equals(definition.state())
    state["outputs"][0] = 1
    assert not again.equals(state)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), steps=st.sampled_from([None, 3]))
def test_parameters_are_spread_to_their_edges_and_nodes(seed, steps):
    """Each weight marks its edge, each bias its node, by the user's numbers; copies in time have the same."""
    definition, _ = some(seed, steps=steps)
    edges, topology = definition.edges, definition.topology
    weight = (edges[:, 0] * 100 + edges[:, 1]).double()
    bias = torch.arange(3, 12).double()
    spread, biases, responses = definition.spread(weight, bias, bias + 0.5)
    node = topology.node_ids.clone()
    node[3:] = (node[3:] - 3) % 9 + 3  # copy t of node v is v + 9·t
    source, target = node[topology.src.long()], node[topology.dst.long()]
    assert torch.equal(spread, (source * 100 + target).double())
    assert torch.equal(biases, node[3:].double())
    assert torch.equal(responses, biases + 0.5)
    assert definition.spread(weight, None, None)[1:] == (pytest.approx(torch.zeros(len(node) - 3)), None)


def test_order_is_that_of_the_given_edges():
    given_edges = [(2, 3), (0, 2), (1, 2), (0, 2)]
    for steps in (None, 2):
        definition, order = define(given_edges, num_inputs=2, outputs=[3], duplicates="sum", steps=steps)
        assert [tuple(definition.edges[number].tolist()) for number in order] == given_edges
        assert len(definition.edges) == 3


def test_steps_let_cycles_be():
    with pytest.raises(TopologyError, match="steps=k"):
        define(LOOP, num_inputs=2, outputs=[3])
    definition, _ = define(LOOP, num_inputs=2, outputs=[3], steps=np.int64(4))
    assert definition.steps == 4
    assert isinstance(definition.steps, int)
    assert definition.edges.tolist() == [[0, 2], [3, 2], [1, 3], [2, 3]]
    assert not definition.rests
    assert define(LOOP, num_inputs=2, outputs=[3], aggregation="product", steps=2)[0].rests


def test_other_edges_and_where_they_come_from():
    definition, _ = define([(0, 2), (1, 2), (2, 3)], num_inputs=2, outputs=[3], activation={2: "tanh"})
    new, order = definition.with_edges([(2, 3), (0, 3), (0, 2)])
    assert new.edges.tolist() == [[0, 2], [0, 3], [2, 3]]
    assert order.tolist() == [2, 1, 0]
    assert new.origin(definition).tolist() == [0, -1, 2]
    assert new.activations.tolist() == definition.activations.tolist()
    none, _ = definition.with_edges(torch.zeros(0, 2, dtype=torch.int64))
    assert none.origin(definition).tolist() == []
    assert definition.origin(none).tolist() == [-1, -1, -1]


def test_copies_share_what_never_changes():
    definition, _ = some(0)
    assert copy.deepcopy(definition) is definition
    assert definition.to("cpu") is definition


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("duplicates", ["error", "sum", "drop"])
def test_duplicates_are_refused_in_the_same_words_with_and_without_steps(steps, duplicates):
    words = {
        "error": r"edge 0 → 2 is given more than once, in rows 0 and 1; drop one of them, or pass",
        "sum": r"edge 0 → 2 is given more than once, .* that does not sum \(aggregation 'max'\); .*alone: drop one of",
        "drop": r"duplicates is 'drop', expected",
    }
    with pytest.raises(TopologyError, match=words[duplicates]):
        define([(0, 2), (0, 2)], num_inputs=2, outputs=[2], aggregation="max", steps=steps, duplicates=duplicates)


@pytest.mark.parametrize("what", ["activation", "aggregation"])
@pytest.mark.parametrize("names", [None, torch.relu, torch.nn.ReLU(), 1])
def test_what_is_no_name_is_told_with_what_would_be(what, names):
    expected = rf"^{what} is .*; expected a name, a list of 3 names, one for each node, or {{node: name}}$"
    with pytest.raises(ValueError, match=expected):
        define([(0, 2)], num_inputs=2, outputs=[2], **{what: names})


def test_lists_of_names_hold_names_but_for_inputs():
    for wrong in (None, torch.nn.ReLU(), []):
        with pytest.raises(ValueError, match=r"^activation lists .*; expected a name, a list of 3 names"):
            define([(0, 2)], num_inputs=2, outputs=[2], activation=["", "", wrong])
    definition, _ = define([(0, 2)], num_inputs=2, outputs=[2], activation=[None, None, "tanh"])
    again, _ = define([(0, 2)], num_inputs=2, outputs=[2], activation=np.array(["", "", "tanh"]))
    assert definition.equals(again.state())
