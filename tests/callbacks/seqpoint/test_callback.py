"""SeqPoint in a real Trainer. A host clock that each batch moves by its cost makes every number exact."""

import gzip
import json
import math
import random
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.profilers import PyTorchProfiler
from torch.utils.data import DataLoader

from fulgurite.callbacks import SeqPoint
from fulgurite.callbacks.seqpoint import Plan
from fulgurite.callbacks.seqpoint.clock import StepClock
from fulgurite.callbacks.seqpoint.log import EpochLog

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

LENGTHS = np.random.default_rng(0).lognormal(2.5, 0.5, 480).astype(int) + 2


class Host:
    """The clock: batches move it in their steps, everything else stands still."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


@pytest.fixture
def host(monkeypatch):
    clock = Host()
    monkeypatch.setattr("fulgurite.callbacks.seqpoint.recorder.StepClock", partial(StepClock, now=clock))
    return clock


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes most of a short run's time; tests of something else do without."""
    monkeypatch.setattr("fulgurite.callbacks.seqpoint.callback.write", lambda findings, folder: folder / "report.html")


class Tagger(pl.LightningModule):
    """A step costs 2 ms and a tenth of a millisecond a padded token."""

    def __init__(self, host=None, fail_at=None, validation=0.0):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.dropout = torch.nn.Dropout(0.5)
        self.host, self.fail_at, self.validation = host, fail_at, validation
        self.order = []

    def training_step(self, batch, batch_idx):
        if self.fail_at == (self.current_epoch, batch_idx):
            raise RuntimeError("the machine is on fire")
        size = batch["source"].shape
        if self.host is not None:
            self.host.time += 0.002 + 0.0001 * size[0] * size[1]
        self.order.append((tuple(size), random.random(), float(np.random.random())))
        return self.dropout(self.layer(batch["source"])).square().mean()

    def validation_step(self, batch, batch_idx):
        self.host.time += self.validation
        self.log("loss", self.layer(batch["source"]).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def collate(samples):
    longest = max(len(sample) for sample in samples)
    padded = torch.stack([torch.nn.functional.pad(sample, (0, 0, 0, longest - len(sample))) for sample in samples])
    return {"source": padded, "source_lengths": torch.tensor([len(sample) for sample in samples])}


def loader(lengths=LENGTHS, *, shuffle=True, batch_size=4):
    samples = [torch.full((int(length), 4), 0.01 * float(length)) for length in lengths]
    return DataLoader(samples, batch_size=batch_size, shuffle=shuffle, collate_fn=collate)


def fit(callbacks, folder, *, module=None, data=None, seed=1, ckpt=None, **options):
    pl.seed_everything(seed, verbose=False)
    options = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **options,
    }
    trainer = pl.Trainer(default_root_dir=folder, callbacks=callbacks, **options)
    data = (data,) if isinstance(data, DataLoader) else data or (loader(),)
    trainer.fit(module or Tagger(), *data, ckpt_path=ckpt)
    return trainer


def test_three_phases_and_a_report(tmp_path, host, capsys):
    seqpoint = SeqPoint(points=5)
    fit([seqpoint], tmp_path, module=Tagger(host), max_epochs=3)
    folder = tmp_path / "seqpoint"
    assert seqpoint.report == folder / "report.html"
    assert Plan.load(folder / "plan.json") == seqpoint.plan
    assert (seqpoint.logged.epoch, seqpoint.following.epoch) == (0, 1)
    assert seqpoint.logged.columns == ("batch", "source", "optimizer_step")
    assert len(seqpoint.logged) == len(seqpoint.following) == 120
    assert not seqpoint.logged.traced.any()
    assert seqpoint.following.traced.sum() == 5
    assert len(list((folder / "traces").iterdir())) == 5
    assert "<svg" in seqpoint.report.read_text()
    # What a step cost is known exactly, and so is what padding there was.
    shapes = seqpoint.logged.shapes
    np.testing.assert_allclose(seqpoint.logged.seconds, 0.002 + 0.0001 * shapes[:, 0] * shapes[:, 1])
    assert seqpoint.logged.real.sum() == LENGTHS.sum()
    np.testing.assert_array_equal(seqpoint.logged.padded, shapes[:, 0] * shapes[:, 1])
    assert seqpoint.projection.total == pytest.approx(seqpoint.following.seconds.sum(), rel=0.02)
    steps = EpochLog.load_csv(folder / "steps.csv")
    np.testing.assert_array_equal(steps.shapes, shapes)
    printed = capsys.readouterr().out
    assert "Projected epoch" in printed
    assert "report.html" in printed


def test_nothing_changes_for_the_training(tmp_path, host, no_report):
    """Weights, random numbers of all three generators, and the order of a shuffled epoch, traces included."""
    outcomes = []
    for callbacks in ([], [SeqPoint(points=3)]):
        torch.manual_seed(0)
        module = Tagger(host)
        fit(callbacks, tmp_path, module=module)
        outcomes.append((module, torch.get_rng_state(), random.getstate(), np.random.get_state()))
    (plain, *before), (watched, *after) = outcomes
    assert callbacks[0].following.traced.sum() == 3
    assert plain.order == watched.order
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert all(np.array_equal(a, b) for a, b in zip(before[2], after[2], strict=True))


def test_the_epoch_that_was_asked_for_is_logged(tmp_path, host, no_report):
    seqpoint = SeqPoint(points=3, epoch=1)
    fit([seqpoint], tmp_path, module=Tagger(host), max_epochs=4)
    assert (seqpoint.logged.epoch, seqpoint.following.epoch) == (1, 2)
    assert seqpoint.logged.cold.sum() < len(np.unique(seqpoint.logged.shapes, axis=0)), "epoch 0 warmed most shapes"


def test_accumulation_and_validation_are_told_apart(tmp_path, host, no_report):
    seqpoint = SeqPoint(points=3, trace=False)
    data = (loader(), loader(LENGTHS[:8]))
    fit([seqpoint], tmp_path, module=Tagger(host, validation=64.0), data=data, accumulate_grad_batches=4,
        val_check_interval=50)  # fmt: skip
    assert seqpoint.logged.shapes[:, 2].tolist() == [0, 0, 0, 1] * 30
    assert seqpoint.logged.outside.sum() == 2 * 2 * 64.0
    assert np.flatnonzero(seqpoint.logged.outside).tolist() == [50, 100]
    assert seqpoint.logged.starts.sum() == pytest.approx(seqpoint.logged.seconds.sum())


def test_traced_steps_have_the_optimizer_step_that_their_shape_says(tmp_path, host, no_report):
    seqpoint = SeqPoint(points=6)
    fit([seqpoint], tmp_path, module=Tagger(host), accumulate_grad_batches=2)
    traces = [trace for found in seqpoint._findings.traces.values() for trace in found]
    assert traces
    for trace in traces:
        names = [event["name"] for event in json.loads(gzip.decompress(trace.path.read_bytes()))["traceEvents"]]
        assert any(name.startswith("Optimizer.step") for name in names) == (trace.shape[2] == 1)
    assert {trace.shape[2] for trace in traces} == {0, 1}


def test_one_epoch_gives_a_plan_without_traces(tmp_path, host):
    seqpoint = SeqPoint(points=3)
    fit([seqpoint], tmp_path, module=Tagger(host), max_epochs=1)
    assert seqpoint.report.exists()
    assert seqpoint.projection is None
    assert any("no epoch followed the logged one" in note for note in seqpoint.notes)
    assert not (tmp_path / "seqpoint" / "traces").exists()


def test_an_epoch_that_ends_early_is_noted(tmp_path, host, no_report):
    seqpoint = SeqPoint(points=3)
    fit([seqpoint], tmp_path, module=Tagger(host), max_epochs=-1, max_steps=70)
    assert len(seqpoint.logged) == 70
    assert any("ended early, after 70 of 120 batches" in note for note in seqpoint.notes)


def test_an_epoch_that_never_comes_is_told(tmp_path, host):
    with pytest.warns(UserWarning, match="no epoch from number 5 on was trained as a whole"):
        fit([SeqPoint(epoch=5)], tmp_path, module=Tagger(host))
    assert list((tmp_path / "seqpoint").iterdir()) == []


def test_traces_of_an_earlier_run_do_not_stay(tmp_path, host, no_report):
    for points in (5, 2):
        fit([SeqPoint(points=points, folder=tmp_path)], tmp_path, module=Tagger(host))
        assert len(list((tmp_path / "traces").iterdir())) == points


def test_fast_dev_run_does_nothing(tmp_path):
    seqpoint = SeqPoint()
    fit([seqpoint], tmp_path, fast_dev_run=True)
    assert seqpoint.plan is None
    assert list(tmp_path.iterdir()) == []


def test_an_epoch_of_one_step_is_survived(tmp_path, host, no_report):
    seqpoint = SeqPoint()
    fit([seqpoint], tmp_path, module=Tagger(host), data=loader(LENGTHS[:4]))
    assert len(seqpoint.logged) == 1
    assert seqpoint.plan.weights.sum() == pytest.approx(1)
    assert any("nothing was projected" in note for note in seqpoint.notes)


def test_loggers_get_numbers_and_tensorboard_the_figures(tmp_path, host):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    csv, board = CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")
    seqpoint = SeqPoint(points=3)
    fit([seqpoint], tmp_path, module=Tagger(host), logger=[csv, board], log_every_n_steps=1)
    assert seqpoint.report.parent.parent == tmp_path / "csv" / "version_0"
    events = EventAccumulator(str(board.log_dir))
    events.Reload()
    assert {"seqpoint/step_time", "seqpoint/timeline", "seqpoint/operators"} <= set(events.Tags()["images"])
    scalars = {tag for tag in events.Tags()["scalars"] if tag.startswith("seqpoint/")}
    assert {"seqpoint/projected_seconds", "seqpoint/actual_seconds", "seqpoint/points", "seqpoint/padding"} <= scalars
    assert "seqpoint/serial_reduction" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()


def test_the_logged_epoch_and_the_plan_survive_a_checkpoint(tmp_path, host, no_report):
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "checkpoints", filename="{epoch}", save_top_k=-1)
    first = SeqPoint(points=4)
    fit([first, checkpoint], tmp_path / "a", module=Tagger(host), max_epochs=1, enable_checkpointing=True)
    saved = tmp_path / "checkpoints" / "epoch=0.ckpt"
    torch.load(saved, weights_only=True)
    second = SeqPoint(points=4)
    fit([second], tmp_path / "b", module=Tagger(host), ckpt=saved)
    assert second.following.epoch == 1
    np.testing.assert_array_equal(second.logged.seconds, first.logged.seconds)
    assert [point.shape for point in second.plan.points] == [point.shape for point in first.plan.points]
    assert second.projection is not None
    assert second.report.parent == tmp_path / "b" / "seqpoint"


def test_a_checkpoint_made_by_validation_at_the_epoch_s_end_holds_the_plan(tmp_path, host, no_report):
    checkpoint = ModelCheckpoint(
        dirpath=tmp_path / "checkpoints", filename="{epoch}", monitor="loss", save_on_train_epoch_end=False
    )
    seqpoint = SeqPoint(points=4)
    data = (loader(), loader(LENGTHS[:8]))
    fit([seqpoint, checkpoint], tmp_path, module=Tagger(host), data=data, max_epochs=1, enable_checkpointing=True)
    state = torch.load(tmp_path / "checkpoints" / "epoch=0.ckpt", weights_only=True)["callbacks"]["SeqPoint"]
    assert state["plan"]["iterations"] == 120


def test_an_epoch_resumed_in_its_middle_is_not_logged(tmp_path, host, no_report):
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "c", filename="{step}", save_top_k=-1, every_n_train_steps=50)
    fit([SeqPoint(), checkpoint], tmp_path, module=Tagger(host), max_epochs=1, enable_checkpointing=True, max_steps=60)
    seqpoint = SeqPoint(points=3)
    with pytest.warns(UserWarning, match="resuming from a checkpoint that ended before the epoch ended"):
        fit([seqpoint], tmp_path, module=Tagger(host), max_epochs=3, ckpt=tmp_path / "c" / "step=50.ckpt")
    assert (seqpoint.logged.epoch, len(seqpoint.logged)) == (1, 120)
    assert seqpoint.following.epoch == 2


def test_an_exception_leaves_the_steps_so_far(tmp_path, host, no_report):
    with pytest.raises(RuntimeError, match="on fire"):
        fit([SeqPoint()], tmp_path, module=Tagger(host, fail_at=(0, 30)))
    assert len(EpochLog.load_csv(tmp_path / "seqpoint" / "steps.csv")) == 30
    with pytest.raises(RuntimeError, match="on fire"):
        fit([SeqPoint(points=3)], tmp_path, module=Tagger(host, fail_at=(1, 30)))
    assert len(EpochLog.load_csv(tmp_path / "seqpoint" / "steps.csv")) == 120
    assert Plan.load(tmp_path / "seqpoint" / "plan.json").iterations == 120
    assert len(EpochLog.load_csv(tmp_path / "seqpoint" / "steps_following.csv")) == 30
    assert not torch._C._autograd._profiler_enabled()


def test_the_same_callback_serves_two_runs(tmp_path, host, no_report):
    seqpoint = SeqPoint(points=3)
    for folder in ("a", "b"):
        fit([seqpoint], tmp_path / folder, module=Tagger(host))
        assert seqpoint.report == tmp_path / folder / "seqpoint" / "report.html"


@pytest.mark.parametrize("selector", ["interpolate", "paper", "audit"])
def test_every_selector(tmp_path, host, no_report, selector):
    seqpoint = SeqPoint(selector=selector, max_share=0.2)
    fit([seqpoint], tmp_path, module=Tagger(host))
    assert seqpoint.plan.selector == selector
    assert seqpoint.projection.total == pytest.approx(seqpoint.following.seconds.sum(), rel=0.1)
    assert seqpoint.following.traced.sum() == len(seqpoint.plan.points)


def test_shape_fn_and_length_name(tmp_path, host, no_report):
    seqpoint = SeqPoint(points=3, shape_fn=lambda batch: (1, 2, batch["source"].shape[1]), length="target")
    fit([seqpoint], tmp_path, module=Tagger(host))
    assert seqpoint.plan.columns == ("batch", "source", "target", "optimizer_step")
    assert seqpoint.plan.length == 2


def test_junk_from_shape_fn_stops_before_the_first_step(tmp_path):
    module = Tagger()
    with pytest.raises(ValueError, match="shape_fn returned None; it must return"):
        fit([SeqPoint(shape_fn=lambda batch: None, epoch=3)], tmp_path, module=module)
    assert module.order == []


def test_junk_from_shape_fn_later_on_stops_the_logging_only(tmp_path):
    module = Tagger()
    seqpoint = SeqPoint(shape_fn=lambda batch: (1,) * (1 + (len(module.order) > 7)))
    with pytest.warns(UserWarning, match="SeqPoint") as caught:
        fit([seqpoint], tmp_path, module=module)
    messages = [str(warning.message) for warning in caught if "SeqPoint" in str(warning.message)]
    assert len(messages) == 2
    assert "SeqPoint stops logging: shape_fn returned 2 numbers" in messages[0]
    assert "epoch 0 could not be logged" in messages[1]
    assert len(module.order) == 240


def test_batches_without_tensors_do_not_stop_the_training(tmp_path):
    class Texts(Tagger):
        def training_step(self, batch, batch_idx):
            return self.layer(torch.ones(len(batch), 4)).mean()

    data = DataLoader(["some", "text"] * 20, batch_size=4)
    seqpoint = SeqPoint()
    with pytest.warns(UserWarning, match="no tensor to read a shape from in a batch of type list; pass shape_fn="):
        fit([seqpoint], tmp_path, module=Texts(), data=data)
    assert seqpoint.plan is None


def test_a_foreign_profiler_leaves_a_report_without_traces(tmp_path, host):
    seqpoint = SeqPoint(points=3)
    with (
        torch.profiler.profile(schedule=lambda step: torch.profiler.ProfilerAction.RECORD),
        pytest.warns(UserWarning, match="SeqPoint stops tracing: another torch profiler is recording"),
    ):
        fit([seqpoint], tmp_path, module=Tagger(host))
    assert seqpoint.report.exists()
    assert seqpoint.projection is not None
    assert not seqpoint.following.traced.any()
    assert any("no further steps were traced" in note for note in seqpoint.notes)


def test_lightning_s_pytorch_profiler_excludes_traces(tmp_path, host, no_report):
    seqpoint = SeqPoint(points=3)
    with pytest.warns(UserWarning, match="no step is traced, because .*PyTorchProfiler"):
        fit([seqpoint], tmp_path, module=Tagger(host), profiler=PyTorchProfiler(dirpath=tmp_path, filename="p"))
    assert seqpoint.projection is not None
    assert not seqpoint.following.traced.any()


def test_a_folder_that_cannot_be_written_to_is_told_once(tmp_path, host):
    (tmp_path / "file").write_text("not a folder")
    seqpoint = SeqPoint(points=3, folder=tmp_path / "file" / "seqpoint")
    with pytest.warns(UserWarning, match="SeqPoint") as caught:
        fit([seqpoint], tmp_path, module=Tagger(host))
    messages = [str(warning.message) for warning in caught if "SeqPoint" in str(warning.message)]
    assert len(messages) == 1
    assert "nothing can be written to" in messages[0]
    assert seqpoint.projection is not None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_report_that_fails_is_told_and_survived(tmp_path, host, monkeypatch):
    def burst(*args, **kwargs):
        raise ZeroDivisionError("no figures today")

    monkeypatch.setattr("fulgurite.callbacks.seqpoint.callback.write", burst)
    module, seqpoint = Tagger(host), SeqPoint(points=3)
    with pytest.warns(UserWarning, match="could not write its report: ZeroDivisionError: no figures today"):
        fit([seqpoint], tmp_path, module=module, max_epochs=3)
    assert len(module.order) == 360
    assert seqpoint.report is None


def test_modules_that_fetch_their_batches_are_refused(tmp_path):
    class Fetcher(Tagger):
        def training_step(self, dataloader_iter):
            return None

    with pytest.raises(ValueError, match=r"SeqPoint cannot see the batches of Fetcher.*dataloader_iter"):
        fit([SeqPoint()], tmp_path, module=Fetcher())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selector": "papper"}, "papper"),
        ({"points": 0}, "points"),
        ({"replicates": 0}, "replicates"),
        ({"max_share": 0.0}, "max_share"),
        ({"error": -1.0}, "error"),
        ({"epoch": -1}, "got epoch=-1; expected 0"),
        ({"shape_fn": "len"}, "got shape_fn='len'; expected a function"),
        ({"length": True}, "length"),
        ({"length": -1}, "length"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        SeqPoint(**options)


def test_yaml_configures_it():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(SeqPoint, "seqpoint")
    text = {"seqpoint": {"selector": "audit", "points": 4, "length": "source", "epoch": 1, "folder": "x"}}
    made = parser.instantiate(parser.parse_string(json.dumps(text))).seqpoint
    assert made.options.epoch == 1
    assert made.options.length == "source"
    assert made.options.select["selector"] == "audit"


def test_weights_of_a_padded_epoch_add_up(tmp_path, host, no_report):
    """The operator table adds up to the projected epoch, by operator and by module."""
    seqpoint = SeqPoint(points=4)
    fit([seqpoint], tmp_path, module=Tagger(host))
    table = seqpoint._findings.table
    for kind in ("operator", "module"):
        total = math.fsum(row.seconds for row in table.of(kind))
        assert total == pytest.approx(seqpoint.projection.total, rel=1e-9)
