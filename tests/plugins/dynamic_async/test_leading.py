import json
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from fulgurite.plugins.dynamic_async.engine.messages import Block, Incarnation
from fulgurite.plugins.dynamic_async.leading import Leading, adopt_versions, log_versions


class FakePeer:
    """What of a peer decides who leads."""

    def __init__(self, number, host, notes=None):
        self.number, self.note, self.host, self.heard = number, {}, host, notes or {}

    def blocks(self):
        if self.host is None:
            return {}
        return {0: Block(0, Incarnation(1, self.host), 0, 0, 0, np.zeros(1))}

    def notes(self):
        return self.heard | {self.number: self.note}


def trainer(*loggers):
    return SimpleNamespace(loggers=list(loggers))


@pytest.fixture(autouse=True)
def rank_as_before():
    before = getattr(rank_zero_only, "rank", None)
    yield
    rank_zero_only.rank = before


def test_the_host_of_the_first_shard_leads(tmp_path):
    leading, peer = Leading(first=False), FakePeer(2, None)
    run = trainer(CSVLogger(tmp_path, version=3))
    leading.follow(run, peer)
    assert not leading.leads
    peer.host = 2
    leading.follow(run, peer)
    assert leading.leads
    assert rank_zero_only.rank == 0
    assert json.loads(peer.note["log"]) == {"0": 3}
    peer.host = 1
    leading.follow(run, peer)
    assert not leading.leads
    assert rank_zero_only.rank == 1


@pytest.mark.parametrize("rank", [0, 3])
def test_a_processs_rank_is_put_back(rank):
    rank_zero_only.rank = rank
    leading = Leading(first=True)
    for host in (2, 1, 2):
        leading.follow(trainer(), FakePeer(2, host))
    leading.give_back()
    assert rank_zero_only.rank == rank
    leading.give_back()
    assert rank_zero_only.rank == rank


def test_a_new_leader_goes_on_in_the_folder_of_the_one_before(tmp_path):
    first = CSVLogger(tmp_path)
    first.log_metrics({"loss": 1.0}, step=1)
    first.save()
    second = CSVLogger(tmp_path)
    leading = Leading(first=False)
    peer = FakePeer(2, 1, {1: {"log": json.dumps({0: first.version})}})
    leading.follow(trainer(second), peer)
    peer.host = 2
    leading.follow(trainer(second), peer)
    with pytest.warns(UserWarning, match="exists and is not empty"):  # it only deletes what it would write to
        second.log_metrics({"loss": 0.5}, step=2)
    second.save()
    folder = tmp_path / "lightning_logs" / "version_0"
    assert (folder / "metrics.0.csv").read_text().split() == ["loss,step", "1.0,1"]
    assert (folder / "metrics.csv").read_text().split() == ["loss,step", "0.5,2"]


@pytest.mark.parametrize("note", ["what?", "[1]", '{"0": {}}', None])
def test_a_note_that_cannot_be_read_says_nothing(note, tmp_path):
    leading, logger = Leading(first=False), CSVLogger(tmp_path, version=7)
    leading.follow(trainer(logger), FakePeer(2, 2, {1: {"log": note}}))
    assert leading.leads
    assert logger.version == 7


def test_versions_are_those_of_each_logger(tmp_path):
    loggers = [CSVLogger(tmp_path, version=1), CSVLogger(tmp_path, version="two"), SimpleNamespace(version=None)]
    assert log_versions(trainer(*loggers)) == {0: 1, 1: "two"}
    adopt_versions(trainer(*loggers), {"0": 5, "2": 6})
    assert loggers[0].version == 5
    assert loggers[1].version == "two"
    assert loggers[2].version is None
