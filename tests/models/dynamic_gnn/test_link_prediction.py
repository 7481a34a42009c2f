import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn.link_prediction import DynamicLinkPredictor
from fulgurite.models.dynamic_gnn.network import CDGCN, TMGCN, EvolveGCNO
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange
from fulgurite.plugins.snapshot_parallel.partitioning import Partition, partition
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Shard

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
NETWORKS = {
    "CDGCN": lambda: CDGCN(5),
    "TMGCN": lambda: TMGCN(5, window=3),
    "EvolveGCNO": lambda: EvolveGCNO(5),
}


def make_timeline(seed: int = 0, *, steps: int = 9, num_nodes: int = 24, events: int = 40, **options) -> Timeline:
    """Events within four communities, which features tell; the targets of a step are the events of the next."""
    generator = np.random.default_rng(seed)
    time = np.repeat(np.arange(steps), events)
    source = generator.integers(num_nodes, size=len(time))
    target = (source + 4 * generator.integers(1, num_nodes // 4, size=len(time))) % num_nodes
    key = np.unique((time * num_nodes + source) * num_nodes + target)
    time, source, target = key // num_nodes**2, key // num_nodes % num_nodes, key % num_nodes
    later = time > 0
    features = np.eye(4)[np.arange(num_nodes) % 4][:, :3] + 0.3 * generator.normal(size=(num_nodes, 3))
    return Timeline.from_events(
        source,
        target,
        time,
        num_nodes=num_nodes,
        num_snapshots=steps,
        features=torch.from_numpy(features).to(torch.get_default_dtype()),
        target_index=np.stack([source, target])[:, later],
        target_label=np.ones(later.sum(), dtype=np.int64),
        target_time=time[later] - 1,
        degree_features=True,
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


def one_step(
    name: str,
    split: Partition | None,
    timeline: Timeline,
    *,
    scored: bool = True,
    rank_seeded: bool = False,
) -> dict[str, torch.Tensor]:
    """Loss, summed gradients and metrics of one training step and one evaluation on this rank's shard."""
    torch.manual_seed(0)
    task = DynamicLinkPredictor(NETWORKS[name](), negatives=5).double()
    exchange = GroupExchange() if split is not None else Exchange()
    if split is None:
        split = partition([1] * timeline.num_snapshots, timeline.num_nodes, ranks=1)
    collectives = "none" if len(split.blocks) == 1 else "save"
    shard = Shard.build(timeline, split, exchange, source=Resident(timeline), collectives=collectives)
    if rank_seeded:
        task.seed = exchange.rank
    said = {}
    task.log = lambda key, value, **_: said.update({key: torch.as_tensor(value).double()})
    task.trainer = make_trainer()
    loss = task.training_step(shard, 0)
    loss.backward()
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in task.parameters()]
    gradient = torch.cat([part.flatten() for part in parts])
    with torch.no_grad():
        task.validation_step(shard, 0)
    task.on_validation_epoch_end()
    return said | {"gradient": exchange.sum(gradient), "total": exchange.sum(loss.detach())}


@pytest.fixture
def double() -> None:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def uneven(timeline: Timeline, ranks: int, blocks: int) -> Partition:
    """Early snapshots are dear, so that the runs are of unequal length."""
    costs = np.arange(timeline.num_snapshots, 0, -1) ** 2
    return partition(costs, timeline.num_nodes, ranks=ranks, blocks=blocks)


def same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert got.keys() == expected.keys()
    return all(torch.allclose(got[key], expected[key], atol=1e-12, rtol=0, equal_nan=True) for key in got)


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_losses_gradients_and_metrics_are_those_of_one_process(run_ranks, double, name, blocks, ranks):
    timeline = make_timeline(m_window=3 if name == "TMGCN" else 1)
    expected = one_step(name, None, timeline)
    results = run_ranks(one_step, ranks, name, uneven(timeline, ranks, blocks), timeline)
    assert {"train/loss", "val/loss", "val/ap", "val/auroc", "val/f1", "val/map", "val/mrr"} < expected.keys()
    assert [same(result, expected) for result in results] == [True] * ranks
    torch.testing.assert_close(expected["total"], expected["train/loss"], atol=1e-12, rtol=0)


@pytest.mark.distributed
def test_negatives_seeded_by_rank_would_not_be_those_of_one_process(run_ranks, double):
    timeline = make_timeline()
    expected = one_step("CDGCN", None, timeline)
    seeded = lambda: one_step("CDGCN", uneven(timeline, 2, 1), timeline, rank_seeded=True)  # noqa: E731
    wrong = run_ranks(seeded, 2)[0]
    assert not same(wrong, expected)
    assert (wrong["gradient"] - expected["gradient"]).abs().max() > 1e-4


@pytest.mark.distributed
@pytest.mark.parametrize("case", ["ranks without snapshots", "ranks without targets", "no targets"])
def test_ranks_with_nothing_to_say_finish_with_the_same_answer(run_ranks, double, case):
    timeline = make_timeline(steps=2 if case == "ranks without snapshots" else 6)
    if case != "ranks without snapshots":
        scored = torch.zeros(6, dtype=torch.bool)
        scored[3] = case == "ranks without targets"
        timeline = timeline.replace(scored=scored)

    def on_rank(split: Partition | None) -> dict[str, torch.Tensor]:
        with warnings.catch_warnings():
            if case == "no targets":
                warnings.simplefilter("ignore", UserWarning)
            return one_step("CDGCN", split, timeline)

    expected = on_rank(None)
    results = run_ranks(on_rank, 3, uneven(timeline, 3, 1))
    assert [same(result, expected) for result in results] == [True] * 3
    assert ("train/loss" in expected) == (case != "no targets")


@pytest.mark.distributed
def test_every_rank_names_the_snapshot_that_is_not_finite(run_ranks):
    timeline = make_timeline()
    timeline = timeline.replace(features=timeline.features.expand(9, -1, -1).clone())
    timeline.features[7, 2] = torch.nan

    def on_rank() -> str:
        try:
            one_step("EvolveGCNO", uneven(timeline, 2, 1), timeline.replace(features=timeline.features.double()))
        except ValueError as error:
            return str(error)
        return ""

    assert all("not finite" in said and "of snapshot 7;" in said for said in run_ranks(on_rank, 2))


def test_pairs_change_with_the_epoch_and_not_in_evaluation():
    task, timeline = DynamicLinkPredictor(CDGCN(5), negatives=3), make_timeline()
    shard = Shard.whole(timeline)
    first, again, later, held_out = (task.targets(shard, epoch) for epoch in (0, 0, 1, None))
    assert torch.equal(first.index, again.index)
    edges = timeline.num_targets
    for drawn in (later, held_out):
        assert torch.equal(drawn.index[:, :edges], first.index[:, :edges])
        assert not torch.equal(drawn.index, first.index)
    assert first.label.bincount().tolist() == [3 * edges, edges]
    present = set(zip(timeline.target_index[0].tolist(), timeline.target_index[1].tolist(), strict=True))
    assert present  # a negative is no edge of its own step, but may be one of another
    by_step = {t: set() for t in range(9)}
    for t, u, v in zip(first.time[:edges].tolist(), *first.index[:, :edges].tolist(), strict=True):
        by_step[t].add((u, v))
    for t, u, v in zip(first.time[edges:].tolist(), *first.index[:, edges:].tolist(), strict=True):
        assert (u, v) not in by_step[t]


def test_pairs_of_a_step_do_not_depend_on_what_else_is_there():
    timeline, task = make_timeline(), DynamicLinkPredictor(CDGCN(5), negatives=3)
    whole = task.targets(Shard.whole(timeline), 4)
    part = task.targets(Shard.whole(timeline.slice_time(4, 7)), 4)
    here = (whole.time >= 4) & (whole.time < 7)
    assert torch.equal(whole.index[:, here], part.index)
    assert torch.equal(whole.time[here], part.time)


def test_pairs_that_come_labelled_no_edge_are_used_and_draw_nothing():
    timeline = make_timeline()
    timeline.target_label[::2] = 0
    task = DynamicLinkPredictor(CDGCN(5), negatives=2)
    drawn = task.targets(Shard.whole(timeline), 0)
    given, edges = int((timeline.target_label == 0).sum()), int(timeline.target_label.sum())
    assert drawn.label.bincount().tolist() == [given + 2 * edges, edges]
    assert len(DynamicLinkPredictor(CDGCN(5), negatives=0).targets(Shard.whole(timeline), 0).label) == given + edges


def test_a_complete_graph_has_fewer_negatives_and_says_so_once():
    u, v = np.divmod(np.arange(25), 5)
    u, v = u[u != v], v[u != v]
    timeline = Timeline.from_events(
        u, v, u * 0, degree_features=True, target_index=[u, v], target_label=u * 0 + 1, target_time=u * 0
    )
    task, shard = DynamicLinkPredictor(CDGCN(2)), Shard.whole(timeline)
    with pytest.warns(UserWarning, match="380 of 380 negatives do not exist: nearly every pair is an edge"):
        drawn = task.targets(shard, 0)
    assert (len(drawn.label), task.missing_negatives) == (20, 380)
    assert len(task.targets(shard, 1).label) == 20  # and no second warning, which would be an error here


def test_planted_communities_are_learnt():
    torch.manual_seed(0)
    # Of 19 pairs that are no edge about four lie within the community of their source: at best 1 in 5.
    train, held_out = make_timeline(0), make_timeline(1)
    task = DynamicLinkPredictor(CDGCN(5), learning_rate=0.02)
    trainer = make_trainer(max_epochs=150, check_val_every_n_epoch=150)
    trainer.fit(task, loader(train), loader(held_out))
    assert trainer.callback_metrics["val/ap"] > 0.14  # base rate 0.05
    assert trainer.callback_metrics["val/auroc"] > 0.8
    assert trainer.callback_metrics["val/mrr"] > 0.35


def test_scores_are_of_the_timelines_own_targets():
    timeline, task = make_timeline(), DynamicLinkPredictor(CDGCN(5))
    (scores,) = make_trainer().predict(task, loader(timeline.slice_time(3, 6)))
    low, high = timeline.target_offsets[3], timeline.target_offsets[6]
    assert torch.equal(scores.index, timeline.target_index[:, low:high])
    assert set(scores.time.tolist()) == {3, 4, 5}
    assert scores.score.shape == (high - low, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": -1}, "got negatives=-1; expected 0 or more"),
        ({"seed": -1}, "got seed=-1; expected 0 or more"),
        ({"corrupt": "source"}, "got corrupt='source'; choose from target, both"),
        ({"head": "dot"}, "got head='dot'; choose from linear, product"),
    ],
)
def test_options_out_of_range_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        DynamicLinkPredictor(CDGCN(5), **options)
