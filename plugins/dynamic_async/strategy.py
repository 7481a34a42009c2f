"""The Lightning strategy: training that goes on while its processes come and go, with a certificate where one holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim import Optimizer
from typing_extensions import override

from fulgurite.plugins.dynamic_async.conditions import (
    Obstacle,
    check_choice,
    check_number,
    check_trainer,
    find_watch,
    timed_out,
)
from fulgurite.plugins.dynamic_async.engine.faults import Faults
from fulgurite.plugins.dynamic_async.engine.peer import Peer
from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters
from fulgurite.plugins.dynamic_async.joining import Joining
from fulgurite.plugins.dynamic_async.leading import Leading
from fulgurite.plugins.dynamic_async.local_peers import own_number
from fulgurite.plugins.dynamic_async.model.certificate import Certificate
from fulgurite.plugins.dynamic_async.objective import ObjectiveError, ObjectiveWatch
from fulgurite.plugins.dynamic_async.resuming import KEY, Resumed, kept
from fulgurite.plugins.dynamic_async.shard_checkpoints import ShardCheckpoints
from fulgurite.plugins.dynamic_async.shard_loader import ShardLoader
from fulgurite.plugins.dynamic_async.shard_training import ShardTraining
from fulgurite.plugins.dynamic_async.training_map import Topology, TrainingMap
from fulgurite.plugins.dynamic_async.training_note import MOST_SHARDS

_log = logging.getLogger(__name__)
Transport = Literal["zmq", "ray"]


class DynamicAsyncStrategy(SingleDeviceStrategy):
    r"""Trains over fixed data shards that processes host by turns; no barrier, no coordinator, no fixed world.

    The model: Daggitt and Griffin, *Dynamic Asynchronous Iterations*, https://arxiv.org/abs/2012.01686, iterating

    .. math:: x_i \leftarrow x_i - \eta \Big(\nabla f_i(x_i) + \lambda \sum_j w_{ij} (x_i - x_j)\Big)

    over the shards i of the training data (:class:`TrainingMap`), where x_j is whatever was heard of shard j last.
    Every process is a whole ``fit`` of its own; processes join, leave, die and return while it goes on, the first one
    too. Shards of the dead are adopted after ``timeout_s``. Where each f_i is strongly convex, the answer depends on
    the data and on λ alone, not on who hosted what when, and comes with a bound on its error; anywhere else the same
    code runs, and what it observes is all that is said ("empirical").

    An epoch of the Trainer is ``shards`` evaluations by this process, of whichever shards it hosts. Training ends for
    everybody once each shard has been evaluated ``max_epochs`` times, or the certified error is below ``eps``, or any
    process's Trainer stops early. ``max_steps`` and ``max_time`` are this process's own: it leaves, others go on.
    While it trains ``trainer.max_epochs`` is -1: how many epochs this process will have nobody knows.
    Validation, test, checkpoints and the module afterwards have the mean of the shards. ``reduce`` and ``broadcast``
    are the identity: there is nobody to wait for.

    ``fit(ckpt_path=...)`` goes on with every shard's value and count as the leader had heard of them, from the same
    start, so that what is certified still is; a checkpoint holds all shards for that. The optimizer's states are those
    of the shards that the leader hosted; other shards, and those adopted from the dead without ``checkpoints``, begin
    with a fresh state. Learning rates are scheduled by each process's own steps.

    Args:
        accelerator: as of any strategy; also the next two.
        checkpoint_io: as of any strategy.
        precision_plugin: as of any strategy.
        shards: how many parts the training data are cut into; sample k is in shard ``k % shards``.
        local_peers: processes on this machine; the first starts the others by the same command.
        listen: where this peer listens, ``tcp://host:port``; port 0 takes a free one. Beyond this machine a key is due.
        join: addresses of peers to begin with; any live one will do.
        run: name of the run, the same on all peers that join it; made up for local peers.
        transport: ``"zmq"``, or ``"ray"``: mailboxes in named Ray actors.
        topology: ``"complete"``: each shard is drawn to the mean of the others; ``"star"``: to a server's mean.
        lam: λ, how strongly.
        heartbeat_s: at least so often a peer speaks.
        timeout_s: who is silent for longer is taken for dead; 4 heartbeats by default.
        wait_s: at the start, wait for all ``local_peers`` for so long at most.
        eps: stop once the certified error ‖x − x*‖ of every shard is below this.
        certify: ``"require"`` refuses to train without a certificate, ``"report"`` says what it is.
        full_batch: whole shards as batches; by default where the module has ``objective_bounds``.
        key: shared by all peers; better a file, or the variable ``FULGURITE_ASYNC_KEY``. Made up for local peers.
        key_file: holds it.
        checkpoints: a folder for the shards' own files, from which a new host goes on.
        record: a folder for logs from which a run can be replayed.
        restart_s: start a local peer that was killed again after so many seconds.
        restarts: how often in all.
        linger_s: at the end, stay so long at most until all have heard.

    Raises:
        ValueError: an option, a model or a Trainer that this cannot train; the message says what to change.

    Example:
        >>> import fulgurite.plugins.dynamic_async
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(
        ...     accelerator="cpu", devices=1, strategy="dynamic_async", logger=False, enable_progress_bar=False
        ... )
        >>> type(trainer.strategy).__name__
        'DynamicAsyncStrategy'
    """

    strategy_name = "dynamic_async"

    def __init__(
        self,
        accelerator: pl.accelerators.Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        *,
        shards: int = 4,
        local_peers: int = 1,
        listen: str = "tcp://127.0.0.1:0",
        join: Sequence[str] = (),
        run: str | None = None,
        transport: Transport = "zmq",
        topology: Topology = "complete",
        lam: float = 0.5,
        heartbeat_s: float = 1.0,
        timeout_s: float | None = None,
        wait_s: float = 60.0,
        eps: float | None = None,
        certify: Literal["require", "report"] = "report",
        full_batch: bool | None = None,
        key: str | None = None,
        key_file: str | None = None,
        checkpoints: str | None = None,
        record: str | None = None,
        restart_s: float | None = None,
        restarts: int = 0,
        linger_s: float = 30.0,
    ) -> None:
        super().__init__("cpu", accelerator, checkpoint_io, precision_plugin)
        timeout_s = 4 * heartbeat_s if timeout_s is None else timeout_s
        check_choice("transport", transport, "zmq", "ray")
        check_choice("topology", topology, "complete", "star")
        check_choice("certify", certify, "require", "report")
        check_number("shards", shards, 1, MOST_SHARDS)
        check_number("local_peers", local_peers, 1)
        check_number("restarts", restarts, 0)
        check_number("lam", lam, 0.0)
        if eps is not None and not eps > 0:
            raise ValueError(f"got eps={eps}; expected more than 0, or null to train for max_epochs")
        if not 0 < heartbeat_s < timeout_s:
            raise ValueError(
                f"got heartbeat_s={heartbeat_s}, timeout_s={timeout_s}; expected 0 < heartbeat_s < timeout_s"
            )
        self._shards, self._topology, self._lam, self._eps = shards, topology, lam, eps
        self._certify, self._full_batch = certify, full_batch
        self._whole_shards = False
        self._checkpoint_folder, self._linger_s, self._lingers_s = checkpoints, linger_s, linger_s
        self._joining = Joining(
            local_peers=local_peers,
            listen=listen,
            join=tuple(join),
            run=run,
            transport=transport,
            heartbeat_s=heartbeat_s,
            timeout_s=timeout_s,
            wait_s=wait_s,
            key=key,
            key_file=key_file,
            record=record,
            restart_s=restart_s,
            restarts=restarts,
        )
        self._faults: Faults | None = None
        self._loader: ShardLoader | None = None
        self._loader_comes, self._loaders = False, 0
        self._rounds: int | None = None
        self._labels: object = None
        self._obstacle = "no training has begun"
        self._training: ShardTraining | None = None
        self._checkpoints: ShardCheckpoints | None = None
        self._leading = Leading(first=own_number() == 0)
        self._open = ExitStack()
        self._fitting = False
        self._resumed: Resumed | None = None
        self._going_on: Resumed | None = None
        self._left: tuple[Any, dict[str, Any]] | None = None

    @property
    def training(self) -> ShardTraining | None:
        """What this process trains; after ``fit``, how that ended."""
        return self._training

    @property
    def peer(self) -> Peer | None:
        """This process's part in the iteration; after ``fit``, as it left."""
        return self._training.peer if self._training else None

    @property
    def eps(self) -> float | None:
        """The certified error at which training stops."""
        return self._eps

    @property
    def shard_loader(self) -> ShardLoader | None:
        """The training data by shards, once training has begun."""
        return self._loader

    @property
    def verdict(self) -> tuple[Literal["certified", "empirical"], str]:
        """Whether the answer is certified, and why or why not."""
        certificate = self.certificate()
        if certificate is None:
            waiting = "some shard has not been evaluated yet"
            return "empirical", self._obstacle or (self._training and self._training.conflict) or waiting
        return ("certified" if certificate.certified else "empirical"), certificate.reason

    def certificate(self) -> Certificate | None:
        """What holds by now; None where nothing can be certified, or not every shard has been evaluated yet."""
        return self._training.certificate(self._eps) if self._training else None

    def inject(self, faults: Faults) -> None:
        """Let things go wrong from the next ``fit`` on; for tests of a set-up."""
        self._faults = faults

    @property
    @override
    def root_device(self) -> torch.device:
        if isinstance(self.accelerator, pl.accelerators.CUDAAccelerator):
            return torch.device("cuda", own_number() % torch.cuda.device_count())
        return torch.device("cpu")

    @property
    @override
    def is_global_zero(self) -> bool:
        return self._leading.leads

    @override
    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            self._resumed = None
            return
        assert self.lightning_module is not None
        self._training, self._left, self._lingers_s = None, None, self._linger_s
        check_trainer(trainer, self.lightning_module, self.optimizers)
        watch = self._find_watch(trainer)
        self._whole_shards = watch is not None if self._full_batch is None else self._full_batch
        resumed, self._resumed = self._resumed, None
        flat = FlatParameters(self.lightning_module)
        optimizer = self.optimizers[0]
        step = float(optimizer.param_groups[0]["lr"])
        identity = f"{type(self.lightning_module).__qualname__}\n{flat.identity()}\n{type(optimizer).__qualname__}"
        if watch is not None:
            identity += f"\nlr {step!r}, bounds {watch.mu!r} {watch.lipschitz!r}"
        centre = flat.read() if resumed is None else resumed.centre
        shared = TrainingMap(
            centre, shards=self._shards, coupling=self._lam, topology=self._topology, identity=identity
        )
        if resumed is not None:
            resumed.check(shared)
        elif trainer.ckpt_path is not None:
            _log.warning("the checkpoint is of another strategy: training begins anew, from its weights")
        self._going_on = resumed
        # Lightning would end this process's loop by its own epochs, of which there are more where less is hosted.
        self._rounds = None if trainer.max_epochs in (None, -1) else trainer.max_epochs
        if self._rounds is not None:
            self._open.callback(setattr, trainer.fit_loop, "max_epochs", self._rounds)
            trainer.fit_loop.max_epochs = -1
        counts = {} if resumed is None else resumed.counts(self._shards)
        if self._rounds is not None and len(counts) == self._shards and min(counts.values()) >= self._rounds:
            _log.info("every shard has had its %d evaluations before the checkpoint: nothing is left", self._rounds)
            trainer.should_stop, self._obstacle = True, "nothing was trained: max_epochs were over"
            return
        # Files may be read while the peer is being made, when there is nothing to read them into yet.
        peer = self._joining.peer(shared, faults=self._faults, load=self._load, stack=self._open)
        self._training = ShardTraining(shared, peer, flat, optimizer, watch, step)
        self._fitting = True
        if self._checkpoint_folder is not None:
            self._checkpoints = ShardCheckpoints(Path(self._checkpoint_folder), self._training)
        self._training.counts |= counts
        self._joining.start_others(trainer, peer)
        self._open.enter_context(peer.heartbeats())
        self._joining.wait_for_others(peer)

    @override
    def barrier(self, name: str | None = None, *_: Any, **__: Any) -> None:
        """Nobody waits. Lightning announces by it which loaders it is about to hand over."""
        if name is not None and name.endswith("_dataloader()"):
            self._loader_comes = name == "train_dataloader()" and self._fitting
            self._loaders = 0

    @override
    def process_dataloader(self, dataloader: object) -> object:
        """Cut the training loader into shards."""
        if not self._loader_comes:
            return dataloader
        assert self._training is not None
        self._loaders += 1
        if self._loaders > 1:
            raise ValueError(
                "got several loaders to train from; one is cut into shards: give one DataLoader, of a dataset that "
                "puts them together"
            )
        self._loader = ShardLoader(
            dataloader,
            self._shards,
            self._hosted,
            self._wait,
            full_batch=self._whole_shards,
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
        )
        self._training.describe(self._loader.identity())
        return self._loader

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep the labels, by which the loss is checked."""
        self._labels = batch[1] if isinstance(batch, Sequence) and len(batch) > 1 else None

    @override
    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: pl.LightningModule | torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """One evaluation of the loader's shard."""
        assert self._training is not None
        assert self._loader is not None
        training = self._training
        if self._joining.strike is not None:
            self._joining.strike()

        scaler = getattr(self.precision_plugin, "scaler", None)

        def anchored() -> Any:
            loss = closure()
            training.after_backward(loss, self._labels, 1.0 if scaler is None else scaler.get_scale())
            return loss

        try:
            with training.evaluating(self._loader.shard):
                result = super().optimizer_step(optimizer, anchored, model, **kwargs)
        except ObjectiveError as error:
            raise ValueError(f"the loss is not what objective_bounds() states: {error}") from None
        self._after_step()
        return result

    @override
    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return decision

    def on_validation_start(self) -> None:
        """Validate the mean of the shards."""
        self._write_mean()

    def on_train_end(self) -> None:
        """Leave the mean of the shards in the module, and let go: of everything, or of the shards that others keep."""
        if self._training is None:
            return
        peer = self._training.peer
        self._training.serve()
        if self._checkpoints is not None:
            self._checkpoints.save(now=True)
        last = kept(self._training)
        if not peer.stopped:
            if self._trainer.should_stop and not timed_out(self._trainer):
                peer.stop()
                peer.publish()
            else:
                peer.release()
        self._training.serve()
        self._write_mean()
        self._left = self._training.flat.read(), last

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's, with the mean of the shards in the place of the shard that was trained last."""
        state = super().lightning_module_state_dict()
        if self._fitting and self._training is not None:
            state |= self._training.flat.entries(self._training.mean())
        return state

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        if self.is_global_zero and "optimizer_states" in checkpoint and (found := self._kept()) is not None:
            checkpoint[KEY] = found
        super().save_checkpoint(checkpoint, filepath, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        content = super().load_checkpoint(checkpoint_path, weights_only)
        self._resumed = Resumed.read(content)
        return content

    @override
    def teardown(self) -> None:
        try:
            if self._fitting and self._training is not None:
                self._joining.leave(self._training.peer, linger_s=self._lingers_s)
        finally:
            self._fitting, self._checkpoints, self._going_on = False, None, None
            self._open.close()
            self._leading.give_back()
            super().teardown()

    @override
    def on_exception(self, exception: BaseException) -> None:
        """Go without lingering: the others adopt what was hosted here. Whoever interrupts this process means all."""
        self._lingers_s = 0.0
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._joining.abandon()
        super().on_exception(exception)

    @property
    def _trainer(self) -> pl.Trainer:
        assert self.lightning_module is not None
        return self.lightning_module.trainer

    def _hosted(self) -> list[int]:
        assert self._training is not None
        return [i for i in self._training.peer.hosted if i < self._shards]

    def _wait(self) -> bool:
        assert self._training is not None
        peer = self._training.peer
        self._training.serve()
        self._leading.follow(self._trainer, peer)
        if peer.stopped:  # whoever hosts nothing takes no step that would say so
            self._trainer.should_stop = True
            return False
        peer.wait()
        return True

    def _load(self, shard: int) -> Any:
        assert self._training is not None
        found = self._going_on.load(self._training, shard) if self._going_on is not None else None
        if found is None and self._checkpoints is not None:
            found = self._checkpoints.load(shard)
        return found

    def _kept(self) -> dict[str, Any] | None:
        """What goes into a checkpoint; None after ``fit`` once the module is another than it was left."""
        assert self.lightning_module is not None
        if self._fitting:
            return kept(self._training) if self._training is not None else None
        if self._left is not None and np.array_equal(FlatParameters(self.lightning_module).read(), self._left[0]):
            return self._left[1]
        return None

    def _find_watch(self, trainer: pl.Trainer) -> ObjectiveWatch | None:
        try:
            watch = find_watch(
                trainer, self.lightning_module, self.optimizers[0], self._lam, full_batch=self._full_batch is not False
            )
        except Obstacle as error:
            self._obstacle = str(error)
            if self._certify == "require":
                raise ValueError(f"certify: require, but the answer would not be certified: {error}") from None
            if self._eps is not None:
                _log.warning("eps=%g cannot stop this training, which is not certified: %s", self._eps, error)
            return None
        self._obstacle = ""
        return watch

    def _after_step(self) -> None:
        assert self._training is not None
        training, peer = self._training, self._training.peer
        if self._checkpoints is not None:
            self._checkpoints.save()
        trainer = self._trainer
        self._leading.follow(trainer, peer)
        certificate = self.certificate()
        refused = certificate.reason if certificate is not None and not certificate.certified else training.conflict
        if refused and self._certify == "require":
            raise ValueError(f"certify: require, but the answer would not be certified: {refused}")
        if self._rounds is not None and training.rounds() >= self._rounds:
            peer.stop()
        if self._eps is not None and certificate is not None and certificate.certified:
            if certificate.floor >= self._eps:
                raise ValueError(
                    f"eps={self._eps:g} is out of reach: rounding alone may add {certificate.floor:g}; take a larger "
                    "eps or precision: 64-true"
                )
            # Of a smaller view it would be another answer.
            if certificate.bound(peer.rounds(whole=True)) <= self._eps and peer.view().all():
                peer.stop()
        if peer.stopped:
            trainer.should_stop = True

    def _write_mean(self) -> None:
        if self._fitting and self._training is not None:
            self._training.flat.write(self._training.mean())
