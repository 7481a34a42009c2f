"""What the LightningModules that classify share: steps, metrics, optimizer and its schedule."""

import math
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

OptimizerName = Literal["adam", "adamw", "sgd"]
Schedule = Literal["cosine", "constant"]
Batch = tuple[Tensor, Tensor]

_STAGES = ("train", "val", "test")


class ClassificationModule(LightningModule):
    r"""A LightningModule that trains a network by cross-entropy; a base class.

    A batch is (inputs (B, …), labels (B,) int64). The network gives logits (B, C); of two classes it may give one
    logit (B, 1), that of class 1. The loss of a row is

    .. math:: -\log \mathrm{softmax}(z)_y.

    Logged, over all ranks: ``train/loss``, ``train/accuracy``, ``val/loss``, ``val/accuracy``, ``test/loss``,
    ``test/accuracy``; accuracy is the share of rows whose largest logit is the label's.

    A subclass passes on its options and calls ``save_hyperparameters``. LightningCLI's ``optimizer`` and
    ``lr_scheduler`` replace the module's own.

    Args:
        network: the network, or ``None`` where something puts one in later; see :meth:`present`.
        num_classes: C.
        learning_rate: of the optimizer; under a ``cosine`` schedule, at the start.
        optimizer: ``adam``, ``adamw`` or ``sgd`` (momentum 0.9).
        weight_decay: of the optimizer.
        schedule: ``cosine``: the rate falls to 0 over the run; ``constant``: it stays.

    Raises:
        ValueError: an option out of range; outputs of another width than the classes need; a data module with another
            number of ``class_names``.
    """

    network: nn.Module | None

    def __init__(
        self,
        network: nn.Module | None,
        *,
        num_classes: int,
        learning_rate: float,
        optimizer: OptimizerName,
        weight_decay: float,
        schedule: Schedule,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"got num_classes={num_classes}; want at least 2")
        if not learning_rate > 0:
            raise ValueError(f"got learning_rate={learning_rate}; want more than 0")
        if optimizer not in ("adam", "adamw", "sgd"):
            raise ValueError(f"got optimizer={optimizer!r}; choose from adam, adamw, sgd")
        if schedule not in ("cosine", "constant"):
            raise ValueError(f"got schedule={schedule!r}; choose from cosine, constant")
        self.network = network
        self.num_classes = num_classes
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self._optimizer_name = optimizer
        self._schedule = schedule
        self.metrics = nn.ModuleDict(
            {f"{stage}_accuracy": MulticlassAccuracy(num_classes, average="micro") for stage in _STAGES}
            | {f"{stage}_loss": MeanMetric() for stage in _STAGES[1:]}
        )

    def present(self) -> nn.Module:
        """Give the network.

        Raises:
            ValueError: there is none.
        """
        if self.network is None:
            raise ValueError(f"{type(self).__name__} has no network")
        return self.network

    @override
    def setup(self, stage: str) -> None:
        """Hold the data's classes against the network's, where the data module names them."""
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", None)
        if names is not None and len(names) != self.num_classes:
            listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
            raise ValueError(
                f"got num_classes={self.num_classes} for data of {len(names)} classes ({listed}); "
                f"give num_classes={len(names)}"
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Give the logits (B, C) of inputs (B, …)."""
        logits = self.present()(x)
        if self.num_classes == 2 and logits.ndim == 2 and logits.shape[1] == 1:
            return torch.cat([torch.zeros_like(logits), logits], dim=1)
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"the network gave {tuple(logits.shape)} for inputs {tuple(x.shape)}; "
                f"want ({len(x)}, {self.num_classes}): a logit for each class"
            )
        return logits

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss to descend, and log it."""
        return self._step(batch, "train")

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch."""
        self._step(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch."""
        self._step(batch, "test")

    @override
    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Give the class of each row, (B,)."""
        return self(batch if isinstance(batch, Tensor) else batch[0]).argmax(dim=1)

    @override
    def configure_optimizers(self) -> Any:
        """Give the optimizer, and with it the schedule of its rate; see the class."""
        self.present()
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimizer: torch.optim.Optimizer
        if self._optimizer_name == "sgd":
            optimizer = torch.optim.SGD(self.parameters(), momentum=0.9, **options)
        else:
            kind = torch.optim.Adam if self._optimizer_name == "adam" else torch.optim.AdamW
            optimizer = kind(self.parameters(), **options)
        if self._schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._cosine)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _cosine(self, step: int) -> float:
        # The number of steps is not asked for before the first: counting them starts the loader, whose order a resumed
        # run would then draw before RandomState has put back the random numbers.
        if step == 0:
            return 1.0
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("schedule='cosine' needs the end of the run: give Trainer(max_epochs=…) or max_steps")
        return 0.5 * (1 + math.cos(math.pi * min(step, steps) / max(1, steps)))

    def _step(self, batch: Batch, stage: str) -> Tensor:
        x, labels = batch
        logits = self(x)
        loss = functional.cross_entropy(logits, labels)
        self._measure(f"{stage}/accuracy", logits.detach(), labels)
        if stage == "train":
            self.log("train/loss", loss, prog_bar=True, batch_size=len(x))
        else:
            self._measure(f"{stage}/loss", loss, len(x))
        return loss

    def _measure(self, name: str, value: Tensor, other: Tensor | int) -> None:
        """Update a metric, and log what it is at the end of the epoch."""
        metric: Any = self.metrics[name.replace("/", "_")]
        metric.update(value, other)
        size = other if isinstance(other, int) else len(other)
        self.log(name, metric, on_step=False, on_epoch=True, prog_bar=name == "val/accuracy", batch_size=size)
