"""The Trainer's strategy: a timeline is cut over processes, and training gives the single process's answer."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import Module, SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import LBFGS, Optimizer
from torch.utils.data import RandomSampler
from typing_extensions import override

from fulgurite.plugins.snapshot_parallel import heap
from fulgurite.plugins.snapshot_parallel.counters import TrafficLog
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange, HaloMode
from fulgurite.plugins.snapshot_parallel.failure import RollCall
from fulgurite.plugins.snapshot_parallel.gradients import SummedGradients
from fulgurite.plugins.snapshot_parallel.launch import SubprocessLauncher
from fulgurite.plugins.snapshot_parallel.mesh import Mesh
from fulgurite.plugins.snapshot_parallel.partitioning import Balance
from fulgurite.plugins.snapshot_parallel.placement import Placement
from fulgurite.plugins.snapshot_parallel.shard import Shard
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

COUPLINGS = ("none", "recurrent", "window", "weights", "graph")
_WIRE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_GPU_PATIENCE = 30.0  # seconds for a process whose GPU waits for a rank that is gone; then it is ended


class SnapshotParallelStrategy(DDPStrategy):
    r"""Trains on whole timelines that are cut along time over processes; short name ``snapshot_parallel``.

    After V. T. Chakaravarthy et al., "Efficient Scaling of Dynamic Graph Neural Networks" (SC 2021,
    https://arxiv.org/abs/2109.07893). A batch is one timeline of T snapshots over N vertices. Every rank owns a
    contiguous run of snapshots and convolves them without communication; for what runs along time, shards are
    redistributed so that it owns all snapshots of some vertices, and back. Weights are replicated, every rank's loss is
    its share of the global one, and gradients are **summed**: losses, gradients and checkpoints are those of one
    process, whatever the number of ranks, and a checkpoint may be resumed with another number.

    The LightningModule has a ``network`` and declares its ``coupling`` over time (see
    :mod:`fulgurite.models.dynamic_gnn`); its steps get a :class:`~fulgurite.plugins.snapshot_parallel.shard.Shard`. The
    model is not wrapped. What is drawn (negatives, dropout masks) has to be seeded by what it is drawn for, not by
    rank. Ranks that share a timeline load the same batches, in the loader's own order or shuffled by (seed, epoch);
    replicas are dealt batches by Lightning's ``DistributedSampler``, as in DDP. Hooks of the module see the timeline in
    ``on_before_batch_transfer`` and the shard in ``on_after_batch_transfer``. Gradients that a step takes itself have
    to go through ``manual_backward``.

    On the CPU ranks of one machine exchange through shared memory where the system lets them, and until teardown a
    process keeps the memory that it frees (:mod:`~fulgurite.plugins.snapshot_parallel.heap`).

    Args:
        accelerator: as for ``DDPStrategy``, like the next four.
        parallel_devices: devices of this machine.
        cluster_environment: how ranks find each other.
        checkpoint_io: how checkpoints are written.
        precision_plugin: the precision.
        snapshot_ranks: P, how many ranks share a timeline; it divides all ranks, and the others are replicas that train
            on batches of their own, over which gradients are averaged. None: all share one.
        balance: the cost by which snapshots are dealt out: ``"nnz"`` of the windowed adjacency, or ``"nnz+nodes"``.
        blocks: work on the timeline in so many blocks, keep only what is handed from one to the next, and compute each
            again in backward. ``"auto"``: as few as fit into the free memory.
        collectives: in blocks, ``"save"`` keeps what ranks sent each other, ``"resend"`` sends it again; ``"auto"``
            saves if that fits.
        halo: whether operations over a window of snapshots fetch the frames before their own instead of redistributing:
            ``"auto"`` as moves fewer bytes, ``"always"`` or ``"never"``.
        transfer: what travels to the device: ``"events"``, ``"full"`` graphs, ``"difference"`` of graphs, or
            ``"auto"``: each snapshot's smallest.
        residency: what stays there: ``"graphs"``, ``"events"``, ``"streamed"`` for nothing, or ``"auto"`` as fits.
        wire_dtype: a narrower floating type for what ranks send each other; None sends values as they are.
        timeout: of an exchange, in seconds or as a ``timedelta``; ten minutes leave time for what rank 0 does alone.
            When a rank dies the others end before that, with an error that names it.
        process_group_backend: None takes NCCL for GPUs and gloo else.
        start_method: ``"popen"`` starts the script again for each rank of this machine, as DDP does; ``"fork"`` and
            ``"spawn"`` work in notebooks and tests.

    Raises:
        ValueError: an option, or a model or batch that this strategy cannot cut; the message says what to take.

    Example:
        >>> import fulgurite.plugins.snapshot_parallel
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(
        ...     accelerator="cpu", devices=1, strategy="snapshot_parallel", logger=False, enable_progress_bar=False
        ... )
        >>> type(trainer.strategy).__name__
        'SnapshotParallelStrategy'
    """

    strategy_name = "snapshot_parallel"

    def __init__(
        self,
        accelerator: pl.accelerators.Accelerator | None = None,
        parallel_devices: list[torch.device] | None = None,
        cluster_environment: ClusterEnvironment | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        *,
        snapshot_ranks: int | None = None,
        balance: Balance = "nnz",
        blocks: int | Literal["auto"] = 1,
        collectives: Literal["save", "resend", "auto"] = "auto",
        halo: HaloMode = "auto",
        transfer: Literal["auto", "events", "full", "difference"] = "auto",
        residency: Literal["auto", "graphs", "events", "streamed"] = "auto",
        wire_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        timeout: float | timedelta = 600.0,
        process_group_backend: str | None = None,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
    ) -> None:
        if blocks != "auto" and blocks < 1:
            raise ValueError(f"got blocks={blocks}; expected 1 or more, or 'auto'")
        if snapshot_ranks is not None and snapshot_ranks < 1:
            raise ValueError(f"got snapshot_ranks={snapshot_ranks}; expected 1 or more, or None for all")
        for name, value, choices in (
            ("balance", balance, ("nnz", "nnz+nodes")),
            ("collectives", collectives, ("save", "resend", "auto")),
            ("halo", halo, ("auto", "always", "never")),
            ("transfer", transfer, ("auto", "events", "full", "difference")),
            ("residency", residency, ("auto", "graphs", "events", "streamed")),
            ("wire_dtype", wire_dtype, (None, *_WIRE)),
        ):
            if value not in choices:
                raise ValueError(f"got {name}={value!r}; choose from {', '.join(map(repr, choices))}")
        limit = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
        if limit <= timedelta(0):
            raise ValueError(f"got timeout={timeout}; expected more than 0 seconds")
        super().__init__(
            accelerator=accelerator,
            parallel_devices=parallel_devices,
            cluster_environment=cluster_environment,
            checkpoint_io=checkpoint_io,
            precision_plugin=precision_plugin,
            process_group_backend=process_group_backend,
            timeout=limit,
            start_method=start_method,
        )
        self._snapshot_ranks = snapshot_ranks
        self._wire_dtype = None if wire_dtype is None else _WIRE[wire_dtype]
        self._halo: HaloMode = halo
        self._placing: dict[str, Any] = {
            "balance": balance,
            "blocks": blocks,
            "collectives": collectives,
            "transfer": transfer,
            "residency": residency,
        }
        self._exchange: Exchange | None = None
        self._placement: Placement | None = None
        self._gradients: SummedGradients | None = None
        self._roll_call: RollCall | None = None

    @property
    def mesh(self) -> Mesh:
        """``data × snapshot`` ranks.

        Raises:
            ValueError: ``snapshot_ranks`` does not divide the number of processes.
        """
        return Mesh(self.global_rank, self.world_size, self._snapshot_ranks or self.world_size)

    @property
    @override
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Batches are dealt out to replicas; ranks that share a timeline get the same."""
        return {"num_replicas": self.mesh.data_ranks, "rank": self.mesh.data_rank}

    @override
    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        # Before others are started, all of which would say it.
        world_size = self.num_processes * self.num_nodes
        Mesh(0, world_size, self._snapshot_ranks or world_size)
        if self._start_method == "popen":
            self._launcher = SubprocessLauncher(self.cluster_environment, self.num_processes, self.num_nodes)
        else:
            super()._configure_launcher()

    @override
    def setup_environment(self) -> None:
        """Join the process group; make the groups that share timelines, and the line to rank 0."""
        super().setup_environment()
        if self._exchange is None:
            group = self.mesh.snapshot_group(self._timeout)
            self._exchange = (
                Exchange(halo_mode=self._halo)
                if group is None
                else GroupExchange(group, wire_dtype=self._wire_dtype, halo_mode=self._halo)
            )
        if self._roll_call is None and self.world_size > 1:
            self._open_roll_call()

    @override
    def setup(self, trainer: pl.Trainer) -> None:
        """Check that the model can be cut, then as DDP does, without wrapping it; in every stage, not only in fit."""
        module = self.lightning_module
        assert module is not None
        assert self._exchange is not None
        network = self._checked_network(module)
        if self.root_device.type == "cpu":
            heap.keep_freed()
        super().setup(trainer)
        if self.mesh.data_ranks == 1:
            # It would shuffle what is loaded in order, and so part from the single process.
            trainer._accelerator_connector.use_distributed_sampler = False
        self._gradients = SummedGradients(
            module,
            group=dist.group.WORLD if self.world_size > 1 else None,
            keeps=self.mesh.snapshot_rank == 0,
            replicas=self.mesh.data_ranks,
            traffic=self._exchange.traffic,
        )
        self._placement = Placement(
            self._exchange,
            device=self.root_device,
            network=network,
            local_ranks=self.num_processes,
            **self._placing,
        )
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        if not any(isinstance(callback, TrafficLog) for callback in callbacks):
            # Before checkpoint callbacks, which may look at what it logs.
            callbacks.insert(0, TrafficLog(self.counters))

    @override
    def configure_ddp(self) -> None:
        """Every rank takes rank 0's parameters and buffers; nothing is wrapped."""
        assert self.model is not None
        if self.world_size > 1:
            for tensor in itertools.chain(self.model.parameters(), self.model.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    @override
    def process_dataloader(self, dataloader: object) -> object:
        """Ranks that share timelines shuffle alike: by the seed of ``seed_everything`` and the epoch."""
        sampler = getattr(dataloader, "sampler", None)
        if self.world_size > 1 and type(sampler) is RandomSampler and sampler.generator is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
            generator = sampler.generator = torch.Generator().manual_seed(seed)
            # Lightning calls it where an epoch begins, so that a resumed training shuffles like one that went on.
            sampler.set_epoch = lambda epoch: generator.manual_seed(seed + epoch)  # type: ignore[attr-defined]
        return dataloader

    @override
    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Cut a timeline and bring this rank's part to its device.

        Raises:
            ValueError: the batch is no timeline.
        """
        module = self.lightning_module
        assert module is not None
        assert self._placement is not None
        if not isinstance(batch, Shard):
            if not isinstance(batch, TimelineLike):
                raise ValueError(
                    f"got a batch of {type(batch).__name__}; SnapshotParallelStrategy cuts timelines "
                    "(fulgurite.data.Timeline, or whatever has its attributes): take fulgurite.data.TemporalGraph, "
                    "or batch_size=None in a DataLoader of timelines, or strategy: ddp for other data"
                )
            batch = self._placement.shard(batch)
        return module._call_batch_hook("on_after_batch_transfer", batch, dataloader_idx)

    @override
    def pre_backward(self, closure_loss: Tensor) -> None:
        assert self._gradients is not None
        self._gradients.before_backward()

    @override
    def post_backward(self, closure_loss: Tensor) -> None:
        """Sum gradients, before clipping and the GradScaler look at them."""
        assert self._gradients is not None
        self._gradients.after_backward()

    @override
    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """In here (gradient accumulation) gradients stay local."""
        assert self._gradients is not None
        with self._gradients.blocked():
            yield

    @override
    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: pl.LightningModule | Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in DDP; an optimizer that searches along the loss gets the global one, or ranks would part ways."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        if isinstance(plain, LBFGS) and self.world_size > 1:
            closure = self._with_global_loss(closure)
        return super().optimizer_step(optimizer, closure, model, **kwargs)

    @override
    def on_exception(self, exception: BaseException) -> None:
        """Say in the error of a broken exchange which rank broke it."""
        if self._roll_call is None:
            return
        verdict = self._roll_call.explain(exception)
        self._roll_call.close()
        self._roll_call = None
        if verdict is not None:
            seen = " ".join(str(exception).split())
            exception.args = (f"{verdict} (rank {self.global_rank} saw: {seen})",)

    @override
    def teardown(self) -> None:
        """As in DDP; graphs on the device are let go."""
        self._placement = None
        self._gradients = None
        heap.keep_no_longer()
        super().teardown()

    def counters(self) -> dict[str, int]:
        """What this rank moved since it started.

        Returns:
            ``bytes_<kind>`` and ``calls_<kind>`` of what it sent to others (kinds as in
            :class:`~fulgurite.plugins.snapshot_parallel.exchange.Traffic`), ``transfer_bytes_<kind>`` of what went to
            its device. Logged once a training epoch, summed over ranks, as ``snapshot_parallel/<name>``.
        """
        counts: dict[str, int] = {}
        if self._exchange is not None:
            counts |= {f"bytes_{kind}": sent for kind, sent in self._exchange.traffic.bytes.items()}
            counts |= {f"calls_{kind}": calls for kind, calls in self._exchange.traffic.calls.items()}
        if self._placement is not None:
            counts |= {f"transfer_bytes_{kind}": moved for kind, moved in self._placement.transferred().items()}
        return counts

    def _checked_network(self, module: pl.LightningModule) -> Module:
        name = type(module).__name__
        network, coupling = getattr(module, "network", None), getattr(module, "coupling", None)
        if not isinstance(network, Module) or coupling not in COUPLINGS:
            raise ValueError(
                f"got {name}, which declares no network and coupling (one of {', '.join(COUPLINGS)}); "
                "SnapshotParallelStrategy trains fulgurite's DynamicLinkPredictor, DynamicEdgeClassifier, "
                "DynamicNodeClassifier and modules like them; take strategy: ddp for others"
            )
        if coupling == "graph" and self.mesh.snapshot_ranks > 1:
            raise ValueError(
                f"got {type(network).__name__}, whose state runs through the graph (coupling 'graph'): a snapshot "
                f"needs its neighbours' states of the one before, so a timeline cannot be cut over "
                f"{self.mesh.snapshot_ranks} ranks; give the strategy snapshot_ranks=1, so that every rank trains on "
                "windows of its own (data parallelism), or take one process"
            )
        local = {type(m).__name__ for m in module.modules() if isinstance(m, _BatchNorm)}
        if local - {SyncBatchNorm.__name__} and self.world_size > 1:
            rank_zero_warn(
                f"{name} has {', '.join(sorted(local))}, which normalises by the part of the data that a rank has, not "
                "by all of it: results will depend on the number of ranks; take LayerNorm"
            )
        return network

    def _open_roll_call(self) -> None:
        assert self.cluster_environment is not None
        try:
            self._roll_call = RollCall.open(
                rank=self.global_rank,
                world_size=self.world_size,
                host="127.0.0.1" if self.num_nodes == 1 else self.cluster_environment.main_address,
                share=self.broadcast,
                exit_after=_GPU_PATIENCE if self.root_device.type == "cuda" else None,
            )
        except OSError as error:
            rank_zero_warn(
                f"a rank that dies will not be named: rank 0 cannot be reached beside the training ({error})"
            )

    def _with_global_loss(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def global_loss() -> Any:
            loss = closure()
            if not isinstance(loss, Tensor):
                return loss
            total = loss.detach().clone()
            dist.all_reduce(total)
            return total / self.mesh.data_ranks

        return global_loss
