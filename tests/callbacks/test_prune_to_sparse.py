import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks import RandomState
from fulgurite.callbacks.prune_to_sparse import PruneToSparse, exchange_parameters, to_sparse
from fulgurite.models.sparse_network.classifier import SparseClassifier
from fulgurite.models.sparse_network.layered import DenseMLP
from fulgurite.models.sparse_network.network import SparseNetwork

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
SIZES, WEIGHTS = [9, 16, 12, 3], 9 * 16 + 16 * 12 + 12 * 3


def make(seed=0, **options):
    torch.manual_seed(seed)
    return SparseClassifier(DenseMLP(SIZES), num_classes=3, **options)


def loader(shuffle=False):
    x = torch.randn(80, 9, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x[:, :3].argmax(dim=1)), batch_size=10, shuffle=shuffle)


def make_trainer(folder, *callbacks, epochs=3, **options):
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **options},
    )


class Snapshot(pl.Callback):
    """Keeps the dense network as it was, and what the first sparse step is to give."""

    def __init__(self, epoch):
        self.epoch, self.dense, self.kinds = epoch, None, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.kinds.append(type(pl_module.network).__name__)
        if trainer.current_epoch == self.epoch - 1:
            self.dense = {name: value.clone() for name, value in pl_module.network.state_dict().items()}


def test_the_smallest_weights_of_all_layers_go_and_the_rest_trains_on(tmp_path):
    classifier, snapshot = make(), Snapshot(2)
    trainer = make_trainer(tmp_path, snapshot, PruneToSparse(epoch=2, sparsity=0.9), epochs=4)
    trainer.fit(classifier, loader())
    assert snapshot.kinds == ["DenseMLP", "DenseMLP", "SparseNetwork", "SparseNetwork"]
    starts, wanted = [0, 9, 25, 37], []
    for layer in range(3):
        weight = snapshot.dense[f"{2 * layer}.weight"]
        for target, source in weight.nonzero().tolist():
            wanted.append((weight[target, source].abs().item(), starts[layer] + source, starts[layer + 1] + target))
    kept = sorted(wanted)[-round(0.1 * WEIGHTS) :]
    assert {(source, target) for _, source, target in kept} == set(map(tuple, classifier.network.edges.tolist()))
    assert trainer.callback_metrics["prune/sparsity"].item() == pytest.approx(1 - round(0.1 * WEIGHTS) / WEIGHTS)
    (optimizer,) = trainer.optimizers
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in classifier.parameters()]
    assert set(optimizer.state) == set(classifier.parameters()), "nothing is kept for the dense network"
    assert all(int(state["step"]) == 16 for state in optimizer.state.values())


def test_the_sparse_network_computes_what_the_pruned_one_did():
    torch.manual_seed(0)
    dense = nn.Sequential(DenseMLP([9, 16, 3]), nn.Dropout(0.5)).train()
    sparse = to_sparse(dense, 0.8)
    x = torch.randn(7, 9)
    torch.testing.assert_close(sparse(x), dense.eval()(x))
    assert sparse.training
    assert sparse.num_edges == round(0.2 * (9 * 16 + 16 * 3))


def test_weights_that_are_pruned_already_count():
    dense = DenseMLP([10, 10])
    prune.l1_unstructured(dense[0], "weight", amount=0.5)
    assert to_sparse(dense, 0.8).num_edges == 20
    dense = DenseMLP([10, 10])
    prune.l1_unstructured(dense[0], "weight", amount=0.9)
    assert to_sparse(dense, 0.8).num_edges == 10


def test_groups_keep_their_order_and_options():
    old, new, other = nn.Linear(2, 2), nn.Linear(3, 3), nn.Linear(4, 4)
    optimizer = torch.optim.SGD(
        [
            {"params": [other.weight, old.weight], "weight_decay": 0.1},
            {"params": [old.bias, other.bias], "weight_decay": 0.0},
        ],
        lr=0.1,
    )
    exchange_parameters([torch.optim.SGD([torch.ones(1)], lr=1), optimizer], old, new)
    groups = [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    assert groups == [[id(other.weight), id(new.weight)], [id(new.bias), id(other.bias)]]
    with pytest.raises(ValueError, match="no optimizer trains the network"):
        exchange_parameters([optimizer], old, new)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_run_resumed_after_the_pruning_goes_on_bit_by_bit(tmp_path):
    def fit(folder, epochs, resume=None):
        pl.seed_everything(3 if resume is None else 77)
        classifier = make(seed=5 if resume is None else 6, schedule="cosine")
        checkpoint = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        trainer = make_trainer(
            folder,
            RandomState(),
            PruneToSparse(epoch=1, sparsity=0.8),
            checkpoint,
            epochs=4,
            enable_checkpointing=True,
        )
        trainer.fit(classifier, loader(shuffle=True), ckpt_path=resume, weights_only=True)
        return classifier, trainer

    whole, _ = fit(tmp_path / "whole", 4)
    checkpoint = tmp_path / "whole" / "epoch=1.ckpt"
    resumed, trainer = fit(tmp_path / "part", 4, resume=checkpoint)
    assert torch.equal(whole.network.edges, resumed.network.edges)
    for mine, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert trainer.callback_metrics["prune/sparsity"] > 0.79


def test_a_checkpoint_can_be_tested_with_the_callback_and_loaded_without(tmp_path):
    classifier = make()
    trainer = make_trainer(tmp_path, PruneToSparse(epoch=1, sparsity=0.8))
    trainer.fit(classifier, loader())
    trainer.save_checkpoint(tmp_path / "sparse.ckpt")
    (wanted,) = trainer.test(classifier, loader(), verbose=False)
    (tested,) = make_trainer(tmp_path, PruneToSparse()).test(
        make(seed=9), loader(), ckpt_path=tmp_path / "sparse.ckpt", verbose=False, weights_only=True
    )
    assert tested == wanted
    loaded = SparseClassifier.load_from_checkpoint(tmp_path / "sparse.ckpt", network=DenseMLP(SIZES), weights_only=True)
    assert isinstance(loaded.network, SparseNetwork)


class Foreign(pl.LightningModule):
    """Somebody's own module, which knows nothing of sparse networks."""

    def __init__(self):
        super().__init__()
        self.body = nn.Module()
        self.body.head = nn.Sequential(nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.body.head(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


def test_a_network_deep_in_a_foreign_module(tmp_path):
    module = Foreign()
    trainer = make_trainer(tmp_path, PruneToSparse(epoch=1, sparsity=0.5, network="body.head"), epochs=2)
    trainer.fit(module, loader())
    assert module.body.head.num_edges == 48
    trainer.save_checkpoint(tmp_path / "foreign.ckpt")
    again = Foreign()
    make_trainer(tmp_path, PruneToSparse(epoch=1, network="body.head"), epochs=3).fit(
        again, loader(), ckpt_path=tmp_path / "foreign.ckpt", weights_only=True
    )
    assert torch.equal(again.body.head.edges, module.body.head.edges)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epoch": -1}, "epoch=-1"),
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"sparsity": 0}, "sparsity=0"),
        ({"network": ""}, "empty network"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        PruneToSparse(**options)


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_two_processes_go_on_from_a_checkpoint_but_do_not_prune(tmp_path):
    with pytest.raises(Exception, match="PruneToSparse prunes in one process, got 2"):
        make_trainer(tmp_path, PruneToSparse(epoch=1), devices=2, strategy="ddp_fork").fit(make(), loader())
    trainer = make_trainer(tmp_path, PruneToSparse(epoch=1, sparsity=0.8), epochs=2)
    trainer.fit(make(), loader())
    trainer.save_checkpoint(tmp_path / "sparse.ckpt")
    both = make_trainer(tmp_path, PruneToSparse(epoch=1), devices=2, strategy="ddp_fork")
    both.fit(make(), loader(), ckpt_path=tmp_path / "sparse.ckpt", weights_only=True)
    assert both.callback_metrics["prune/sparsity"].item() == pytest.approx(0.8, abs=0.01)


def test_what_cannot_be_pruned_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"network='net'.*has no such network; it has network"):
        make_trainer(tmp_path, PruneToSparse(network="net")).fit(make(), loader())
    with pytest.raises(ValueError, match=r"has no 'body\.tail'"):
        make_trainer(tmp_path, PruneToSparse(network="body.tail.x")).fit(Foreign(), loader())
    with pytest.raises(ValueError, match="no linear layer in Flatten"):
        make_trainer(tmp_path, PruneToSparse()).fit(SparseClassifier(nn.Flatten(), num_classes=9), loader())


def unsupported():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(9, 8), nn.Dropout(), nn.Softmax(dim=1), nn.Linear(8, 3))
    prune.l1_unstructured(network[0], "weight", amount=0.25)
    network[1].eval()
    return network


def looks(network):
    """All that pruning and converting could leave behind."""
    modes = [module.training for module in network.modules()]
    hooks = [list(module._forward_pre_hooks.values()) for module in network.modules()]
    return modes, hooks, list(network.state_dict()), [id(p) for p in network.parameters()], id(network[0].weight)


def test_a_network_that_cannot_be_converted_is_told_before_training(tmp_path):
    network = unsupported()
    before, values = looks(network), [value.clone() for value in network.state_dict().values()]
    classifier, snapshot = SparseClassifier(network, num_classes=3), Snapshot(100)
    with pytest.raises(ValueError, match=r"PruneToSparse\(network='network'\) cannot make Sequential sparse: .*oftmax"):
        make_trainer(tmp_path, snapshot, PruneToSparse(epoch=2), epochs=1).fit(classifier, loader())
    assert snapshot.kinds == []
    assert looks(network) == before
    assert all(map(torch.equal, values, network.state_dict().values()))


def test_a_failed_conversion_leaves_the_network_as_it_was():
    network = unsupported()
    before = looks(network)
    with pytest.raises(ValueError, match="oftmax"):
        to_sparse(network, 0.9)
    assert looks(network) == before
    network[2] = nn.Tanh()
    assert to_sparse(network, 0.9).num_edges == round(0.1 * (9 * 8 + 8 * 3))
    assert looks(network)[0] == before[0], "modes stay where it succeeds, too"


def test_the_check_before_training_leaves_the_network_as_it_was(tmp_path):
    network = unsupported()
    network[2] = nn.Tanh()
    before = looks(network)
    module = SparseClassifier(network, num_classes=3)
    trainer = make_trainer(tmp_path, epochs=1)
    PruneToSparse(epoch=2).setup(trainer, module, "fit")
    assert looks(network) == before
    make_trainer(tmp_path, PruneToSparse(epoch=1, sparsity=0.9), epochs=2).fit(module.train(), loader())
    assert module.network.num_edges == round(0.1 * (9 * 8 + 8 * 3))
