import math

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn.edge_classification import DynamicEdgeClassifier
from fulgurite.models.dynamic_gnn.link_prediction import DynamicLinkPredictor
from fulgurite.models.dynamic_gnn.network import TMGCN, WDGCN, EvolveGCNH
from fulgurite.models.dynamic_gnn.node_classification import DynamicNodeClassifier
from fulgurite.models.dynamic_gnn.task import Scores
from fulgurite.plugins.registry import discover
from fulgurite.plugins.snapshot_parallel.shard import Shard
from fulgurite.recipes.lightning_cli import run_cli
from fulgurite.recipes.trust import allow_list

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")


class Pointwise(nn.Module):
    """The plainest network that fits: a linear map of each vertex's features."""

    coupling = "none"

    def __init__(self, in_channels: int = 4, out_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.linear = nn.Linear(in_channels, out_channels)

    def initial_carry(self, block):
        return ()

    def forward(self, block, carry):
        return self.linear(block.features), carry


def make_timeline(seed: int = 0, *, ends: int = 1, targets: int = 40, classes: int = 2, **options) -> Timeline:
    """Six snapshots of ten vertices; the features of a vertex tell its class, which changes at every snapshot."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(6, 10, 4))
    time, index = generator.integers(6, size=targets), generator.integers(10, size=(ends, targets))
    score = features[time, index[0], 0]
    label = np.digitize(score, [-0.4, 0.4][: classes - 1]) if ends == 1 else np.ones(targets, dtype=int)
    return Timeline.from_events(
        generator.integers(10, size=60),
        generator.integers(10, size=60),
        generator.integers(6, size=60),
        num_nodes=10,
        num_snapshots=6,
        features=torch.from_numpy(features).float(),
        target_index=index,
        target_label=label,
        target_time=time,
        **options,
    )


def make_trainer(**options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def loader(*timelines: Timeline) -> DataLoader:
    return DataLoader(timelines, batch_size=None)


class Loaders(LightningDataModule):
    """A data module that knows nothing of timelines."""

    def train_dataloader(self):
        return loader(make_timeline())

    predict_dataloader = train_dataloader


@pytest.mark.parametrize(("class_weight", "weights"), [(None, [1.0, 1.0]), ([0.2, 0.7], [0.2, 0.7])])
def test_the_loss_is_weighted_cross_entropy(class_weight, weights):
    timeline = make_timeline()
    task = DynamicNodeClassifier(Pointwise(), class_weight=class_weight)
    seen = {}
    task.log = lambda name, value, **_: seen.update({name: value})
    task.trainer = make_trainer()
    loss = task.training_step(timeline, 0)
    expected = functional.cross_entropy(task(timeline), timeline.target_label, torch.tensor(weights))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(seen["train/loss"], expected.detach())


def test_balanced_classes_have_equal_shares():
    timeline = make_timeline()
    timeline.target_label[:] = (torch.arange(40) >= 36).long()
    task = DynamicNodeClassifier(Pointwise(), class_weight="balanced")
    task.log = lambda *_, **__: None
    task.trainer = make_trainer()
    terms = functional.cross_entropy(task(timeline), timeline.target_label, reduction="none")
    expected = (terms[:36].mean() + terms[36:].mean()) / 2
    torch.testing.assert_close(task.training_step(timeline, 0), expected)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_plain_trainer_fits_validates_tests_and_predicts(classes):
    torch.manual_seed(0)
    train, held_out = make_timeline(0, targets=200, classes=classes), make_timeline(1, targets=200, classes=classes)
    task = DynamicNodeClassifier(Pointwise(), num_classes=classes, learning_rate=0.1)
    trainer = make_trainer(max_epochs=60, check_val_every_n_epoch=60)
    trainer.fit(task, loader(train), loader(held_out))
    metrics = trainer.callback_metrics
    assert set(metrics) == {"train/loss", "val/loss", "val/ap", "val/auroc", "val/f1"}
    assert metrics["val/ap"] > 0.9 if classes == 2 else metrics["val/ap"] > 0.6
    tested = trainer.test(task, loader(held_out), verbose=False)[0]
    assert tested["test/ap"] == pytest.approx(metrics["val/ap"].item())
    (scores,) = trainer.predict(task, loader(held_out))
    assert isinstance(scores, Scores)
    assert scores.time.tolist() == sorted(scores.time.tolist())
    assert torch.equal(scores.index, held_out.target_index)
    torch.testing.assert_close(scores.score, task(held_out).softmax(dim=1))


def test_two_timelines_are_measured_together_and_a_stage_starts_anew():
    torch.manual_seed(0)
    task, timelines = DynamicNodeClassifier(Pointwise()), [make_timeline(seed) for seed in (1, 2)]
    trainer = make_trainer()
    both = trainer.validate(task, loader(*timelines), verbose=False)[0]
    logits = torch.cat([task(timeline) for timeline in timelines]).detach()
    labels = torch.cat([timeline.target_label for timeline in timelines])
    predicted = logits.argmax(dim=1)
    hits = ((predicted == 1) & (labels == 1)).sum().item()
    assert both["val/f1"] == pytest.approx(2 * hits / ((predicted == 1).sum() + (labels == 1).sum()).item())
    assert trainer.validate(task, loader(*timelines), verbose=False)[0] == both


def test_the_graphs_of_timelines_are_built_once_and_let_go_at_the_end(monkeypatch):
    built = []
    whole = Shard.whole.__func__
    monkeypatch.setattr(Shard, "whole", classmethod(lambda cls, *a, **o: built.append(1) or whole(cls, *a, **o)))
    task = DynamicNodeClassifier(Pointwise())
    train, held_out = make_timeline(0), make_timeline(1)
    make_trainer(max_epochs=3).fit(task, loader(train), loader(held_out))
    assert len(built) == 2
    make_trainer(max_epochs=2).fit(task, loader(train, held_out))
    assert len(built) == 4


def test_a_timeline_is_not_moved_and_lightning_has_nothing_to_say(monkeypatch):
    moved = []
    monkeypatch.setattr(Timeline, "to", lambda self, *a, **o: moved.append(1) or self)
    task = DynamicNodeClassifier(Pointwise())
    make_trainer(max_epochs=2).fit(task, loader(make_timeline()))
    make_trainer().predict(task, loader(make_timeline()))
    assert not moved
    make_trainer().predict(task, datamodule=Loaders())
    assert moved  # by Lightning: the hook is the data module's


def test_batches_of_others_move():
    task, meta = DynamicNodeClassifier(Pointwise()), torch.device("meta")
    task.trainer = make_trainer()
    task.setup("fit")
    assert task.transfer_batch_to_device([torch.zeros(2)], meta, 0)[0].device == meta


def test_another_window_of_the_same_name_has_other_graphs():
    task = DynamicNodeClassifier(WDGCN(4, (3,)))
    timeline = make_timeline(name="one")
    one, three = task(timeline), task(timeline.replace(window=3))
    torch.testing.assert_close(three, task(timeline.replace(window=3, name=None)))
    assert (three - one).abs().max() > 1e-3


@pytest.mark.parametrize("how", ["no targets", "none scored"])
def test_without_targets_nothing_is_learnt_and_metrics_are_nan_and_said(how):
    timeline = make_timeline()
    empty = (
        timeline.replace(
            target_index=timeline.target_index[:, :0],
            target_label=timeline.target_label[:0],
            target_offsets=timeline.target_offsets * 0,
        )
        if how == "no targets"
        else timeline.replace(scored=torch.zeros(6, dtype=torch.bool))
    )
    task = DynamicNodeClassifier(Pointwise(), optimizer="sgd")
    before = [p.clone() for p in task.parameters()]
    trainer = make_trainer(max_epochs=1)
    with pytest.warns(UserWarning, match="no scored target in a batch for training"):
        trainer.fit(task, loader(empty))
    assert all(torch.equal(p, q) for p, q in zip(before, task.parameters(), strict=True))
    with pytest.warns(UserWarning, match="val/loss, val/ap, val/auroc, val/f1 = nan: no target was scored"):
        values = trainer.validate(task, loader(empty), verbose=False)[0]
    assert all(math.isnan(value) for value in values.values())


def test_one_class_only_is_said():
    timeline = make_timeline()
    timeline.target_label[:] = 1
    task = DynamicNodeClassifier(Pointwise())
    with pytest.warns(UserWarning, match="val/auroc = nan: all scored targets are of one class"):
        values = make_trainer().validate(task, loader(timeline), verbose=False)[0]
    assert values["val/ap"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, r"got class 2 in target_label; expected 0 … 1"),
        ({"label": -1}, r"got class -1 in target_label; expected 0 … 1"),
        ({"vertex": 10}, r"got vertex 10 in target_index; expected 0 … 9"),
        ({"vertex": -3}, r"got vertex -3 in target_index; expected 0 … 9"),
        ({"features": 7}, r"got 7 features a vertex for a network of in_channels=4; give it in_channels=7"),
    ],
)
def test_a_timeline_that_does_not_fit_is_told_in_a_line(change, message):
    timeline = make_timeline()
    if "label" in change:
        timeline.target_label[3] = change["label"]
    elif "vertex" in change:
        timeline.target_index[0, 3] = change["vertex"]
    else:
        timeline = timeline.replace(features=torch.zeros(6, 10, change["features"]))
    with pytest.raises(ValueError, match=message):
        make_trainer(max_epochs=1).fit(DynamicNodeClassifier(Pointwise()), loader(timeline))


@pytest.mark.parametrize(
    ("task", "ends"), [(DynamicNodeClassifier, 2), (DynamicEdgeClassifier, 1), (DynamicLinkPredictor, 1)]
)
def test_targets_of_another_kind_are_told(task, ends):
    kind = {1: r"\(2, M\) pairs of vertices", 2: r"\(1, M\) vertices"}[ends]
    with pytest.raises(ValueError, match=rf"got target_index \({ends}, 40\); {task.__name__} expected {kind}"):
        task(Pointwise())(make_timeline(ends=ends))


def test_a_tm_gcn_wants_a_timeline_of_its_window():
    task = DynamicNodeClassifier(TMGCN(4, window=3))
    assert task(make_timeline(m_window=3)).shape == (40, 2)
    with pytest.raises(ValueError, match="got a timeline of m_window=1 for a TM-GCN of window=3; give the data m_wind"):
        task(make_timeline())


def test_targets_to_regress_and_other_batches_are_refused():
    timeline = make_timeline()
    with pytest.raises(ValueError, match=r"got target_label of torch.float32; DynamicNodeClassifier expected classes"):
        DynamicNodeClassifier(Pointwise())(timeline.replace(target_label=timeline.target_label.float()))
    with pytest.raises(ValueError, match="got a batch of list; expected a whole timeline"):
        DynamicNodeClassifier(Pointwise())([timeline])


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_not_finite_is_named_with_its_snapshot(asked):
    timeline = make_timeline(targets=0)
    timeline = timeline.replace(
        target_index=torch.tensor([[1, 2, 3]]),
        target_label=torch.tensor([0, 1, 0]),
        target_offsets=torch.tensor([0, 1, 1, 1, 2, 3, 3]),
    )
    timeline.features[3, 2 if asked else 5] = torch.nan
    with pytest.raises(ValueError, match="got an embedding that is not finite for 1 vertices of snapshot 3; lower"):
        make_trainer(max_epochs=1).fit(DynamicNodeClassifier(Pointwise()), loader(timeline))
    task = DynamicNodeClassifier(Pointwise())
    task.head.linear.weight.data[:] = torch.inf
    timeline.features[3] = 0
    with pytest.raises(ValueError, match="got a loss that is not finite for 1 targets of snapshot 0; lower"):
        make_trainer().validate(task, loader(timeline), verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "got num_classes=1; expected at least 2"),
        ({"class_weight": "even"}, "got class_weight='even'; expected 'balanced', 2 numbers, or none"),
        ({"class_weight": [1.0]}, r"got class_weight=\[1.0\]; expected 2 numbers ≥ 0"),
        ({"class_weight": [0.0, 0.0]}, "not all 0"),
        ({"class_weight": [1.0, math.nan]}, "expected 2 numbers ≥ 0"),
        ({"optimizer": "lion"}, "got optimizer='lion'; choose from adam, adamw, sgd"),
        ({"learning_rate": 0.0}, "got learning_rate=0.0; expected more than 0"),
        ({"momentum": 1.0}, "got momentum=1.0; expected 0 ≤ momentum < 1"),
        ({"weight_decay": -1.0}, "got weight_decay=-1.0; expected 0 or more"),
    ],
)
def test_options_out_of_range_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        DynamicNodeClassifier(Pointwise(), **options)


def test_a_network_of_another_kind_is_told():
    with pytest.raises(ValueError, match="got a network Linear without in_channels, out_channels, coupling"):
        DynamicNodeClassifier(nn.Linear(3, 3))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers(name):
    optimizer = DynamicNodeClassifier(
        Pointwise(), optimizer=name, learning_rate=0.3, momentum=0.4, weight_decay=0.1
    ).configure_optimizers()
    assert type(optimizer).__name__.lower() == name
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.3, 0.1)
    assert optimizer.defaults.get("momentum", 0.4) == 0.4


def test_a_checkpoint_brings_the_options_back(tmp_path):
    timeline, task = make_timeline(), DynamicNodeClassifier(Pointwise(), learning_rate=0.5)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, loader(timeline))
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    again = DynamicNodeClassifier.load_from_checkpoint(tmp_path / "it.ckpt", network=Pointwise(), weights_only=True)
    assert again.learning_rate == 0.5
    torch.testing.assert_close(again(timeline), task(timeline))


RECIPE = """
seed_everything: 1
trainer: {max_epochs: 1, accelerator: cpu, devices: 1, logger: false, enable_checkpointing: false,
  enable_progress_bar: false, enable_model_summary: false}
model:
  class_path: DynamicLinkPredictor
  init_args:
    negatives: 3
    corrupt: both
    network: {class_path: EvolveGCNH, init_args: {in_channels: 2, hidden_channels: [5]}}
data:
  class_path: TemporalGraph
  init_args: {generator: {num_nodes: 60, num_steps: 12, events_per_step: 20, cycles_per_step: 0}, task: link}
"""


def test_a_checkpoint_of_a_recipe_with_short_names_rebuilds_its_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    registry = discover()
    cli = run_cli(["fit", "--config", "recipe.yaml"], registry, allow_list(registry), name="recipe")
    cli.trainer.save_checkpoint(tmp_path / "it.ckpt")
    again = DynamicLinkPredictor.load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True)
    assert isinstance(again.network, EvolveGCNH)
    assert (again.negatives, again.corrupt) == (3, "both")
    timeline = cli.datamodule.part("val")
    torch.testing.assert_close(again(timeline), cli.model(timeline))
