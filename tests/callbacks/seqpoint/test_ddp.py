"""SeqPoint over two processes of a real Trainer."""

import json
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fulgurite.callbacks import SeqPoint
from fulgurite.callbacks.seqpoint import Plan
from fulgurite.callbacks.seqpoint.clock import StepClock
from fulgurite.callbacks.seqpoint.log import EpochLog

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork"),
]

LENGTHS = np.random.default_rng(0).lognormal(2.5, 0.5, 320).astype(int) + 2
STEPS = len(LENGTHS) // 2 // 4


class Host:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


class Tagger(pl.LightningModule):
    """Each rank's step costs what its own batch holds; a note of every batch is left behind."""

    def __init__(self, host, folder):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.host, self.folder = host, folder
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.host.time += 0.002 + 0.0001 * batch.shape[0] * batch.shape[1]
        self.seen.append([self.current_epoch, *batch.shape[:2]])
        return self.layer(batch).square().mean()

    def on_fit_end(self):
        (seqpoint,) = (callback for callback in self.trainer.callbacks if isinstance(callback, SeqPoint))
        told = {
            "seen": self.seen,
            "plan": None if seqpoint.plan is None else [list(point.runs) for point in seqpoint.plan.points],
            "traced": [] if seqpoint.following is None else np.flatnonzero(seqpoint.following.traced).tolist(),
            "straggler": seqpoint._findings.straggler,
            "notes": seqpoint.notes,
        }
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(told))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def collate(samples):
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)


class ReadsUntil:
    """A shape function that stops making sense on one rank."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self, batch):
        self.left -= 1
        alone = torch.distributed.get_rank() == 1
        return None if alone and self.left < 0 else tuple(batch.shape[:2])


def fit(tmp_path, monkeypatch, seqpoint, **options):
    host = Host()
    monkeypatch.setattr("fulgurite.callbacks.seqpoint.recorder.StepClock", partial(StepClock, now=host))
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        callbacks=[seqpoint],
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    samples = [torch.full((int(length), 4), 0.01) for length in LENGTHS]
    trainer.fit(Tagger(host, tmp_path), DataLoader(samples, batch_size=4, shuffle=True, collate_fn=collate))
    return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_log_trace_and_report_as_one(tmp_path, monkeypatch):
    ranks = fit(tmp_path, monkeypatch, SeqPoint(points=4, replicates=3), max_epochs=2)
    folder = tmp_path / "seqpoint"
    log, following = EpochLog.load_csv(folder / "steps.csv"), EpochLog.load_csv(folder / "steps_following.csv")
    seen = np.array([rank["seen"] for rank in ranks])  # (ranks, steps of both epochs, epoch and sizes)
    assert seen.shape == (2, 2 * STEPS, 3)
    assert (seen[0, :, 2] != seen[1, :, 2]).any(), "the ranks see different batches"
    for epoch, logged in enumerate((log, following)):
        largest = seen[:, seen[0, :, 0] == epoch, 1:].max(axis=0)
        np.testing.assert_array_equal(logged.shapes[:, :2], largest)
        np.testing.assert_allclose(logged.seconds, 0.002 + 0.0001 * largest.prod(axis=1))

    plan = Plan.load(folder / "plan.json")
    fixed = sorted(run for point in plan.points for run in point.runs[:2])
    for rank in ranks:
        assert rank["plan"] == [list(point.runs) for point in plan.points]
        assert rank["traced"] == fixed
    assert np.flatnonzero(following.traced).tolist() == fixed
    for number in range(2):
        assert len(list((folder / "traces").glob(f"*.rank{number}.*"))) == len(fixed)

    first = seen[:, seen[0, :, 0] == 0, 1:].prod(axis=2) * 0.0001 + 0.002
    assert ranks[0]["straggler"] == pytest.approx(1 - first.mean(axis=0).sum() / first.max(axis=0).sum(), rel=1e-3)
    assert "Straggling ranks" in (folder / "report.html").read_text()


@pytest.mark.filterwarnings("ignore:SeqPoint")  # they would be errors within the processes
@pytest.mark.parametrize(("epoch", "lost_at"), [(0, 20), (1, 20), (0, STEPS + 20)])
def test_a_rank_that_loses_sight_does_not_leave_the_other_waiting(tmp_path, monkeypatch, epoch, lost_at):
    """In the logged epoch, before it, and in the one after it."""
    ranks = fit(tmp_path, monkeypatch, SeqPoint(points=2, shape_fn=ReadsUntil(lost_at), epoch=epoch), max_epochs=3)
    for rank in ranks:
        assert len(rank["seen"]) == 3 * STEPS
        assert (rank["plan"] is None) == (lost_at == 20)
        (note,) = (note for note in rank["notes"] if "could not be logged" in note)
        assert note.startswith(f"epoch {epoch if lost_at == 20 else 1} could not be logged: shape_fn returned None")
    assert (tmp_path / "seqpoint" / "report.html").exists() == (lost_at > 20)
