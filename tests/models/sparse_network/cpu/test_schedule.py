import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network.cpu import schedule as cpu_schedule
from fulgurite.models.sparse_network.cpu.schedule import FIRST, LAST, SLOT, make_schedule, schedule_of
from fulgurite.models.sparse_network.topology import compile_topology


def random_topology(seed, *, inputs, computed, edges, groups=None):
    generator = np.random.default_rng(seed)
    nodes = inputs + computed
    target = generator.integers(inputs, nodes, size=edges)
    source = (generator.random(edges) * target).astype(np.int64)
    member = None
    if groups:
        member = np.sort(generator.integers(0, groups, size=nodes))
        kept = (source < inputs) | (member[source] == member[target])
        source, target = source[kept], target[kept]
    return compile_topology(
        np.unique(np.stack([source, target], axis=1), axis=0),
        num_inputs=inputs,
        outputs=generator.integers(0, nodes, size=4),
        num_nodes=nodes,
        activations=1,
        aggregations=generator.choice([0, 1, 3], size=nodes),
        groups=member,
    )[0]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    inputs=st.integers(1, 6),
    computed=st.integers(1, 50),
    edges=st.integers(0, 150),
    groups=st.integers(0, 4),
)
def test_a_row_is_taken_over_only_after_its_last_reader(seed, inputs, computed, edges, groups):
    topology = random_topology(seed, inputs=inputs, computed=computed, edges=edges, groups=groups)
    schedule = make_schedule(topology.packed)
    src, outputs = topology.src.numpy(), topology.out_idx.numpy()
    held = {}
    for group in range(schedule.num_groups):
        held.update({int(slot): i for i, slot in enumerate(schedule.slots)} if group == 0 else {})
        for node in range(schedule.bounds[group], schedule.bounds[group + 1]):
            step = schedule.steps[node]
            for edge in range(step[FIRST], step[LAST]):
                assert held[int(schedule.slot_rows[edge])] == src[edge]
            held[int(step[SLOT])] = inputs + node
        for entry in range(schedule.out_bounds[group], schedule.out_bounds[group + 1]):
            assert held[int(schedule.out_slots[entry])] == outputs[schedule.out_columns[entry]]
    assert max(held) < schedule.num_slots <= topology.num_nodes


def test_made_once_for_each_topology(monkeypatch):
    made = []
    make = cpu_schedule.make_schedule
    monkeypatch.setattr(cpu_schedule, "make_schedule", lambda structure: made.append(1) or make(structure))
    topologies = [random_topology(seed, inputs=3, computed=9, edges=20) for seed in (1, 2)]
    schedules = [schedule_of(topology.packed) for topology in topologies * 3]
    assert len(made) == 2
    assert schedules[0] is schedules[2] is schedules[4]
    assert schedules[0] is not schedules[1]


def test_made_again_when_a_tensor_is_written_to():
    structure = random_topology(1, inputs=3, computed=9, edges=20).packed
    before = schedule_of(structure)
    structure[-1] = 9
    assert schedule_of(structure) is not before
    assert schedule_of(structure) is schedule_of(structure)


def test_forgotten_with_its_topology():
    topology = random_topology(1, inputs=3, computed=9, edges=20)
    schedule_of(topology.packed)
    key = id(topology.packed)
    assert key in cpu_schedule._cache
    del topology
    gc.collect()
    assert key not in cpu_schedule._cache


def test_tensors_of_inference_mode():
    with torch.inference_mode():
        topology = random_topology(1, inputs=3, computed=9, edges=20)
        assert schedule_of(topology.packed) is schedule_of(topology.packed)


@pytest.mark.parametrize("groups", [None, [0, 0, 1]])
def test_without_edges(groups):
    topology, _ = compile_topology(
        [], num_inputs=1, outputs=[2, 0], num_nodes=3, activations=1, aggregations=0, groups=groups
    )
    schedule = make_schedule(topology.packed)
    assert schedule.num_edges == 0
    assert schedule.pull_bounds.tolist() == [0, 0, 0, 0]
