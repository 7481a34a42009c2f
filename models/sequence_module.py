"""What the LightningModules for sequences share: batches on their way to the device, stages, optimizer."""

import math
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import override

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

Batch = dict[str, Tensor]


class SequenceModule(LightningModule):
    r"""A LightningModule whose batches are dicts of padded sequences and their lengths; a base class.

    Lengths stay on the CPU, where packing and CTC need them, and ``network.check(batch)`` looks at each batch before it
    leaves the CPU: so no step waits for the device, and a bad id is an error message rather than a dead GPU process.

    The optimizer is Adam (Kingma & Ba, `arXiv:1412.6980 <https://arxiv.org/abs/1412.6980>`__), whose rate at step s of
    the run's N is

    .. math:: η_s = η · \min(1, (s + 1) / w) · (1 - s/N);

    a run without an end (``max_epochs=-1``) has no fall. LightningCLI's ``optimizer`` and ``lr_scheduler`` replace it.

    A subclass gives :meth:`loss` and :meth:`measure`, names the lengths in ``stay_on_host`` and passes on its options.
    A checkpoint of a LightningCLI run rebuilds its network by itself; one of a module made in Python is loaded by
    ``load_from_checkpoint(path, network=...)``.

    Args:
        network: has ``check(batch)``, which raises ValueError.
        learning_rate: η, the highest rate.
        warmup_steps: w, optimizer steps until it is reached; 0 to start there.
    """

    stay_on_host: ClassVar[tuple[str, ...]]
    network: Any

    def __init__(self, network: nn.Module, *, learning_rate: float, warmup_steps: int) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        if "_instantiator" in self.hparams:  # LightningCLI gave the network's plain config, which can rebuild it
            self.save_hyperparameters()
        self.network = network
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Give the training loss of one batch."""

    @abstractmethod
    def measure(self, batch: Batch, batch_idx: int, stage: str) -> None:
        """Update and log the metrics of ``stage``, ``val`` or ``test``."""

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss to descend, and log it."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=_size(batch))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch."""
        self.measure(batch, batch_idx, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch."""
        self.measure(batch, batch_idx, "test")

    @override
    def setup(self, stage: str) -> None:
        """Quiet Lightning's notice that a hook for data is overridden here and not in the data module: it is meant."""
        warnings.filterwarnings("ignore", message="You have overridden `transfer_batch_to_device` in `LightningModule`")

    @override
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Check a batch while looking at it is cheap, then move everything but the lengths."""
        self.network.check(batch)
        staying = {name: batch[name] for name in self.stay_on_host}
        moving = {name: value for name, value in batch.items() if name not in staying}
        return {**super().transfer_batch_to_device(moving, device, dataloader_idx), **staying}

    @override
    def configure_optimizers(self) -> "OptimizerLRSchedulerConfig":
        """Give Adam and its rate; see the class."""
        # Fused Adam takes a fifth of the time on a CPU, but Lightning refuses to clip its gradients in mixed precision.
        fused = "mixed" not in str(self.trainer.precision)
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=fused)
        steps = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
            return rise * (max(0.0, 1 - step / steps) if math.isfinite(steps) else 1.0)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def log_metric(self, name: str, metric: Any, batch: Batch) -> None:
        """Log a torchmetrics object that was just updated: an epoch's value over all ranks."""
        self.log(name, metric, on_step=False, on_epoch=True, prog_bar=True, batch_size=_size(batch))


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())))
