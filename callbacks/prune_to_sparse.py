"""Train dense, prune by size, go on sparse: the dense network gives way to a sparse one in the middle of training."""

import operator
from collections.abc import Callable, MutableMapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.utils import prune
from typing_extensions import override

from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.restore import room_for_sparse


class PruneToSparse(pl.Callback):
    """Prunes a dense network at the start of an epoch, and trains on with a sparse one in its place.

    The weights of smallest size over all linear layers together are pruned by ``torch.nn.utils.prune``, and the network
    becomes a :class:`~fulgurite.models.sparse_network.SparseNetwork` with the edges that are left: from here on only
    these are computed, forward and backward. The optimizer goes on with the new parameters in the groups of the old
    ones; what it kept for these is forgotten, its learning rate and schedule stay.

    A checkpoint from after the pruning can be resumed, or tested, with the same dense network in the module: the sparse
    one is built from the checkpoint.

    Logged each epoch: ``prune/sparsity``, the share of weights that are pruned, 0 before.

    Args:
        epoch: before which epoch, counted from 0; as many epochs are dense.
        sparsity: share of the weights to prune, in (0, 1); those pruned already count.
        network: where the dense network is in the module, a dotted path. Whatever
            :meth:`~fulgurite.models.sparse_network.SparseNetwork.from_sequential` can convert.

    Raises:
        ValueError: an option out of range; no such network; nothing linear in it, or something that cannot become
            sparse, which is told before training; more than one process (prune in one, go on from its checkpoint in
            many).

    Example:
        >>> import warnings
        >>> from fulgurite.models.sparse_network.classifier import SparseClassifier
        >>> from fulgurite.models.sparse_network.layered import DenseMLP
        >>> warnings.filterwarnings("ignore", ".*does not have many workers")
        >>> batches = [(torch.randn(8, 20), torch.randint(2, (8,))) for _ in range(4)]
        >>> classifier = SparseClassifier(DenseMLP([20, 16, 2]), num_classes=2)
        >>> trainer = pl.Trainer(
        ...     max_epochs=2, accelerator="cpu", callbacks=[PruneToSparse(epoch=1, sparsity=0.75)], logger=False,
        ...     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ... )
        >>> loader = torch.utils.data.DataLoader(batches, batch_size=None)
        >>> trainer.fit(classifier, loader, loader)
        >>> type(classifier.network).__name__, classifier.network.num_edges
        ('SparseNetwork', 88)
    """

    def __init__(self, *, epoch: int = 3, sparsity: float = 0.95, network: str = "network") -> None:
        super().__init__()
        if epoch < 0:
            raise ValueError(f"got epoch={epoch}; want 0 for the start of training, or a later one")
        if not 0 < sparsity < 1:
            raise ValueError(f"got sparsity={sparsity}; want more than 0 and less than 1")
        if not network:
            raise ValueError("got an empty network=; give the attribute that holds the dense network")
        self.epoch = epoch
        self.sparsity = sparsity
        self.network = network
        self._places = 0

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        parent, name = self._parent(pl_module)
        dense = getattr(parent, name, None)
        if not isinstance(dense, nn.Module):
            raise ValueError(
                f"PruneToSparse(network={self.network!r}): {type(pl_module).__name__} has no such network; "
                f"it has {', '.join(child for child, _ in pl_module.named_children())}"
            )
        self._places = sum(weight.numel() for weight in _weights(dense))
        if isinstance(dense, SparseNetwork):
            return
        room_for_sparse(parent, name)
        if stage != "fit":
            return
        if not self._places:
            raise ValueError(
                f"PruneToSparse(network={self.network!r}): there is no linear layer in {type(dense).__name__}"
            )
        put_back = _snapshot(dense)
        try:
            to_sparse(dense, self.sparsity, backend="cpu")
        except ValueError as error:
            raise ValueError(
                f"PruneToSparse(network={self.network!r}) cannot make {type(dense).__name__} sparse: {error}"
            ) from error
        finally:
            put_back()

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # By now a checkpoint has been read, after which there may be nothing left to prune.
        parent, name = self._parent(pl_module)
        if trainer.world_size > 1 and not isinstance(getattr(parent, name), SparseNetwork):
            raise ValueError(
                f"PruneToSparse prunes in one process, got {trainer.world_size}; prune with devices=1, then go on from "
                "its checkpoint in many"
            )

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parent, name = self._parent(pl_module)
        dense = getattr(parent, name)
        if trainer.current_epoch < self.epoch or isinstance(dense, SparseNetwork):
            return
        sparse = to_sparse(dense, self.sparsity)
        setattr(parent, name, sparse)
        exchange_parameters(trainer.optimizers, dense, sparse)
        rank_zero_info(
            f"PruneToSparse: {sparse.num_edges:,} of {self._places:,} weights are left, from epoch {self.epoch} on"
        )

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parent, name = self._parent(pl_module)
        network = getattr(parent, name)
        left = network.num_edges if isinstance(network, SparseNetwork) else self._places
        if self._places:  # 0 where a network came in that was sparse already
            pl_module.log("prune/sparsity", 1 - left / self._places, sync_dist=True)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"places": self._places}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._places = state_dict["places"]

    def _parent(self, pl_module: pl.LightningModule) -> tuple[nn.Module, str]:
        path, _, name = self.network.rpartition(".")
        try:
            return (operator.attrgetter(path)(pl_module) if path else pl_module), name
        except AttributeError as error:
            raise ValueError(
                f"PruneToSparse(network={self.network!r}): {type(pl_module).__name__} has no {path!r}"
            ) from error


def to_sparse(dense: nn.Module, sparsity: float, **options: Any) -> SparseNetwork:
    """Prune the linear layers of a network together, by size, and convert it; the dense network keeps its masks.

    Args:
        dense: the network.
        sparsity: share of all weights to prune; those pruned already count.
        options: of :meth:`~fulgurite.models.sparse_network.SparseNetwork.from_sequential`.

    Raises:
        ValueError: the network cannot be converted. It is as before then, without new masks.

    Example:
        >>> to_sparse(nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 4)), 0.9).num_edges
        4
    """
    layers = [(module, "weight") for module in dense.modules() if isinstance(module, nn.Linear)]
    masks = [mask for module, _ in layers if isinstance(mask := getattr(module, "weight_mask", None), Tensor)]
    pruned = sum(int((mask == 0).sum()) for mask in masks)
    wanted = round(sparsity * sum(module.weight.numel() for module, _ in layers))
    modes = [(module, module.training) for module in dense.modules()]
    put_back = _snapshot(dense)
    try:
        prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=max(0, wanted - pruned))
        # What it does in evaluation is converted; dropout, say, has no place in a sparse network.
        sparse = SparseNetwork.from_sequential(dense.eval(), **options)
    except BaseException:
        put_back()
        raise
    for module, training in modes:
        module.training = training
    return sparse.train(dense.training)


def exchange_parameters(optimizers: list[torch.optim.Optimizer], old: nn.Module, new: nn.Module) -> None:
    """Put the parameters of a new network where those of the old one were in the optimizers' groups.

    Weights go to the first group that has weights of the old one, biases to that of its biases (a bias that the old
    network had none of goes to the weights). The state kept for old parameters is forgotten.

    Args:
        optimizers: changed in place.
        old: the network that goes.
        new: the network that comes.

    Raises:
        ValueError: an optimizer has no parameter of the old network, so that nobody would train the new one.

    Example:
        >>> old, new = nn.Linear(2, 2), nn.Linear(3, 3)
        >>> optimizer = torch.optim.Adam(old.parameters())
        >>> exchange_parameters([optimizer], old, new)
        >>> [tuple(parameter.shape) for parameter in optimizer.param_groups[0]["params"]]
        [(3, 3), (3,)]
    """
    gone = {id(parameter): "bias" in name for name, parameter in old.named_parameters()}
    coming = [(parameter, "bias" in name) for name, parameter in new.named_parameters()]
    found = False
    for optimizer in optimizers:
        homes: dict[bool, tuple[dict[str, Any], int]] = {}
        for group in optimizer.param_groups:
            kept: list[Tensor] = []
            for parameter in group["params"]:
                if id(parameter) in gone:
                    homes.setdefault(gone[id(parameter)], (group, len(kept)))
                    optimizer.state.pop(parameter, None)
                else:
                    kept.append(parameter)
            group["params"][:] = kept
        if not homes:
            continue
        found = True
        for parameter, is_bias in reversed(coming):
            group, place = homes.get(is_bias) or homes[not is_bias]
            group["params"].insert(place, parameter)
    if coming and not found:
        raise ValueError("no optimizer trains the network that is to become sparse; give its parameters to one")


def _snapshot(dense: nn.Module) -> Callable[[], None]:
    """Note modes, masks and hooks of a network, and give what puts them back; no tensor is copied.

    A copy would not do: a network that is pruned already, whose weights are products, cannot be deep-copied.
    """
    parts: list[MutableMapping[Any, Any]] = []
    for module in dense.modules():
        parts += [vars(module), module._parameters, module._buffers, module._forward_pre_hooks]
    before = [(part, dict(part)) for part in parts]

    def put_back() -> None:
        for part, content in before:
            part.clear()
            part.update(content)

    return put_back


def _weights(dense: nn.Module) -> list[Tensor]:
    return [module.weight for module in dense.modules() if isinstance(module, nn.Linear)]
