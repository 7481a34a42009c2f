"""What the LightningModules of dynamic graphs share: the batch as a shard, loss over all ranks, metrics, optimizer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from typing_extensions import override

from fulgurite.models.classification_module import OptimizerName
from fulgurite.models.dynamic_gnn.endpoint_classifier import EndpointClassifier, Head
from fulgurite.models.dynamic_gnn.kept_shards import KeptShards
from fulgurite.models.dynamic_gnn.metrics import ClassMetrics
from fulgurite.models.dynamic_gnn.tensor_m import TMGCNLayer
from fulgurite.plugins.snapshot_parallel.shard import Shard, Targets
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

# Under torch.compile of a module what reads graphs, draws targets and logs stays Python; network and head are compiled.
_not_traced = torch.compiler.disable(recursive=False)

ClassWeight = Sequence[float] | Literal["balanced"] | None

_KINDS = {1: "(1, M) vertices", 2: "(2, M) pairs of vertices"}


@dataclass(frozen=True, eq=False)
class Scores:
    """What a rank predicts for its own targets; what all ranks predict is together every target once.

    Attributes:
        time: (M,) int64, the number of a target's snapshot on the whole timeline.
        index: (k, M) int64, its vertex (k = 1), or source and target (k = 2).
        score: (M, C) float32, the chance of each class.
    """

    time: Tensor
    index: Tensor
    score: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Move all; by this Lightning takes predictions to the CPU."""
        return replace(self, time=self.time.to(device), index=self.index.to(device), score=self.score.to(device))


class DynamicTask(LightningModule):
    r"""A LightningModule that trains a dynamic graph network by weighted cross-entropy on targets; a base class.

    A batch is a whole timeline (:class:`~fulgurite.data.timeline.Timeline`), or, under
    :class:`~fulgurite.plugins.snapshot_parallel.strategy.SnapshotParallelStrategy`, the :class:`Shard` of it that a
    rank has. With weight :math:`w_y` of class y and the targets m of *all* ranks the loss is

    .. math:: L = \frac{\sum_m -w_{y_m} \log \mathrm{softmax}(z_m)_{y_m}}{\sum_m w_{y_m}}.

    A rank's loss has its own terms above the same sum of weights, so that gradients *summed* over ranks are those of L;
    ``train/loss`` is L; where replicas hold timelines of their own, its mean over those with targets. A subclass names
    a target's ends; it may add targets and metrics.

    Args:
        network: has ``in_channels``, ``out_channels``, ``coupling``, ``initial_carry`` and ``forward(block, carry)``,
            as :class:`~fulgurite.models.dynamic_gnn.network.DynamicNetwork`.
        num_classes: C.
        class_weight: C numbers; ``"balanced"`` gives every class that occurs the same share of the loss;
            None weighs all targets alike.
        optimizer: ``adam``, ``adamw`` or ``sgd``.
        learning_rate: of the optimizer.
        momentum: of ``sgd``.
        weight_decay: of the optimizer.
        head: the classifier on the embeddings, see
            :class:`~fulgurite.models.dynamic_gnn.endpoint_classifier.EndpointClassifier`.

    Raises:
        ValueError: an option out of range; targets, features or windows that do not fit the module (see
            :meth:`check`); a loss that is not finite.
    """

    ends: ClassVar[int]
    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        class_weight: ClassWeight,
        optimizer: OptimizerName,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        head: Head = "linear",
    ) -> None:
        super().__init__()
        _check_options(num_classes, class_weight, optimizer, learning_rate, momentum, weight_decay)
        wanted = ("in_channels", "out_channels", "coupling", "initial_carry")
        lacking = [name for name in wanted if not hasattr(network, name)]
        if lacking:
            raise ValueError(
                f"got a network {type(network).__name__} without {', '.join(lacking)}; "
                "expected a dynamic one, such as fulgurite.models.dynamic_gnn.CDGCN"
            )
        self.save_hyperparameters(ignore=["network"])
        if "_instantiator" in self.hparams:  # LightningCLI gave the network's plain config, which can rebuild it
            self.save_hyperparameters()
        self.network = network
        self.num_classes = num_classes
        self.class_weight = class_weight
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self._optimizer_name = optimizer
        channels: Any = network.out_channels
        self.head = EndpointClassifier(channels, ends=self.ends, num_classes=num_classes, head=head)
        self.metrics = nn.ModuleDict({stage: nn.ModuleDict(self.new_metrics()) for stage in ("val", "test")})
        self._whole = KeptShards()

    def new_metrics(self) -> dict[str, Metric]:
        """Give new metrics of a stage; ``classes`` is among them."""
        return {"classes": ClassMetrics(self.num_classes)}

    @property
    def coupling(self) -> Any:
        """How the network couples snapshots; the strategy asks."""
        return self.network.coupling

    def targets(self, shard: Shard, epoch: int | None) -> Targets:
        """Give what is to be classified on this rank: the timeline's targets.

        Args:
            shard: of this rank.
            epoch: in training; None in evaluation, where every epoch has the same targets.
        """
        return shard.targets

    def measure(self, metrics: Mapping[str, Any], logits: Tensor, targets: Targets) -> None:
        """Update the metrics of a stage beside ``classes``."""

    def check(self, timeline: TimelineLike, num_features: int) -> None:
        """Hold a timeline against the module; every rank sees all of it, so every rank raises.

        Raises:
            ValueError: targets of another kind, a vertex or label out of range, another number of features than the
                network takes, an M-product of another width than the network's.
        """
        index, label = timeline.target_index, timeline.target_label
        name = type(self).__name__
        if index.shape[1] and len(index) != self.ends:
            raise ValueError(
                f"got target_index {tuple(index.shape)}; {name} expected {_KINDS[self.ends]}: give such targets, "
                "or take another task"
            )
        if label.is_floating_point():
            raise ValueError(f"got target_label of {label.dtype}; {name} expected classes 0 … {self.num_classes - 1}")
        for what, values, limit in (
            ("vertex {} in target_index", index, timeline.num_nodes),
            ("class {} in target_label", label, self.num_classes),
        ):
            least, most = (int(x) for x in values.aminmax()) if values.numel() else (0, 0)
            if least < 0 or most >= limit:
                got = what.format(least if least < 0 else most)
                raise ValueError(f"got {got}; expected 0 … {limit - 1}")
        if num_features != self.network.in_channels:
            raise ValueError(
                f"got {num_features} features a vertex for a network of in_channels={self.network.in_channels}; "
                f"give it in_channels={num_features}, or the data other features"
            )
        for layer in self.network.modules():
            if isinstance(layer, TMGCNLayer) and layer.window != timeline.m_window:
                raise ValueError(
                    f"got a timeline of m_window={timeline.m_window} for a TM-GCN of window={layer.window}; "
                    f"give the data m_window={layer.window}, or the network window={timeline.m_window}"
                )

    @override
    def setup(self, stage: str) -> None:
        """See to it that timelines stay on the host; where a data module is, this is its part."""
        vars(self).pop("transfer_batch_to_device", None)
        if self.trainer.datamodule is None:  # type: ignore[attr-defined]  # Lightning warns where both hook in
            self.transfer_batch_to_device = self._left_on_the_host  # type: ignore[method-assign]

    @override
    @_not_traced
    def forward(self, batch: Any) -> Tensor:
        """Give the logits (M, C) of the targets that a timeline, or this rank's shard of it, brings along."""
        shard = self._shard(batch)
        return self.head(shard.run(self.network), shard.targets.step, shard.targets.index)

    @override
    @_not_traced
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Give this rank's part of the loss, and log the loss of all ranks."""
        shard, targets = self._given(batch, training=True)
        return self._logged(shard, self._run(shard, targets))

    @torch.compiler.disable
    def _logged(self, shard: Shard, measured: "_Measured") -> Tensor:
        value, scored, ranks = measured.value, float(measured.weight > 0), 1.0
        if self.trainer.world_size > shard.exchange.size:
            # The others hold timelines of their own, some maybe without a target that weighs anything. All take part
            # in the sum; what is logged is the mean over those that have one.
            totals = torch.stack([value, value.new_tensor(scored), value.new_tensor(1.0)])
            total, *counts = self.trainer.strategy.reduce(totals, reduce_op="sum")
            (scored, ranks), value = torch.stack(counts).tolist(), total / counts[0]
        if scored:
            self.log("train/loss", value, prog_bar=True, batch_size=1)
        if scored < ranks:
            rank_zero_warn("no scored target in a batch for training: nothing is learnt from it; see the data's splits")
        return measured.loss

    @override
    @_not_traced
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure one timeline."""
        self._evaluate(batch, "val")

    @override
    @_not_traced
    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measure one timeline."""
        self._evaluate(batch, "test")

    @override
    @_not_traced
    def predict_step(self, batch: Any, batch_idx: int) -> Scores:
        """Give the scores of this rank's own targets."""
        shard = self._shard(batch)
        targets = shard.targets
        score = self.head(shard.run(self.network), targets.step, targets.index).float().softmax(dim=1)
        return Scores(targets.time, targets.index, score)

    @override
    def on_validation_epoch_end(self) -> None:
        """Log what was measured."""
        self._log_metrics("val")

    @override
    def on_test_epoch_end(self) -> None:
        """Log what was measured."""
        self._log_metrics("test")

    @override
    def teardown(self, stage: str) -> None:
        """Let go of the graphs."""
        self._whole.clear()

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give the optimizer; LightningCLI's ``optimizer`` and ``lr_scheduler`` replace it."""
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self._optimizer_name == "sgd":
            return torch.optim.SGD(self.parameters(), momentum=self.momentum, **options)
        kind = torch.optim.Adam if self._optimizer_name == "adam" else torch.optim.AdamW
        return kind(self.parameters(), **options)

    def _left_on_the_host(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        # Of what a timeline holds the device gets what it lacks, not all in every step.
        return batch if isinstance(batch, TimelineLike) else move_data_to_device(batch, device)

    @torch.compiler.disable
    def _given(self, batch: Any, *, training: bool) -> tuple[Shard, Targets]:
        shard = self._shard(batch)
        return shard, self.targets(shard, self.current_epoch if training else None)

    @torch.compiler.disable
    def _shard(self, batch: Any) -> Shard:
        if not isinstance(batch, Shard):
            if not isinstance(batch, TimelineLike):
                raise ValueError(
                    f"got a batch of {type(batch).__name__}; expected a whole timeline: a data module such as "
                    "TemporalGraph, or DataLoader([timeline], batch_size=None)"
                )
            # The graphs of a timeline are built once, not in every epoch.
            batch = self._whole.get(batch, self.device)
        self.check(batch.timeline, batch.num_features)
        return batch

    @_not_traced
    def _run(self, shard: Shard, targets: Targets) -> "_Measured":
        embeddings = shard.run(self.network)
        return self._measured(shard, targets, embeddings, self.head(embeddings, targets.step, targets.index))

    @torch.compiler.disable
    def _measured(self, shard: Shard, targets: Targets, embeddings: Tensor, logits: Tensor) -> "_Measured":
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        own_counts = torch.bincount(targets.label, minlength=self.num_classes)
        counts = shard.exchange.sum(own_counts.clone()).tolist()
        weights = _weights(self.class_weight, counts)
        weight, own_weight = (_dot(weights, n) for n in (counts, own_counts.tolist()))
        terms = functional.cross_entropy(logits, targets.label, logits.new_tensor(weights), reduction="none")
        total = terms.sum()
        anchor = shard.anchor(embeddings)
        # With the anchor: an embedding that is not finite spoils the gradients also where no target asks for it.
        value = shard.exchange.sum((total + anchor).detach().clone())
        if not math.isfinite(value):
            raise ValueError(_not_finite(shard, embeddings, targets, terms))
        loss = total / (weight or 1.0) + anchor
        return _Measured(loss, value / (weight or 1.0), weight, logits.detach(), total.detach(), own_weight)

    @_not_traced
    def _evaluate(self, batch: Any, stage: str) -> None:
        shard, targets = self._given(batch, training=False)
        self._update(stage, targets, self._run(shard, targets))

    @torch.compiler.disable
    def _update(self, stage: str, targets: Targets, measured: "_Measured") -> None:
        metrics: Any = self.metrics[stage]
        metrics["classes"].update(measured.logits, targets.label, measured.own_loss, measured.own_weight)
        self.measure(metrics, measured.logits, targets)

    def _log_metrics(self, stage: str) -> None:
        metrics: Any = self.metrics[stage]
        values = {name: value for metric in metrics.values() for name, value in metric.compute().items()}
        for metric in metrics.values():
            metric.reset()
        undefined = [name for name, value in values.items() if value.isnan()]
        if undefined:
            why = "no target was scored" if "loss" in undefined else "all scored targets are of one class"
            rank_zero_warn(f"{', '.join(f'{stage}/{name}' for name in undefined)} = nan: {why}; see the data's splits")
        for name, value in values.items():
            # Every rank has the same value already; of equal numbers the largest is exact, their mean need not be.
            self.log(f"{stage}/{name}", value, prog_bar=name == "ap", sync_dist=True, reduce_fx="max", batch_size=1)


@dataclass(frozen=True, eq=False)
class _Measured:
    loss: Tensor
    value: Tensor
    weight: float
    logits: Tensor
    own_loss: Tensor
    own_weight: float


def _weights(class_weight: ClassWeight, counts: Sequence[int]) -> list[float]:
    if class_weight is None:
        return [1.0] * len(counts)
    if class_weight == "balanced":
        present = sum(n > 0 for n in counts)
        return [sum(counts) / (present * n) if n else 0.0 for n in counts]
    return [float(w) for w in class_weight]


def _dot(weights: Sequence[float], counts: Sequence[int]) -> float:
    return math.fsum(w * n for w, n in zip(weights, counts, strict=True))


def _not_finite(shard: Shard, embeddings: Tensor, targets: Targets, terms: Tensor) -> str:
    """Name the first snapshot that is not finite; every rank comes here, for what it looked at is the sum of all."""
    first, device = shard.timeline.first, terms.device
    wrong = torch.zeros(2, shard.num_snapshots, dtype=torch.int64, device=device)
    vertices = (~embeddings.detach().isfinite()).any(dim=2).sum(dim=1)
    wrong[0].index_add_(0, shard.times.to(device) - first, vertices)
    wrong[1].index_add_(0, targets.time - first, (~terms.detach().isfinite()).long())
    advice = "lower learning_rate, or look for features and weights that are huge or NaN"
    for counts, what in zip(shard.exchange.sum(wrong), ("an embedding", "a loss"), strict=True):
        if bool(counts.any()):
            step = int(counts.nonzero()[0, 0])
            whose = "vertices" if what == "an embedding" else "targets"
            return f"got {what} that is not finite for {int(counts[step])} {whose} of snapshot {first + step}; {advice}"
    return f"got losses whose sum is not finite, though each of them is; {advice}"


def _check_options(
    num_classes: int,
    class_weight: ClassWeight,
    optimizer: str,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> None:
    if num_classes < 2:
        raise ValueError(f"got num_classes={num_classes}; expected at least 2")
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"got class_weight={class_weight!r}; expected 'balanced', {num_classes} numbers, or none")
    elif class_weight is not None and (
        len(class_weight) != num_classes
        or not all(math.isfinite(w) and w >= 0 for w in class_weight)
        or not any(class_weight)
    ):
        raise ValueError(
            f"got class_weight={list(class_weight)}; expected {num_classes} numbers ≥ 0, one a class, not all 0"
        )
    if optimizer not in ("adam", "adamw", "sgd"):
        raise ValueError(f"got optimizer={optimizer!r}; choose from adam, adamw, sgd")
    if not learning_rate > 0:
        raise ValueError(f"got learning_rate={learning_rate}; expected more than 0")
    if not 0 <= momentum < 1:
        raise ValueError(f"got momentum={momentum}; expected 0 ≤ momentum < 1")
    if not weight_decay >= 0:
        raise ValueError(f"got weight_decay={weight_decay}; expected 0 or more")
