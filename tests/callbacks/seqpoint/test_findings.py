import io
import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from fulgurite.callbacks.seqpoint.findings import Findings, find_length
from fulgurite.callbacks.seqpoint.gather import RankSteps
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.plan import PlanError
from fulgurite.callbacks.seqpoint.shapes import UserShape

LENGTHS = np.random.default_rng(0).lognormal(3, 0.6, 300).astype(int) + 1


def steps(lengths=LENGTHS, *, seconds=None, slope=0.001):
    count = len(lengths)
    return RankSteps(
        sizes=np.column_stack([np.full(count, 8), lengths]),
        optimizer_step=np.ones(count, dtype=bool),
        known=np.zeros((0, 3), dtype=np.int64),
        seconds=slope * lengths + 0.002 if seconds is None else seconds,
        waits=np.zeros(count),
        starts=np.zeros(count),
        outside=np.zeros(count),
        traced=np.zeros(count, dtype=bool),
        real=np.full(count, -1),
        padded=np.full(count, -1),
        peak_bytes=np.full(count, np.nan),
    )


def shape():
    return UserShape(lambda batch: batch)


def selected(*ranks, **options):
    findings = Findings()
    findings.select(ranks or [steps()], shape(), epoch=2, length=1, **{"points": 6, **options})
    return findings


def following(lengths, slope=0.001, epoch=3):
    other = Findings()
    other.select([steps(lengths, slope=slope)], shape(), epoch=epoch, length=1, points=6)
    return other.log


def test_the_logged_epoch_gives_a_plan():
    findings = selected()
    assert findings.log.epoch == 2
    assert findings.plan.columns == ("batch", "source", "optimizer_step")
    assert findings.plan.weights.sum() == pytest.approx(300)
    assert findings.notes == ["shape of a step: batch = shape_fn[0], source = shape_fn[1]"]
    assert math.isnan(findings.straggler)


def test_ranks_of_unequal_lengths_wait():
    findings = selected(steps(LENGTHS), steps(LENGTHS[::-1].copy()))
    costs = np.maximum(LENGTHS, LENGTHS[::-1]) * 0.001 + 0.002
    mean = (LENGTHS * 0.001 + 0.002).sum()
    assert findings.straggler == pytest.approx(1 - mean / costs.sum(), rel=0.02)


def test_ranks_that_read_different_sizes_are_refused():
    other = steps()
    object.__setattr__(other, "sizes", other.sizes[:, :1])
    with pytest.raises(PlanError, match=r"different numbers of sizes.*\[1, 2\]: pass shape_fn="):
        selected(steps(), other)


def test_many_new_shapes_are_noted():
    findings = selected(steps(np.arange(5, 305)))
    assert findings.notes[1].startswith("100% of the steps had a shape that the run had not seen before")


def test_the_following_epoch_is_projected():
    findings = selected()
    after = following(np.random.default_rng(1).permutation(LENGTHS), slope=0.00102)
    findings.conclude(after, {})
    assert findings.projection.total == pytest.approx(after.seconds.sum(), rel=0.03)
    assert len(findings.plan.measured) == len(findings.plan.points)
    assert len(findings.notes) == 1


def test_dearer_steps_are_noted():
    findings = selected()
    findings.conclude(following(LENGTHS, slope=0.0015), {})
    assert any("longer in epoch 3 than like steps in epoch 2" in note for note in findings.notes)


def test_an_epoch_of_other_data_is_not_projected():
    findings = selected()
    findings.conclude(following(LENGTHS * 3), {})
    assert findings.projection is None
    assert any("nothing was projected: this plan is for other data" in note for note in findings.notes)


def test_no_following_epoch():
    findings = selected()
    findings.conclude(None, {})
    assert findings.projection is None
    assert findings.table is None


def test_state_survives_a_checkpoint():
    findings = selected()
    findings.straggler = 0.25
    buffer = io.BytesIO()
    torch.save(findings.state(), buffer)
    buffer.seek(0)
    back = Findings.restore(torch.load(buffer, weights_only=True))
    assert back.plan == findings.plan
    assert back.columns == findings.columns
    assert back.notes == findings.notes
    assert back.straggler == 0.25
    for field in fields(EpochLog):
        np.testing.assert_array_equal(getattr(back.log, field.name), getattr(findings.log, field.name))
    assert Findings().state() == {}


def test_a_newer_state_is_refused():
    with pytest.raises(ValueError, match="state of version 2, but this release reads version 1"):
        Findings.restore({"version": 2})


def test_the_length_column():
    columns = ("batch", "source", "target", "optimizer_step")
    assert find_length(columns, 1) == find_length(columns, "source") == 1
    assert find_length(columns, 2) == 2
    assert find_length(("batch", "optimizer_step"), 1) == 0
    with pytest.raises(PlanError, match="no column 'frames' to take as length; the shape has batch, source"):
        find_length(columns, "frames")
    with pytest.raises(PlanError, match="no column 7"):
        find_length(columns, 7)
