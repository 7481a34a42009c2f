"""Dynamic sparse training: edges of sparse networks are dropped and grown while their weights are trained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from fulgurite.callbacks.prune_to_sparse import PruneToSparse
from fulgurite.callbacks.sparse_evolution_picture import draw_evolution
from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.places import Places, Rule, find_places, node_ranks
from fulgurite.models.sparse_network.rewire import Call, Method, check_optimizer, prune_and_grow
from fulgurite.plugins.files import replacing, write_text

Schedule = Literal["cosine", "constant"]


@dataclass
class _Watched:
    """A network in training, and what has become of it."""

    name: str
    network: SparseNetwork
    ranks: Tensor
    first: Tensor
    places: list[Places]
    steps: int = 0
    updates: int = 0
    changed: int = 0
    batch_size: int = 1
    hook: RemovableHandle | None = None
    calls: list[tuple[Tensor, list[Tensor]]] = field(default_factory=list)

    @property
    def sparsity(self) -> float:
        """Share of the places that hold no edge."""
        edges = self.network.edges.cpu()
        taken = sum(int((places.numbers(edges) >= 0).sum()) for places in self.places)
        everywhere = sum(places.total for places in self.places) + len(edges) - taken
        return 1 - len(edges) / max(1, everywhere)

    def state(self) -> dict[str, Any]:
        """As plain types and tensors."""
        counts = {name: getattr(self, name) for name in ("steps", "updates", "changed", "batch_size")}
        return {**counts, "ranks": self.ranks, "first": self.first}

    def release(self) -> None:
        """Stop listening."""
        if self.hook is not None:
            self.hook.remove()
        self.hook, self.calls = None, []


class SparseEvolution(pl.Callback):
    r"""Drops the weakest edges of every sparse network in the module and grows as many others, again and again.

    Every ``every`` optimizer steps until ``stop``, a share f of the edges, those of smallest :math:`|w|`, makes way for
    edges of weight 0. Method ``rigl``, after U. Evci et al., "Rigging the Lottery: Making All Tickets Winners",
    `arXiv:1911.11134 <https://arxiv.org/abs/1911.11134>`__, grows those with the largest gradient :math:`|∂L/∂w|` in
    that very step, whose weights rest as in the paper; ``set``, after D. C. Mocanu et al., "Scalable training of
    artificial neural networks with adaptive sparse connectivity",
    `doi:10.1038/s41467-018-04316-3 <https://doi.org/10.1038/s41467-018-04316-3>`__, grows at random. At step t of T,
    with :math:`T_{end}` = ``stop`` · T,

    .. math:: f(t) = \frac{α}{2} \left(1 + \cos \frac{π t}{T_{end}}\right) \quad (0 < t < T_{end})

    under the ``cosine`` schedule, and f = α under ``constant``. An edge that is dropped does not return in the same
    update, in which both papers differ; ``set`` here drops by size alone rather than by size within each sign.

    The number of edges stays, and so do the Parameters: what optimizers keep for each weight follows its edge and is
    zero for a new one. Gradients of places without an edge come from one more forward and backward pass at the updates
    alone. Over several processes they are averaged, and all decide alike. A checkpoint holds the edges (in the
    network's state) and how far evolution is; a run resumed from it, with
    :class:`~fulgurite.callbacks.random_state.RandomState`, goes on bit by bit where the network's backend is pinned.

    Logged: ``sparse_evolution/sparsity`` and ``sparse_evolution/edges_changed`` (so far), each epoch; each update's
    ``sparse_evolution/update_edges`` and ``sparse_evolution/update_fraction`` go to the loggers. At the end
    ``<log dir>/sparse_evolution/`` gets a picture of each network, before and after, and a summary with the kernels
    that the network chooses.

    Limits: averaged copies of the weights (EMA, SWA) do not follow edges; start them after ``stop``. Strategies that
    shard parameters are refused.

    Args:
        method: ``rigl`` or ``set``.
        fraction: α, share of the edges to replace in an update.
        schedule: ``cosine`` or ``constant``.
        every: optimizer steps between updates.
        stop: share of the run's steps after which the edges stay.
        candidates: where edges may grow: ``layers``, in the matrices of a layered network, the number of edges of each
            of which stays; ``acyclic``, from any node to any later one, skips included.
        max_candidates: look at a random sample of so many places at most.
        seed: of the private random numbers.
        folder: where to write; ``None``: ``<log dir>/sparse_evolution``.

    Raises:
        ValueError: an option out of range; no trainable :class:`~fulgurite.models.sparse_network.SparseNetwork` in the
            module (nor a :class:`~fulgurite.callbacks.prune_to_sparse.PruneToSparse` to make one); a network with
            ``steps``; ``cosine`` in a run without an end; an optimizer whose state does not belong to single weights.

    Example:
        >>> import tempfile, torch, warnings
        >>> from fulgurite.models.sparse_network.classifier import SparseClassifier
        >>> from fulgurite.models.sparse_network.layered import SparseMLP
        >>> warnings.filterwarnings("ignore", ".*does not have many workers")
        >>> batches = [(torch.randn(8, 20), torch.randint(2, (8,))) for _ in range(20)]
        >>> network = SparseMLP([20, 16, 2], density=0.3)
        >>> before = {tuple(edge) for edge in network.edges.tolist()}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer = pl.Trainer(
        ...         max_epochs=1, accelerator="cpu", default_root_dir=folder, callbacks=[SparseEvolution(every=5)],
        ...         logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...     )
        ...     loader = torch.utils.data.DataLoader(batches, batch_size=None)
        ...     trainer.fit(SparseClassifier(network, num_classes=2), loader, loader)
        ...     written = sorted(path.name for path in Path(folder, "sparse_evolution").iterdir())
        >>> written
        ['network.png', 'summary.txt']
        >>> changed = {tuple(edge) for edge in network.edges.tolist()} - before
        >>> network.num_edges == len(before), len(changed) > 0
        (True, True)
    """

    def __init__(
        self,
        *,
        method: Method = "rigl",
        fraction: float = 0.3,
        schedule: Schedule = "cosine",
        every: int = 100,
        stop: float = 0.75,
        candidates: Rule = "layers",
        max_candidates: int = 1_000_000,
        seed: int = 0,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("method", method, ("rigl", "set")),
            ("schedule", schedule, ("cosine", "constant")),
            ("candidates", candidates, ("layers", "acyclic")),
        ):
            if value not in choices:
                raise ValueError(f"got {name}={value!r}; choose from {', '.join(choices)}")
        for name, share in (("fraction", fraction), ("stop", stop)):
            if not 0 < share <= 1:
                raise ValueError(f"got {name}={share}; want more than 0 and at most 1")
        for name, count in (("every", every), ("max_candidates", max_candidates)):
            if count < 1:
                raise ValueError(f"got {name}={count}; want at least 1")
        self.method = method
        self.fraction = fraction
        self.schedule = schedule
        self.every = every
        self.stop = stop
        self.candidates = candidates
        self.max_candidates = max_candidates
        self.seed = seed
        self.folder = folder
        self._watched: dict[str, _Watched] = {}
        self._restored: Mapping[str, Any] = {}
        self._end = math.inf

    def fraction_at(self, step: int, end: float) -> float:
        """Share of the edges that an update at a step replaces, if updates end before step ``end``.

        Example:
            >>> evolution = SparseEvolution(fraction=0.4)
            >>> [round(evolution.fraction_at(step, 100), 3) for step in (1, 50, 99)]
            [0.4, 0.2, 0.0]
        """
        if step >= end:
            return 0.0
        if self.schedule == "constant":
            return self.fraction
        return self.fraction / 2 * (1 + math.cos(math.pi * step / end))

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._watched, self._restored = {}, {}

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sharded = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")
        if type(trainer.strategy).__name__ in sharded:
            raise ValueError(
                f"SparseEvolution cannot run under {type(trainer.strategy).__name__}, which splits parameters between "
                "processes; use strategy='ddp' or one device"
            )
        self._end = self.stop * trainer.estimated_stepping_batches
        if math.isinf(self._end) and self.schedule == "cosine":
            raise ValueError(
                "SparseEvolution(schedule='cosine') needs the end of the run: give Trainer(max_epochs=…) or max_steps, "
                "or take schedule='constant'"
            )
        self._look(trainer, pl_module)
        later = any(isinstance(callback, PruneToSparse) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if not self._watched and not later:
            raise ValueError(
                f"SparseEvolution found no trainable SparseNetwork in {type(pl_module).__name__}; use one, convert a "
                "pruned nn.Sequential by SparseNetwork.from_sequential, or add the callback PruneToSparse"
            )

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:  # a network may have come in between
            self._look(trainer, pl_module)
        for watched in self._watched.values():
            if watched.hook is None and self._is_due(watched):
                watched.hook = watched.network.register_forward_hook(partial(_listen, watched), with_kwargs=True)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        replaced, share = 0, 0.0
        for number, watched in enumerate(self._watched.values()):
            if id(watched.network.weight) not in held:
                continue
            if self._is_due(watched):
                share = self.fraction_at(watched.steps, self._end)
                replaced += self._update(trainer, watched, share, number)
            watched.release()
            watched.steps += 1
        if share:
            metrics = {"sparse_evolution/update_edges": float(replaced), "sparse_evolution/update_fraction": share}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._watched:
            everyone = self._watched.values()
            weights = [max(1, watched.network.num_edges) for watched in everyone]
            sparsity = float(np.average([watched.sparsity for watched in everyone], weights=weights))
            pl_module.log("sparse_evolution/sparsity", sparsity, sync_dist=True)
            changed = float(sum(watched.changed for watched in everyone))
            pl_module.log("sparse_evolution/edges_changed", changed, sync_dist=True)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Every rank has to ask for the log directory: the first one tells it to the others.
        base = trainer.log_dir or trainer.default_root_dir
        for watched in self._watched.values():
            watched.release()
        if not trainer.is_global_zero or trainer.fast_dev_run or not self._watched:  # type: ignore[attr-defined]
            return
        folder = Path(base) / "sparse_evolution" if self.folder is None else Path(self.folder)
        try:
            self._publish(trainer, folder)
            rank_zero_info(f"SparseEvolution: pictures and summary written to {folder}")
        except Exception as error:  # a trained network is not lost to a full disk
            rank_zero_warn(f"SparseEvolution could not write to {folder}: {type(error).__name__}: {error}")

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        for watched in self._watched.values():
            watched.release()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"networks": {name: watched.state() for name, watched in self._watched.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict["networks"]

    def _is_due(self, watched: _Watched) -> bool:
        return 0 < watched.steps < self._end and watched.steps % self.every == 0

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, module in pl_module.named_modules():
            if not isinstance(module, SparseNetwork) or not module.weight.requires_grad:
                continue
            if name in self._watched and self._watched[name].network is module:
                continue
            for optimizer in trainer.optimizers:
                check_optimizer(optimizer, module.weight)
            state = self._restored.get(name)
            if state is None or len(state["ranks"]) != module.num_nodes:
                state = {
                    "ranks": node_ranks(module),
                    "first": module.edges.cpu().clone(),
                    "steps": trainer.global_step,
                }
            # The ranks of the beginning stay: levels move as edges do, and layers would melt into each other.
            places = find_places(module, self.candidates, state["ranks"])
            self._watched[name] = _Watched(name or "network", module, places=places, **state)

    def _update(self, trainer: pl.Trainer, watched: _Watched, share: float, number: int) -> int:
        mean = partial(trainer.strategy.reduce, reduce_op="mean") if trainer.world_size > 1 else None
        change = prune_and_grow(
            watched.network,
            places=watched.places,
            fraction=share,
            method=self.method,
            calls=[Call(x, grads[0]) for x, grads in watched.calls if grads],
            reduce=mean,
            optimizers=trainer.optimizers,
            max_candidates=self.max_candidates,
            seed=int(np.random.SeedSequence([self.seed, number, watched.steps]).generate_state(1)[0]),
        )
        watched.updates += 1
        watched.changed += len(change.added)
        return len(change.added)

    def _publish(self, trainer: pl.Trainer, folder: Path) -> None:
        lines = []
        for watched in self._watched.values():
            lines.append(
                f"{watched.name}: {watched.network.num_edges:,} edges, sparsity {watched.sparsity:.2%}; "
                f"{watched.changed:,} edges changed in {watched.updates} updates ({self.method})\n"
                f"{watched.network.explain(watched.batch_size)}\n"
            )
            figure = draw_evolution(watched.network, watched.first, watched.ranks)
            with replacing(folder / f"{watched.name.replace('.', '_')}.png") as path:
                figure.savefig(path)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(
                        f"sparse_evolution/{watched.name}", figure, global_step=trainer.global_step, close=False
                    )
                    logger.experiment.add_text(f"sparse_evolution/{watched.name}", lines[-1], trainer.global_step)
        write_text(folder / "summary.txt", "\n".join(lines))


def _listen(
    watched: _Watched, network: SparseNetwork, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
) -> None:
    """Keep what went into the network, and, once backward has been there, the gradient of what came out."""
    if not output.requires_grad:
        return
    x = args[0] if args else kwargs["x"]
    grads: list[Tensor] = []
    output.register_hook(lambda grad: grads.append(grad.detach()))
    watched.calls.append((x.detach(), grads))
    watched.batch_size = max(1, x.shape[:-1].numel())
