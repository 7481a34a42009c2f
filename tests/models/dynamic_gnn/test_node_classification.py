import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn.network import CDGCN
from fulgurite.models.dynamic_gnn.node_classification import DynamicNodeClassifier


def make_timeline(seed: int) -> Timeline:
    """A vertex is of class 1 at a step where it sent much in the step before: only time tells."""
    generator = np.random.default_rng(seed)
    busy = generator.random((9, 20)) < 0.25
    events = [
        (u, v, t)
        for t in range(9)
        for u in range(20)
        for v in generator.choice(20, size=8 if busy[t, u] else 1, replace=False)
    ]
    source, target, time = np.array(events).T
    step, vertex = np.divmod(np.arange(20, 180), 20)
    return Timeline.from_events(
        source,
        target,
        time,
        num_nodes=20,
        num_snapshots=9,
        degree_features=True,
        target_index=vertex[None],
        target_label=busy[step - 1, vertex].astype(int),
        target_time=step,
    )


def test_what_a_vertex_did_before_is_remembered():
    torch.manual_seed(0)
    task = DynamicNodeClassifier(CDGCN(2, (12,)), learning_rate=0.03)
    trainer = Trainer(
        max_epochs=150,
        check_val_every_n_epoch=150,
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
    assert trainer.callback_metrics["val/auroc"] > 0.85
    assert trainer.callback_metrics["val/ap"] > 0.6  # base rate 0.25
    assert task.coupling == "recurrent"
