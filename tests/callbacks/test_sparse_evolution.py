import copy
import json
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks import RandomState, SparseEvolution
from fulgurite.callbacks.prune_to_sparse import PruneToSparse
from fulgurite.models.sparse_network.classifier import SparseClassifier
from fulgurite.models.sparse_network.layered import DenseMLP, SparseMLP
from fulgurite.models.sparse_network.places import find_places
from fulgurite.models.sparse_network.rewire import Call, prune_and_grow

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]
SIZES = [9, 16, 12, 3]


def rows(count=120):
    x = torch.randn(count, 9, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, x[:, :3].argmax(dim=1))


def make(seed=0, **options):
    torch.manual_seed(seed)
    return SparseClassifier(SparseMLP(SIZES, density=0.3), num_classes=3, **{"learning_rate": 0.02, **options})


def make_trainer(folder, *callbacks, epochs=2, **options):
    plain = {"logger": False, "enable_checkpointing": False}
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**plain, **options},
    )


def loader(batch_size=10, shuffle=False):
    return DataLoader(rows(), batch_size=batch_size, shuffle=shuffle)


def edge_set(network):
    return {tuple(edge) for edge in network.edges.tolist()}


class Watch(pl.Callback):
    """Notes the steps before which edges have changed."""

    def __init__(self):
        self.changes, self.before = {}, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        edges = edge_set(pl_module.network)
        if self.before is not None and edges != self.before:
            self.changes[trainer.global_step - 1] = len(edges - self.before)
        self.before = edges


@pytest.mark.parametrize("method", ["rigl", "set"])
@pytest.mark.parametrize("candidates", ["layers", "acyclic"])
def test_edges_move_on_schedule_and_their_number_stays(tmp_path, method, candidates):
    classifier, watch = make(), Watch()
    count = classifier.network.num_edges
    parameters = list(classifier.parameters())
    evolution = SparseEvolution(method=method, every=4, stop=0.5, fraction=0.5, candidates=candidates)
    trainer = make_trainer(tmp_path, evolution, watch, epochs=3)
    trainer.fit(classifier, loader())
    (state,) = evolution.state_dict()["networks"].values()
    assert state["updates"] == 4  # before steps 4, 8, 12 and 16 of 36; 18 is the end
    assert sorted(watch.changes)[:3] == [4, 8, 12]
    if candidates == "acyclic":
        shares = [0.25 * (1 + math.cos(math.pi * step / 18)) for step in (4, 8, 12, 16)]
        assert list(watch.changes.values()) == [int(share * count) for share in shares]
    else:
        assert sum(watch.changes.values()) < count, "layers round down"
    assert classifier.network.num_edges == count
    assert all(mine is theirs for mine, theirs in zip(parameters, classifier.parameters(), strict=True))
    assert trainer.callback_metrics["sparse_evolution/edges_changed"] == sum(watch.changes.values())
    assert not classifier.network._forward_hooks
    matrix_edges = (classifier.network.edges[:, 0] < 9) & (classifier.network.edges[:, 1] >= 9 + 16)
    assert bool(matrix_edges.any()) == (candidates == "acyclic"), "skips grow where they may"


def test_training_is_what_a_loop_by_hand_does(tmp_path):
    """Network, optimizer state and all: the same operations without a Trainer."""
    classifier = make()
    network = copy.deepcopy(classifier.network)
    trainer = make_trainer(tmp_path, SparseEvolution(every=5, stop=1.0, fraction=0.4, schedule="constant"))
    trainer.fit(classifier, loader())

    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    places = find_places(network, "layers")
    step = 0
    for _ in range(2):
        for x, labels in loader():
            optimizer.zero_grad()
            y = network(x)
            y.retain_grad()
            functional.cross_entropy(y, labels).backward()
            if step > 0 and step % 5 == 0:
                seed = int(np.random.SeedSequence([0, 0, step]).generate_state(1)[0])
                call = Call(x, y.grad)
                prune_and_grow(
                    network, places=places, fraction=0.4, method="rigl", calls=[call], optimizers=[optimizer], seed=seed
                )
            optimizer.step()
            step += 1
    assert torch.equal(network.edges, classifier.network.edges)
    assert torch.equal(network.weight, classifier.network.weight)
    assert torch.equal(network.bias, classifier.network.bias)
    (theirs,) = trainer.optimizers
    for name, value in optimizer.state[network.weight].items():
        assert torch.equal(value, theirs.state[classifier.network.weight][name])


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_a_resumed_run_goes_on_bit_by_bit(tmp_path, method):
    def fit(folder, epochs, resume=None):
        pl.seed_everything(3 if resume is None else 77)
        classifier = make(seed=5 if resume is None else 6, optimizer="sgd", schedule="constant")
        checkpoint = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        # 12 steps an epoch, an update every 8: the resumed run is in the middle of a period.
        evolution = SparseEvolution(method=method, every=8, schedule="constant", stop=1.0)
        trainer = make_trainer(folder, RandomState(), evolution, checkpoint, epochs=epochs, enable_checkpointing=True)
        trainer.fit(classifier, loader(shuffle=True), ckpt_path=resume, weights_only=True)
        return classifier, float(trainer.callback_metrics["sparse_evolution/edges_changed"])

    whole, changed = fit(tmp_path / "whole", 4)
    fit(tmp_path / "part", 2)
    resumed, changed_too = fit(tmp_path / "part", 4, resume=tmp_path / "part" / "epoch=1.ckpt")
    assert torch.equal(whole.network.edges, resumed.network.edges)
    for mine, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert changed == changed_too > 0


class Tell(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        network = pl_module.network
        told = {"edges": network.edges.tolist(), "weight": network.weight.tolist()}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["rigl", "set"])
def test_two_processes_decide_alike(tmp_path, method):
    classifier = make()
    before = edge_set(classifier.network)
    evolution = SparseEvolution(method=method, every=2, stop=1.0, schedule="constant", fraction=0.5)
    trainer = make_trainer(tmp_path, evolution, Tell(tmp_path), devices=2, strategy="ddp_fork", epochs=3)
    trainer.fit(classifier, loader())
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert {tuple(edge) for edge in first["edges"]} != before
    assert (tmp_path / "sparse_evolution" / "network.png").exists()


@pytest.mark.distributed
def test_two_processes_grow_by_the_mean_of_their_gradients(tmp_path):
    """Full batches on one process are the mean of half batches on two."""
    options = {"every": 3, "stop": 0.9, "schedule": "constant", "fraction": 0.5}
    x, labels = rows().tensors
    # Rank r sees samples r, r + 2, …: batches of 10 on two ranks are these 20 rows together.
    alone = make(optimizer="sgd")
    make_trainer(tmp_path, SparseEvolution(**options), Tell(tmp_path), epochs=1).fit(
        alone, DataLoader(TensorDataset(x, labels), batch_size=20)
    )
    (tmp_path / "rank0.json").rename(tmp_path / "alone.json")
    both = make(optimizer="sgd")
    trainer = make_trainer(
        tmp_path,
        SparseEvolution(**options),
        Tell(tmp_path),
        epochs=1,
        devices=2,
        strategy="ddp_fork",
        use_distributed_sampler=False,
    )
    trainer.fit(both, DataLoader(TensorDataset(x, labels), batch_sampler=Halves()))
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "rank0"))
    assert one["edges"] == two["edges"]
    torch.testing.assert_close(torch.tensor(one["weight"]), torch.tensor(two["weight"]))


class Halves:
    """The first ten rows of every twenty on rank 0, the others on rank 1."""

    def __len__(self):
        return 6

    def __iter__(self):
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        for start in range(0, 120, 20):
            yield list(range(start + 10 * rank, start + 10 * rank + 10))


def test_accumulated_batches_count_together(tmp_path):
    """Two batches of ten that are accumulated are one of twenty."""
    results = []
    for batch_size, accumulate in ((20, 1), (10, 2)):
        classifier = make(optimizer="sgd")
        evolution = SparseEvolution(every=3, stop=0.9, schedule="constant", fraction=0.5)
        trainer = make_trainer(tmp_path, evolution, epochs=1, accumulate_grad_batches=accumulate)
        trainer.fit(classifier, loader(batch_size))
        results.append(classifier.network)
    assert edge_set(results[0]) == edge_set(results[1])
    torch.testing.assert_close(results[0].weight, results[1].weight)


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"gradient_clip_val": 0.1}, {"precision": "64-true"}])
def test_under_other_settings_of_the_trainer(tmp_path, options):
    classifier = make()
    before = edge_set(classifier.network)
    evolution = SparseEvolution(every=4, stop=1.0)
    trainer = make_trainer(tmp_path, evolution, epochs=4, **options)
    trainer.fit(classifier, loader())
    assert len(edge_set(classifier.network) - before) > 20
    assert trainer.callback_metrics["train/accuracy"] > 0.5


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own looking
def test_a_compiled_network_evolves_as_the_plain_one(tmp_path):
    plain, compiled = make(), make()
    network = compiled.network
    compiled.network = torch.compile(network, backend="eager")
    for classifier in (plain, compiled):
        make_trainer(tmp_path, SparseEvolution(every=4, stop=1.0)).fit(classifier, loader())
    assert torch.equal(plain.network.edges, network.edges)
    assert torch.equal(plain.network.weight, network.weight)


class Two(pl.LightningModule):
    def __init__(self, optimizers=1):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = SparseMLP([9, 8, 8], density=0.3), SparseMLP([8, 8, 3], density=0.3, seed=1)
        self.still = SparseMLP([9, 8, 8], density=0.3).requires_grad_(False)
        self.automatic_optimization = optimizers == 1
        self.optimizers_wanted = optimizers

    def training_step(self, batch, batch_idx):
        x, labels = batch
        loss = functional.cross_entropy(self.second(self.first(x) + self.still(x) + self.first(x.flip(1))), labels)
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
        return loss

    def configure_optimizers(self):
        if self.optimizers_wanted == 1:
            return torch.optim.Adam([*self.first.parameters(), *self.second.parameters()])
        return [torch.optim.Adam(network.parameters()) for network in (self.first, self.second)]


@pytest.mark.parametrize("optimizers", [1, 2])
def test_several_networks_in_one_module(tmp_path, optimizers):
    module = Two(optimizers)
    before = {name: edge_set(getattr(module, name)) for name in ("first", "second", "still")}
    evolution = SparseEvolution(every=3, stop=1.0)
    make_trainer(tmp_path, evolution, epochs=1).fit(module, loader())
    assert edge_set(module.first) != before["first"]
    assert edge_set(module.second) != before["second"]
    assert edge_set(module.still) == before["still"], "a frozen network stays"
    state = evolution.state_dict()["networks"]
    assert {name: (one["steps"], one["updates"]) for name, one in state.items()} == {
        "first": (12, 3),
        "second": (12, 3),
    }
    written = {path.name for path in (tmp_path / "sparse_evolution").iterdir()}
    assert written == {"first.png", "second.png", "summary.txt"}


def test_a_network_may_become_sparse_in_training(tmp_path):
    torch.manual_seed(0)
    classifier = SparseClassifier(DenseMLP(SIZES), num_classes=3)
    evolution = SparseEvolution(every=2, stop=1.0)
    make_trainer(tmp_path, PruneToSparse(epoch=1, sparsity=0.8), evolution).fit(classifier, loader())
    (state,) = evolution.state_dict()["networks"].values()
    assert state["updates"] == 6  # before steps 12, 14, … of 24
    assert classifier.network.num_edges == round(0.2 * (9 * 16 + 16 * 12 + 12 * 3))


def test_what_it_did_is_logged_and_drawn(tmp_path):
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path)]
    classifier = make()
    trainer = make_trainer(tmp_path, SparseEvolution(every=4, stop=1.0), logger=loggers, log_every_n_steps=1)
    trainer.fit(classifier, loader())
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    for name in ("sparsity", "edges_changed", "update_edges", "update_fraction"):
        assert f"sparse_evolution/{name}" in text
    assert trainer.callback_metrics["sparse_evolution/sparsity"].item() == pytest.approx(0.7, abs=0.01)
    folder = tmp_path / "lightning_logs" / "version_0" / "sparse_evolution"
    assert (folder / "network.png").read_bytes().startswith(b"\x89PNG")
    summary = (folder / "summary.txt").read_text()
    assert "edges changed in 5 updates (rigl)" in summary
    assert "cpu" in summary


def test_a_folder_that_cannot_be_written_to_does_not_cost_the_network(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.warns(UserWarning, match="SparseEvolution could not write"):
        make_trainer(tmp_path, SparseEvolution(every=4, folder=blocked)).fit(make(), loader())


def test_a_fast_run_writes_nothing(tmp_path):
    make_trainer(tmp_path, SparseEvolution(every=1), fast_dev_run=True).fit(make(), loader())
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_training_leaves_no_hooks(tmp_path):
    classifier = make()
    classifier.on_after_backward = lambda: 1 / 0 if classifier.global_step == 2 else None
    with pytest.raises(ZeroDivisionError):
        make_trainer(tmp_path, SparseEvolution(every=2, stop=1.0)).fit(classifier, loader())
    assert not classifier.network._forward_hooks


def test_what_cannot_evolve_is_said(tmp_path):
    dense = SparseClassifier(nn.Linear(9, 3), num_classes=3)
    with pytest.raises(ValueError, match="found no trainable SparseNetwork in SparseClassifier"):
        make_trainer(tmp_path, SparseEvolution()).fit(dense, loader())
    with pytest.raises(ValueError, match=r"needs the end of the run"):
        make_trainer(tmp_path, SparseEvolution(), epochs=-1, max_time={"minutes": 1}).fit(make(), loader())

    class FSDPStrategy(SingleDeviceStrategy):
        pass

    with pytest.raises(ValueError, match="cannot run under FSDPStrategy"):
        make_trainer(tmp_path, SparseEvolution(), strategy=FSDPStrategy(torch.device("cpu"))).fit(make(), loader())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "snip"}, "method='snip'; choose from rigl, set"),
        ({"schedule": "linear"}, "choose from cosine, constant"),
        ({"candidates": "all"}, "choose from layers, acyclic"),
        ({"fraction": 0}, "fraction=0"),
        ({"stop": 1.5}, "stop=1.5"),
        ({"every": 0}, "every=0"),
        ({"max_candidates": 0}, "max_candidates=0"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        SparseEvolution(**options)


class Started(pl.Callback):
    def __init__(self):
        self.batches = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches += 1


def test_an_optimizer_that_cannot_follow_is_said_before_the_first_step(tmp_path):
    classifier, started = make(), Started()
    # The history would be kept with the bias.
    network = classifier.network
    classifier.configure_optimizers = lambda: torch.optim.LBFGS([network.bias, network.weight], max_iter=2)
    with pytest.raises(ValueError, match=r"LBFGS keeps a history of all parameters together.*use SGD, Adam"):
        make_trainer(tmp_path, SparseEvolution(every=100), started).fit(classifier, loader())
    assert started.batches == 0
