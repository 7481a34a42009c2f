"""Lightning's launcher of local ranks, with time for them to say which one died before all are killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from typing_extensions import override

PATIENCE = 30.0  # seconds; ranks that can say who died do within a few


class SubprocessLauncher(_SubprocessScriptLauncher):
    """Starts the script again for every further local rank, as DDP does.

    Lightning's own kills every rank, the one whose output people read included, within five seconds of a rank's end:
    often before that one has said why. Here they have half a minute to end by themselves.
    """

    @override
    def launch(self, function: Callable, *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other ranks, watch them, and call the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            _PatientObserver(main_pid=os.getpid(), child_processes=self.procs).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class _PatientObserver(_ChildProcessObserver):
    @override
    def _terminate_all(self) -> None:
        time.sleep(PATIENCE)  # in a daemon thread: it ends with the process
        super()._terminate_all()
