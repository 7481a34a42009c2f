"""The optimizer and learning rate that the LightningModules of this folder train with unless told otherwise."""

import math
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig


def adam_with_warmup(
    module: LightningModule, *, learning_rate: float, warmup_steps: int
) -> "OptimizerLRSchedulerConfig":
    r"""Adam whose rate rises linearly for ``warmup_steps`` and then falls linearly to 0 at the Trainer's last step.

    At step s of N, :math:`η_s = η · \min(1, (s + 1)/w) · (1 - s/N)`; a run without an end (``max_epochs=-1``) has no
    fall. For Adam see Kingma & Ba, `arXiv:1412.6980 <https://arxiv.org/abs/1412.6980>`__.

    Args:
        module: a LightningModule that a Trainer is fitting: the Trainer knows N and the precision.
        learning_rate: η, the highest rate.
        warmup_steps: w; 0 starts at the highest rate.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> class Model(BoringModel):
        ...     def configure_optimizers(self):
        ...         return adam_with_warmup(self, learning_rate=0.1, warmup_steps=2)
        ...     def on_train_batch_start(self, batch, batch_idx):
        ...         print(round(self.optimizers().param_groups[0]["lr"], 4))
        >>> Trainer(max_steps=4, barebones=True).fit(Model())
        0.05
        0.075
        0.05
        0.025
    """
    trainer = module.trainer
    # Fused Adam takes a fifth of the time on a CPU, but Lightning refuses to clip its gradients in mixed precision.
    fused = "mixed" not in str(trainer.precision)
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=fused)
    steps = trainer.estimated_stepping_batches

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return rise * (max(0.0, 1 - step / steps) if math.isfinite(steps) else 1.0)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
