"""Scattered one-step profiler windows: trace exactly the steps that stand for an epoch.

Lightning's ``PyTorchProfiler`` gives one window a stage. SeqPoint (S. Pati et al., "SeqPoint: Identifying
Representative Iterations of Sequence-based Neural Networks", https://arxiv.org/abs/2007.10459) needs many, of one
step each, anywhere in an epoch. So the profiler is our own, and its schedule is a question that the caller answers
just before a step begins.
"""

import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function, supported_activities

from fulgurite.callbacks.seqpoint.integrity import find_faults
from fulgurite.callbacks.seqpoint.module_labels import ModuleLabels
from fulgurite.callbacks.seqpoint.spans import OperatorTime, peak_allocated, take_apart
from fulgurite.plugins.files import replacing


class ProfilerBusy(RuntimeError):
    """Another profiler is recording; a second one would silently take its data."""


@dataclass(frozen=True)
class StepTrace:
    """One traced step, checked and written.

    Args:
        label: what the caller named it.
        path: the Chrome trace (gzip), for Perfetto or Holistic Trace Analysis.
        operators: time by operator, see :class:`~fulgurite.callbacks.seqpoint.spans.StepTimes`.
        modules: the same time by module.
        peak_bytes: on a GPU the allocator's highest level in the step; on the CPU the most that the step itself had
            allocated at once; NaN if memory was not asked for.
        seconds: duration under the profiler, which inflates it: take totals from untraced steps.
        bytes_on_disk: size of the file.
        kernels: device time by kernel; empty on the CPU.
        shape: what the caller said the step's shape was.
    """

    label: str
    path: Path
    operators: tuple[OperatorTime, ...]
    modules: tuple[OperatorTime, ...]
    peak_bytes: float
    seconds: float
    bytes_on_disk: int
    kernels: tuple[OperatorTime, ...] = ()
    shape: tuple[int, ...] = ()


class TraceWindows:
    """Traces single steps, as many as wanted and wherever they fall.

    A window neither draws random numbers nor touches weights. While it is open, forward hooks label the named modules;
    they are global ones, because a module with hooks of its own may take another path through its code.

    Args:
        folder: where trace files go; made when the first is written.
        device: the module's device; its queue is drained before and at the end of a window, so that no work of
            earlier steps leaks in and all of this one is inside.
        memory: measure peak memory. On the CPU this records every allocation, and makes traces about a third larger.
        rank: this process's rank, for the file's name and for tools that need one in the file.
        module: its named submodules are labelled; ``None`` for no labels.

    Example:
        >>> import tempfile
        >>> layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     windows = TraceWindows(Path(folder), device=torch.device("cpu"), module=layers)
        ...     windows.open()
        ...     for batch in range(6):
        ...         if batch in (1, 4):
        ...             windows.start(f"epoch 0 batch {batch}")
        ...         _ = layers(torch.ones(2, 8)).sum().backward()
        ...         if batch in (1, 4):
        ...             print(windows.stop().path.name)
        ...     windows.close()
        epoch-0-batch-1.rank0.pt.trace.json.gz
        epoch-0-batch-4.rank0.pt.trace.json.gz
    """

    def __init__(
        self, folder: Path, *, device: torch.device, memory: bool = True, rank: int = 0, module: nn.Module | None = None
    ) -> None:
        self.folder = Path(folder)
        self.device = device
        self.memory = memory
        self.rank = rank
        self.faults: tuple[str, ...] = ()  # why the last stop() gave None
        self._on_device = device.type == "cuda" and ProfilerActivity.CUDA in supported_activities()
        self._labels = ModuleLabels(module)
        self._profile: profile | None = None
        self._next = ProfilerAction.NONE
        self._recording: tuple[str, tuple[int, ...], record_function] | None = None
        self._exported = b""

    def open(self) -> None:
        """Start the profiler, idle, and let an empty window take its start-up cost.

        Raises:
            ProfilerBusy: another profiler is recording.
        """
        _refuse_foreign_profiler()
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._on_device
        self._next = ProfilerAction.NONE
        self._profile = profile(
            activities=activities,
            schedule=lambda _: self._next,
            on_trace_ready=self._export,
            # The CUDA allocator knows its peak by itself; only on the CPU must allocations be recorded.
            profile_memory=self.memory and self.device.type == "cpu",
        )
        with _quiet_kineto():
            self._profile.start()
            self._step(self._profile, ProfilerAction.RECORD_AND_SAVE)
            self._step(self._profile, ProfilerAction.NONE)

    def start(self, label: str, *, shape: tuple[int, ...] = ()) -> None:
        """Open a window: the step that begins now is traced.

        Args:
            label: names the step (epoch, batch, shape key) in the trace and, made safe, its file.
            shape: the step's shape, handed on to :class:`StepTrace`.

        Raises:
            ProfilerBusy: another profiler is recording.
            RuntimeError: not open, or a window is open already.
        """
        if self._recording is not None:
            raise RuntimeError(f"the window {self._recording[0]!r} is still open: call stop() before start()")
        _refuse_foreign_profiler()
        if self._profile is None:
            raise RuntimeError("no profiler: call open() before start()")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self._step(self._profile, ProfilerAction.RECORD_AND_SAVE)
        self._profile.add_metadata_json("seqpoint", json.dumps({"label": _plain(label), "shape": list(shape)}))
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            # Analysers refuse a trace without a rank; torch names one only in a distributed run.
            info = {"backend": "none", "rank": self.rank, "world_size": 1}
            self._profile.add_metadata_json("distributedInfo", json.dumps(info))
        mark = record_function(_plain(label))
        mark.__enter__()
        self._recording = (label, shape, mark)
        self._labels.attach()

    def stop(self, *, optimizer_step: bool | None = None) -> StepTrace | None:
        """Close the window at the end of its step, check the trace and write it.

        Args:
            optimizer_step: whether the step ran an optimizer, if the caller knows: the trace must agree.

        Returns:
            The trace, or ``None`` for one that is not whole (:attr:`faults` says why; try again on a like step).

        Raises:
            OSError: the file cannot be written; nothing half-written stays, and further windows work.
            RuntimeError: no window is open.
        """
        if self._recording is None:
            raise RuntimeError("no window is open: call start() before stop()")
        label, shape, _ = self._recording
        if not self._finish():
            self.faults = ("another profiler took over the window",)
            return None
        try:
            trace = json.loads(self._exported)
        except ValueError as error:
            self.faults = (f"it is not valid JSON ({error})",)
            return None
        self.faults = find_faults(trace, on_device=self._on_device, optimizer_step=optimizer_step)
        if self.faults:
            return None
        times = take_apart(trace)
        path = self.folder / f"{_plain(label).replace(' ', '-')[:150]}.rank{self.rank}.pt.trace.json.gz"
        with replacing(path) as temporary:
            temporary.write_bytes(gzip.compress(self._exported, compresslevel=6))
        size, self._exported = path.stat().st_size, b""
        peak = self._peak(trace)
        return StepTrace(
            label, path, times.operators, times.modules, peak, times.seconds, size, times.kernels, tuple(shape)
        )

    def close(self) -> None:
        """Give the profiler back; an open window is dropped. May be called at any time, and twice."""
        if self._recording is not None:
            self._finish()
        if self._profile is not None:
            self._profile.stop()
        self._profile, self._exported = None, b""

    def _finish(self) -> bool:
        """Take the hooks off and export the trace; ``False`` if the session is no longer ours."""
        assert self._recording is not None
        assert self._profile is not None
        mark, self._recording = self._recording[2], None
        self._labels.detach()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        mark.__exit__(None, None, None)
        if not torch._C._autograd._profiler_enabled():
            # Somebody else's profiler ran and ended inside the window: exporting the lost session would crash.
            self._profile = None
            self.open()
            return False
        self._step(self._profile, ProfilerAction.NONE)
        return True

    def _step(self, profiler: profile, action: ProfilerAction) -> None:
        self._next = action
        try:
            profiler.step()
        finally:
            if action is ProfilerAction.NONE:
                profiler.profiler = None  # drops the events now; kept, they bring a warning in the next window

    def _export(self, profiler: profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            self._exported = path.read_bytes()

    def _peak(self, trace: dict[str, Any]) -> float:
        if not self.memory:
            return float("nan")
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return peak_allocated(trace)


def _refuse_foreign_profiler() -> None:
    # A second recording profile() does not raise: it takes over, and the first loses its data.
    if torch._C._autograd._profiler_enabled():
        raise ProfilerBusy(
            "another torch profiler is recording, and starting one more would take its data: "
            "switch one of them off (Trainer(profiler=...), torch.profiler.profile, emit_nvtx, or SeqPoint's tracing)"
        )


@contextmanager
def _quiet_kineto() -> Iterator[None]:
    """Keep Kineto from writing two lines to stderr for each window, through any progress bar.

    It reads the level once, when the first profiler of the process starts.
    """
    if "KINETO_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["KINETO_LOG_LEVEL"] = "6"
    try:
        yield
    finally:
        del os.environ["KINETO_LOG_LEVEL"]


def _plain(label: str) -> str:
    """As Kineto takes it: a quote or a letter outside ASCII makes a name "unknown", a backslash breaks the JSON."""
    return re.sub(r"[^A-Za-z0-9 ._=+-]+", "_", label).strip() or "step"
