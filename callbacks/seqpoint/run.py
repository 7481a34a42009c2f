"""The three phases of one training run, epoch by epoch, without a Trainer."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fulgurite.callbacks.seqpoint.choice import Choice, FixedSteps, LikeSteps
from fulgurite.callbacks.seqpoint.findings import Findings
from fulgurite.callbacks.seqpoint.gather import RankSteps, gather, merge
from fulgurite.callbacks.seqpoint.plan import PlanError
from fulgurite.callbacks.seqpoint.recorder import BatchReader, StepRecorder
from fulgurite.callbacks.seqpoint.shapes import ShapeError, ShapeFinder, ShapeReader, UserShape
from fulgurite.callbacks.seqpoint.trace import TraceWindows
from fulgurite.callbacks.seqpoint.tracing import EpochTracing

ShapeFn = Callable[[Any], int | Sequence[int]]


@dataclass(frozen=True)
class Options:
    """What the user asked for; see :class:`~fulgurite.callbacks.seqpoint.callback.SeqPoint`.

    Args:
        select: options of :func:`~fulgurite.callbacks.seqpoint.select.select`.
        length: the column that is the length.
        shape_fn: from a batch to its shape.
        epoch: the first epoch to log.
        memory: record peak memory.
        seed: of the private random numbers.
    """

    select: Mapping[str, Any]
    length: int | str
    shape_fn: ShapeFn | None
    epoch: int
    memory: bool
    seed: int


@dataclass(frozen=True)
class Place:
    """Where a run takes place.

    Args:
        device: of the module.
        rank: of this process.
        world_size: how many processes there are.
        folder: for files; ``None`` if nothing can be written.
        module: the module, whose parts are labelled in traces.
    """

    device: torch.device
    rank: int
    world_size: int
    folder: Path | None
    module: nn.Module | None


class Run:
    """Logs an epoch, selects its points, traces and measures them in the next.

    The order of calls is, for each epoch, ``begin_epoch``, then for every step ``begin_step``, ``optimizer_step`` if
    there is one, ``end_step``, then ``close_epoch``. In a distributed run every rank makes them alike.

    Args:
        options: what was asked for.
        place: where.
        findings: what is known already, from a checkpoint; filled in.
        traces: trace steps.
    """

    def __init__(self, options: Options, place: Place, findings: Findings, *, traces: bool) -> None:
        self.findings = findings
        self.folder = place.folder
        self._options = options
        self._place = place
        self._traces = traces and place.folder is not None
        user = options.shape_fn
        shape: ShapeReader = ShapeFinder(findings.dims) if user is None else UserShape(user)
        self._reader = BatchReader(shape)
        self._recorder: StepRecorder | None = None
        self._tracing: EpochTracing | None = None
        self._lost: str | None = None
        self._epoch = 0
        self._steps = math.inf
        self._optimized = self._traced = False

    def begin_epoch(self, epoch: int, *, steps: float) -> None:
        """A whole epoch begins.

        Args:
            epoch: its number.
            steps: how many steps it is to have, ``inf`` if nobody knows.
        """
        plan = self.findings.plan
        # Also where this rank has lost sight: which epoch it is decides whether to gather, on all ranks alike.
        self._epoch, self._steps = epoch, steps
        if self.findings.finished or self._lost is not None:
            return
        watched = plan is not None or epoch >= self._options.epoch
        self._recorder = StepRecorder(self._reader, self._place.device, memory=self._options.memory and watched)
        if plan is not None and self._traces:
            with surviving("prepare its traces"):
                self._tracing = self._prepare_tracing(plan.columns)
                self._tracing.open()
        self._recorder.begin()

    def begin_step(self, batch: Any, *, optimizes: bool) -> None:
        """A step begins.

        Args:
            batch: as the training step gets it.
            optimizes: the step is expected to run an optimizer.

        Raises:
            ShapeError: the user's ``shape_fn`` gives junk for the first batch of all.
        """
        self._optimized = self._traced = False
        recorder = self._recorder
        if recorder is None:
            return
        try:
            sizes = recorder.arrive(batch)
        except Exception as error:
            self._lose_sight(error)
            return
        if self._tracing is not None:
            with surviving("trace a step"):
                self._traced = self._trace_if_wanted(sizes, optimizes=optimizes)
        recorder.start()

    def _trace_if_wanted(self, sizes: tuple[int, ...], *, optimizes: bool) -> bool:
        assert self._tracing is not None
        assert self._recorder is not None
        assert self.findings.columns is not None
        # A resumed run whose batches have other sizes than the logged epoch's fails here, and only loses its traces.
        shape = (*(sizes[i] for i in self.findings.columns.indices), int(optimizes))
        new = (*sizes, int(optimizes)) not in self._reader.known
        if not self._tracing.wants(len(self._recorder), shape, new=new):
            return False
        self._recorder.clock.settle()
        return self._tracing.start()

    def optimizer_step(self) -> None:
        """An optimizer runs in this step."""
        self._optimized = True

    def end_step(self) -> None:
        """The step is over."""
        recorder = self._recorder
        if recorder is None:
            return
        recorder.stop(optimizer_step=self._optimized, traced=self._traced)
        if self._traced and self._tracing is not None:
            self._tracing.stop(optimizer_step=self._optimized)
        recorder.leave()

    def interrupt(self) -> None:
        """A validation or a checkpoint falls between two steps."""
        if self._recorder is not None:
            self._recorder.clock.interrupt()

    def close_epoch(self) -> bool:
        """The epoch's steps are over: gather them, then select or conclude.

        Once an epoch, every rank gathers here. Further calls do nothing.

        Returns:
            Whether the findings are complete now.
        """
        recorder, self._recorder = self._recorder, None
        tracing, self._tracing = self._tracing, None
        findings = self.findings
        if findings.finished or (recorder is None and self._lost is None):
            return False
        if tracing is not None:
            tracing.close()
        if findings.plan is None and self._epoch < self._options.epoch:
            return False
        everybody = gather(self._finish(recorder))
        reasons = [steps for steps in everybody if isinstance(steps, str)]
        ranks = [steps for steps in everybody if isinstance(steps, RankSteps)]
        if reasons:
            ranks = []
            self.tell(f"epoch {self._epoch} could not be logged: {reasons[0]}")
        if findings.plan is None:
            self._select(ranks)
            return False
        following, traces = None, {}
        with surviving("use the epoch after the logged one"):
            assert findings.columns is not None
            following = merge(ranks, findings.columns, epoch=self._epoch) if ranks else None
            if tracing is not None:
                findings.notes += tracing.notes
                # Fixed steps belong to whichever point they turn out to be like.
                shapes = following.shapes if following is not None and self._place.world_size > 1 else None
                traces = tracing.by_point(findings.plan, shapes)
        findings.finished = True
        with surviving("work out its results"):
            findings.conclude(following, traces, seed=self._options.seed)
        return True

    def end(self) -> bool:
        """The training is over; whether the findings are complete only now, without a following epoch."""
        findings = self.findings
        if findings.finished:
            return False
        findings.finished = True
        if findings.plan is None or findings.log is None:
            self.tell(f"no epoch from number {self._options.epoch} on was trained as a whole, so that none was logged")
            return False
        findings.notes.append(
            "no epoch followed the logged one: nothing was traced or projected; "
            f"train for {findings.log.epoch + 2} epochs or more"
        )
        with surviving("work out its results"):
            findings.conclude(None, {}, seed=self._options.seed)
        return True

    def break_off(self) -> None:
        """The training failed: give the profiler back, and save the steps of the epoch so far. Gathers nothing."""
        recorder, self._recorder = self._recorder, None
        if self._tracing is not None:
            self._tracing.close()
        if recorder is None or self._place.folder is None or self._place.rank > 0 or len(recorder) == 0:
            return
        with surviving("save the steps of the interrupted epoch"):
            steps = recorder.finish()
            columns = self.findings.columns or self._reader.shape.choose(steps.sizes)
            name = "steps.csv" if self.findings.log is None else "steps_following.csv"
            merge([steps], columns, epoch=self._epoch).save_csv(self._place.folder / name)

    def tell(self, text: str) -> None:
        """Say it now, and in the report."""
        self.findings.notes.append(text)
        if self._place.rank == 0:
            warnings.warn(f"SeqPoint: {text}; training goes on", stacklevel=2)

    def _prepare_tracing(self, columns: Sequence[str]) -> EpochTracing:
        place = self._place
        assert place.folder is not None
        folder = place.folder / "traces"
        for old in folder.glob(f"*.rank{place.rank}.pt.trace.json.gz"):
            old.unlink()  # of an earlier run into the same folder
        windows = TraceWindows(
            folder, device=place.device, memory=self._options.memory, rank=place.rank, module=place.module
        )
        return EpochTracing(windows, self._choice(), columns=columns, epoch=self._epoch)

    def _choice(self) -> Choice:
        plan, log = self.findings.plan, self.findings.log
        assert plan is not None
        assert log is not None
        if self._place.world_size > 1:
            return FixedSteps(plan)
        steps = len(log) if math.isinf(self._steps) else int(self._steps)
        few_new = bool(log.cold.mean() <= 0.5)
        return LikeSteps(plan, plan.cost.predict(log.shapes), steps=steps, avoid_new=few_new)

    def _lose_sight(self, error: Exception) -> None:
        """A batch could not be read: an error at once if the user's function is wrong, else no more logging."""
        self._recorder = None
        if self._tracing is not None:
            self._tracing.close()
        if self._options.shape_fn is not None and not self._reader.known:
            raise error
        self._lost = str(error) if isinstance(error, ShapeError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"SeqPoint stops logging: {self._lost}; training goes on", stacklevel=2)

    def _finish(self, recorder: StepRecorder | None) -> RankSteps | str:
        if recorder is None or self._lost is not None:
            return self._lost or "nothing was recorded"
        if len(recorder) == 0:
            return "it had no steps"
        try:
            return recorder.finish()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def _select(self, ranks: Sequence[RankSteps]) -> None:
        findings, options = self.findings, self._options
        if ranks:
            with surviving("select the points of the logged epoch"):
                findings.select(ranks, self._reader.shape, epoch=self._epoch, length=options.length, **options.select)
        findings.finished = findings.plan is None
        if findings.log is not None and len(findings.log) < self._steps < math.inf:
            findings.notes.append(
                f"the logged epoch ended early, after {len(findings.log)} of {int(self._steps)} batches"
            )
        if findings.log is not None and self._place.folder is not None and self._place.rank == 0:
            # What is there already outlives even a run that is killed.
            with surviving("save the logged epoch"):
                findings.log.save_csv(self._place.folder / "steps.csv")
                if findings.plan is not None:
                    findings.plan.save(self._place.folder / "plan.json")


@contextmanager
def surviving(what: str) -> Iterator[None]:
    """Training never dies because of a report: an error becomes a warning with its reason.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     with surviving("count"):
        ...         1 / 0
        >>> print(caught[0].message)
        SeqPoint could not count: ZeroDivisionError: division by zero; training goes on
    """
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, PlanError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"SeqPoint could not {what}: {reason}; training goes on", stacklevel=3)
