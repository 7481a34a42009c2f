import importlib.util
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DistributedSampler

from fulgurite.plugins.snapshot_parallel import placement
from fulgurite.plugins.snapshot_parallel.strategy import SnapshotParallelStrategy

spec = importlib.util.spec_from_file_location("snapshot_parallel_toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

pytestmark = pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def fit(options=None, *, module=None, trainer=None, seeds=(0, 1)):
    """Losses and weights of a training on every rank."""
    module = toy.ToyModule(**(module or {}))
    made = toy.make_trainer(trainer=trainer, **(options or {}))
    made.fit(module, toy.loader(*map(toy.timeline, seeds)), toy.loader(toy.timeline(9)))
    return torch.tensor(module.losses, dtype=torch.float64), weights(module), made.strategy.counters()


def assert_same_training(run_ranks, world_sizes, *, choices=({},), atol=1e-12, **options):
    """Every rank of every number of ranks trains as one process does."""
    (losses, parameters, _), *_ = run_ranks(lambda: fit(**options), 1)
    assert losses[0] != losses[-1]
    for world_size in world_sizes:
        for choice in choices:
            for rank_losses, rank_parameters, _ in run_ranks(lambda choice=choice: fit(choice, **options), world_size):
                torch.testing.assert_close(rank_losses, losses, rtol=atol, atol=atol)
                torch.testing.assert_close(rank_parameters, parameters, rtol=atol, atol=atol)


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_any_number_of_ranks_and_blocks_trains_as_one_process(run_ranks, world_size):
    choices = ({}, {"blocks": 2, "collectives": "save"}, {"blocks": 2, "collectives": "resend"})
    assert_same_training(run_ranks, [world_size], choices=choices)


@pytest.mark.distributed
def test_more_ranks_than_snapshots_train_as_one_process(run_ranks, caplog):
    def run():
        module = toy.ToyModule()
        toy.make_trainer().fit(module, toy.loader(toy.timeline(snapshots=2)), toy.loader(toy.timeline(9)))
        return module.losses

    (alone,) = run_ranks(run, 1)
    for losses in run_ranks(run, 4):
        assert losses == pytest.approx(alone, abs=1e-12)


@pytest.mark.distributed
def test_blocks_that_fit_are_chosen_alike_by_ranks_with_different_memory(run_ranks, monkeypatch):
    def run():
        monkeypatch.setattr(placement, "free_bytes", lambda *_: 500 if dist.get_rank() else 2**40)
        cuts = []
        decide = placement.Placement._decide

        def remembered(self, *args):
            cuts.append(decide(self, *args))
            return cuts[-1]

        monkeypatch.setattr(placement.Placement, "_decide", remembered)
        losses, *_ = fit({"blocks": "auto"})
        return losses, [(len(cut.partition.blocks), cut.collectives) for cut in cuts]

    (alone, *_), *_ = run_ranks(fit, 1)
    (first, cuts), (second, other_cuts) = run_ranks(run, 2)
    assert cuts == other_cuts
    assert all(blocks > 1 and collectives in ("save", "resend") for blocks, collectives in cuts)
    torch.testing.assert_close(first, alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second, alone, rtol=1e-12, atol=1e-12)


class MeanStrategy(SnapshotParallelStrategy):
    def setup(self, trainer):
        super().setup(trainer)
        self._gradients._replicas = self.world_size


class UnguardedStrategy(SnapshotParallelStrategy):
    def setup(self, trainer):
        super().setup(trainer)
        self._gradients.before_backward = lambda: None

    def block_backward_sync(self):
        return nullcontext()

    def post_backward(self, closure_loss):
        self._gradients._open = dict.fromkeys(self.lightning_module.parameters())
        super().post_backward(closure_loss)


@pytest.mark.distributed
def test_the_mean_in_the_place_of_the_sum_would_be_seen(run_ranks):
    with pytest.raises(AssertionError):
        assert_same_training(run_ranks, [2], choices=({"strategy_class": MeanStrategy},))


ACCUMULATION = {"trainer": {"accumulate_grad_batches": 2}, "seeds": (0, 1, 2)}


@pytest.mark.distributed
def test_accumulated_gradients_are_summed_once(run_ranks):
    assert_same_training(run_ranks, [2, 3], **ACCUMULATION)


@pytest.mark.distributed
def test_accumulation_that_is_not_guarded_would_be_seen(run_ranks):
    with pytest.raises(AssertionError):
        assert_same_training(run_ranks, [2], choices=({"strategy_class": UnguardedStrategy},), **ACCUMULATION)


@pytest.mark.distributed
@pytest.mark.parametrize(
    "options",
    [
        {"trainer": {"gradient_clip_val": 0.05}},
        {"trainer": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}},
        {"module": {"manual": 3}},
        {"module": {"optimizer": "lbfgs"}, "atol": 1e-8},  # a line search blows rounding up
    ],
    ids=["clip_norm", "clip_value", "manual", "lbfgs"],
)
def test_clipping_several_backward_passes_and_line_searches_see_sums(run_ranks, options):
    assert_same_training(run_ranks, [3], **options)


@pytest.mark.distributed
def test_every_stage_gives_shards_and_one_process_s_numbers(run_ranks):
    def stages():
        module = toy.ToyModule()
        trainer = toy.make_trainer(blocks=2)
        data = toy.loader(toy.timeline(4, late=False))
        found = [trainer.validate(module, data, verbose=False), trainer.test(module, data, verbose=False)]
        found.append(trainer.predict(module, data)[0])
        trainer.fit(module, data, data)
        return float(found[0][0]["val/loss"]), float(found[1][0]["test/loss"]), float(found[2]), set(module.kinds)

    (alone,) = run_ranks(stages, 1)
    assert alone[0] == alone[1] == alone[2]
    assert alone[3] == {"Shard"}
    for result in run_ranks(stages, 3):
        assert result[:3] == pytest.approx(alone[:3], rel=1e-6)
        assert result[3] == {"Shard"}


@pytest.mark.distributed
def test_replicas_train_on_batches_of_their_own_and_average(run_ranks):
    """Two replicas of two ranks, a timeline each a step, do what one process does that accumulates both."""

    def replicas():
        return fit({"snapshot_ranks": 2}, seeds=(0, 1, 2, 3))[:2]

    def one():
        module = toy.ToyModule()
        timelines = [toy.timeline(seed) for seed in range(4)]
        dealt = DistributedSampler(timelines, num_replicas=1, rank=0, seed=0)
        trainer = toy.make_trainer(trainer={"accumulate_grad_batches": 2})
        trainer.fit(module, toy.loader(*timelines, sampler=dealt), toy.loader(toy.timeline(9)))
        return torch.tensor(module.losses, dtype=torch.float64), weights(module)

    ((losses, parameters),) = run_ranks(one, 1)
    results = run_ranks(replicas, 4)
    for rank, (rank_losses, rank_parameters) in enumerate(results):
        torch.testing.assert_close(rank_parameters, parameters, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(rank_losses, losses[rank // 2 :: 2], rtol=1e-12, atol=1e-12)


@pytest.mark.distributed
def test_ranks_shuffle_alike_and_anew_every_epoch(run_ranks):
    def run():
        order = []

        class Module(toy.ToyModule):
            def on_before_batch_transfer(self, batch, dataloader_idx):
                order.append(batch.name)
                return batch

        torch.manual_seed(dist.get_rank())
        data = toy.loader(*map(toy.timeline, range(6)), shuffle=True)
        toy.make_trainer(trainer={"limit_val_batches": 0}).fit(Module(), data, data)
        return order

    first, second = run_ranks(run, 2)
    assert first == second
    epochs = [first[start : start + 6] for start in (0, 6, 12)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.distributed
def test_what_an_epoch_moved_is_logged_as_the_sum_over_ranks(run_ranks):
    def run():
        module = toy.ToyModule()
        trainer = toy.make_trainer(trainer={"max_epochs": 2})
        trainer.fit(module, toy.loader(toy.timeline(0)), toy.loader(toy.timeline(9)))
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if "snapshot_parallel" in name}
        return logged, set(trainer.progress_bar_metrics)

    results = run_ranks(run, 3)
    logged, shown = results[0]
    assert all(other == logged for other, _ in results)
    assert not {name for name in shown if "snapshot_parallel" in name}
    # 7 snapshots of 10 vertices, 4 numbers of 8 bytes: the formula's sum over ranks, for training alone.
    sent = sum(t * (10 - n) * 4 * 8 for t, n in zip(split_steps(), (4, 3, 3), strict=True))
    assert logged["snapshot_parallel/bytes_to_vertices"] == sent
    assert logged["snapshot_parallel/calls_to_vertices"] == 3
    assert logged["snapshot_parallel/bytes_gradients"] == 3 * 8 * (54 + 9)
    assert logged["snapshot_parallel/transfer_bytes_events"] == 0  # the second epoch finds them there


def split_steps():
    from fulgurite.plugins.snapshot_parallel.partitioning import partition, snapshot_costs

    return partition(snapshot_costs(toy.timeline(0)), 10, 3).blocks[0].steps_each


@pytest.mark.distributed
def test_a_checkpoint_of_two_ranks_goes_on_with_any_number_of_ranks(run_ranks, tmp_path):
    def train(epochs, resume=None, save=None):
        module = toy.ToyModule()
        trainer = toy.make_trainer(trainer={"max_epochs": epochs})
        data = (toy.loader(toy.timeline(0)), toy.loader(toy.timeline(9)))
        trainer.fit(module, *data, ckpt_path=resume, weights_only=True if resume else None)
        if save:
            trainer.save_checkpoint(save)
        return torch.tensor(module.losses, dtype=torch.float64), weights(module)

    checkpoint = str(tmp_path / "two.ckpt")
    run_ranks(lambda: train(2, save=checkpoint), 2)
    ((losses, parameters),) = run_ranks(lambda: train(5), 1)
    for world_size in (1, 3):
        for rank_losses, rank_parameters in run_ranks(lambda: train(5, resume=checkpoint), world_size):
            torch.testing.assert_close(rank_losses, losses[2:], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(rank_parameters, parameters, rtol=1e-12, atol=1e-12)


@pytest.mark.distributed
def test_ranks_with_different_timelines_say_so_instead_of_waiting(run_ranks):
    def run():
        from fulgurite.plugins.snapshot_parallel.exchange import GroupExchange
        from fulgurite.plugins.snapshot_parallel.placement import Placement

        whole, second = toy.timeline(), dist.get_rank() == 1
        changes = {
            "edge_index": whole.edge_index.flip(0),
            "features": whole.features + 1e-9,
            "edge_weight": torch.ones(whole.edge_index.shape[1]),
            "target_label": 2 - whole.target_label,
            "scored": ~whole.scored,
            "window": 3,
            "symmetrise": True,
            "union": True,
            "degree_features": True,
        }
        for name, value in changes.items():
            other = whole.replace(name=None, **({name: value} if second else {}))
            placement = Placement(GroupExchange(), device=torch.device("cpu"), network=nn.Linear(1, 1))
            with pytest.raises(ValueError, match=f"rank 1 of them has another {name} than rank 0"):
                placement.shard(other)

    run_ranks(run, 2)


@pytest.mark.distributed
def test_a_network_coupled_along_the_graph_is_refused_by_name_with_a_way_out(run_ranks):
    def run():
        data = toy.loader(toy.timeline(0), toy.timeline(1))
        with pytest.raises(ValueError, match=r"got ToyNetwork.*2 ranks; give the strategy snapshot_ranks=1"):
            toy.make_trainer().fit(toy.ToyModule("graph"), data, data)
        module = toy.ToyModule("graph")
        toy.make_trainer(snapshot_ranks=1, trainer={"max_epochs": 1}).fit(module, data, data)
        return len(module.losses)

    assert run_ranks(run, 2) == [1, 1]


@pytest.mark.distributed
def test_batchnorm_is_warned_of(run_ranks):
    def run():
        module = toy.ToyModule()
        module.unused = nn.BatchNorm1d(2)
        data = toy.loader(toy.timeline(0))
        warns = (
            pytest.warns(UserWarning, match="BatchNorm1d.*take LayerNorm") if dist.get_rank() == 0 else nullcontext()
        )
        with warns:
            toy.make_trainer().validate(module, data, verbose=False)

    run_ranks(run, 2)


@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precision_plugins_leave_timelines_whole(run_ranks, precision):
    def run():
        losses, *_ = fit(trainer={"precision": precision, "max_epochs": 1})
        return bool(losses.isfinite().all())

    assert run_ranks(run, 2) == [True, True]


class Plain(LightningModule):
    def training_step(self, batch):
        return batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))])


@pytest.mark.distributed
def test_another_model_or_batch_is_refused_by_name(run_ranks):
    def run():
        with pytest.raises(ValueError, match=r"got Plain, which declares no network and coupling.*strategy: ddp"):
            toy.make_trainer().fit(Plain(), toy.loader(torch.ones(2)))
        data = toy.loader(torch.ones(2))
        with pytest.raises(ValueError, match=r"got a batch of Tensor.*take fulgurite.data.TemporalGraph"):
            toy.make_trainer().fit(toy.ToyModule(), data, data)

    run_ranks(run, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "blocks=0; expected 1 or more"),
        ({"snapshot_ranks": 0}, "snapshot_ranks=0; expected 1 or more"),
        ({"balance": "edges"}, "balance='edges'; choose from 'nnz', 'nnz\\+nodes'"),
        ({"collectives": "none"}, "collectives='none'; choose from"),
        ({"wire_dtype": "int8"}, "wire_dtype='int8'; choose from"),
        ({"timeout": -1}, "timeout=-1; expected more than 0"),
    ],
)
def test_an_option_out_of_range_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        SnapshotParallelStrategy(**options)


def test_ranks_that_do_not_divide_are_refused_before_others_are_started():
    with pytest.raises(ValueError, match="got snapshot_ranks=3 for 2 processes; expected a number that divides them"):
        Trainer(accelerator="cpu", devices=2, strategy=SnapshotParallelStrategy(snapshot_ranks=3), logger=False)


def test_a_timeout_is_seconds_or_a_timedelta():
    assert SnapshotParallelStrategy(timeout=90)._timeout == timedelta(seconds=90)
    assert SnapshotParallelStrategy(timeout=timedelta(minutes=2))._timeout == timedelta(minutes=2)


@pytest.mark.distributed
def test_one_process_trains_as_without_the_strategy(run_ranks):
    module = toy.ToyModule()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=3, enable_model_summary=False, **quiet)
    trainer.fit(module, toy.loader(*map(toy.timeline, (0, 1))), toy.loader(toy.timeline(9)))
    ((losses, parameters, _),) = run_ranks(fit, 1)
    assert losses.tolist() == module.losses
    assert torch.equal(parameters, weights(module))


@pytest.mark.parametrize("name", ["snapshot_parallel", "snapshot_parallel_fork", "snapshot_parallel_spawn"])
def test_lightning_knows_the_short_names(name):
    trainer = Trainer(accelerator="cpu", devices=2, strategy=name, logger=False, enable_checkpointing=False)
    assert isinstance(trainer.strategy, SnapshotParallelStrategy)
    assert trainer.strategy.launcher is not None
    assert trainer.strategy.distributed_sampler_kwargs == {"num_replicas": 1, "rank": 0}
