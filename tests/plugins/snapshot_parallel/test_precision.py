"""A Trainer without the strategy, in every true precision, on timelines with weights and features."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn import TMGCN, WDGCN, DynamicNodeClassifier

KINDS = {"32-true": torch.float32, "64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}


def timeline(m_window):
    random = np.random.default_rng(0)
    events = random.integers(0, (6, 6, 5), size=(40, 3)).T
    return Timeline.from_events(
        *events,
        num_nodes=6,
        num_snapshots=5,
        weight=random.random(40),
        features=torch.from_numpy(random.standard_normal((6, 2))).float(),
        degree_features=True,
        target_index=np.arange(6),
        target_label=np.arange(6) % 2,
        target_time=np.full(6, 4),
        window=2,
        m_window=m_window,
    )


@pytest.mark.parametrize("name", ["WDGCN", "TMGCN"])
def test_a_plain_trainer_trains_in_every_precision(name):
    losses = {}
    for precision, kind in KINDS.items():
        torch.manual_seed(0)
        network = WDGCN(4) if name == "WDGCN" else TMGCN(4, window=3)
        task = DynamicNodeClassifier(network, optimizer="sgd", learning_rate=0.1)
        trainer = Trainer(
            accelerator="cpu",
            precision=precision,
            max_epochs=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = DataLoader([timeline(1 if name == "WDGCN" else 3)], batch_size=None)
        trainer.fit(task, data, data)
        assert {parameter.dtype for parameter in task.parameters()} == {kind}
        losses[precision] = float(trainer.callback_metrics["train/loss"])
    assert losses["64-true"] == pytest.approx(losses["32-true"], abs=1e-5)
    assert losses["bf16-true"] == pytest.approx(losses["32-true"], abs=0.05)
    assert losses["16-true"] == pytest.approx(losses["32-true"], abs=0.01)
