"""Trains implicit graph networks to classify nodes, and measures what asynchronous workers make of them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.models.classification_module import OptimizerName
from fulgurite.models.implicit_gnn.asynchronous import Asynchronous
from fulgurite.models.implicit_gnn.distributed import Distributed
from fulgurite.models.implicit_gnn.gcn import GCN
from fulgurite.models.implicit_gnn.gcn_map import gcn_under_schedule
from fulgurite.models.implicit_gnn.network import ImplicitGNN, Prediction


@runtime_checkable
class NodeBatch(Protocol):
    """A graph with the nodes to be scored, such as :class:`~fulgurite.data.graph_chains.NodeGraph`."""

    @property
    def features(self) -> Tensor:
        """(N, F)."""

    @property
    def edge_index(self) -> Tensor:
        """(2, E)."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""

    @property
    def mask(self) -> Tensor:
        """(N,) bool."""


class Predicted(NamedTuple):
    """What is predicted of the nodes of a batch that are scored.

    Attributes:
        node: (M,) their numbers.
        score: (M, C) the chance of each class.
        error: (M,) no logit is further than this from that of the exact fixed point.
        decided: (M,) whether the likeliest class is certainly that of the exact fixed point.
    """

    node: Tensor
    score: Tensor
    error: Tensor
    decided: Tensor


class ImplicitNodeClassifier(LightningModule):
    r"""Trains an implicit graph network by cross-entropy on the nodes of a graph; a batch is a whole graph.

    Gu et al., *Implicit Graph Neural Networks*, NeurIPS 2020, `arXiv:2009.06211 <https://arxiv.org/abs/2009.06211>`__.

    Logged: ``train/loss``; at ``val/`` and ``test/``: ``loss``, ``accuracy``, ``error_bound`` (of the state, see
    :func:`~fulgurite.models.implicit_gnn.bound.error_bound`), ``decided`` (share of nodes whose class no remaining
    error can change) and ``contraction`` (γ). With ``workers`` also what these make of the trained weights:
    ``workers/accuracy``, ``workers/error_bound``, ``workers/decided`` and ``workers/agreement``, the share of nodes
    with the class that the synchronous solver gives. With a ``control`` its ``control/accuracy``, and
    ``control/workers/accuracy`` and ``control/workers/agreement`` under the very schedules that ``workers`` has.

    Args:
        network: what is trained.
        workers: how the layer is solved once more in evaluation: by parts under a schedule
            (:class:`~fulgurite.models.implicit_gnn.asynchronous.Asynchronous`), or by peers
            (:class:`~fulgurite.models.implicit_gnn.distributed.Distributed`).
        control: a network with layers, trained beside by the same loss; neither sees the other.
        optimizer: ``adam``, ``adamw`` or ``sgd``.
        learning_rate: of the optimizer. A graph is one batch, so an epoch is one step.
        weight_decay: of the optimizer.

    Raises:
        ValueError: an option out of range, a control with ``workers`` that have no schedule, a batch without nodes to
            score.

    Example:
        >>> from fulgurite.data.graph_chains import GraphChains
        >>> batch = GraphChains(num_chains=10, length=5).part("train")
        >>> module = ImplicitNodeClassifier(ImplicitGNN(4, 2))
        >>> module(batch).shape
        torch.Size([50, 2])
    """

    def __init__(
        self,
        network: ImplicitGNN,
        *,
        workers: Asynchronous | Distributed | None = None,
        control: GCN | None = None,
        optimizer: OptimizerName = "adam",
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if optimizer not in get_args(OptimizerName):
            raise ValueError(f"got optimizer={optimizer!r}; choose from {', '.join(get_args(OptimizerName))}")
        if not learning_rate > 0:
            raise ValueError(f"got learning_rate={learning_rate}; expected more than 0")
        if not weight_decay >= 0:
            raise ValueError(f"got weight_decay={weight_decay}; expected 0 or more")
        if control is not None and isinstance(workers, Distributed):
            raise ValueError(
                "got a control beside workers that are peers; expected workers with a schedule, that the control "
                "can be run under too: give workers as Asynchronous, or no control"
            )
        self.save_hyperparameters(ignore=["network", "control", "workers"])
        if "_instantiator" in self.hparams:  # LightningCLI gave the plain configs, which can rebuild them
            self.save_hyperparameters()
        self.network = network
        self.control = control
        self.workers = workers
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self._optimizer_name = optimizer

    @override
    def forward(self, batch: NodeBatch) -> Tensor:
        """Logits (N, C) of all nodes."""
        return self.network(batch.features, batch.edge_index)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The mean cross-entropy of the nodes to be scored."""
        _check(batch)
        loss = _loss(self(batch), batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        if self.control is None:
            return loss
        beside = _loss(self.control(batch.features, batch.edge_index), batch)
        self.log("train/control/loss", beside, batch_size=1)
        return loss + beside  # of parameters that they do not share: each gets the gradients of its own

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure."""
        self._evaluate(batch, "val")

    @override
    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measure."""
        self._evaluate(batch, "test")

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> Predicted:
        """Scores of the nodes to be scored, each with its error bound; by ``workers``, if there are any."""
        _check(batch)
        found = self.network.predict(batch.features, batch.edge_index, solver=self.workers)
        node = batch.mask.nonzero()[:, 0]
        return Predicted(node, found.logits[node].softmax(dim=1), found.logit_error[node], found.decided[node])

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give the optimizer; LightningCLI's ``optimizer`` and ``lr_scheduler`` replace it."""
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self._optimizer_name == "sgd":
            return torch.optim.SGD(self.parameters(), momentum=0.9, **options)
        kind = torch.optim.Adam if self._optimizer_name == "adam" else torch.optim.AdamW
        return kind(self.parameters(), **options)

    def _evaluate(self, batch: NodeBatch, stage: str) -> None:
        _check(batch)
        found = self.network.predict(batch.features, batch.edge_index)
        values = {"loss": _loss(found.logits, batch)} | _measured(found, batch)
        values["contraction"] = self.network.equation(batch.features, batch.edge_index).factor
        if self.workers is not None:
            by_workers = self.network.predict(batch.features, batch.edge_index, solver=self.workers)
            values |= {f"workers/{name}": value for name, value in _measured(by_workers, batch).items()}
            values["workers/agreement"] = _agreement(by_workers.logits, found.logits, batch)
        if self.control is not None:
            together = self.control(batch.features, batch.edge_index)
            values["control/accuracy"] = _accuracy(together, batch)
            if isinstance(self.workers, Asynchronous):
                apart = gcn_under_schedule(self.control, batch.features, batch.edge_index, self.workers)
                values["control/workers/accuracy"] = _accuracy(apart, batch)
                values["control/workers/agreement"] = _agreement(apart, together, batch)
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "accuracy", batch_size=1)


def _measured(found: Prediction, batch: NodeBatch) -> dict[str, Tensor | float]:
    decided = found.decided[batch.mask].float().mean()
    return {"accuracy": _accuracy(found.logits, batch), "error_bound": found.state_error, "decided": decided}


def _loss(logits: Tensor, batch: NodeBatch) -> Tensor:
    return functional.cross_entropy(logits[batch.mask], batch.labels[batch.mask])


def _accuracy(logits: Tensor, batch: NodeBatch) -> Tensor:
    return (logits.argmax(dim=1) == batch.labels)[batch.mask].float().mean()


def _agreement(logits: Tensor, others: Tensor, batch: NodeBatch) -> Tensor:
    return (logits.argmax(dim=1) == others.argmax(dim=1))[batch.mask].float().mean()


def _check(batch: Any) -> None:
    if not isinstance(batch, NodeBatch):
        raise ValueError(
            f"got a batch of {type(batch).__name__}; expected a graph with features, edge_index, labels and mask, such "
            "as GraphChains gives"
        )
    if not bool(batch.mask.any()):
        raise ValueError("got a batch without a node to be scored; its mask must be true somewhere")
