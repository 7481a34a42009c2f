from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.routing.errors import TopologyError
from fulgurite.plugins.dynamic_async.routing.networks import random_text, random_topology
from fulgurite.plugins.dynamic_async.routing.policy import Rule
from fulgurite.plugins.dynamic_async.routing.topology import Link, parse_topology, read_topology

TEXT = """
# a network
nodes A B C D
policy calm: lower 10 if through C
link A B cost 3 capacity 7
link B -> C policy calm
link C D
absent D
destinations A C
algebra policy
at 20: join D
at 10 down A B      # written later, happens first
at 10 leave C
at 30 up A -> B cost 5
at 30 join C
at 40 change C D cost 9
ticks 200
"""


def test_a_file_says_all_of_it():
    topology = parse_topology(TEXT, name="mine")
    assert topology.nodes == ("A", "B", "C", "D")
    assert (topology.name, topology.algebra, topology.num_ticks, topology.destinations) == (
        "mine",
        "policy",
        200,
        (0, 2),
    )
    first, second, third, fourth, fifth = topology.epochs
    assert [epoch.start for epoch in topology.epochs] == [0, 10, 20, 30, 40]
    assert set(first.links) == {(0, 1), (1, 0), (1, 2), (2, 3), (3, 2)}
    assert first.links[1, 0] == Link(3, 7)
    assert first.links[1, 2].policy.rules[0].conditions[0].numbers == (2,)
    assert first.links[1, 2].policy.rules[0].action == Rule("lower").action
    assert first.present.tolist() == [True, True, True, False]
    assert second.events == ("down A B", "leave C")
    assert set(second.links) == {(1, 2), (2, 3), (3, 2)}
    assert second.present.tolist() == [True, True, False, False]
    assert second.live_links() == {}
    assert third.present.tolist() == [True, True, False, True]
    assert fourth.links[0, 1] == Link(5, 1)
    assert (1, 0) not in fourth.links
    assert fifth.links[2, 3] == Link(9, 1)
    assert fourth.links[2, 3] == Link()
    etas = topology.epoch_of_ticks()
    assert etas.shape == (201,)
    assert etas[[0, 9, 10, 19, 20, 30, 200]].tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert topology.participants().shape == (5, 4)


def test_defaults():
    topology = parse_topology("nodes 3\nlink 0 1")
    assert topology.destinations == (0, 1, 2)
    assert topology.num_ticks == 100
    assert topology.algebra is None


BAD = {
    "link A B": "x:1: nodes are named once, on the first line",
    "nodes A B\nnodes C": "x:2: nodes are named once",
    "nodes A A": "x:1: a name comes twice",
    "nodes 0": "x:1: nodes: got '0', expected a whole number from 1",
    "nodes 9999999": "x:1: nodes: got '9999999'",
    "nodes A/B": "x:1: got 'A/B'; expected up to",
    "nodes A B\n\nhop A B": "x:3: unknown word 'hop'; expected one of nodes, policy, link",
    "nodes A B\nlink": "x:2: nothing after 'link'",
    "nodes A B\nlink A": "x:2: expected two nodes",
    "nodes A B\nlink A -> ": "x:2: expected two nodes",
    "nodes A B\nlink A B cost": "x:2: expected two nodes, and then",
    "nodes A B\nlink A A": "x:2: A is linked to itself",
    "nodes A B\nlink A C": "x:2: no node is named 'C'; expected one of A, B",
    "nodes A B\nlink A B cost 0": "x:2: cost: got '0', expected a whole number from 1",
    "nodes A B\nlink A B cost 1.5": "x:2: cost: got '1.5'",
    "nodes A B\nlink A B cost 1 cost 2": "x:2: got 'cost'; expected cost, capacity, policy, each once",
    "nodes A B\nlink A B weight 2": "x:2: got 'weight'",
    "nodes A B\nlink A B policy calm": "x:2: no policy is named 'calm'; expected one of accept",
    "nodes A B\nlink A B\nlink B -> A": "x:3: link B ->: there is one already",
    "nodes A B\npolicy calm lower 1": "x:2: got 'calm lower 1'; expected a new name",
    "nodes A B\npolicy calm: lower": "x:2: rule 'lower': expected",
    "nodes A B\npolicy calm: reject if through C": "x:2: no node is named 'C'",
    "nodes A B\npolicy accept: reject": "x:2: got 'accept'; expected a new name",
    "nodes A B\nat 0 leave A": "x:2: tick: got '0'",
    "nodes A B\nat noon leave A": "x:2: tick: got 'noon'",
    "nodes A B\nat 5": "x:2: expected an event",
    "nodes A B\nat 5 sleep A": "x:2: expected an event",
    "nodes A B\nat 5 down A B": "x:2: down A B: there is none in this direction",
    "nodes A B\nlink A B\nat 5 up A B": "x:3: up A B: there is one already",
    "nodes A B\nlink A B\nat 5 change A C": "x:3: no node is named 'C'",
    "nodes A B\nat 5 join A": "x:2: join A: A takes part already",
    "nodes A B\nabsent A\nat 5 leave A": "x:3: leave A: A takes no part",
    "nodes A B\nat 5 leave A B": "x:2: leave A B: expected one node",
    "nodes A B\nat 5 leave A\nat 5 join A": "x:3: A joins and leaves at one tick; expected two ticks",
    "nodes A B\nat 50 leave A\nticks 9": "x: ticks 9 ends before the last event, at tick 50",
    "": "x: no nodes; expected a line such as",
}


@pytest.mark.parametrize("text", BAD, ids=[text.replace("\n", " | ") for text in BAD])
def test_bad_lines_are_named_by_number(text):
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, name="x")
    assert str(caught.value).startswith(BAD[text])


def test_files(tmp_path):
    (tmp_path / "good.topology").write_text(TEXT)
    assert read_topology(tmp_path / "good.topology").num_nodes == 4
    (tmp_path / "binary").write_bytes(b"nodes A\xff")
    with pytest.raises(TopologyError, match=r"not a UTF-8 text file \(byte 7\)"):
        read_topology(tmp_path / "binary")
    with pytest.raises(TopologyError, match="cannot be read: No such file"):
        read_topology(tmp_path / "none")


WORDS = """
A B C nodes link -> cost policy calm: calm reject if tag at 5 down up leave join ticks -1 ² # absent ; and not path
destinations 99999999999999999999999
"""


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(st.sampled_from(WORDS.split()) | st.text(max_size=5), max_size=7), max_size=7))
def test_nonsense_is_refused_or_read_but_never_worse(lines):
    text = "\n".join(["nodes A B C", *(" ".join(words) for words in lines)])
    with suppress(TopologyError):  # nothing else may be raised
        assert parse_topology(text).num_nodes == 3


@settings(deadline=None, max_examples=30)
@given(st.integers(4, 40), st.integers(0, 1000), st.integers(1, 9))
def test_random_networks_are_readable_and_repeat(nodes, seed, epochs):
    topology = random_topology(nodes, epochs=epochs, seed=seed)
    assert topology.num_nodes == nodes
    assert len(topology.epochs) == epochs
    assert random_text(nodes, epochs=epochs, seed=seed) == random_text(nodes, epochs=epochs, seed=seed)
    masks = topology.participants()
    assert masks.sum(axis=1).min() >= 3
    assert epochs < 4 or len(np.unique(masks, axis=0)) > 1


def test_sizes_out_of_range():
    with pytest.raises(ValueError, match="expected at least 4 nodes"):
        random_topology(3)
