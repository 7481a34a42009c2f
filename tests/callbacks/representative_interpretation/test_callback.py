import json
import sys
import types

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks import RepresentativeInterpretation
from fulgurite.callbacks.representative_interpretation.clues import GroupAlarm

HOME = "representative_interpretation"
pytestmark = pytest.mark.filterwarnings("ignore::fulgurite.callbacks.representative_interpretation.clues.GroupAlarm")


class Classifier(pl.LightningModule):
    """A network that knows its task and hardly learns any more."""

    def __init__(self, network, *, rate=1e-5):
        super().__init__()
        self.network, self.rate = network, rate

    def forward(self, images):
        return self.network(images)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Headless(Classifier):
    forward = pl.LightningModule.forward

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.network(batch[0])


@pytest.fixture
def classifier(fitted, make_network):
    network = make_network()
    network.load_state_dict(fitted.state_dict())
    return Classifier(network)


@pytest.fixture(scope="module")
def data(shapes):
    """Sorted by class, as validation sets often are."""
    images, labels = shapes(300, seed=1)
    order = labels.argsort(stable=True)
    return TensorDataset(images[order], labels[order])


def interpretation(**options):
    usual = {"reference": 150, "held_out": 50, "boundaries": 6, "cut": "network.0"}
    return RepresentativeInterpretation(**usual | options)


def trainer_for(folder, callbacks, **options):
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 2,
    }
    return pl.Trainer(default_root_dir=folder, callbacks=callbacks, **quiet | options)


def loaders(data):
    return DataLoader(data, batch_size=32), DataLoader(data, batch_size=40)


def test_a_run_ends_with_a_report(tmp_path, classifier, data, capsys):
    callback = interpretation()
    trainer = trainer_for(tmp_path, [callback], max_epochs=2)
    trainer.fit(classifier, *loaders(data))
    folder = tmp_path / HOME
    assert sorted(path.name for path in folder.iterdir()) == ["groups.json", "groups.png", "history.png", "report.html"]
    assert [(one.epoch, one.kind) for one in callback.history] == [(0, "light"), (1, "light"), (1, "full")]

    told = json.loads((folder / "groups.json").read_text())
    assert told["reference"]["images"] == 150
    assert told["reference"]["seen"] == 300
    assert {group["label"] for group in told["groups"]["groups"]} == {0, 1, 2}
    assert len(told["history"]) == 3
    # The light passes looked at nearly the same network, on the same images, at the same cut.
    assert told["history"][1]["values"]["jaccard"] > 0.9

    printed = capsys.readouterr().out
    assert "Representative interpretations" in printed
    assert str(callback.report) in printed
    metrics = trainer.callback_metrics
    for name in ("coverage", "purity", "certificate", "held_out_purity", "planes", "label_purity", "alarms"):
        assert metrics[f"{HOME}/{name}"] == pytest.approx(callback.history[-1].values[name])
    assert metrics[f"{HOME}/purity"] > 0.95
    assert metrics[f"{HOME}/held_out_purity"] > 0.8


def test_the_sample_is_the_first_whole_validation_epoch(tmp_path, classifier, data):
    """Not the sanity check's batches; evenly from a sorted set; a part held out."""
    callback = interpretation(every_n_epochs=0)
    seen = []
    offer = callback._offer
    callback._offer = lambda batch: (seen.append(len(batch[0])), offer(batch))
    trainer_for(tmp_path, [callback], max_epochs=2, num_sanity_val_steps=2).fit(classifier, *loaders(data))
    assert sum(seen) == 600  # two epochs, of which the second is only looked at
    assert callback._sample.seen == 300
    assert len(callback._sample) == 150
    assert len(callback._held_out) == 50
    kept = torch.cat([callback._sample.images, callback._held_out.images]).flatten(1)
    everything = data.tensors[0].flatten(1)
    where = (kept[:, None] == everything[None]).all(2)
    assert (where.sum(1) == 1).all()
    assert (where.sum(0) <= 1).all(), "no image is both found on and tested on"
    assert callback._sample.labels.bincount().min() > 35
    assert [one.kind for one in callback.history] == ["full"]


@pytest.mark.parametrize(("every", "kinds"), [(2, ["light", "full"]), (3, ["light", "full"]), (0, ["full"])])
def test_light_passes_come_every_so_many_epochs(tmp_path, classifier, data, every, kinds):
    callback = interpretation(every_n_epochs=every)
    trainer_for(tmp_path, [callback], max_epochs=3, val_check_interval=1).fit(classifier, *loaders(data))
    assert [one.kind for one in callback.history] == kinds


def test_light_passes_keep_to_one_cut(tmp_path, classifier, data):
    callback = interpretation(cut="auto")
    trainer_for(tmp_path, [callback], max_epochs=3).fit(classifier, *loaders(data))
    assert len({one.cut for one in callback.history if one.kind == "light"}) == 1
    first, second, third, _ = callback.history
    assert "jaccard" not in first.values
    assert second.values["jaccard"] == pytest.approx(1 - second.values["drift"])
    assert third.values["jaccard"] > 0.9


def test_two_runs_write_the_same_json(tmp_path, data, fitted, make_network):
    texts = []
    for run in ("first", "second"):
        network = make_network()
        network.load_state_dict(fitted.state_dict())
        trainer_for(tmp_path / run, [interpretation()]).fit(Classifier(network, rate=0.0), *loaders(data))
        texts.append((tmp_path / run / HOME / "groups.json").read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_without_validation_the_sample_is_of_training_batches(tmp_path, classifier, data):
    callback = interpretation()
    trainer_for(tmp_path, [callback], limit_train_batches=1.0, max_epochs=2).fit(classifier, loaders(data)[0])
    assert callback._sample.seen == 300
    assert [one.kind for one in callback.history] == ["light", "light", "full"]
    assert "training images" in callback.report.read_text()


def test_a_training_that_never_validates_says_so(tmp_path, classifier, data):
    callback = interpretation()
    trainer = trainer_for(tmp_path, [callback], check_val_every_n_epoch=5)
    with pytest.warns(UserWarning, match="could not make its full pass: .*no whole validation epoch has run; training"):
        trainer.fit(classifier, *loaders(data))
    assert callback.report is None


def test_validate_makes_a_full_pass(tmp_path, classifier, data, capsys):
    callback = interpretation()
    trainer = trainer_for(tmp_path, [callback])
    trainer.validate(classifier, loaders(data)[1], verbose=False)
    assert [one.kind for one in callback.history] == ["full"]
    assert trainer.callback_metrics[f"{HOME}/purity"] > 0.95
    assert "Representative interpretations" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_checkpoints_can_monitor_and_state_is_plain(tmp_path, classifier, data):
    kept = pl.callbacks.ModelCheckpoint(
        tmp_path / "kept", monitor=f"{HOME}/coverage", mode="max", save_top_k=-1, save_last=True
    )
    first = interpretation()
    trainer_for(tmp_path, [first, kept], max_epochs=2, enable_checkpointing=True).fit(classifier, *loaders(data))
    state = torch.load(kept.last_model_path, weights_only=True)
    assert kept.best_model_score == max(one.values["coverage"] for one in first.history[:2])
    assert [one["kind"] for one in state["callbacks"]["RepresentativeInterpretation"]["history"]] == ["light", "light"]

    again = interpretation()
    trainer = trainer_for(tmp_path, [again], max_epochs=3)
    trainer.fit(classifier, *loaders(data), ckpt_path=kept.last_model_path, weights_only=True)
    assert [(one.epoch, one.kind) for one in again.history] == [(0, "light"), (1, "light"), (2, "light"), (2, "full")]
    assert again.history[2].values["jaccard"] > 0.8, "compared with the pass before the checkpoint"


def test_a_state_of_another_version_is_left(tmp_path):
    callback = interpretation()
    with pytest.warns(UserWarning, match="a state of version 99, but this release reads 1"):
        callback.load_state_dict({"version": 99, "history": [], "cut": None})
    assert callback.history == []


def test_a_callback_serves_several_runs(tmp_path, classifier, data):
    callback = interpretation(every_n_epochs=0)
    for run in ("first", "second"):
        trainer_for(tmp_path / run, [callback]).fit(classifier, *loaders(data))
        assert len(callback.history) == 1
        assert (tmp_path / run / HOME / "report.html").exists()


def test_nothing_that_goes_wrong_stops_the_training(tmp_path, classifier, data):
    classifier.forward = lambda images: (_ for _ in ()).throw(RuntimeError("out of luck"))
    classifier.validation_step = lambda batch, batch_idx: None
    classifier.training_step = lambda batch, batch_idx: F.cross_entropy(classifier.network(batch[0]), batch[1])
    callback = interpretation()
    with pytest.warns(
        UserWarning,
        match="could not make its .* pass: the model failed .*RuntimeError: out of luck.*; training goes on",
    ):
        trainer_for(tmp_path, [callback]).fit(classifier, *loaders(data))
    assert callback.survey is None


def test_a_file_in_the_folders_place_costs_the_report_only(tmp_path, classifier, data):
    (tmp_path / "taken").write_text("")
    callback = interpretation(folder=tmp_path / "taken", every_n_epochs=0)
    trainer = trainer_for(tmp_path, [callback])
    with pytest.warns(UserWarning, match="cannot write to"):
        trainer.fit(classifier, *loaders(data))
    assert callback.report is None
    assert f"{HOME}/purity" in trainer.callback_metrics


def test_nothing_happens_in_a_dry_run(tmp_path, classifier, data):
    callback = interpretation()
    trainer_for(tmp_path, [callback], fast_dev_run=True).fit(classifier, *loaders(data))
    assert callback.history == []
    assert list(tmp_path.iterdir()) == []


def test_strategies_that_shard_are_left_alone(tmp_path, classifier, data):
    class FSDPStrategy(SingleDeviceStrategy):
        pass

    callback = interpretation()
    trainer = trainer_for(tmp_path, [callback], accelerator="auto", strategy=FSDPStrategy("cpu"))
    with pytest.warns(UserWarning, match="does nothing under FSDPStrategy, which splits parameters"):
        trainer.fit(classifier, *loaders(data))
    assert callback.history == []


def test_a_module_without_forward_names_its_part(tmp_path, classifier, data):
    module = Headless(classifier.network)
    with pytest.raises(ValueError, match=r"Headless has no forward.*network=… \(it has network\)"):
        trainer_for(tmp_path, [interpretation()]).fit(module, *loaders(data))
    with pytest.raises(ValueError, match="got network='head'; expected a submodule of Headless, such as network"):
        trainer_for(tmp_path, [interpretation(network="head")]).fit(module, *loaders(data))
    callback = interpretation(network="network", cut="0", every_n_epochs=0)
    trainer_for(tmp_path, [callback]).fit(module, *loaders(data))
    assert callback.history[0].values["purity"] > 0.95


def test_images_and_logits_where_they_lie_elsewhere(tmp_path, classifier, data):
    class Wrapped(Classifier):
        def forward(self, images):
            return {"scores": self.network(images), "other": 1}

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch["picture"]["raw"])["scores"], batch["kind"])

        def validation_step(self, batch, batch_idx):
            self(batch["picture"]["raw"])

    samples = [{"picture": {"raw": image}, "kind": label} for image, label in data]
    blind = interpretation(every_n_epochs=0)
    with pytest.warns(UserWarning, match="could not sample images: .*pass images_fn"):
        trainer_for(tmp_path, [blind]).fit(Wrapped(classifier.network), *loaders(samples))
    callback = interpretation(
        every_n_epochs=0,
        images_fn=lambda batch: batch["picture"]["raw"],
        logits_fn=lambda out: out["scores"],
        class_names=["lying", "standing", "square"],
    )
    trainer_for(tmp_path, [callback]).fit(Wrapped(classifier.network), *loaders(samples))
    assert callback.survey.sample.labels is None
    assert callback.survey.groups[0].label_purity is None
    text = callback.report.read_text()
    assert "standing" in text
    assert "true labels are not known" in text


def test_a_short_time_gives_less_but_something(tmp_path, classifier, data):
    callback = interpretation(every_n_epochs=0, time_budget=1e-3)
    trainer_for(tmp_path, [callback]).fit(classifier, *loaders(data))
    assert len(callback.survey.groups) <= 3
    assert callback.survey.notes
    assert callback.report.exists()


def test_the_planted_spot_is_exposed(tmp_path, fooled, make_network, shapes):
    network = make_network()
    network.load_state_dict(fooled.state_dict())
    data = TensorDataset(*shapes(300, seed=2, patched=2))
    callback = interpretation(every_n_epochs=0, class_names=["lying", "standing", "square"])
    with pytest.warns(GroupAlarm, match="square, group . hangs on the bottom right corner"):
        trainer_for(tmp_path, [callback]).fit(Classifier(network), *loaders(data))
    (clue,) = (clue for clue in callback.alarms if clue.kind == "spot")
    view = next(one for one in callback.survey.views if (one.found.label, one.number) == (clue.label, clue.number))
    patched = callback.survey.sample.images[:, 0, -3:, -3:].mean((1, 2)) > 0.9
    assert patched[view.found.members].sum() > 0.8 * patched.sum(), "the group holds the images with the patch"
    assert view.mass > 1.5 * view.mass_elsewhere, "its maps lie on the patch"
    text = callback.report.read_text()
    assert 'class="group alarmed"' in text
    assert "taken for square once the spot is in them" in text
    assert callback.history[-1].values["spots"] == 1


def test_mixed_true_labels_are_an_alarm(tmp_path, classifier, data):
    images, labels = data.tensors
    wrong = labels.clone()
    wrong[(labels == 1) & (torch.arange(len(labels)) % 2 == 0)] = 0
    callback = interpretation(every_n_epochs=0)
    with pytest.warns(GroupAlarm, match=r"class 1, group \d mixes true classes: "):
        trainer_for(tmp_path, [callback]).fit(classifier, *loaders(TensorDataset(images, wrong)))
    assert {clue.label for clue in callback.alarms if clue.kind == "mixed"} == {1}
    assert callback.history[-1].values["label_purity"] < 0.7


def test_tensorboard_and_csv_get_all(tmp_path, classifier, data):
    board, table = TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "table")
    trainer_for(tmp_path, [interpretation()], logger=[board, table], max_epochs=2).fit(classifier, *loaders(data))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert set(events.Tags()["images"]) == {f"{HOME}/groups", f"{HOME}/history"}
    assert [event.step for event in events.Images(f"{HOME}/groups")] == [2, 4, 4]
    assert [event.step for event in events.Images(f"{HOME}/history")] == [4]
    assert {f"{HOME}/coverage", f"{HOME}/purity", f"{HOME}/drift"} <= set(events.Tags()["scalars"])
    (written,) = (tmp_path / "table").rglob("metrics.csv")
    assert f"{HOME}/coverage" in written.read_text()
    assert (tmp_path / "board" / "lightning_logs" / "version_0" / HOME / "report.html").exists()


def test_weights_and_biases_gets_a_step_in_one_call(tmp_path, classifier, data, monkeypatch):
    """Against W&B's documented interface: run.log(dict) once a step, with lists of wandb.Image."""
    calls = []
    run = types.SimpleNamespace(
        log=calls.append, define_metric=lambda *_, **__: None, config={}, name="run", id="1", dir=str(tmp_path)
    )
    fake = {name: types.ModuleType(name) for name in ("wandb", "wandb.sdk", "wandb.sdk.lib", "wandb.wandb_run")}
    fake["wandb"].run = None
    fake["wandb"].init = lambda **_: run
    fake["wandb"].Image = lambda pixels, caption: ("image", pixels.shape, str(pixels.dtype), caption)
    fake["wandb.sdk.lib"].RunDisabled = type("RunDisabled", (), {})
    fake["wandb.wandb_run"].Run = types.SimpleNamespace
    for name, module in fake.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    monkeypatch.setattr(WandbLogger, "log_hyperparams", lambda *_, **__: None)
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    trainer_for(tmp_path, [interpretation()], logger=logger).fit(classifier, *loaders(data))
    ours = [call for call in calls if any(name.startswith(HOME) for name in call)]
    assert len(ours) == 2, "a light and a full pass"
    for call in ours:
        ((kind, shape, dtype, caption),) = call[f"{HOME}/groups"]
        assert (kind, shape[2], dtype, caption) == ("image", 3, "uint8", "groups")
        assert call[f"{HOME}/coverage"] > 0
        assert call["trainer/global_step"] == 2
    assert f"{HOME}/history" in ours[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reference": 3}, "got reference=3; expected at least 8"),
        ({"boundaries": 0}, "got boundaries=0; expected at least 1"),
        ({"every_n_epochs": -1}, "got every_n_epochs=-1; expected at least 0"),
        ({"time_budget": 0}, "got time_budget=0; expected seconds"),
        ({"maps": "jet"}, "got maps='jet'; expected 'channel' or 'elementwise'"),
        ({"alarm": 90}, "got alarm=90; expected a share"),
        ({"images_fn": "batch"}, "got images_fn='batch'; expected a function"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RepresentativeInterpretation(**options)


def test_a_smooth_network_is_told_to_be_one(tmp_path, make_network, data):
    callback = interpretation(every_n_epochs=0, alarm=0.0)
    network = make_network(activation=nn.SiLU)
    trainer_for(tmp_path, [callback], limit_train_batches=1.0).fit(Classifier(network, rate=0.5), *loaders(data))
    text = callback.report.read_text()
    assert "Sign agreement" in text
    assert "Exact planes" not in text
