import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn.edge_classification import DynamicEdgeClassifier
from fulgurite.models.dynamic_gnn.network import WDGCN


def make_timeline(seed: int) -> Timeline:
    """Edges between two kinds of vertices, which features tell; the class says whether the ends are of one kind."""
    generator = np.random.default_rng(seed)
    time, (source, target) = np.repeat(np.arange(5), 60), generator.integers(30, size=(2, 300))
    kind = np.arange(30) % 2
    features = np.eye(2)[kind] + 0.1 * generator.normal(size=(30, 2))
    return Timeline.from_events(
        source,
        target,
        time,
        num_nodes=30,
        num_snapshots=5,
        features=torch.from_numpy(features).float(),
        target_index=np.stack([source, target]),
        target_label=(kind[source] == kind[target]).astype(int),
        target_time=time,
    )


@pytest.mark.parametrize(("head", "learns"), [("product", True), ("linear", False)])
def test_ends_that_go_together_are_told_by_their_product(head, learns):
    torch.manual_seed(0)
    task = DynamicEdgeClassifier(WDGCN(2, (8,)), head=head, learning_rate=0.05)
    trainer = Trainer(
        max_epochs=80,
        check_val_every_n_epoch=80,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        task,
        DataLoader([make_timeline(0)], batch_size=None),
        DataLoader([make_timeline(1)], batch_size=None),
    )
    metrics = trainer.callback_metrics
    assert set(metrics) == {"train/loss", "val/loss", "val/ap", "val/auroc", "val/f1"}
    assert (metrics["val/auroc"] > 0.8) == learns


def test_logits_are_of_a_pair_in_its_direction():
    task, timeline = DynamicEdgeClassifier(WDGCN(2), num_classes=3), make_timeline(0)
    logits = task(timeline)
    assert logits.shape == (300, 3)
    timeline = timeline.replace(target_index=timeline.target_index.flip(0))
    assert not torch.allclose(task(timeline), logits)
