"""Schedules of the learning rate by the step of a run, with a linear warm-up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule

ScheduleName = Literal["poly", "step", "cosine", "constant"]


@dataclass(frozen=True)
class RateSchedule:
    r"""What share of the learning rate each step of a run has.

    With t steps of T done and a warm-up of w steps from the share r,

    .. math:: f(t) = \min\Big(1,\; r + (1 - r)\tfrac{t}{w}\Big) \cdot g(t/T), \qquad
        g_\mathrm{poly}(u) = (1 - u)^p,\quad g_\mathrm{cosine}(u) = \tfrac12(1 + \cos \pi u),\quad
        g_\mathrm{step}(u) = \gamma^{|\{m \le u\}|},\quad g_\mathrm{constant}(u) = 1.

    Args:
        name: of g.
        warmup_steps: w; 0 for none.
        warmup_ratio: r, the share at the first step of a warm-up.
        power: p.
        milestones: shares m of the run, between 0 and 1, after each of which a ``step`` schedule is lower.
        gamma: factor at each milestone.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> schedule = RateSchedule("step", milestones=(0.5, 0.75))
        >>> [round(schedule.factor(step, 8), 4) for step in range(8)]
        [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """

    name: ScheduleName = "poly"
    warmup_steps: int = 0
    warmup_ratio: float = 1e-3
    power: float = 0.9
    milestones: Sequence[float] = (2 / 3, 8 / 9)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise ValueError(f"got schedule={self.name!r}; choose from {', '.join(get_args(ScheduleName))}")
        if self.warmup_steps < 0:
            raise ValueError(f"got warmup_steps={self.warmup_steps}; want 0 or more")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"got warmup_ratio={self.warmup_ratio}; want a share from 0 to 1")
        if not self.power > 0:
            raise ValueError(f"got power={self.power}; want more than 0")
        if not self.gamma > 0:
            raise ValueError(f"got gamma={self.gamma}; want more than 0")
        if not all(0 < milestone < 1 for milestone in self.milestones):
            raise ValueError(
                f"got milestones={list(self.milestones)}; want shares of the run between 0 and 1, such as [0.66, 0.88]"
            )

    def factor(self, step: int, steps: float) -> float:
        """Give the share of the rate at a step.

        Args:
            step: t, from 0.
            steps: T; of no account where ``step`` is 0 or the schedule ``constant``.
        """
        warm = 1.0
        if step < self.warmup_steps:
            warm = self.warmup_ratio + (1 - self.warmup_ratio) * step / self.warmup_steps
        if step == 0 or self.name == "constant":
            return warm
        done = min(1.0, step / max(1, steps))
        if self.name == "poly":
            return warm * (1 - done) ** self.power
        if self.name == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * done))
        # In steps, not shares: 2/3 of 9 steps is step 6, which rounding of 6 / 9 must not put off.
        return warm * self.gamma ** sum(step >= milestone * steps - 1e-6 for milestone in self.milestones)

    def configure(self, module: LightningModule, optimizer: torch.optim.Optimizer) -> Any:
        """Give what ``configure_optimizers`` returns: the optimizer, and with it the schedule of its rates.

        The number of steps is the Trainer's, asked for when the second step begins: counting them starts the loader,
        whose order a resumed run would otherwise draw before its random numbers are put back.

        Raises:
            ValueError: in training, where the run has no end and the schedule needs one.
        """
        if self.name == "constant" and self.warmup_steps == 0:
            return optimizer

        def share(step: int) -> float:
            if step == 0 or self.name == "constant":
                return self.factor(step, 1)
            steps = module.trainer.estimated_stepping_batches
            if math.isinf(steps):
                raise ValueError(
                    f"schedule={self.name!r} needs the end of the run: give Trainer(max_epochs=…) or max_steps"
                )
            return self.factor(step, steps)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
