"""Peers of one process, in turns: what they say of training, and what each makes of it."""

import json
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport
from fulgurite.plugins.dynamic_async.engine.peer import Peer
from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters
from fulgurite.plugins.dynamic_async.objective import ObjectiveError, ObjectiveWatch
from fulgurite.plugins.dynamic_async.shard_training import ShardTraining
from fulgurite.plugins.dynamic_async.training_map import ShardFacts, TrainingMap
from fulgurite.plugins.dynamic_async.training_note import TrainingNote

MU, RATE, LAM = 0.2, 0.3, 0.5
BOUNDS = MU, 3.0


class One:
    """A peer, its module and its shards' data."""

    def __init__(
        self, hub, number=1, contacts=(), *, shards=2, peers=1, watched=True, seed=0, start=None, dtype=torch.float64,
        optimizer=torch.optim.SGD, rate=RATE, decay=MU, bounds=BOUNDS, topology="complete", **options,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        self.data = []
        for _ in range(shards):
            x = functional.normalize(torch.randn(9, 4, generator=generator, dtype=dtype), dim=1)
            self.data.append((x, torch.randint(3, (9,), generator=generator)))
        torch.manual_seed(1)
        self.module, self.decay = nn.Linear(4, 3, dtype=dtype), decay
        if start is not None:
            nn.init.constant_(self.module.weight, start)
            nn.init.constant_(self.module.bias, start)
        self.optimizer = optimizer(self.module.parameters(), lr=rate)
        flat = FlatParameters(self.module)
        self.map = TrainingMap(flat.read(), shards=shards, coupling=LAM, topology=topology)
        codec = Codec(b"k" * 32, b"n" * 16, self.map.fingerprint())
        times = {"heartbeat_s": 0.1, "timeout_s": 0.5}
        self.peer = Peer(
            self.map, InProcessTransport(hub, f"memory://{number}"), codec, contacts=contacts, number=number,
            expected_peers=peers, patience_s=60.0, **times | options,
        )  # fmt: skip
        watch = ObjectiveWatch(self.module, bounds) if watched else None
        self.training = ShardTraining(self.map, self.peer, flat, self.optimizer, watch, rate)

    def loss(self, shard):
        x, labels = self.data[shard]
        squares = sum(weight.square().sum() for weight in self.module.parameters())
        return functional.cross_entropy(self.module(x), labels) + self.decay / 2 * squares

    def step(self, shard, spoil=None, scale=1.0):
        self.optimizer.zero_grad()
        with self.training.evaluating(shard):
            loss = self.loss(shard)
            (loss * scale).backward()
            self.training.after_backward(loss, self.data[shard][1], scale)
            for weight in self.module.parameters():
                weight.grad /= scale
            if spoil:
                spoil(self.module)
            self.optimizer.step()

    def values(self):
        return {i: block.value for i, block in self.peer.blocks().items()}


def settle(*peers, until, limit_s=30.0):
    end = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < end
        for one in peers:
            one.training.serve()
        time.sleep(0.005)


def pair(**options):
    hub = Hub()
    first = One(hub, 1, peers=2, **options)
    second = One(hub, 2, ["memory://1"], peers=2, **options)
    settle(first, second, until=lambda: first.peer.hosted == (0,) and second.peer.hosted == (1,))
    return first, second


@pytest.fixture
def alone():
    return One(Hub())


def test_a_step_is_the_maps(alone):
    alone.training.serve()
    for shard in (0, 1, 0):
        before = alone.values()
        alone.step(shard)
        after = alone.values()
        alone.training.flat.write(before[shard])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(alone.loss(shard), alone.module.parameters())])
        expected = before[shard] - RATE * (gradient.numpy() + LAM * (before[shard] - before[1 - shard]))
        np.testing.assert_allclose(after[shard], expected, rtol=0, atol=1e-14)
        assert np.array_equal(after[1 - shard], before[1 - shard])
    assert alone.training.counts == {0: 2, 1: 1}
    assert alone.training.rounds() == 1
    np.testing.assert_allclose(alone.training.mean(), np.mean([alone.values()[i] for i in (0, 1)], axis=0))


def test_facts_are_those_of_the_start_wherever_they_are_seen(alone):
    alone.training.serve()
    slopes = []
    for shard in (0, 1):
        alone.training.flat.write(alone.map.centre)
        parts = torch.autograd.grad(alone.loss(shard), alone.module.parameters())
        slopes.append(float(torch.cat([part.flatten() for part in parts]).norm()))
    alone.step(0)
    alone.step(0)
    assert alone.training.certificate() is None  # of shard 1 nothing is known
    alone.training.facts.clear()
    alone.training._verified.clear()
    alone.step(0)  # not at the start any more
    alone.step(1)
    assert [alone.training.facts[i].slope for i in (0, 1)] == pytest.approx(slopes, rel=1e-5)
    assert alone.training.certificate().certified


def test_peers_learn_counts_facts_losses_and_reach_of_each_other():
    first, second = pair()
    first.step(0)
    second.step(1)
    second.map.reach = 7.0
    second.training._tell()
    second.peer.publish()
    settle(first, second, until=lambda: first.training.rounds() == second.training.rounds() == 1)
    assert first.training.facts == second.training.facts
    assert set(first.training.facts) == {0, 1}
    assert first.training.losses[1][0] == second.training.losses[1][0]
    settle(first, second, until=lambda: first.map.reach == 7.0)
    assert first.training.certificate().r0 >= 14.0


@pytest.mark.parametrize(
    "note",
    [
        "no json",
        '{"counts": {"0": 3}}',
        '{"counts": {"99": 3}, "facts": {}, "losses": {}, "data": "", "since": 0, "reach": 0, "conflict": ""}',
        '{"counts": {}, "facts": {"0": ["x"]}, "losses": {}, "data": "", "since": 0, "reach": 0, "conflict": ""}',
    ],
)
def test_anothers_nonsense_is_said_once_and_harms_nobody(note, caplog):
    first, second = pair()
    second.peer.note["training"] = note
    second.peer.publish()
    settle(first, until=lambda: "says nothing of training that can be read" in caplog.text)
    first.step(0)
    first.step(0)
    assert first.training.counts == {0: 2}
    assert caplog.text.count("says nothing of training") == 1


def test_a_conflict_ends_the_certificate_of_all(caplog):
    first, second = pair()
    first.step(0)
    second.step(1)
    settle(first, second, until=lambda: first.training.rounds() == second.training.rounds() == 1)
    assert first.training.certificate().certified
    second.training.facts[0] = ShardFacts("cross_entropy", 9.0, 1.0, 9, "other")
    second.training.serve()
    assert second.training.certificate() is None
    settle(first, second, until=lambda: first.training.conflict != "")
    assert first.training.certificate() is None
    assert "nothing is certified any more: shard 0 has" in caplog.text
    assert "shard 0" in first.training.conflict


def test_a_host_that_finds_other_data_tells_all():
    first, second = pair()
    first.step(0)
    second.step(1)
    settle(first, second, until=lambda: first.training.rounds() == second.training.rounds() == 1)
    first.peer.release()
    settle(first, second, until=lambda: second.peer.hosted == (0, 1))
    second.data[0] = (second.data[0][0], second.data[0][1].flip(0))
    second.step(0)
    settle(first, second, until=lambda: "shard 0" in first.training.conflict)
    assert "had 9 with" in second.training.conflict
    assert second.training.certificate() is None


def test_who_came_later_with_other_data_has_to_go(caplog):
    first, second = pair()
    first.training.describe("9 samples")
    first.step(0)
    settle(second, until=lambda: second.training.counts.get(0) == 1)
    with pytest.raises(ValueError, match="trains on 8 samples, peer 1 on 9 samples; expected the same data"):
        second.training.describe("8 samples")
    # At the same time: the one with the greater number.
    third, fourth = pair()
    for one, data in ((third, "a"), (fourth, "b")):
        one.training._data = data
        one.training._tell()
        one.peer.publish()
    with pytest.raises(ValueError, match="trains on b, peer 1 on a"):
        settle(fourth, until=lambda: False)
    settle(third, until=lambda: "peer 2 trains on b, not on a; it has to leave" in caplog.text)


def longer(module):
    module.bias.grad *= 1.001


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_that_was_altered_is_not_committed(dtype):
    one = One(Hub(), dtype=dtype)
    one.training.serve()
    one.step(0)
    before = one.values()
    with pytest.raises(ObjectiveError, match="a step was not parameters - lr"):
        one.step(1, spoil=longer)
    assert np.array_equal(one.values()[1], before[1])
    assert 1 not in one.training.counts


def test_nothing_is_checked_where_nothing_is_certified():
    one = One(Hub(), watched=False)
    one.training.serve()
    one.step(0, spoil=longer)
    assert one.training.counts == {0: 1}


def test_a_pull_is_scaled_as_the_gradient_is():
    ends = []
    for scale in (1.0, 1024.0):
        one = One(Hub(), watched=False)
        one.training.serve()
        for shard in (0, 1, 0, 1):
            one.step(shard, scale=scale)
        ends.append(one.values()[0])
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-12)


def test_a_decay_that_cannot_be_seen_certifies_nothing(caplog):
    # 1e-9 of a parameter is lost in float32, so that the loss could have no decay at all.
    one = One(Hub(), dtype=torch.float32, decay=0.0, bounds=(1e-9, 3.0))
    one.training.serve()
    for _ in range(100):
        one.step(0)
        one.step(1)
        assert one.training.certificate() is None
    assert "float32 cannot show a weight decay of mu = 1e-09 beside the gradients of shard 0" in one.training.conflict


def test_from_parameters_of_0_the_second_evaluation_certifies():
    one = One(Hub(), start=0.0)
    one.training.serve()
    for shard in (0, 1):
        one.step(shard)
    assert one.training.certificate() is None
    for shard in (0, 1):
        one.step(shard)
    assert one.training.certificate().certified


def test_each_shard_has_its_optimizers_state_while_it_is_hosted():
    first, second = pair(watched=False, optimizer=torch.optim.Adam, rate=0.01)
    for _ in range(3):
        first.step(0)
    second.step(1)
    assert float(first.training.optimizer_state(0)["0"]["step"]) == 3
    assert first.training.optimizer_state(1) == {}
    state = first.training.optimizer_state(0)
    second.training.load_optimizer_state(0, state)
    first.peer.release()
    settle(first, second, until=lambda: second.peer.hosted == (0, 1) and not first.peer.hosted)
    second.step(0)
    assert float(second.training.optimizer_state(0)["0"]["step"]) == 4
    first.training.serve()
    assert first.training.optimizer_state(0) == {}


def test_the_mean_after_a_stop_holds_those_who_are_gone():
    first, second = pair()
    first.step(0)
    second.step(1)
    settle(first, second, until=lambda: second.training.rounds() == 1)
    expected = np.mean([second.values()[i] for i in (0, 1)], axis=0)
    first.peer.stop()
    first.peer.publish()
    second.training.serve()
    assert second.peer.stopped
    settle(second, until=lambda: set(second.values()) == {1})  # the first is silent for long
    np.testing.assert_array_equal(second.training.mean(), expected)


def test_a_server_is_evaluated_between_steps():
    one = One(Hub(), topology="star")
    one.training.serve()
    for shard in (0, 1):
        one.step(shard)
    one.training.serve()
    values = one.values()
    np.testing.assert_allclose(values[2], (values[0] + values[1]) / 2)


def test_what_is_kept_is_joined_from():
    one = One(Hub())
    far = np.full_like(one.map.centre, 9.0)
    one.training.join_from(1, far, 5, {})
    assert one.training.counts == {1: 5}
    assert one.map.reach >= one.map.distance(1, far, one.map.centre)
    said = TrainingNote.read(one.peer.note["training"], shards=2)
    assert said.reach == one.map.reach
    assert json.loads(one.peer.note["training"])["counts"] == {"1": 5}
