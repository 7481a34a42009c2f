"""Routing as a LightningModule, so that a network that changes runs from a recipe; nothing is learnt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.routing.experiment import RoutingRun

AlgebraName = Literal["shortest", "widest", "rip", "path-vector", "path-vector-widest", "policy"]
Manner = Literal["random", "fair", "synchronous", "adversarial"]


class RoutingExperiment(LightningModule):
    """Routing over a network that changes, a trainer's epoch for each of the network's, a step for each tick.

    After Daggitt and Griffin, *Dynamic Asynchronous Iterations* (https://arxiv.org/abs/2012.01686). The run is
    simulated when the first epoch begins (:func:`fulgurite.plugins.dynamic_async.routing.run_routing`), and handed to
    the loggers tick by tick. A picture, a page and the run as JSON are left in the logger's folder.

    Logged each tick: ``routing/wrong``, routes that differ from the epoch's own answer, which is found without any
    history (−1 where there is none). Logged at the end of each epoch: ``routing/wrong_at_end``; ``routing/used``,
    pseudocycles until all was right (−1: not while it lasted); ``routing/k_star`` (−1: no bound). And over the epochs
    so far: ``routing/unsettled`` epochs, ``routing/most_used``, and ``routing/bounds_broken``: epochs in which
    something was wrong after k* pseudocycles, which would break the theorem; ``routing/bounds_held``: those put to the
    test.

    Args:
        topology: a topology file, the name of one that is built in, or ``random``; see
            :func:`~fulgurite.plugins.dynamic_async.routing.parse_topology`.
        algebra: what routes are; None: the file's own word, or path-vector.
        schedule: who computes when, from how old data.
        seed: of the schedule, and of the network ``random``.
        activation: random: probability that a node computes in a tick.
        max_delay: how old data may get, in ticks.
        loss: random: probability that a message is lost.
        num_nodes: of ``random``.
        num_destinations: of ``random``.
        num_epochs: of ``random``; ``trainer.max_epochs`` should be as many, and a run stops there.
        ticks_per_epoch: of ``random``.
        report: whether to leave picture, page and JSON.

    Raises:
        ValueError: a topology or an option is wrong; a file's line is named.

    Example:
        >>> module = RoutingExperiment("count-to-sixteen", schedule="synchronous")
        >>> [(epoch.used, epoch.verdict.k_star) for epoch in module.run().epochs]
        [(2, 16), (14, 16)]
    """

    def __init__(
        self,
        topology: str = "random",
        *,
        algebra: AlgebraName | None = None,
        schedule: Manner = "random",
        seed: int = 0,
        activation: float = 0.5,
        max_delay: int = 4,
        loss: float = 0.1,
        num_nodes: int = 24,
        num_destinations: int = 8,
        num_epochs: int = 6,
        ticks_per_epoch: int = 150,
        report: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        from fulgurite.plugins.dynamic_async.routing.experiment import make_algebra
        from fulgurite.plugins.dynamic_async.routing.networks import BUILT_IN, RANDOM, built_in, random_topology
        from fulgurite.plugins.dynamic_async.routing.schedules import topology_schedule
        from fulgurite.plugins.dynamic_async.routing.topology import read_topology

        if topology == RANDOM:
            self.topology = random_topology(
                num_nodes, destinations=num_destinations, epochs=num_epochs, ticks_per_epoch=ticks_per_epoch, seed=seed
            )
        else:
            self.topology = built_in(topology) if topology in BUILT_IN else read_topology(topology)
        self.algebra = make_algebra(algebra or self.topology.algebra or "path-vector", self.topology)
        self.schedule = topology_schedule(
            self.topology, schedule, seed=seed, activation=activation, max_delay=max_delay, loss=loss
        )
        self._words = f"{schedule}, seed {seed}"
        self._report = report
        self._run: RoutingRun | None = None

    def run(self) -> RoutingRun:
        """What the simulation gave; it runs on the first call."""
        if self._run is None:
            from fulgurite.plugins.dynamic_async.routing.experiment import run_routing

            self._run = run_routing(self.topology, self.algebra, self.schedule, words=self._words)
        return self._run

    def train_dataloader(self) -> Iterator[int] | _Ticks:
        """The ticks of the epoch at hand."""
        return _Ticks(self)

    @override
    def configure_optimizers(self) -> None:
        """None: nothing is learnt."""

    @override
    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """Log a tick."""
        wrong = float(self.run().wrong[int(batch)])
        self.log("routing/wrong", wrong, prog_bar=True, batch_size=1)
        return torch.tensor(wrong)

    @override
    def on_train_epoch_end(self) -> None:
        """Log what became of the epoch, and stop after the network's last."""
        epochs = self.run().epochs
        number = min(self.current_epoch, len(epochs) - 1)
        epoch, so_far = epochs[number], epochs[: number + 1]
        self.log("routing/wrong_at_end", float(-1 if epoch.wrong is None else epoch.wrong[2]))
        self.log("routing/used", float(-1 if epoch.used is None else epoch.used))
        self.log("routing/k_star", float(-1 if epoch.verdict.k_star is None else epoch.verdict.k_star))
        self.log("routing/unsettled", float(sum(each.used is None for each in so_far)))
        self.log("routing/most_used", float(max(each.used or 0 for each in so_far)), prog_bar=True)
        self.log("routing/bounds_held", float(sum(each.bound_kept is not None for each in so_far)))
        self.log("routing/bounds_broken", float(sum(each.bound_kept is False for each in so_far)))
        if number == len(epochs) - 1:
            self.trainer.should_stop = True

    @override
    def on_fit_end(self) -> None:
        """Leave picture, page and JSON where the logger writes."""
        folder = self.trainer.log_dir
        if (
            not self._report
            or folder is None
            or getattr(self.trainer, "fast_dev_run", False)
            or not self.trainer.is_global_zero
        ):
            return
        from fulgurite.plugins.dynamic_async.routing.route_figure import write_route_picture
        from fulgurite.plugins.dynamic_async.routing.route_page import write_route_page
        from fulgurite.plugins.files import write_text

        run = self.run()
        write_text(Path(folder) / "route.json", json.dumps(run.to_json()))
        write_route_picture(run, Path(folder) / "route.png")
        write_route_page(run, Path(folder) / "route.html")
        print(f"Routing: {Path(folder) / 'route.html'}")


class _Ticks:
    """A loader whose length changes from epoch to epoch, as the network's epochs do."""

    def __init__(self, module: RoutingExperiment) -> None:
        self._module = module

    def __iter__(self) -> Iterator[int]:
        epochs = self._module.run().epochs
        epoch = epochs[min(self._module.current_epoch, len(epochs) - 1)]
        return iter(range(epoch.start, epoch.end + 1))
