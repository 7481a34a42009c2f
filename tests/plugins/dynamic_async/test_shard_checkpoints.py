import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fulgurite.plugins.dynamic_async.engine.messages import Block, Incarnation
from fulgurite.plugins.dynamic_async.shard_checkpoints import ShardCheckpoints
from fulgurite.plugins.dynamic_async.training_map import TrainingMap


class Training:
    """What of a ShardTraining is written and read."""

    def __init__(self, value=None, *, hosted=(0,), counts=None, heard=None, **options):
        self.map = TrainingMap(np.zeros(3), **{"shards": 2, "coupling": 0.5} | options)
        self.counts, self.joined, self.states = dict(counts or {}), {}, {}
        block = Block(0, Incarnation(2, 7), 4, 0, 0, np.zeros(3) if value is None else np.asarray(value))
        self.peer = SimpleNamespace(
            blocks=lambda: {0: block, 1: block}, hosted=hosted, last_heard=lambda shard: (heard or {}).get(shard)
        )

    def optimizer_state(self, shard):
        return {"0": {"step": torch.tensor(5.0)}}

    def load_optimizer_state(self, shard, state):
        self.states[shard] = state

    def join_from(self, shard, value, count, state):
        self.joined[shard] = (value, count, state)


def written(folder, **options):
    ShardCheckpoints(folder, Training([1.0, 2.0, 3.0], counts={0: 9}, **options)).save(now=True)


def test_what_is_hosted_is_written_and_read_back(tmp_path):
    written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-0000.pt"]
    training = Training()
    found = ShardCheckpoints(tmp_path, training).load(0)
    assert found.tolist() == [1.0, 2.0, 3.0]
    value, count, state = training.joined[0]
    assert value is found
    assert count == 9
    assert float(state["0"]["step"]) == 5
    assert ShardCheckpoints(tmp_path, training).load(1) is None


def test_files_are_written_from_time_to_time_only(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("fulgurite.plugins.dynamic_async.shard_checkpoints.time.monotonic", lambda: now[0])
    training = Training(counts={0: 1})
    files = ShardCheckpoints(tmp_path, training, every_s=5.0)

    def kept():
        files.save()
        return torch.load(files.path(0), weights_only=True)["evaluations"]

    assert kept() == 1
    training.counts[0], now[0] = 2, 104.9
    assert kept() == 1
    now[0] = 105.0
    assert kept() == 2
    training.counts[0] = 3
    files.save(now=True)
    assert torch.load(files.path(0), weights_only=True)["evaluations"] == 3


def test_what_was_heard_since_goes_before_a_file(tmp_path):
    written(tmp_path)
    training = Training(counts={0: 10}, heard={0: np.ones(3)})
    assert ShardCheckpoints(tmp_path, training).load(0) is None
    assert training.joined == {}
    assert float(training.states[0]["0"]["step"]) == 5  # nothing else has it
    # Of equal age, or where the count alone was heard of: the file.
    assert ShardCheckpoints(tmp_path, Training(counts={0: 9}, heard={0: np.ones(3)})).load(0) is not None
    assert ShardCheckpoints(tmp_path, Training(counts={0: 10})).load(0) is not None


def change(**entries):
    def spoil(content):
        content.update(entries)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (change(value=torch.full((3,), float("nan"), dtype=torch.float64)), "not finite"),
        (change(value=torch.zeros(4, dtype=torch.float64)), "not of the parameters' shape"),
        (change(value=torch.zeros(3)), "shape and type"),
        (change(radius=1.0), "outside the domain X of its run"),
        (change(evaluations="many"), "cannot be used"),
        (lambda content: content.pop("optimizer"), "cannot be used"),
        (change(fingerprint="00"), "is of another model"),
    ],
)
def test_a_file_that_does_not_fit_is_left_alone_with_a_warning(tmp_path, caplog, spoil, words):
    written(tmp_path)
    path = tmp_path / "shard-0000.pt"
    content = torch.load(path, weights_only=True)
    spoil(content)
    torch.save(content, path)
    training = Training()
    with caplog.at_level(logging.WARNING):
        assert ShardCheckpoints(tmp_path, training).load(0) is None
    assert words in caplog.text
    assert "shard 0 does not begin from it" in caplog.text
    assert training.joined == {}


def test_a_value_outside_todays_x_is_left_alone(tmp_path, caplog):
    written(tmp_path)
    training = Training()
    training.map.radius = 3.0  # the value is √14 away
    assert ShardCheckpoints(tmp_path, training).load(0) is None
    assert "outside X" in caplog.text
    training.map.radius = 4.0
    assert ShardCheckpoints(tmp_path, training).load(0) is not None


def test_what_cannot_be_written_is_said_once_and_what_was_there_stays(tmp_path, caplog, monkeypatch):
    written(tmp_path)
    monkeypatch.setattr(
        "fulgurite.plugins.dynamic_async.shard_checkpoints.torch.save",
        lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    files = ShardCheckpoints(tmp_path, Training(hosted=(0, 1)))
    files.save(now=True)
    files.save(now=True)
    assert caplog.text.count("No space left on device; training goes on") == 1
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["shard-0000.pt"]
    assert torch.load(tmp_path / "shard-0000.pt", weights_only=True)["evaluations"] == 9
