"""A task under the strategy on several ranks, by a real Trainer."""

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn.network import WDGCN
from fulgurite.models.dynamic_gnn.node_classification import DynamicNodeClassifier
from fulgurite.models.dynamic_gnn.task import Scores

TOY = Path(__file__).resolve().parents[2] / "plugins" / "snapshot_parallel" / "toy.py"
pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings("ignore:You defined a `validation_step`")]


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("snapshot_parallel_toy", TOY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_timeline(labels: list[int], name: str | None = None) -> Timeline:
    return Timeline.from_events(
        [0, 1, 2, 3],
        [1, 2, 3, 0],
        [0, 1, 2, 3],
        degree_features=True,
        name=name,
        target_index=[[0, 1, 2, 3, 0]],
        target_label=labels,
        target_time=[0, 1, 2, 2, 3],
    )


def make_task() -> DynamicNodeClassifier:
    torch.manual_seed(0)
    return DynamicNodeClassifier(WDGCN(2, (4,)), class_weight=[0.0, 1.0], optimizer="sgd")


@pytest.mark.parametrize("weightless", [[0], [1], [0, 1]])
def test_replicas_whose_targets_weigh_nothing_do_not_keep_the_others_waiting(run_ranks, toy, weightless):
    timelines = [make_timeline([0] * 5 if rank in weightless else [0, 1, 1, 0, 1]) for rank in (0, 1)]

    def run() -> tuple[float | None, bool]:
        task, trainer = make_task(), toy.make_trainer(snapshot_ranks=1, timeout=20, trainer={"max_epochs": 1})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(task, toy.loader(*timelines))
        loss = trainer.callback_metrics.get("train/loss")
        return None if loss is None else loss.item(), any("nothing is learnt" in str(w.message) for w in caught)

    alone = make_task()
    alone.log = lambda *_, **__: None
    alone.trainer = toy.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    expected = alone.training_step(make_timeline([0, 1, 1, 0, 1]), 0).item()
    (first, said), (second, _) = run_ranks(run, 2)
    assert said
    assert (first, second) == ((None, None) if len(weightless) == 2 else pytest.approx((expected, expected)))


@pytest.mark.parametrize(("world_size", "options"), [(2, {}), (3, {"blocks": 2}), (2, {"snapshot_ranks": 1})])
def test_the_ranks_predictions_are_together_all_of_them_once(run_ranks, toy, world_size, options):
    timelines = [make_timeline([0, 1, 1, 0, 1], name) for name in ("one", "two")]
    plain = toy.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    expected = plain.predict(make_task(), toy.loader(*timelines))

    def run() -> list[Scores]:
        return toy.make_trainer(**options).predict(make_task(), toy.loader(*timelines))

    def as_rows(scores: list[Scores]) -> list[tuple[float, ...]]:
        rows = [zip(s.time.tolist(), *s.index.tolist(), *s.score.T.tolist(), strict=True) for s in scores]
        return sorted(tuple(round(value, 5) for value in row) for part in rows for row in part)

    per_rank = run_ranks(run, world_size)
    assert as_rows([scores for rank in per_rank for scores in rank]) == as_rows(expected)
    assert all(as_rows(rank) != as_rows(expected) for rank in per_rank)
