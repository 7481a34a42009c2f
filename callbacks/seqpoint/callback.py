"""The Lightning callback: what a Trainer's hooks mean to a run of SeqPoint."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.optim import Optimizer
from typing_extensions import override

from fulgurite.callbacks.seqpoint.findings import Findings
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.plan import Plan, Projection, Selector
from fulgurite.callbacks.seqpoint.publish import can_write, log_to, show, write
from fulgurite.callbacks.seqpoint.run import Options, Place, Run, ShapeFn, surviving
from fulgurite.callbacks.seqpoint.select import select


class SeqPoint(Callback):
    """Profiles training with batches of varying length from a handful of representative steps.

    After S. Pati et al., "SeqPoint: Identifying Representative Iterations of Sequence-based Neural Networks",
    https://arxiv.org/abs/2007.10459. Three phases, one callback:

    1. **Log** one whole epoch: the shape of every step (batch size, source and target length, optimizer step or not)
       and its time, without waiting for the device at any step. Validation and checkpoints are left out.
    2. **Select** the few weighted steps, the *points*, that stand for the epoch (see
       :func:`~fulgurite.callbacks.seqpoint.select.select`).
    3. **Trace** in the next epoch: single steps like the points run under a profiler, wherever they fall. Other steps
       like the points, untraced, project the epoch as T̂ = Σⱼ ωⱼyⱼ; that epoch's own time tells how well. The traces,
       with the same weights ω, make one operator table for the whole epoch.

    The report lies in ``<log dir>/seqpoint/``: ``report.html``, ``plan.json``, ``steps.csv``, ``operators.csv`` and the
    traces. Its figures go to TensorBoard and its numbers, as ``seqpoint/...``, to every logger; a table is printed at
    the end. Weights, random numbers and the order of the data are the same with and without this callback, and nothing
    that goes wrong with a report stops the training.

    With several processes, a step's shape and time are the largest over the ranks (they wait for the slowest), and all
    ranks trace the same steps, which are fixed before the epoch (see
    :class:`~fulgurite.callbacks.seqpoint.choice.FixedSteps`). The operator table is the first rank's.

    If no epoch follows the logged one, the plan is reported, but there are no traces and no projection. If another
    profiler is active, there are no traces. Under ``fast_dev_run`` nothing happens at all.

    Args:
        selector: ``"interpolate"`` (by the whole shape), ``"paper"`` (by length alone) or ``"audit"`` (drawn at random,
            with an interval).
        points: how many points; ``None``: the fewest whose foreseen error is at most ``error``.
        replicates: untraced steps measured for each point.
        max_share: most steps measured, as a share of the epoch, where ``points`` is ``None``.
        error: relative error aimed at, where ``points`` is ``None``.
        length: the shape's column that is the length: its number, or its name (``"source"``).
        shape_fn: from a batch, as the training step gets it, to ``(batch size, source length[, target length, ...])``,
            whole numbers that the host knows; ``None`` finds them in tensors, dicts, tuples, dataclasses, packed and
            nested sequences and uncollated lists.
        epoch: the epoch that is logged, counted from 0; the next one is traced. Later ones than 0 leave out what a
            first epoch pays once. An epoch resumed in its middle does not count: the next whole one is logged.
        trace: ``False`` leaves out the traces and the operator table.
        memory: record peak memory. On a GPU this resets the peak counter at every step of the two epochs.
        folder: where to write; ``None``: ``<log dir>/seqpoint``.
        seed: of the private random numbers.

    Raises:
        ValueError: an option cannot be; the module's ``training_step`` takes a ``dataloader_iter``, so that nobody
            knows its batches; ``shape_fn`` gives junk for the first batch.

    Example:
        >>> import contextlib, io, tempfile, warnings, torch, lightning.pytorch as pl
        >>> warnings.filterwarnings("ignore", ".*does not have many workers")
        >>> class Tagger(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.lstm, self.out = torch.nn.LSTM(8, 16, batch_first=True), torch.nn.Linear(16, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.out(self.lstm(batch["source"])[0]).square().mean()
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> batches = [{"source": torch.zeros(4, 3 + n % 17, 8)} for n in range(60)]
        >>> seqpoint = SeqPoint(selector="audit", points=2)
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
        ...     trainer = pl.Trainer(
        ...         max_epochs=2, accelerator="cpu", default_root_dir=folder, callbacks=[seqpoint], logger=False,
        ...         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...     )
        ...     trainer.fit(Tagger(), torch.utils.data.DataLoader(batches, batch_size=None))
        >>> seqpoint.report.name, "Projected epoch" in printed.getvalue()
        ('report.html', True)
        >>> len(seqpoint.logged), len(seqpoint.plan.points), int(seqpoint.following.traced.sum())
        (60, 6, 6)
    """

    def __init__(
        self,
        *,
        selector: Selector = "interpolate",
        points: int | None = None,
        replicates: int = 3,
        max_share: float = 0.05,
        error: float = 0.01,
        length: int | str = 1,
        shape_fn: ShapeFn | None = None,
        epoch: int = 0,
        trace: bool = True,
        memory: bool = True,
        folder: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if shape_fn is not None and not callable(shape_fn):
            raise ValueError(f"got shape_fn={shape_fn!r}; expected a function from a batch to its sizes, or None")
        if not isinstance(length, int | str) or isinstance(length, bool) or (isinstance(length, int) and length < 0):
            raise ValueError(f"got length={length!r}; expected the number of a shape's column, from 0, or its name")
        if epoch < 0:
            raise ValueError(f"got epoch={epoch}; expected 0 for the first epoch, or a later one")
        self.trace = trace
        self.folder = folder
        chosen: dict[str, Any] = {
            "selector": selector,
            "points": points,
            "replicates": replicates,
            "max_share": max_share,
            "error": error,
            "seed": seed,
        }
        # A trial on made-up steps: what select() would refuse after an epoch is refused at once.
        select(np.ones((12, 2)), np.ones(12), **chosen)
        self.options = Options(chosen, length, shape_fn, epoch, memory, seed)
        self.report: Path | None = None
        self._findings = Findings()
        self._run: Run | None = None
        self._to_show = False

    @property
    def plan(self) -> Plan | None:
        """The plan, once an epoch has been logged; with fresh times, once another has followed."""
        return self._findings.plan

    @property
    def logged(self) -> EpochLog | None:
        """The logged epoch."""
        return self._findings.log

    @property
    def following(self) -> EpochLog | None:
        """The epoch after it."""
        return self._findings.following

    @property
    def projection(self) -> Projection | None:
        """The epoch's step time, projected from fresh times of the points."""
        return self._findings.projection

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report must know."""
        return tuple(self._findings.notes)

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if stage != "fit":
            return
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise ValueError(
                f"SeqPoint cannot see the batches of {type(pl_module).__name__}: its training_step fetches them itself "
                "(dataloader_iter). Take the batch as an argument, training_step(self, batch, batch_idx), or leave out "
                "SeqPoint"
            )
        # A callback may serve several runs, one after another.
        self.report, self._findings, self._run, self._to_show = None, Findings(), None, False

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if trainer.fast_dev_run or self._findings.finished:  # type: ignore[attr-defined]
            return
        # Every rank has to ask for the log directory: the first one tells it to the others.
        base = trainer.log_dir or trainer.default_root_dir
        folder = Path(self.folder) if self.folder is not None else Path(base) / "seqpoint"
        reason = can_write(folder)
        foreign = isinstance(trainer.profiler, PyTorchProfiler)  # type: ignore[attr-defined]
        place = Place(
            device=trainer.strategy.root_device,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            folder=folder if reason is None else None,
            module=pl_module,
        )
        self._run = Run(self.options, place, self._findings, traces=self.trace and not foreign)
        if reason is not None:
            self._run.tell(f"nothing can be written to {folder} ({reason}): no traces and no report")
        elif self.trace and foreign:
            self._run.tell("no step is traced, because Trainer(profiler=PyTorchProfiler) is on and the two do not mix")
        if place.device.type not in ("cpu", "cuda"):
            self._findings.notes.append(f"steps are timed by the host's clock, which may run ahead of {place.device}")

    @override
    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._run is not None:
            self._run.begin_epoch(trainer.current_epoch, steps=trainer.num_training_batches)

    @override
    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        if self._run is not None:
            optimizes = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
            self._run.begin_step(batch, optimizes=optimizes)

    @override
    def on_before_optimizer_step(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", optimizer: Optimizer
    ) -> None:
        if self._run is not None:
            self._run.optimizer_step()

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._run is not None:
            self._run.end_step()
            if trainer.is_last_batch:
                # Not at the epoch's end: a checkpoint that validation makes before it is to hold the plan.
                self._close_epoch(trainer)

    @override
    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._close_epoch(trainer)

    @override
    def on_validation_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._run is not None:
            self._run.interrupt()

    @override
    def on_save_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        if self._run is not None:
            self._run.interrupt()

    @override
    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._run is not None and self._run.end():
            self._publish(trainer, self._run)

    @override
    def on_fit_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        # Here, because progress bars are gone by now.
        if self._to_show:
            with surviving("print its table"):
                show(self._findings, self.report)
        self._run, self._to_show = None, False

    @override
    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        if self._run is not None:
            self._run.break_off()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._findings.state()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with surviving("go on from its state in the checkpoint, and starts anew"):
            self._findings = Findings.restore(state_dict)

    def _close_epoch(self, trainer: "pl.Trainer") -> None:
        if self._run is not None and self._run.close_epoch():
            self._publish(trainer, self._run)

    def _publish(self, trainer: "pl.Trainer", run: Run) -> None:
        if not trainer.is_global_zero:
            return
        self._to_show = True
        if run.folder is not None:
            with surviving("write its report"):
                self.report = write(self._findings, run.folder)
                rank_zero_info(f"SeqPoint: report written to {self.report}")
        with surviving("hand its numbers to the loggers"):
            log_to(trainer.loggers, self._findings, step=trainer.global_step)
