"""The Lightning callback: log one epoch, select its points, trace them in the next, report."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.optim import Optimizer
from typing_extensions import override

from fulgurite.callbacks.seqpoint.choice import Choice, FixedSteps, LikeSteps
from fulgurite.callbacks.seqpoint.findings import Findings
from fulgurite.callbacks.seqpoint.gather import RankSteps, gather, merge
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.plan import Plan, PlanError, Projection, Selector
from fulgurite.callbacks.seqpoint.publish import can_write, log_to, show, write
from fulgurite.callbacks.seqpoint.recorder import BatchReader, StepRecorder
from fulgurite.callbacks.seqpoint.select import select
from fulgurite.callbacks.seqpoint.shapes import ShapeError, ShapeFinder, UserShape
from fulgurite.callbacks.seqpoint.trace import StepTrace, TraceWindows
from fulgurite.callbacks.seqpoint.tracing import EpochTracing

ShapeFn = Callable[[Any], int | Sequence[int]]


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
        self.length = length
        self.shape_fn = shape_fn
        self.epoch = epoch
        self.trace = trace
        self.memory = memory
        self.folder = folder
        self.seed = seed
        self._options: dict[str, Any] = {
            "selector": selector,
            "points": points,
            "replicates": replicates,
            "max_share": max_share,
            "error": error,
            "seed": seed,
        }
        # A trial on made-up steps: what select() would refuse after an epoch is refused at once.
        select(np.ones((12, 2)), np.ones(12), **self._options)
        self._forget()

    def _forget(self) -> None:
        """Begin anew; a callback may serve several runs one after another."""
        self.report: Path | None = None
        self._findings = Findings()
        self._active = self._printable = False
        self._folder: Path | None = None
        self._traces_wanted = False
        self._recorder: StepRecorder | None = None
        self._tracing: EpochTracing | None = None
        self._lost: str | None = None
        self._stepped = self._traced = False

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
        self._forget()
        self._active = not trainer.fast_dev_run  # type: ignore[attr-defined]

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if not self._active or self._findings.finished:
            return
        # Every rank has to ask for the log directory: the first one tells it to the others.
        base = trainer.log_dir or trainer.default_root_dir
        folder = Path(self.folder) if self.folder is not None else Path(base) / "seqpoint"
        reason = can_write(folder)
        self._folder = folder if reason is None else None
        self._traces_wanted = self.trace and self._folder is not None
        if reason is not None:
            self._tell(f"nothing can be written to {folder} ({reason}): no traces and no report")
        elif self.trace and isinstance(trainer.profiler, PyTorchProfiler):  # type: ignore[attr-defined]
            self._traces_wanted = False
            self._tell(
                "no step is traced, because Trainer(profiler=PyTorchProfiler) is on and two profilers do not mix"
            )
        finder = ShapeFinder(self._findings.dims) if self.shape_fn is None else UserShape(self.shape_fn)
        self._reader = BatchReader(finder)

    @override
    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        findings = self._findings
        if not self._active or findings.finished or self._lost is not None:
            return
        device = trainer.strategy.root_device
        watched = findings.plan is not None or trainer.current_epoch >= self.epoch
        self._recorder = StepRecorder(self._reader, device, memory=self.memory and watched)
        if findings.plan is not None and self._traces_wanted:
            assert self._folder is not None
            windows = TraceWindows(
                self._folder / "traces",
                device=device,
                memory=self.memory,
                rank=trainer.global_rank,
                module=pl_module,
            )
            self._tracing = EpochTracing(
                windows, self._choice(trainer), columns=findings.plan.columns, epoch=trainer.current_epoch
            )
            self._tracing.open()
        self._recorder.begin()

    @override
    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        recorder = self._recorder
        if recorder is None:
            return
        try:
            sizes = recorder.arrive(batch)
        except Exception as error:
            self._lose_sight(error)
            return
        self._stepped = False
        if self._tracing is not None:
            assert self._findings.columns is not None
            optimizes = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
            shape = (*(sizes[i] for i in self._findings.columns.indices), int(optimizes))
            new = (*sizes, int(optimizes)) not in self._reader.known
            self._traced = self._tracing.before(len(recorder), shape, new=new)
        recorder.start()

    @override
    def on_before_optimizer_step(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", optimizer: Optimizer
    ) -> None:
        self._stepped = True

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        recorder = self._recorder
        if recorder is not None:
            recorder.stop(optimizer_step=self._stepped, traced=self._traced)
            if self._traced and self._tracing is not None:
                self._tracing.after(optimizer_step=self._stepped)
                self._traced = False
            recorder.leave()
        if trainer.is_last_batch:
            # Not at the epoch's end: a checkpoint that validation makes before it is to hold the plan.
            self._close_epoch(trainer)

    @override
    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._close_epoch(trainer)

    @override
    def on_validation_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._interrupt()

    @override
    def on_save_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        self._interrupt()

    @override
    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._active and self._findings.plan is not None and not self._findings.finished:
            self._findings.notes.append(
                "no epoch followed the logged one: there are no traces, and nothing was projected; train for at least "
                f"{self._findings.log.epoch + 2 if self._findings.log else 2} epochs"
            )
            self._conclude(trainer, None, {})
        self._active = False

    @override
    def on_fit_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        # Here, because progress bars are gone by now.
        if self._printable and trainer.is_global_zero:
            with _surviving("print its table"):
                show(self._findings, self.report)
        self._printable = False

    @override
    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        recorder, self._recorder = self._recorder, None
        if self._tracing is not None:
            self._tracing.close()
        if recorder is None or self._folder is None or not trainer.is_global_zero or len(recorder) == 0:
            return
        with _surviving("save the steps of the interrupted epoch"):
            steps = recorder.finish()
            columns = self._findings.columns or self._reader.shape.choose(steps.sizes)
            name = "steps.csv" if self._findings.log is None else "steps_following.csv"
            merge([steps], columns, epoch=trainer.current_epoch).save_csv(self._folder / name)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._findings.state()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with _surviving("go on from its state in the checkpoint, and starts anew"):
            self._findings = Findings.restore(state_dict)

    def _interrupt(self) -> None:
        if self._recorder is not None:
            self._recorder.clock.interrupt()

    def _choice(self, trainer: "pl.Trainer") -> Choice:
        plan, log = self._findings.plan, self._findings.log
        assert plan is not None
        assert log is not None
        if trainer.world_size > 1:
            return FixedSteps(plan)
        steps = trainer.num_training_batches
        expected = len(log) if math.isinf(steps) else int(steps)
        few_new = bool(log.cold.mean() <= 0.5)
        return LikeSteps(plan, plan.cost.predict(log.shapes), steps=expected, avoid_new=few_new)

    def _lose_sight(self, error: Exception) -> None:
        """A batch could not be read: an error at once if the user's function is wrong, else no more logging."""
        self._recorder = None
        if self._tracing is not None:
            self._tracing.close()
        if self.shape_fn is not None and not self._reader.known:
            raise error
        self._lost = str(error) if isinstance(error, ShapeError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"SeqPoint stops logging: {self._lost}; training goes on", stacklevel=2)

    def _close_epoch(self, trainer: "pl.Trainer") -> None:
        """The epoch's steps are over: gather them, then select or conclude. Every rank comes by here once an epoch."""
        recorder, self._recorder = self._recorder, None
        tracing, self._tracing = self._tracing, None
        if recorder is None and self._lost is None:
            return
        if tracing is not None:
            tracing.close()
        if self._findings.finished or (self._findings.plan is None and trainer.current_epoch < self.epoch):
            return
        everybody = gather(self._finish(recorder))
        reasons = [steps for steps in everybody if isinstance(steps, str)]
        ranks = [steps for steps in everybody if isinstance(steps, RankSteps)]
        if reasons:
            self._tell(f"epoch {trainer.current_epoch} could not be logged: {reasons[0]}")
        if self._findings.plan is None:
            self._select(trainer, [] if reasons else ranks)
            return
        following, traces = None, {}
        with _surviving("use the epoch after the logged one"):
            assert self._findings.columns is not None
            following = None if reasons else merge(ranks, self._findings.columns, epoch=trainer.current_epoch)
            if tracing is not None:
                self._findings.notes += tracing.notes
                # Fixed steps belong to whichever point they turn out to be like.
                shapes = following.shapes if following is not None and trainer.world_size > 1 else None
                traces = tracing.by_point(self._findings.plan, shapes)
        self._conclude(trainer, following, traces)

    def _finish(self, recorder: StepRecorder | None) -> RankSteps | str:
        if recorder is None or self._lost is not None:
            return self._lost or "nothing was recorded"
        if len(recorder) == 0:
            return "it had no steps"
        try:
            return recorder.finish()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def _select(self, trainer: "pl.Trainer", ranks: Sequence[RankSteps]) -> None:
        findings = self._findings
        if ranks:
            with _surviving("select the points of the logged epoch"):
                findings.select(
                    ranks, self._reader.shape, epoch=trainer.current_epoch, length=self.length, **self._options
                )
        findings.finished = findings.plan is None
        expected = trainer.num_training_batches
        if findings.log is not None and len(findings.log) < expected < math.inf:
            findings.notes.append(f"the logged epoch ended early, after {len(findings.log)} of {int(expected)} batches")
        if self._folder is not None and trainer.is_global_zero and findings.log is not None:
            # What is there already survives even a run that is killed.
            with _surviving("save the logged epoch"):
                findings.log.save_csv(self._folder / "steps.csv")
                if findings.plan is not None:
                    findings.plan.save(self._folder / "plan.json")

    def _conclude(
        self, trainer: "pl.Trainer", following: EpochLog | None, traces: Mapping[int, Sequence[StepTrace]]
    ) -> None:
        findings = self._findings
        findings.finished = self._printable = True
        with _surviving("work out its results"):
            findings.conclude(following, traces, seed=self.seed)
        if not trainer.is_global_zero:
            return
        if self._folder is not None:
            with _surviving("write its report"):
                self.report = write(findings, self._folder)
        with _surviving("hand its numbers to the loggers"):
            log_to(trainer.loggers, findings, step=trainer.global_step)

    def _tell(self, text: str) -> None:
        """Say it now, and in the report."""
        self._findings.notes.append(text)
        rank_zero_warn(f"SeqPoint: {text}; training goes on", stacklevel=2)


@contextmanager
def _surviving(what: str) -> Iterator[None]:
    """Training never dies because of a report: an error becomes a warning with its reason."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, PlanError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"SeqPoint could not {what}: {reason}; training goes on", stacklevel=3)
